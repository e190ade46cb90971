//! Descriptors 0, 1 and 2 outlive what cells do to them: one that code has closed is there again for the next cell.
//!
//! Runs in: worker, main thread, between cells. What code has put in their place (`os.dup2`) is left alone: it may be wanted.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::sys::descriptors;

/// A second descriptor for each output pipe, out of the way.
#[derive(Debug)]
pub(crate) struct Outputs {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Outputs {
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        Self { stdout, stderr }
    }

    /// Opens again what is closed.
    pub(crate) fn mend(&self) {
        let open = descriptors::are_open([0, 1, 2]);
        if !open[0] {
            let _ = descriptors::null_stdin();
        }
        for (copy, number) in [(&self.stdout, 1), (&self.stderr, 2)] {
            if !open[number as usize] {
                let _ = descriptors::redirect(copy.as_fd(), number);
            }
        }
    }

    pub(crate) fn borrowed(&self) -> [BorrowedFd<'_>; 2] {
        [self.stdout.as_fd(), self.stderr.as_fd()]
    }

    /// Their numbers, for a fork that has to close them.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.stdout.as_raw_fd(), self.stderr.as_raw_fd()]
    }
}
