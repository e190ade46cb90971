//! The way in, cut into lines; a line that is too long is counted and skipped, and its id kept.
//!
//! Runs in: server. Owns the stream that is read.

use std::{io, ops::Range};

use rmcp::model::ErrorCode;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    outgoing::KEEP,
    refusal::{self, Reading},
};
use crate::protocol::outline::Outline;

/// Room for one read: what a pipe holds.
const CHUNK: usize = 64 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The way in, cut into lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    pub buffer: Vec<u8>,
    /// Where the line that is being read begins.
    start: usize,
    /// Up to where there is no newline.
    searched: usize,
    limit: usize,
    /// The line that is being read, once it is too long to be kept.
    skipping: Option<TooLong>,
    ended: bool,
}

/// What is left of a line that was too long.
#[derive(Debug, Default)]
pub(super) struct TooLong {
    size: usize,
    outline: Outline,
}

enum Cut {
    Whole(Range<usize>),
    TooLong(TooLong),
}

/// A line without its newline.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    TooLong { seen: TooLong, limit: usize },
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, limit: usize) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, searched: 0, limit, skipping: None, ended: false }
    }

    /// Whether there is nothing more to come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && self.start == self.buffer.len() && self.skipping.is_none()
    }

    /// The next line; the last one may lack its newline. `None` at the end. Cancel-safe: what was read stays here.
    pub(super) async fn next(&mut self) -> Option<Line<'_>> {
        loop {
            let end = match self.newline() {
                Some(end) => end,
                None if !self.ended => {
                    self.skip_if_too_long();
                    self.fill().await;
                    continue;
                }
                None if self.start == self.buffer.len() && self.skipping.is_none() => return None,
                None => self.buffer.len(),
            };
            return Some(match self.cut(end) {
                Cut::Whole(range) => Line::Whole(&self.buffer[range]),
                Cut::TooLong(seen) => Line::TooLong { seen, limit: self.limit },
            });
        }
    }

    fn newline(&mut self) -> Option<usize> {
        let fresh = &self.buffer[self.searched..];
        // `contains` looks at many bytes at a time, `position` at one: this tells in large lines.
        let found = if fresh.contains(&b'\n') { fresh.iter().position(|byte| *byte == b'\n') } else { None };
        match found {
            Some(place) => Some(self.searched + place),
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    fn cut(&mut self, end: usize) -> Cut {
        let range = self.start..end;
        self.start = self.buffer.len().min(end + 1);
        self.searched = self.start;
        match self.skipping.take() {
            None if range.len() <= self.limit => Cut::Whole(range),
            begun => {
                let mut seen = begun.unwrap_or_default();
                seen.add(&self.buffer[range]);
                Cut::TooLong(seen)
            }
        }
    }

    fn skip_if_too_long(&mut self) {
        if self.skipping.is_some() || self.buffer.len() - self.start > self.limit {
            self.skipping.get_or_insert_default().add(&self.buffer[self.start..]);
            self.buffer.clear();
            self.start = 0;
            self.searched = 0;
        }
    }

    async fn fill(&mut self) {
        self.make_room();
        match self.reader.read_buf(&mut self.buffer).await {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!("failed to read from the client: {error}");
                self.ended = true;
            }
        }
    }

    pub(super) fn make_room(&mut self) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.len() <= KEEP / 2 {
            self.buffer.shrink_to(KEEP);
        }
        self.buffer.reserve(CHUNK);
    }
}

impl TooLong {
    fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len();
        self.outline.add(bytes);
    }
}

impl Line<'_> {
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::TooLong { .. } => 0,
        }
    }

    /// `None` for a line with nothing in it.
    pub(super) fn read(self) -> Option<Reading> {
        match self {
            Self::Whole(bytes) => {
                let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes).trim_ascii();
                (!text.is_empty()).then(|| refusal::parse(text))
            }
            Self::TooLong { seen: TooLong { size, outline }, limit } => {
                let message = format!("the message has {size} bytes; the limit is {limit} bytes");
                Some(Err(refusal::refuse(outline, ErrorCode::INVALID_REQUEST, message)))
            }
        }
    }
}
