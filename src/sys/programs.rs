//! Programs that we start: leading a process group of their own, and ending with us.
//!
//! Runs in: server.

use std::{io, os::unix::process::CommandExt, process::Command};

use nix::unistd::setsid;

use super::signals;

/// Makes a program lead a session and a process group of its own, and die when the calling thread ends.
pub(crate) fn lead_and_die_with_us(command: &mut Command) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let settle = move || {
        setsid()?;
        if signals::die_with_parent(own) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: between fork and exec the closure makes three system calls and neither allocates nor locks.
    unsafe { command.pre_exec(settle) };
}
