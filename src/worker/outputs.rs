//! Descriptors 0, 1 and 2 outlive what cells do to them: one that code has closed is there again for the next cell.
//!
//! Runs in: worker, main thread, between cells. What code has put in their place (`os.dup2`) is left alone, for it may be wanted;
//! that is told once.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::sys::stat::fstat;

use crate::sys::descriptors;

/// A second descriptor for each output pipe, out of the way.
#[derive(Debug)]
pub(crate) struct Outputs {
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// What standard output is: device and number of the pipe.
    pipe: Option<(u64, u64)>,
    /// That standard output leads elsewhere has been told.
    told: AtomicBool,
}

impl Outputs {
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let pipe = fstat(&stdout).ok().map(|seen| (seen.st_dev, seen.st_ino));
        Self { stdout, stderr, pipe, told: AtomicBool::new(false) }
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

    /// What to tell when a cell has led standard output elsewhere, and left it so: nothing that is printed arrives.
    pub(crate) fn led_away(&self) -> Option<&'static str> {
        // SAFETY: the number is borrowed for one call; where code has closed it, the call says so.
        let now = fstat(unsafe { BorrowedFd::borrow_raw(1) }).ok()?;
        let away = (now.st_dev, now.st_ino) != self.pipe?;
        let told = self.told.swap(away, Ordering::Relaxed);
        (away && !told).then_some(
            "Standard output (descriptor 1) leads elsewhere since this cell (os.dup2 or the like), so what later cells \
             print does not arrive here until it is led back.",
        )
    }

    pub(crate) fn borrowed(&self) -> [BorrowedFd<'_>; 2] {
        [self.stdout.as_fd(), self.stderr.as_fd()]
    }

    /// Their numbers, for a fork that has to close them.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.stdout.as_raw_fd(), self.stderr.as_raw_fd()]
    }
}
