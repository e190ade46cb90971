//! The fork itself, between CPython's hooks.
//!
//! Runs in: zygote, and for its last lines in the new worker.

use std::io;

use pyo3::{Python, ffi};

use crate::sys::processes;

/// On which side of the fork we are.
#[derive(Debug)]
pub enum Side {
    /// In the new process.
    Child,
    /// In the zygote.
    Parent {
        /// Process id of the child.
        child: i32,
    },
}

/// Forks this process. Refuses while it has a second thread: such a thread would be missing in the child, with whatever
/// lock it held locked for ever.
///
/// # Errors
/// A second thread by name, or the system's refusal.
pub fn fork(_gil_held: Python<'_>) -> io::Result<Side> {
    let others = processes::other_thread_names();
    if !others.is_empty() {
        return Err(io::Error::other(format!("zygote has other threads, which do not survive a fork: {others:?}")));
    }
    // SAFETY: the GIL is held (`_gil_held`) and this is the process' only thread, checked above; the three calls stand in
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
