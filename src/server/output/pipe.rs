//! The read end of an output pipe of a worker or a script, on the reactor.
//!
//! Runs in: server. Owns the thread's buffer: what was read is taken in before anything else is read, so that one serves all
//! pipes, and a session at rest needs none.

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::read,
};
use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::net::unix::pipe;

/// Room for what a pipe holds.
const CHUNK: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

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

    /// Waits until there is something to read; for ever once every writer is gone. Cancel-safe.
    ///
    /// # Errors
    /// When the reactor is gone.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.ended {
            return std::future::pending().await;
        }
        self.pipe.readable().await
    }

    /// Reads some of what lies in the pipe, as far as the reactor knows that something does: it has told of all that was written
    /// before anything that it told of. False when there is nothing.
    pub(crate) fn take_known(&mut self, taken: impl FnOnce(&[u8])) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                match self.pipe.try_read(buffer) {
                    Ok(0) => self.ended = true,
                    Ok(count) => {
                        taken(&buffer[..count]);
                        return true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // A pipe does not fail; one that did has nothing more to say.
                    Err(_) => self.ended = true,
                }
                return false;
            }
        })
    }

    /// Reads some of what lies in the pipe now, asking the kernel rather than tokio, whose knowledge of readiness may be older
    /// than the reply that made us look. False when there is nothing.
    pub(crate) fn take_now(&mut self, taken: impl FnOnce(&[u8])) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                match read(self.pipe.as_fd(), buffer) {
                    Ok(count) if count > 0 => {
                        taken(&buffer[..count]);
                        return true;
                    }
                    Err(Errno::EINTR) => {}
                    _ => return false,
                }
            }
        })
    }
}
