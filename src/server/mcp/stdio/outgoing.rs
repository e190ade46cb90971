//! The way out: messages, whole and one after the other, to a client that may read slowly.
//!
//! Runs in: server. Owns the stream that is written to.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::FutureExt;
use rmcp::model::{JsonRpcMessage, ServerJsonRpcMessage};
use serde::Serialize;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{Mutex, Notify},
};

use crate::server::tools::call::lane::{self, Line};

/// Buffers that grew beyond this for a large message are given back after it.
pub(super) const KEEP: usize = 1 << 20;

/// Bytes that the client has not read, from which on its further requests wait.
pub(super) const MUCH: usize = 4 << 20;

/// Why a message did not go out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// The client reads no more, as a rule.
    #[error("failed to write to the client: {0}")]
    Write(#[source] io::Error),
    /// A value that JSON cannot hold.
    #[error("failed to write a message as JSON: {0}")]
    Serialise(#[source] serde_json::Error),
    /// An earlier write failed, or the transport was closed.
    #[error("the connection to the client is closed")]
    Closed,
}

/// The way out, shared by every send.
#[derive(Debug)]
pub(super) struct Outgoing<W> {
    sink: Mutex<Sink<W>>,
    /// Bytes in the sink, and of lines that wait for it.
    in_sink: AtomicUsize,
    pub waiting: AtomicUsize,
    /// Replies that are among them, or were.
    answered: AtomicUsize,
    /// Fewer bytes than before.
    pub fell: Notify,
    closed: AtomicBool,
    /// Wakes `receive`, the only one that waits for it.
    pub closing: Notify,
}

/// The stream and what has yet to go into it. A send whose future is dropped half way leaves its rest here, and the next
/// one writes that first: a message is never torn.
#[derive(Debug)]
struct Sink<W> {
    writer: W,
    bytes: Vec<u8>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    pub(super) fn new(writer: W) -> Self {
        let sink = Sink { writer, bytes: Vec::new(), written: 0 };
        Self {
            sink: Mutex::new(sink),
            in_sink: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            fell: Notify::new(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        }
    }

    /// Whether the client has much to read before it gets more to do.
    pub(super) fn is_behind(&self) -> bool {
        self.in_sink.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed) > MUCH
    }

    pub(super) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until it is not. Cancel-safe.
    pub(super) async fn caught_up(&self) {
        loop {
            let fell = self.fell.notified();
            if !self.is_behind() {
                return;
            }
            fell.await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_one();
    }

    pub(super) async fn send(&self, message: &ServerJsonRpcMessage) -> Result<(), StdioError> {
        if matches!(message, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        if lane::is_out(message) {
            return Ok(());
        }
        // No other task writes, as a rule.
        let Ok(mut sink) = self.sink.try_lock() else {
            // As bytes it takes less room than as a message, and can be counted.
            let mut line = serde_json::to_vec(message).map_err(StdioError::Serialise)?;
            line.push(b'\n');
            return self.send_line(&line).await;
        };
        if self.is_closed() {
            return Err(StdioError::Closed);
        }
        sink.append(message).map_err(StdioError::Serialise)?;
        self.drain(&mut sink).await
    }

    pub(super) async fn send_line(&self, line: &[u8]) -> Result<(), StdioError> {
        let waiting = Waiting::begin(self, line.len());
        let mut sink = self.sink.lock().await;
        if self.is_closed() {
            return Err(StdioError::Closed);
        }
        sink.bytes.extend_from_slice(line);
        drop(waiting);
        self.drain(&mut sink).await
    }

    async fn drain(&self, sink: &mut Sink<W>) -> Result<(), StdioError> {
        self.in_sink.store(sink.bytes.len(), Ordering::Relaxed);
        let drained = sink.drain().await;
        self.in_sink.store(0, Ordering::Relaxed);
        self.fell.notify_waiters();
        drained.map_err(|error| {
            self.close();
            StdioError::Write(error)
        })
    }
}

/// The way out, for calls that write their replies themselves.
#[derive(Debug)]
pub(super) struct Quick<W>(pub(super) Arc<Outgoing<W>>);

impl<W: AsyncWrite + Send + Unpin + 'static> Line for Quick<W> {
    fn put(&self, write: &mut dyn FnMut(&mut Vec<u8>) -> serde_json::Result<()>) -> bool {
        let Ok(mut sink) = self.0.sink.try_lock() else { return false };
        if self.0.is_closed() || !sink.bytes.is_empty() {
            return false;
        }
        if write(&mut sink.bytes).is_err() {
            sink.bytes.clear();
            return false;
        }
        sink.bytes.push(b'\n');
        if self.0.drain(&mut sink).now_or_never().is_none() {
            // The client reads slowly. A send that comes meanwhile writes this first.
            let outgoing = Arc::clone(&self.0);
            tokio::spawn(async move {
                let mut sink = outgoing.sink.lock().await;
                let _ = outgoing.drain(&mut sink).await;
            });
        }
        true
    }
}

/// A line that waits for those before it.
struct Waiting<'a, W> {
    outgoing: &'a Outgoing<W>,
    size: usize,
}

impl<'a, W> Waiting<'a, W> {
    fn begin(outgoing: &'a Outgoing<W>, size: usize) -> Self {
        outgoing.waiting.fetch_add(size, Ordering::Relaxed);
        Self { outgoing, size }
    }
}

impl<W> Drop for Waiting<'_, W> {
    fn drop(&mut self) {
        self.outgoing.waiting.fetch_sub(self.size, Ordering::Relaxed);
        self.outgoing.fell.notify_waiters();
    }
}

impl<W: AsyncWrite + Unpin> Sink<W> {
    fn append(&mut self, message: &impl Serialize) -> Result<(), serde_json::Error> {
        let before = self.bytes.len();
        let result = serde_json::to_writer(&mut self.bytes, message);
        match result {
            Ok(()) => self.bytes.push(b'\n'),
            Err(_) => self.bytes.truncate(before),
        }
        result
    }

    async fn drain(&mut self) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match self.writer.write(&self.bytes[self.written..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.written += count,
            }
        }
        self.writer.flush().await?;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.written = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader, duplex};

    use super::*;

    /// What cannot be written at once follows by itself, whole and before anything else.
    #[tokio::test]
    async fn a_line_that_a_slow_client_takes_in_parts_arrives_whole() {
        let (client, writer) = duplex(64);
        let outgoing = Arc::new(Outgoing::new(writer));
        let quick = Quick(Arc::clone(&outgoing));
        let long = "x".repeat(1000);
        assert!(quick.put(&mut |line| {
            line.extend_from_slice(long.as_bytes());
            Ok(())
        }));
        // There is no room for another: that one goes the usual way.
        assert!(!quick.put(&mut |_| Ok(())));
        let sender = Arc::clone(&outgoing);
        let second = tokio::spawn(async move { sender.send_line(b"second\n").await });
        let mut lines = BufReader::new(client).lines();
        assert_eq!(lines.next_line().await.expect("a line"), Some(long));
        assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("second"));
        second.await.expect("it ran").expect("written");
        assert!(quick.put(&mut |line| {
            line.extend_from_slice(b"third");
            Ok(())
        }));
        assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("third"));
    }

    #[tokio::test]
    async fn what_cannot_be_made_into_a_line_leaves_none() {
        let (client, writer) = duplex(64);
        let quick = Quick(Arc::new(Outgoing::new(writer)));
        assert!(!quick.put(&mut |line| {
            line.extend_from_slice(b"half");
            Err(serde::ser::Error::custom("no"))
        }));
        assert!(quick.put(&mut |line| {
            line.extend_from_slice(b"whole");
            Ok(())
        }));
        assert_eq!(BufReader::new(client).lines().next_line().await.expect("a line").as_deref(), Some("whole"));
    }
}
