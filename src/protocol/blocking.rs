//! Frames over a blocking socket, for the threads of zygote and worker.
//!
//! Runs in: zygote, worker. One read call takes whatever has arrived, so a small frame costs one system call.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use serde::{Serialize, de::DeserializeOwned};

use super::frame::{Assembler, FrameError, encode};
use crate::sys::descriptors;

/// Most bytes that one read takes.
const CHUNK: usize = 64 << 10;
/// What a reader begins with: most frames fit, and a session that has seen none larger has dirtied no more memory.
const FIRST: usize = 4 << 10;

#[derive(Debug)]
pub struct FrameReader {
    stream: UnixStream,
    assembler: Assembler,
    chunk: Box<[u8]>,
    /// The most that `chunk` grows to.
    most: usize,
    /// Descriptors that came along, oldest first; `None` where none are expected.
    passed: Option<Vec<OwnedFd>>,
}

impl FrameReader {
    /// Reads frames of up to `cap` bytes from `stream`.
    #[must_use]
    pub fn new(stream: UnixStream, cap: usize) -> Self {
        Self::in_pieces(stream, cap, CHUNK)
    }

    /// The same, at most `most` bytes at a time: most frames of the channel are small, and memory is to be spared.
    #[must_use]
    pub fn in_pieces(stream: UnixStream, cap: usize, most: usize) -> Self {
        let most = most.min(cap);
        let chunk = vec![0; FIRST.min(most)].into_boxed_slice();
        Self { stream, assembler: Assembler::new(cap), chunk, most, passed: None }
    }

    /// Takes descriptors that come along.
    #[must_use]
    pub fn with_descriptors(self) -> Self {
        Self { passed: Some(Vec::new()), ..self }
    }

    /// The first `count` of the descriptors that have come, or none when there are fewer.
    pub fn take_descriptors(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        let passed = self.passed.as_mut()?;
        (passed.len() >= count).then(|| passed.drain(..count).collect())
    }

    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next message, if it has come already; reads at most once, and only if `may_read`.
    pub fn read_some<T: DeserializeOwned>(&mut self, may_read: bool) -> Result<Option<T>, FrameError> {
        if let Some(message) = self.assembler.take()? {
            return Ok(Some(message));
        }
        if may_read {
            self.fill()?;
        }
        self.assembler.take()
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`FrameError::Closed`] at a clean end, another [`FrameError`] when the channel is broken.
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        loop {
            if let Some(message) = self.assembler.take()? {
                return Ok(message);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), FrameError> {
        let read = match &mut self.passed {
            Some(passed) => descriptors::receive_with(&self.stream, &mut self.chunk, passed),
            None => self.stream.read(&mut self.chunk),
        };
        match read {
            Ok(0) if self.assembler.is_partial() => Err(FrameError::Truncated),
            Ok(0) => Err(FrameError::Closed),
            Ok(count) => {
                self.assembler.push(&self.chunk[..count]);
                if count == self.chunk.len() && count < self.most {
                    self.chunk = vec![0; self.most].into_boxed_slice();
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes one message in one system call where the socket takes it whole.
///
/// # Errors
/// [`FrameError`] when the message exceeds `cap` or the socket fails.
pub fn write<T: Serialize>(mut stream: &UnixStream, message: &T, cap: usize) -> Result<(), FrameError> {
    stream.write_all(&encode(message, cap)?).map_err(FrameError::Io)
}
