//! Commands on a terminal: a pseudo-terminal of so many columns, of which the test sees what a person would.
//!
//! Runs in: the test binary. The command leads a session of its own, whose terminal this is.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::pty::{Winsize, openpty};

/// A command before a person.
pub struct OnTerminal {
    pub child: Child,
    screen: File,
    /// All that was shown so far.
    pub shown: String,
    bytes: Vec<u8>,
}

impl OnTerminal {
    /// Starts it on a terminal of so many columns.
    pub fn start(mut command: Command, columns: u16) -> Self {
        let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        lead(&mut command, &pty.slave);
        let child = command.spawn().expect("it starts");
        drop(command);
        Self { child, screen: pty.master.into(), shown: String::new(), bytes: Vec::new() }
    }

    pub fn press(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).expect("typed");
    }

    /// Reads on until these words were shown.
    pub fn until(&mut self, words: &str) {
        while !self.shown.contains(words) {
            assert!(self.read(), "{words:?} was not shown: {}", self.shown);
        }
    }

    /// Reads to the end.
    pub fn end(mut self) -> (ExitStatus, String) {
        while self.read() {}
        (self.child.wait().expect("ended"), self.shown)
    }

    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // A terminal that no process has open any more is an error, not an end.
        match self.screen.read(&mut bytes) {
            Ok(count) if count > 0 => {
                // A letter may come in two parts.
                self.bytes.extend(&bytes[..count]);
                self.shown = String::from_utf8_lossy(&self.bytes).into_owned();
                true
            }
            _ => false,
        }
    }
}

fn lead(command: &mut Command, terminal: &OwnedFd) {
    let terminal = terminal.as_raw_fd();
    let settle = move || {
        nix::unistd::setsid()?;
        // SAFETY: the descriptor is the terminal's; the call takes no pointer.
        if unsafe { libc::ioctl(terminal, libc::TIOCSCTTY, 0) } == -1 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and neither allocates nor locks.
    unsafe { command.pre_exec(settle) };
}
