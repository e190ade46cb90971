//! The server's end wakes who stands still: a pipe whose write end only the server has.
//!
//! Runs in: server (`Lifeline`), zygote (`adopt`), and each fork of it that leads others (`hold`): workers, checkpoints,
//! scripts. Those end themselves and what they started when the server is gone, which each hears on its own socket. One that is
//! stopped (SIGSTOP) hears nothing. So each has asked the kernel to send it SIGCONT when the pipe ends: that starts a
//! stopped process, and is nothing to one that runs. No process is needed for it, so none can die before it is done.
//! One that leads a process group has asked for all of it: a fork that has just been made has had no time to ask for itself. It
//! asks for itself before it leaves that group, and for its own group once it has one: at no moment is it forgotten.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl, open},
    sys::stat::Mode,
};

use parking_lot::Mutex;

use super::{descriptors, parcel::Parcel};

/// Number of the read end in this process; -1 where there is none.
static NUMBER: AtomicI32 = AtomicI32::new(-1);

/// Write ends of all that this server process has made, or has from the one in whose place it is: a program that it becomes
/// by exec goes on holding them.
static HELD: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// The end that others get. The write end is this process's for ever.
#[derive(Debug)]
pub(crate) struct Lifeline {
    read: OwnedFd,
}

impl Lifeline {
    /// Makes one.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = descriptors::pipe()?;
        HELD.lock().push(write);
        Ok(Self { read })
    }
}

/// Takes the write ends along.
pub(crate) fn pack(parcel: &mut Parcel) -> io::Result<Vec<RawFd>> {
    HELD.lock().iter().map(|held| parcel.add(held)).collect()
}

/// Goes on holding write ends.
pub(crate) fn hold_on(ends: Vec<OwnedFd>) {
    HELD.lock().extend(ends);
}

/// The end that others get.
impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// Keeps the read end for this process and all its forks, out of the way of their code.
pub(crate) fn adopt(read: OwnedFd) {
    if let Ok(high) = descriptors::move_high(read) {
        NUMBER.store(high.as_raw_fd(), Ordering::Relaxed);
        std::mem::forget(high);
    }
}

/// Number of the read end.
#[must_use]
pub(crate) fn number() -> Option<RawFd> {
    Some(NUMBER.load(Ordering::Relaxed)).filter(|number| *number >= 0)
}

/// The read end, for those who close all others.
#[must_use]
pub(crate) fn end() -> Option<BorrowedFd<'static>> {
    // SAFETY: the number is this module's own, and open for as long as it is noted.
    number().map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

/// This process has asked for itself.
#[must_use]
#[derive(Debug)]
pub(crate) struct Held(Option<RawFd>);

impl Held {
    /// It leads a process group by now: the kernel is to start all of it. Of one that leads none the kernel would take it too, and
    /// start no process.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn lead(self) -> io::Result<()> {
        debug_assert_eq!(nix::unistd::getpgrp(), nix::unistd::getpid());
        self.0.map_or(Ok(()), |own| set_owner(own, -nix::unistd::getpid().as_raw()))
    }
}

/// In a fork, before it leaves the group of the process that it is a fork of: has the kernel start this process when the server
/// ends. Does nothing where there is no lifeline.
///
/// # Errors
/// When the system refuses: the session may have taken all descriptors that it is allowed.
pub(crate) fn hold() -> io::Result<Held> {
    let Some(number) = number() else { return Ok(Held(None)) };
    // Whom to signal belongs to the description, so each process needs one of its own.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let own = descriptors::move_high(open(format!("/proc/self/fd/{number}").as_str(), flags, Mode::empty())?)?;
    set_owner(own.as_raw_fd(), nix::unistd::getpid().as_raw())?;
    // SAFETY: a plain system call on a descriptor of ours.
    if unsafe { libc::fcntl(own.as_raw_fd(), F_SETSIG, libc::SIGCONT) } != 0 {
        return Err(io::Error::last_os_error());
    }
    fcntl(&own, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_ASYNC))?;
    let held = Held(Some(own.as_raw_fd()));
    NUMBER.store(own.as_raw_fd(), Ordering::Relaxed);
    std::mem::forget(own);
    // SAFETY: the number was this module's own, and no other code knows it any more.
    unsafe { libc::close(number) };
    Ok(held)
}

/// Whom the kernel signals: a process, or by a negative number a group.
fn set_owner(descriptor: RawFd, whom: i32) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor of ours.
    match unsafe { libc::fcntl(descriptor, libc::F_SETOWN, whom) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Which signal is sent, of `fcntl(2)`; libc has no name for it on every target.
const F_SETSIG: libc::c_int = 10;

#[cfg(test)]
mod tests {
    use nix::{
        sys::{
            signal::{Signal, raise},
            wait::{WaitPidFlag, WaitStatus, waitpid},
        },
        unistd::{ForkResult, fork},
    };

    use super::*;

    /// What this module owns belongs to the whole process.
    static ALONE: Mutex<()> = Mutex::new(());

    /// A worker has just forked a copy of itself, which is stopped at once, and the server is killed.
    #[test]
    fn a_fork_of_a_leader_goes_on_too_that_has_not_asked_for_it() {
        let _alone = ALONE.lock();
        let lifeline = Lifeline::new().expect("descriptors");
        let (told, tell) = nix::unistd::pipe().expect("a pipe");
        adopt(lifeline.as_fd().try_clone_to_owned().expect("one more"));
        // SAFETY: the children make some system calls and end.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Child => {
                let led = hold().is_ok_and(|held| nix::unistd::setsid().is_ok() && held.lead().is_ok());
                // Our copies of the other end.
                drop(lifeline);
                HELD.lock().clear();
                // SAFETY: as above.
                let code = match unsafe { fork() } {
                    Ok(ForkResult::Child) => {
                        let _ = raise(Signal::SIGSTOP);
                        if led { 7 } else { 8 }
                    }
                    Ok(ForkResult::Parent { child }) => {
                        let _ = waitpid(child, Some(WaitPidFlag::WUNTRACED));
                        let _ = nix::unistd::write(&tell, b"it stands");
                        match waitpid(child, None) {
                            Ok(WaitStatus::Exited(_, code)) => code,
                            _ => 9,
                        }
                    }
                    Err(_) => 10,
                };
                // SAFETY: no preconditions.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => {
                nix::unistd::read(&told, &mut [0; 16]).expect("it stands");
                drop(lifeline);
                HELD.lock().clear();
                assert_eq!(waitpid(child, None).expect("both end"), WaitStatus::Exited(child, 7));
            }
        }
    }

    /// Stopped when it has just left the group that it was born in, and has not asked for its own yet.
    #[test]
    fn a_stopped_process_goes_on_when_the_pipe_ends() {
        let _alone = ALONE.lock();
        let lifeline = Lifeline::new().expect("descriptors");
        adopt(lifeline.as_fd().try_clone_to_owned().expect("one more"));
        // SAFETY: the child makes some system calls and ends.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Child => {
                let held = hold();
                let _ = nix::unistd::setsid();
                // The child's copy of the other end.
                drop(lifeline);
                HELD.lock().clear();
                let _ = raise(Signal::SIGSTOP);
                // SAFETY: no preconditions.
                unsafe { libc::_exit(if held.is_ok() { 7 } else { 8 }) }
            }
            ForkResult::Parent { child } => {
                let stopped = waitpid(child, Some(WaitPidFlag::WUNTRACED)).expect("it stops");
                assert_eq!(stopped, WaitStatus::Stopped(child, Signal::SIGSTOP));
                drop(lifeline);
                HELD.lock().clear();
                assert_eq!(waitpid(child, None).expect("it goes on"), WaitStatus::Exited(child, 7));
            }
        }
    }
}
