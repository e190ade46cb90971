//! The fork itself, between CPython's hooks.
//!
//! Runs in: zygote, and for its last lines in the new worker.

use std::io;

use pyo3::{Python, ffi};

use crate::sys::{forks::Bystanders, sibling};

/// On which side of the fork we are.
#[derive(Debug)]
pub(crate) enum Side {
    /// In the new process.
    Child,
    Parent {
        /// Process id of the child.
        child: i32,
    },
}

/// Forks this process. Refuses while it has a thread that the child would miss, with whatever lock it held locked for ever;
/// libraries that expect a fork may have theirs.
///
/// # Errors
/// Such threads by name, or the system's refusal.
pub(crate) fn fork(_gil_held: Python<'_>, bystanders: &mut Bystanders) -> io::Result<Side> {
    let others = bystanders.lost();
    if !others.is_empty() {
        return Err(io::Error::other(format!("zygote has other threads, which do not survive a fork: {others:?}")));
    }
    // SAFETY: the GIL is held (`_gil_held`) and no other thread runs code that the child needs, checked above; the three calls stand in
    // the order CPython's own os.fork uses.
    let pid = unsafe {
        ffi::PyOS_BeforeFork();
        let pid = libc::fork();
        if pid == 0 {
            ffi::PyOS_AfterFork_Child();
        } else {
            ffi::PyOS_AfterFork_Parent();
        }
        pid
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        child => Ok(Side::Parent { child }),
    }
}

/// Forks a child that is the server's and not this process'. It runs no Python: all of its memory is about to be another's.
///
/// # Errors
/// As for [`fork`].
pub(crate) fn fork_sibling(bystanders: &mut Bystanders) -> io::Result<sibling::Side> {
    let others = bystanders.lost();
    if !others.is_empty() {
        return Err(io::Error::other(format!("zygote has other threads, which do not survive a fork: {others:?}")));
    }
    // SAFETY: no other thread runs code that the child needs, and the child needs nothing of Python's.
    unsafe { sibling::fork() }
}

/// Forks a child that runs no Python.
///
/// # Errors
/// As for [`fork`].
pub(crate) fn fork_bare(bystanders: &mut Bystanders) -> io::Result<Side> {
    let others = bystanders.lost();
    if !others.is_empty() {
        return Err(io::Error::other(format!("zygote has other threads, which do not survive a fork: {others:?}")));
    }
    // SAFETY: no other thread runs code that the child needs, and the child needs nothing of Python's.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        child => Ok(Side::Parent { child }),
    }
}

/// Forks once for nothing: libraries that end their threads before a fork (OpenBLAS) do so now, and the first session does
/// not wait for it. They start them again in sessions, at the first call that wants them, and as many as they had.
pub(crate) fn rehearse(_gil_held: Python<'_>) {
    // SAFETY: the child runs nothing but what libraries have registered for it, and ends.
    let child = unsafe { libc::fork() };
    match child {
        // SAFETY: no preconditions; it does not return.
        0 => unsafe { libc::_exit(0) },
        -1 => {}
        // SAFETY: a child of ours that no other code waits for; the status is not asked for.
        child => drop(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }),
    }
}
