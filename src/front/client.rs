//! The client's end: standard input and output, read and written without waiting.
//!
//! Runs in: front. The descriptors keep their flags, which others may share: sockets are asked with `MSG_DONTWAIT`, a pipe
//! is opened anew, and what is neither is written as it is.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
};

use nix::sys::socket::{MsgFlags, send};

/// Buffers that grew beyond this are given back.
const KEEP: usize = 64 << 10;

pub(super) struct Client {
    stdin: io::Stdin,
    stdout: io::Stdout,
    way: Way,
}

enum Way {
    Socket,
    /// The pipe, by a description of our own that does not wait.
    Pipe(File),
    Plain(File),
}

impl Client {
    pub(super) fn new() -> io::Result<Self> {
        let stdout = io::stdout();
        let copy = File::from(stdout.as_fd().try_clone_to_owned()?);
        let kind = copy.metadata()?.file_type();
        let way = if kind.is_socket() {
            Way::Socket
        } else if kind.is_fifo() {
            let path = format!("/proc/self/fd/{}", stdout.as_fd().as_raw_fd());
            let own = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
            own.map_or(Way::Plain(copy), Way::Pipe)
        } else {
            Way::Plain(copy)
        };
        Ok(Self { stdin: io::stdin(), stdout, way })
    }

    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }

    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// What there is; only after a poll has said that there is something.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(self.input(), buffer) {
                Err(nix::errno::Errno::EINTR) => {}
                read => return Ok(read?),
            }
        }
    }

    /// As much as the client takes now; the rest stays.
    pub(super) fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == bytes.len() {
                break Ok(());
            }
            match self.write_some(&bytes[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        bytes.drain(..written);
        bytes.shrink_to(KEEP);
        result
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.way {
            Way::Socket => {
                Ok(send(self.stdout.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
            }
            Way::Pipe(file) | Way::Plain(file) => file.write(bytes),
        }
    }
}
