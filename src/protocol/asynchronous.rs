//! Frames over a tokio socket, for the server.
//!
//! Runs in: server.

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

use super::frame::{Assembler, FrameError, encode};

const CHUNK: usize = 16 << 10;

/// The reading half. [`FrameReader::read`] may be dropped at any await point without losing bytes.
#[derive(Debug)]
pub struct FrameReader {
    stream: OwnedReadHalf,
    assembler: Assembler,
    chunk: Box<[u8]>,
}

/// The writing half.
#[derive(Debug)]
pub struct FrameWriter {
    stream: OwnedWriteHalf,
    cap: usize,
}

/// Makes both halves from one socket.
#[must_use]
pub fn framed(stream: UnixStream, read_cap: usize, write_cap: usize) -> (FrameReader, FrameWriter) {
    let (read, write) = stream.into_split();
    let chunk = vec![0; CHUNK.min(read_cap)].into_boxed_slice();
    (
        FrameReader { stream: read, assembler: Assembler::new(read_cap), chunk },
        FrameWriter { stream: write, cap: write_cap },
    )
}

impl FrameReader {
    /// The reading half of a socket that somebody else writes to, by another descriptor: it stays open for writing.
    #[must_use]
    pub fn alone(stream: UnixStream, cap: usize) -> Self {
        let (reader, writer) = framed(stream, cap, cap);
        writer.stream.forget();
        reader
    }

    /// Waits for the next message. Cancel-safe.
    ///
    /// # Errors
    /// [`FrameError::Closed`] at a clean end, another [`FrameError`] when the channel is broken.
    pub async fn read<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        loop {
            if let Some(message) = self.assembler.take()? {
                return Ok(message);
            }
            match self.stream.read(&mut self.chunk).await {
                Ok(0) if self.assembler.is_partial() => return Err(FrameError::Truncated),
                Ok(0) => return Err(FrameError::Closed),
                Ok(count) => self.assembler.push(&self.chunk[..count]),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl FrameWriter {
    /// Writes one message. Not cancel-safe: a dropped write leaves half a frame.
    ///
    /// # Errors
    /// [`FrameError`] when the message exceeds the cap or the socket fails.
    pub async fn write<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        let bytes = encode(message, self.cap)?;
        self.stream.write_all(&bytes).await.map_err(FrameError::Io)
    }

    /// Closes this direction: the peer reads the end.
    pub async fn close(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}
