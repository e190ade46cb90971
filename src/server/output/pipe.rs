//! The read end of an output pipe of a worker or a script, on the reactor.
//!
//! Runs in: server.

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::read,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::net::unix::pipe;

/// Read end of an output pipe.
#[derive(Debug)]
pub(crate) struct Output {
    pipe: pipe::Receiver,
    /// Every writer is gone: a cell may close descriptor 1, which ends its output and nothing else.
    ended: bool,
}

impl Output {
    /// Reads from this pipe, on the reactor.
    ///
    /// # Errors
    /// When the reactor does not take it.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(&descriptor, FcntlArg::F_GETFL)?);
        fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(descriptor)?, ended: false })
    }

    /// The descriptor, for those who take it along.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Waits for output and reads some of it; waits for ever once every writer is gone. Cancel-safe.
    ///
    /// # Errors
    /// When the pipe fails, which a pipe does not.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            self.pipe.readable().await?;
            match self.pipe.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => self.ended = true,
                other => return other,
            }
        }
        std::future::pending().await
    }

    /// Reads what lies in the pipe, as far as the reactor knows that something does: it has told of all that was written before
    /// anything that it told of. `None` when there is nothing more.
    pub(crate) fn read_known(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.pipe.try_read(buffer) {
            Ok(count) if count > 0 => Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read_known(buffer),
            _ => None,
        }
    }

    /// Reads what lies in the pipe now, asking the kernel rather than tokio, whose knowledge of readiness may be older
    /// than the reply that made us look. `None` when there is nothing more.
    pub(crate) fn read_now(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match read(self.pipe.as_fd(), buffer) {
            Ok(count) if count > 0 => Some(count),
            Err(Errno::EINTR) => self.read_now(buffer),
            _ => None,
        }
    }
}
