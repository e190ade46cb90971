//! Signals: blocking, resetting, sending one to the main thread, process attributes set by `prctl`.
//!
//! Runs in: zygote, worker; the server uses [`become_subreaper`], [`bear_file_size_limit`] and [`Deaf`].

use std::io;

use nix::sys::{
    signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};

/// Blocks SIGCHLD and makes it readable from a descriptor.
///
/// # Errors
/// When the process is out of descriptors.
pub(crate) fn child_events() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// In a fresh worker: no signal blocked, SIGCHLD as in any program.
pub(crate) fn reset_after_fork() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL runs no code of ours.
    let _ = unsafe { sigaction(Signal::SIGCHLD, &default) };
}

/// Names a thread for signals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadHandle(libc::pthread_t);

impl ThreadHandle {
    /// The calling thread. It must live as long as the handle is used; the main thread does.
    #[must_use]
    pub(crate) fn current() -> Self {
        // SAFETY: pthread_self has no preconditions.
        Self(unsafe { libc::pthread_self() })
    }

    /// Sends SIGINT to it, as Ctrl-C would.
    pub(crate) fn interrupt(self) {
        // SAFETY: made from the main thread, which exists until the process ends.
        unsafe { libc::pthread_kill(self.0, libc::SIGINT) };
    }
}

/// Whether this process ignores a signal now.
#[must_use]
pub(crate) fn is_ignored(signal: Signal) -> bool {
    // SAFETY: with a null action the call only reads; `now` is initialised by it, or stays as zeroed, which is SIG_DFL.
    let now = unsafe {
        let mut now = std::mem::zeroed::<libc::sigaction>();
        libc::sigaction(signal as i32, std::ptr::null(), &raw mut now);
        now
    };
    now.sa_sigaction == libc::SIG_IGN
}

/// Orphans among our descendants become our children instead of init's.
pub(crate) fn become_subreaper() {
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// A write beyond RLIMIT_FSIZE (`ulimit -f`) is an error to report, as CPython has it, and not the end of the process.
pub(crate) fn bear_file_size_limit() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN runs no code of ours.
    let _ = unsafe { sigaction(Signal::SIGXFSZ, &ignore) };
}

/// Signals that ask a server for something, and would end the program that it becomes until that listens for them.
const WISHES: [Signal; 2] = [Signal::SIGHUP, Signal::SIGUSR1];

/// These are ignored, also by that program at its beginning, until this is dropped.
#[derive(Debug)]
pub(crate) struct Deaf(Vec<(Signal, SigAction)>);

impl Deaf {
    pub(crate) fn begin() -> Self {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: SIG_IGN runs no code of ours.
        let deaf = |signal| Some((signal, unsafe { sigaction(signal, &ignore) }.ok()?));
        Self(WISHES.into_iter().filter_map(deaf).collect())
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        for (signal, before) in &self.0 {
            // SAFETY: it is what was there before.
            let _ = unsafe { sigaction(*signal, before) };
        }
    }
}

/// The kernel kills this process when the thread that made it ends. Returns false when that has happened already.
#[must_use]
pub(crate) fn die_with_parent(parent: i32) -> bool {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    nix::unistd::getppid().as_raw() == parent
}

/// Sets the name that `ps` and `top` show; the kernel keeps 15 bytes.
pub(crate) fn set_title(title: &str) {
    let short: String = title.chars().filter(char::is_ascii_graphic).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(short) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Lets the kernel's OOM killer prefer this process over the server.
pub(crate) fn prefer_as_oom_victim() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
}
