//! Bytes ⇄ frames, pure. No I/O, no policy.
//!
//! Runs in: all three processes.

use serde::{Serialize, de::DeserializeOwned};

/// First bytes of every frame; the last one is the layout's version.
pub(crate) const MAGIC: [u8; 4] = *b"fpy1";
pub(crate) const HEADER: usize = 8;
/// Cap on a body to a worker: the largest cell the server accepts, and some.
pub const MAX_TO_WORKER: usize = 48 << 20;
/// Cap on a body from a worker. Output does not travel in frames, displays do: `display.py` keeps them below 20 MiB.
pub const MAX_FROM_WORKER: usize = 32 << 20;
/// Cap on a body on a control socket.
pub const MAX_CONTROL: usize = 1 << 20;
/// Cap on a body on the zygote socket.
pub const MAX_ZYGOTE: usize = 1 << 20;

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes do not begin like a frame: something else wrote to the descriptor.
    #[error("frame does not begin with the magic bytes (got {0:02x?})")]
    BadMagic([u8; 4]),
    /// The header announces more than this channel allows.
    #[error("frame of {length} bytes exceeds the cap of {cap}")]
    TooLong {
        /// Announced length of the body.
        length: usize,
        /// Cap of the channel.
        cap: usize,
    },
    /// The channel ended inside a frame.
    #[error("channel closed inside a frame")]
    Truncated,
    /// The channel ended between frames.
    #[error("channel closed")]
    Closed,
    /// The body is not a message of this direction.
    #[error("frame body does not decode: {0}")]
    Body(#[from] postcard::Error),
    #[error("channel failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Encodes one message as a whole frame.
///
/// # Errors
/// [`FrameError::TooLong`] when the body exceeds `cap`.
pub fn encode<T: Serialize>(message: &T, cap: usize) -> Result<Vec<u8>, FrameError> {
    let mut start = Vec::with_capacity(64);
    start.extend_from_slice(&MAGIC);
    start.extend_from_slice(&[0; 4]);
    let mut bytes = postcard::to_extend(message, start)?;
    let length = bytes.len() - HEADER;
    if length > cap {
        return Err(FrameError::TooLong { length, cap });
    }
    let announced = u32::try_from(length).map_err(|_| FrameError::TooLong { length, cap })?;
    bytes[4..HEADER].copy_from_slice(&announced.to_le_bytes());
    Ok(bytes)
}

/// Collects bytes as they arrive and hands out whole messages. One buffer for the life of a channel.
#[derive(Debug)]
pub struct Assembler {
    buffer: Vec<u8>,
    start: usize,
    cap: usize,
}

impl Assembler {
    /// A buffer for a channel whose bodies may have up to `cap` bytes.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, cap }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
            // One large frame must not keep its memory for ever.
            if self.buffer.capacity() > 1 << 20 {
                self.buffer.shrink_to(64 << 10);
            }
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the bytes end inside a frame.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// The next whole message, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes are no frame of this channel; the channel is lost then.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let waiting = &self.buffer[self.start..];
        let seen = waiting.len().min(MAGIC.len());
        if waiting[..seen] != MAGIC[..seen] {
            let mut got = [0; 4];
            got[..seen].copy_from_slice(&waiting[..seen]);
            return Err(FrameError::BadMagic(got));
        }
        let Some(announced) = waiting.get(4..HEADER) else { return Ok(None) };
        let length = u32::from_le_bytes([announced[0], announced[1], announced[2], announced[3]]) as usize;
        if length > self.cap {
            return Err(FrameError::TooLong { length, cap: self.cap });
        }
        let Some(body) = waiting.get(HEADER..HEADER + length) else { return Ok(None) };
        let message = postcard::from_bytes(body)?;
        self.start += HEADER + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(assembler: &mut Assembler) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(text) = assembler.take::<String>().expect("whole frames") {
            out.push(text);
        }
        out
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(texts in proptest::collection::vec(".{0,200}", 0..8), cut in 1usize..40) {
            let stream: Vec<u8> = texts.iter().flat_map(|t| encode(t, 1 << 20).expect("small")).collect();
            let mut assembler = Assembler::new(1 << 20);
            let mut seen = Vec::new();
            for chunk in stream.chunks(cut) {
                assembler.push(chunk);
                seen.extend(drain(&mut assembler));
            }
            prop_assert_eq!(seen, texts);
            prop_assert!(!assembler.is_partial());
        }

        #[test]
        fn any_bytes_are_an_error_or_wait_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut assembler = Assembler::new(1 << 10);
            assembler.push(&bytes);
            while let Ok(Some(_)) = assembler.take::<crate::protocol::FromWorker>() {}
        }
    }

    #[test]
    fn one_stray_byte_is_noticed_at_once() {
        let mut assembler = Assembler::new(1 << 10);
        assembler.push(b"x");
        assert!(matches!(assembler.take::<String>(), Err(FrameError::BadMagic(_))));
    }

    #[test]
    fn an_announced_length_above_the_cap_is_refused_before_the_body_arrives() {
        let mut assembler = Assembler::new(16);
        assembler.push(&encode(&"a".repeat(64), 1 << 20).expect("small")[..HEADER]);
        assert!(matches!(assembler.take::<String>(), Err(FrameError::TooLong { length: 65, cap: 16 })));
    }

    #[test]
    fn a_body_above_the_cap_is_not_sent() {
        assert!(matches!(encode(&"a".repeat(64), 16), Err(FrameError::TooLong { .. })));
    }
}
