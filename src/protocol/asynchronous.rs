//! Frames over a socket on tokio's reactor, for the server.
//!
//! Runs in: server.
//!
//! Not tokio's `UnixStream`: that registers for both directions, and then every request is followed by a wake-up that says
//! "writable again" as soon as the peer has read it. A cell's way through the server would begin with a false alarm.

use std::{
    cell::RefCell,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{Interest, unix::AsyncFd};

use super::frame::{Assembler, FrameError, encode};
use crate::sys::descriptors;

const CHUNK: usize = 16 << 10;

thread_local! {
    /// The thread's: what was read is put into its message's own place before anything else is read.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// Sleeps until then; for ever without a time.
pub(crate) async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The reading half. [`FrameReader::read`] may be dropped at any await point without losing bytes.
#[derive(Debug)]
pub(crate) struct FrameReader {
    socket: AsyncFd<Arc<UnixStream>>,
    assembler: Assembler,
    cap: usize,
    /// A read has taken all that there was room for, so that one after it may have met what the reactor did not know of yet.
    ahead: bool,
}

#[derive(Debug)]
pub(crate) struct FrameWriter {
    socket: Arc<UnixStream>,
    cap: usize,
}

/// Makes both halves from one socket.
///
/// # Errors
/// When the reactor does not take it.
pub(crate) fn framed(stream: UnixStream, read_cap: usize, write_cap: usize) -> io::Result<(FrameReader, FrameWriter)> {
    let socket = Arc::new(stream);
    let reader = reader(Arc::clone(&socket), read_cap)?;
    Ok((reader, FrameWriter { socket, cap: write_cap }))
}

fn reader(socket: Arc<UnixStream>, cap: usize) -> io::Result<FrameReader> {
    socket.set_nonblocking(true)?;
    Ok(FrameReader { socket: register(socket, Interest::READABLE)?, assembler: Assembler::new(cap), cap, ahead: false })
}

#[expect(deprecated, reason = "the unsafe replacement asks for what holds here: the value owns its descriptor")]
fn register(socket: Arc<UnixStream>, interest: Interest) -> io::Result<AsyncFd<Arc<UnixStream>>> {
    AsyncFd::with_interest(socket, interest)
}

impl FrameReader {
    /// The reading half of a socket; other code writes to it, by another descriptor.
    ///
    /// # Errors
    /// When the reactor does not take it.
    pub(crate) fn alone(stream: UnixStream, cap: usize) -> io::Result<Self> {
        reader(Arc::new(stream), cap)
    }

    /// Whether a part of a message has been read.
    pub(crate) fn is_in_a_message(&self) -> bool {
        self.assembler.is_partial()
    }

    /// Waits for the next message. Cancel-safe.
    ///
    /// # Errors
    /// [`FrameError::Closed`] at a clean end, another [`FrameError`] when the channel is broken.
    pub(crate) async fn read<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        loop {
            if let Some(message) = self.assembler.take()? {
                return Ok(message);
            }
            let mut ready = self.socket.readable().await?;
            let most = CHUNK.min(self.cap);
            let read = ready.try_io(|socket| {
                BUFFER.with_borrow_mut(|buffer| {
                    let count = socket.get_ref().as_ref().read(&mut buffer[..most])?;
                    self.assembler.push(&buffer[..count]);
                    Ok(count)
                })
            });
            match read {
                Ok(Ok(0)) if self.assembler.is_partial() => return Err(FrameError::Truncated),
                Ok(Ok(0)) => return Err(FrameError::Closed),
                Ok(Ok(count)) => {
                    if count == most {
                        self.ahead = true;
                    } else {
                        // The socket is empty: the next word on it comes from the reactor, and asking the kernel before is in vain.
                        // Its end is not forgotten by this.
                        ready.clear_ready();
                    }
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_not_ready) => {}
            }
        }
    }
}

impl FrameReader {
    /// Whether a message since the last question may have been read before the reactor knew of it. Where not, the reactor knows
    /// of all that the peer had written elsewhere before it wrote the message.
    pub(crate) fn was_ahead(&mut self) -> bool {
        std::mem::take(&mut self.ahead)
    }
}

impl FrameWriter {
    /// Writes one message. Not cancel-safe: a dropped write leaves half a frame.
    ///
    /// # Errors
    /// [`FrameError`] when the message exceeds the cap or the socket fails.
    pub(crate) async fn write<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        let bytes = encode(message, self.cap)?;
        let mut rest = &bytes[..];
        match self.push(&mut rest) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.write_rest(rest).await,
            done => done.map_err(FrameError::Io),
        }
    }

    /// Writes one small message with descriptors attached, at once or not at all.
    ///
    /// # Errors
    /// [`FrameError`]; a socket that is full of what its peer has not read takes nothing.
    pub(crate) fn write_with<T: Serialize>(
        &mut self,
        message: &T,
        passed: &[BorrowedFd<'_>],
    ) -> Result<(), FrameError> {
        let bytes = encode(message, self.cap)?;
        descriptors::send_with(&self.socket, &bytes, passed).map_err(FrameError::Io)
    }

    /// Writes as much as the socket takes.
    fn push(&self, rest: &mut &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.socket.as_ref().write(rest) {
                Ok(count) => *rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The peer reads slowly: asks the reactor, by a second descriptor and only for as long as this takes.
    async fn write_rest(&self, mut rest: &[u8]) -> Result<(), FrameError> {
        let socket = register(Arc::new(self.socket.try_clone()?), Interest::WRITABLE)?;
        loop {
            let mut ready = socket.writable().await?;
            match ready.try_io(|_| self.push(&mut rest)) {
                Ok(done) => return done.map_err(FrameError::Io),
                Err(_not_ready) => {}
            }
        }
    }

    /// The socket, for those who take it along.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Closes this direction: the peer reads the end.
    pub(crate) fn close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: usize = 64 << 20;

    #[tokio::test]
    async fn a_frame_larger_than_the_sockets_buffer_arrives_whole() {
        let (one, two) = UnixStream::pair().expect("a pair");
        let (_, mut writer) = framed(one, CAP, CAP).expect("registered");
        let (mut reader, _other) = framed(two, CAP, CAP).expect("registered");
        let text = "x".repeat(10_000_000);
        let (sent, received) = tokio::join!(writer.write(&text), reader.read::<String>());
        sent.expect("written");
        assert_eq!(received.expect("read").len(), text.len());
    }

    /// What was read is known to be all, until the reactor says otherwise: also of an end that comes after it, or with it.
    #[tokio::test]
    async fn after_a_read_that_left_room_the_next_message_and_the_end_are_heard() {
        for together in [true, false] {
            let (mut one, two) = UnixStream::pair().expect("a pair");
            let mut reader = FrameReader::alone(two, CAP).expect("registered");
            one.write_all(&encode(&"first", CAP).expect("small")).expect("small");
            if together {
                drop(one);
                assert_eq!(reader.read::<String>().await.expect("read"), "first");
            } else {
                assert_eq!(reader.read::<String>().await.expect("read"), "first");
                one.write_all(&encode(&"second", CAP).expect("small")).expect("small");
                assert_eq!(reader.read::<String>().await.expect("read"), "second");
                drop(one);
            }
            assert!(!reader.was_ahead());
            let end = tokio::time::timeout(std::time::Duration::from_secs(30), reader.read::<String>()).await;
            assert!(matches!(end, Ok(Err(FrameError::Closed))), "{end:?}");
        }
    }

    #[tokio::test]
    async fn a_read_that_left_no_room_is_remembered_once() {
        let (one, two) = UnixStream::pair().expect("a pair");
        let (_, mut writer) = framed(one, CAP, CAP).expect("registered");
        let (mut reader, _other) = framed(two, CAP, CAP).expect("registered");
        writer.write(&"x".repeat(CHUNK * 2)).await.expect("written");
        reader.read::<String>().await.expect("read");
        assert!(reader.was_ahead() && !reader.was_ahead());
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_told_from_an_end_between_frames() {
        for (sent, truncated) in [(&b"fpy1\x09\x00"[..], true), (b"", false)] {
            let (mut one, two) = UnixStream::pair().expect("a pair");
            one.write_all(sent).expect("small");
            drop(one);
            let mut reader = FrameReader::alone(two, CAP).expect("registered");
            match reader.read::<String>().await {
                Err(FrameError::Truncated) => assert!(truncated),
                Err(FrameError::Closed) => assert!(!truncated),
                other => panic!("{other:?}"),
            }
        }
    }
}
