//! A process held by descriptor: no signal can ever reach a stranger that got its number.
//!
//! Runs in: all three processes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::{
    signal::Signal,
    wait::{Id, WaitPidFlag, WaitStatus, waitid},
};

/// Readable once the process has ended.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

/// What can be known of a child's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    With(WaitStatus),
    Running,
    /// It is not our child: ask its parent.
    NotOurs,
}

/// What is missing, where the kernel does not know the call or a filter forbids it.
fn in_words(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "pidfd_open: {error}: forkpy needs Linux 5.3 or newer, and a seccomp filter that lets this call through"
            ),
        ),
        _ => error,
    }
}

impl PidFd {
    /// Opens the process `pid`, which must not have been reaped.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let raw = RawFd::try_from(raw).unwrap_or(-1);
        if raw < 0 {
            return Err(in_words(io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// A process that was held before an exec.
    pub(crate) fn held(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// `ESRCH` when it has been reaped.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: the descriptor is ours and open; no siginfo is passed.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Looks at its end, and reaps it when `reap` is set and it is our child.
    #[must_use]
    pub(crate) fn ended(&self, reap: bool) -> Ended {
        let mut flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        if !reap {
            flags |= WaitPidFlag::WNOWAIT;
        }
        match waitid(Id::PIDFd(self.0.as_fd()), flags) {
            Ok(WaitStatus::StillAlive) => Ended::Running,
            Ok(status) => Ended::With(status),
            Err(_) => Ended::NotOurs,
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
