//! A fork whose child does not belong to this process: the next subreaper above, the server, becomes its parent.
//!
//! Runs in: worker, checkpoint, zygote. A checkpoint must outlive the worker it is of, the session's own code must not meet it
//! among its children (`os.wait`), and the server must be able to wait for it. So the C library's `fork`, with all it does
//! for its locks and for `pthread_atfork`, is called by a *starter*: a process that shares this one's memory, as after
//! `vfork`, and ends at once. Its end costs nothing, for the memory is not its own; its child is an orphan then.

use std::{
    io,
    sync::atomic::{AtomicI32, Ordering},
};

/// On which side of the fork we are.
#[derive(Debug)]
pub(crate) enum Side {
    /// In the new process.
    Child,
    /// In the old one.
    Parent {
        /// Process id of the child.
        child: i32,
    },
}

/// What the starter leaves: the child's pid, or minus the error.
static FORKED: AtomicI32 = AtomicI32::new(0);

/// Forks.
///
/// # Errors
/// The system's refusal: too many processes, too little memory.
///
/// # Safety
/// As for `fork` in a process with threads: in the child only the calling thread is left, so the caller must hold what
/// the child needs (the GIL, between CPython's hooks). One fork at a time.
pub(crate) unsafe fn fork() -> io::Result<Side> {
    // An orphan falls to the nearest ancestor that is a subreaper, and for this moment that is not us.
    let was_subreaper = nix::sys::prctl::get_child_subreaper().unwrap_or(true);
    let _ = nix::sys::prctl::set_child_subreaper(false);
    // SAFETY: the caller's promise.
    let starter = unsafe { start() };
    if starter == IN_CHILD {
        return Ok(Side::Child);
    }
    // The starter lets us go on before its child has a new parent; its end is what to wait for.
    reap(starter);
    let _ = nix::sys::prctl::set_child_subreaper(was_subreaper);
    if starter < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-starter).unwrap_or(libc::EAGAIN)));
    }
    match FORKED.swap(0, Ordering::Acquire) {
        child if child > 0 => Ok(Side::Parent { child }),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// What [`start`] returns in the child: no process id, and no error.
const IN_CHILD: i64 = i64::MAX;

/// Runs in the starter, on the caller's stack below its frame. Returns in the child only.
extern "C" fn fork_and_end() {
    // SAFETY: the thread that waits for us has the promise of `fork`'s caller; the C library sees one thread of its own.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        return;
    }
    let told = if pid > 0 { pid } else { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN) };
    FORKED.store(told, Ordering::Release);
    // SAFETY: no preconditions. It ends the starter alone, which is a process of its own.
    unsafe { libc::_exit(0) }
}

/// Makes the starter, which sends no signal when it ends. Its pid or minus an error here; [`IN_CHILD`] in the child.
///
/// The system call must not be made by a function that returns: the starter's calls would overwrite its return address.
#[cfg(target_arch = "x86_64")]
unsafe fn start() -> i64 {
    let answer: i64;
    // SAFETY: the starter runs below this frame, which stays as it is: it leaves by `_exit`, and the child has a copy. Both
    // the calls and the child's return clobber what the C ABI allows.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "call {fork_and_end}",
            "mov rax, {in_child}",
            "2:",
            fork_and_end = sym fork_and_end,
            in_child = const IN_CHILD,
            inlateout("rax") libc::SYS_clone => answer,
            in("rdi") i64::from(libc::CLONE_VM | libc::CLONE_VFORK),
            in("rsi") 0_i64,
            in("rdx") 0_i64,
            in("r10") 0_i64,
            in("r8") 0_i64,
            clobber_abi("C"),
        );
    }
    answer
}

/// The same for aarch64, whose calls keep their return address in a register.
#[cfg(target_arch = "aarch64")]
unsafe fn start() -> i64 {
    let answer: i64;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "bl {fork_and_end}",
            // No register that the call may have used: the value is part of the instruction.
            "mov x0, #{in_child}",
            "2:",
            fork_and_end = sym fork_and_end,
            in_child = const IN_CHILD,
            in("x8") libc::SYS_clone,
            inlateout("x0") i64::from(libc::CLONE_VM | libc::CLONE_VFORK) => answer,
            in("x1") 0_i64,
            in("x2") 0_i64,
            in("x3") 0_i64,
            in("x4") 0_i64,
            clobber_abi("C"),
        );
    }
    answer
}

fn reap(starter: i64) {
    let Some(starter) = libc::pid_t::try_from(starter).ok().filter(|starter| *starter > 0) else { return };
    loop {
        // SAFETY: a null status is allowed. __WALL: a child that sends no signal is not seen otherwise.
        let waited = unsafe { libc::waitpid(starter, std::ptr::null_mut(), libc::__WALL) };
        if waited == starter || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::processes;

    /// In a process of its own: subreaper and children of the tests' process are everybody's.
    fn alone(body: fn() -> i32) -> i32 {
        // SAFETY: the child runs a few lines that take no lock another thread could hold, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = body();
            // SAFETY: no preconditions.
            unsafe { libc::_exit(code) }
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn the_child_is_not_ours_and_has_a_copy_of_the_memory() {
        // A grandparent that is a subreaper, a parent that forks a sibling of itself: the sibling ends with a code that
        // it computes from memory, and the grandparent, not the parent, gets to wait for it.
        let code = alone(|| {
            let _ = nix::sys::prctl::set_child_subreaper(true);
            // SAFETY: as in `alone`.
            let parent = unsafe { libc::fork() };
            if parent == 0 {
                let local = [20, 21, 22];
                // SAFETY: this process has one thread.
                match unsafe { fork() } {
                    Ok(Side::Child) => {
                        // SAFETY: no preconditions.
                        unsafe { libc::_exit(local.iter().sum()) }
                    }
                    Ok(Side::Parent { .. }) => {
                        // SAFETY: a null status is allowed; it has no child, neither starter nor sibling.
                        let none = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) };
                        let code = if none == -1 && local == [20, 21, 22] { 7 } else { 1 };
                        // SAFETY: no preconditions.
                        unsafe { libc::_exit(code) }
                    }
                    Err(_) => {
                        // SAFETY: no preconditions.
                        unsafe { libc::_exit(2) }
                    }
                }
            }
            let mut codes = Vec::new();
            loop {
                let mut status = 0;
                // SAFETY: `status` outlives the call.
                if unsafe { libc::waitpid(-1, &raw mut status, 0) } < 0 {
                    break;
                }
                codes.push(libc::WEXITSTATUS(status));
            }
            codes.sort_unstable();
            if codes == [7, 63] { 42 } else { codes.len() as i32 }
        });
        assert_eq!(code, 42);
        assert!(processes::look_up(i32::try_from(std::process::id()).expect("small")).is_some());
    }
}
