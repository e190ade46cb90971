//! Whether this process is still the one that took its part, or a child that code has forked off it.
//!
//! Runs in: worker. Asking costs no system call: the C library's `fork` calls back in each child. A child by a bare system
//! call, which no program makes by accident, is not noticed.

use std::{
    io,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

static IS_CHILD: AtomicBool = AtomicBool::new(false);

extern "C" fn in_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
}

/// This process takes its part now; children of it are told apart from here on.
///
/// # Errors
/// When the C library has no memory for the call back.
pub(crate) fn take() -> io::Result<()> {
    static REGISTER: Once = Once::new();
    let mut refused = 0;
    // Children have the call back too, and need no second one.
    // SAFETY: the function stores to an atomic and does nothing else, which is allowed in a child of any process.
    REGISTER.call_once(|| refused = unsafe { libc::pthread_atfork(None, None, Some(in_child)) });
    IS_CHILD.store(false, Ordering::Relaxed);
    if refused == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(refused)) }
}

/// Whether a child of the process that took its part asks.
#[must_use]
pub(crate) fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use nix::{
        sys::wait::{WaitStatus, waitpid},
        unistd::{ForkResult, fork},
    };

    use super::*;

    #[test]
    fn a_child_knows_that_it_is_one() {
        take().expect("registered");
        // SAFETY: the child loads an atomic and ends without running anything of ours.
        match unsafe { fork() }.expect("forked") {
            // SAFETY: ends the child at once.
            ForkResult::Child => unsafe { libc::_exit(i32::from(is_child())) },
            ForkResult::Parent { child } => {
                assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 1))));
            }
        }
        assert!(!is_child());
    }
}
