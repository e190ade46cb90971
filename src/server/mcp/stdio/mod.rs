//! MCP over standard input and output: one JSON-RPC message a line, each way. A line that is no message is answered.
//!
//! Runs in: server. Owns both streams for as long as the connection lasts. Knows JSON-RPC and the order in which a
//! connection opens; never tools, sessions or what a request asks for.
//!
//! Ours rather than rmcp's, because rmcp's drops what it cannot parse without a word, so that the client waits for ever,
//! and because rmcp's service ends when the first message is one that it does not expect.

mod socket;

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rmcp::{
    RoleServer,
    model::{
        ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorCode, GetMeta, JsonRpcMessage,
        JsonRpcNotification, JsonRpcRequest, ProtocolVersion, RequestId, ServerJsonRpcMessage,
    },
    transport::{StdioReader, StdioWriter, Transport, stdio_pipes},
};
use serde::{Serialize, de::IgnoredAny};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Mutex, Notify},
    task::JoinSet,
};
use tokio_util::{either::Either, sync::CancellationToken};

use self::socket::{SocketReader, SocketWriter};
use super::{handler::Handler, resources::Resources};
use crate::{
    protocol::outline::Outline,
    server::{output::numbers, tools::call::server::Server},
    settings::bounds::MAX_REQUEST,
};

/// Room for one read: what a pipe holds.
const CHUNK: usize = 64 << 10;
/// Buffers that grew beyond this for a large message are given back after it.
const KEEP: usize = 1 << 20;
/// Bytes that the client has not read, from which on its further requests wait.
const MUCH: usize = 4 << 20;
/// Requests that wait, and their bytes, from which on nothing more is read.
const MOST_HELD: usize = 256;
const MOST_HELD_BYTES: usize = 1 << 20;
/// How long a client that has closed its input may take to read on.
const PATIENCE: Duration = Duration::from_secs(1);
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why a message did not go out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// Nobody reads any more, as a rule.
    #[error("failed to write to the client: {0}")]
    Write(#[source] io::Error),
    /// A value that JSON cannot hold.
    #[error("failed to write a message as JSON: {0}")]
    Serialise(#[source] serde_json::Error),
    /// An earlier write failed, or the transport was closed.
    #[error("the connection to the client is closed")]
    Closed,
}

/// JSON-RPC, line by line, over a pair of byte streams.
#[derive(Debug)]
pub(crate) struct StdioTransport<R, W> {
    lines: Lines<R>,
    outgoing: Arc<Outgoing<W>>,
    /// The reply to a line that was no message, at most one: the next line is read when it is out. A task, because rmcp
    /// drops the future of `receive` at any time, and because a send must not wait for `receive` to be polled.
    replies: JoinSet<()>,
    opening: Opening,
    held: Held,
}

/// Requests that have begun and are not answered, from which on others get their turn before the next one begins.
const MANY: usize = 32;

/// Requests of a client that does not read what it is answered: they begin when it has. What is no request passes by, so
/// that a cancellation arrives.
#[derive(Debug, Default)]
struct Held {
    requests: VecDeque<(ClientJsonRpcMessage, usize)>,
    bytes: usize,
    /// Requests that have begun, without those that were cancelled then.
    begun: usize,
}

/// The message, or else the reply that says why the line is none; no reply where JSON-RPC wants none.
type Reading = Result<ClientJsonRpcMessage, Option<Refusal>>;

impl StdioTransport<Either<SocketReader, StdioReader>, Either<SocketWriter, StdioWriter>> {
    /// Over this process's standard input and output: sockets, pipes, or anything else, in falling order of speed. Must
    /// be called inside a tokio runtime.
    #[must_use]
    pub(crate) fn stdio() -> Self {
        let (reader, writer) = match socket::pair() {
            Some((reader, writer)) => (Either::Left(reader), Either::Left(writer)),
            None => {
                let (reader, writer) = stdio_pipes();
                (Either::Right(reader), Either::Right(writer))
            }
        };
        Self::new(reader, writer, MAX_REQUEST)
    }
}

/// Over a socket, which goes with the transport. Must be called inside a tokio runtime.
pub(super) fn over_socket(socket: OwnedFd) -> io::Result<StdioTransport<SocketReader, SocketWriter>> {
    let (reader, writer) = socket::both_ways(socket)?;
    Ok(StdioTransport::new(reader, writer, MAX_REQUEST))
}

impl<R, W> StdioTransport<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Over any two streams. Lines of more than `limit` bytes are refused.
    #[must_use]
    pub(crate) fn new(reader: R, writer: W, limit: usize) -> Self {
        Self {
            lines: Lines::new(reader, limit),
            outgoing: Arc::new(Outgoing::new(writer)),
            replies: JoinSet::new(),
            opening: Opening::Awaited,
            held: Held::default(),
        }
    }

    /// A message that came in a line of `size` bytes: to be handed on now, or later, or never.
    fn pass(&mut self, message: ClientJsonRpcMessage, size: usize) -> Option<ClientJsonRpcMessage> {
        match &message {
            JsonRpcMessage::Request(_) if self.held.is_any() || self.outgoing.is_behind() || self.is_busy() => {
                self.held.push(message, size);
                None
            }
            JsonRpcMessage::Request(_) => {
                self.held.begun += 1;
                Some(message)
            }
            JsonRpcMessage::Notification(JsonRpcNotification {
                notification: ClientNotification::CancelledNotification(cancelled),
                ..
            }) => match &cancelled.params.request_id {
                Some(id) if self.held.cancel(id) => None,
                _ => {
                    // There will be no answer.
                    self.held.begun -= usize::from(self.held.begun > self.outgoing.answered());
                    Some(message)
                }
            },
            _ => Some(message),
        }
    }

    fn is_busy(&self) -> bool {
        self.held.begun.saturating_sub(self.outgoing.answered()) >= MANY
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let reply = refusal.to_line();
        let outgoing = Arc::clone(&self.outgoing);
        self.replies.spawn(async move {
            // A failed write ends the connection by itself.
            let _ = outgoing.send_line(&reply).await;
        });
    }
}

impl<R, W> Transport<RoleServer> for StdioTransport<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = StdioError;

    fn send(&mut self, item: ServerJsonRpcMessage) -> impl Future<Output = Result<(), StdioError>> + Send + 'static {
        self.opening.answered(&item);
        let outgoing = Arc::clone(&self.outgoing);
        async move { outgoing.send(&item).await }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            while self.replies.join_next().await.is_some() {}
            if self.outgoing.is_closed() {
                return None;
            }
            if self.held.is_any() && !self.outgoing.is_behind() {
                if self.is_busy() {
                    // rmcp drops this future when it has an answer to send: then that goes first, and is counted.
                    tokio::task::yield_now().await;
                }
                if !self.outgoing.is_behind() {
                    return self.held.pop();
                }
            }
            let has_ended = self.lines.has_ended();
            if has_ended && !self.held.is_any() {
                return None;
            }
            let line = tokio::select! {
                biased;
                line = self.lines.next(), if !has_ended && !self.held.is_full() => line,
                () = self.outgoing.closing.notified() => return None,
                () = self.outgoing.caught_up(), if self.held.is_any() => continue,
                () = tokio::time::sleep(PATIENCE), if has_ended => return None,
            };
            let Some(line) = line else { continue };
            let size = line.size();
            let Some(reading) = line.read() else { continue };
            match reading.and_then(|message| self.opening.admit(message)) {
                Ok(message) => {
                    if let Some(message) = self.pass(message, size) {
                        return Some(message);
                    }
                }
                Err(Some(refusal)) => self.refuse(&refusal),
                Err(None) => {}
            }
        }
    }

    /// Does not wait: a client that reads nothing must not stop us. The streams go with the transport.
    async fn close(&mut self) -> Result<(), StdioError> {
        self.replies.abort_all();
        self.outgoing.close();
        Ok(())
    }
}

impl Held {
    fn is_any(&self) -> bool {
        !self.requests.is_empty()
    }

    fn is_full(&self) -> bool {
        self.requests.len() >= MOST_HELD || self.bytes >= MOST_HELD_BYTES
    }

    fn push(&mut self, message: ClientJsonRpcMessage, size: usize) {
        self.bytes += size;
        self.requests.push_back((message, size));
    }

    fn pop(&mut self) -> Option<ClientJsonRpcMessage> {
        let (message, size) = self.requests.pop_front()?;
        self.bytes -= size;
        self.begun += 1;
        Some(message)
    }

    /// Whether it was one of these, which is none any more: what is cancelled gets no reply.
    fn cancel(&mut self, id: &RequestId) -> bool {
        let is_it = |message: &ClientJsonRpcMessage| matches!(message, JsonRpcMessage::Request(held) if held.id == *id);
        let place = self.requests.iter().position(|(message, _)| is_it(message));
        let removed = place.and_then(|place| self.requests.remove(place));
        self.bytes -= removed.as_ref().map_or(0, |(_, size)| *size);
        removed.is_some()
    }
}

/// The way out, shared by every send.
#[derive(Debug)]
struct Outgoing<W> {
    sink: Mutex<Sink<W>>,
    /// Bytes in the sink, and of lines that wait for it.
    in_sink: AtomicUsize,
    waiting: AtomicUsize,
    /// Replies that are among them, or were.
    answered: AtomicUsize,
    /// Fewer bytes than before.
    fell: Notify,
    closed: AtomicBool,
    /// Wakes `receive`, the only one that waits for it.
    closing: Notify,
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
    fn new(writer: W) -> Self {
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
    fn is_behind(&self) -> bool {
        self.in_sink.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed) > MUCH
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until it is not. Cancel-safe.
    async fn caught_up(&self) {
        loop {
            let fell = self.fell.notified();
            if !self.is_behind() {
                return;
            }
            fell.await;
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_one();
    }

    async fn send(&self, message: &ServerJsonRpcMessage) -> Result<(), StdioError> {
        if matches!(message, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        // Nobody else writes, as a rule.
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

    async fn send_line(&self, line: &[u8]) -> Result<(), StdioError> {
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

/// The way in, cut into lines.
#[derive(Debug)]
struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
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
struct TooLong {
    size: usize,
    outline: Outline,
}

enum Cut {
    Whole(Range<usize>),
    TooLong(TooLong),
}

/// A line without its newline.
enum Line<'a> {
    Whole(&'a [u8]),
    TooLong { seen: TooLong, limit: usize },
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R, limit: usize) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, searched: 0, limit, skipping: None, ended: false }
    }

    /// Whether there is nothing more to come.
    fn has_ended(&self) -> bool {
        self.ended && self.start == self.buffer.len() && self.skipping.is_none()
    }

    /// The next line; the last one may lack its newline. `None` at the end. Cancel-safe: what was read stays here.
    async fn next(&mut self) -> Option<Line<'_>> {
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

    fn make_room(&mut self) {
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
    fn size(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::TooLong { .. } => 0,
        }
    }

    /// `None` for a line with nothing in it.
    fn read(self) -> Option<Reading> {
        match self {
            Self::Whole(bytes) => {
                let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes).trim_ascii();
                (!text.is_empty()).then(|| parse(text))
            }
            Self::TooLong { seen: TooLong { size, outline }, limit } => {
                let message = format!("the message has {size} bytes; the limit is {limit} bytes");
                Some(Err(refuse(outline, ErrorCode::INVALID_REQUEST, message)))
            }
        }
    }
}

fn parse(text: &[u8]) -> Reading {
    // Parameters of a notebook are numbers of Python's, of any size.
    let marked = memchr::memmem::find(text, b"run_notebook")
        .and_then(|_| std::str::from_utf8(text).ok())
        .map(|text| numbers::mark(text, numbers::Keep::Impossible));
    let parsed = match &marked {
        Some(marked) => serde_json::from_str(marked),
        None => serde_json::from_slice(text),
    };
    parsed.map_err(|error| {
        let (outline, code, message) = examine(text, "line", &error);
        refuse(outline, code, message)
    })
}

/// The reply to a `text` that is no message, for those who get no lines but, say, the body of a request; `what` it is, in
/// words. `None` for a message.
#[must_use]
pub(crate) fn refusal_of(text: &[u8], what: &str) -> Option<Vec<u8>> {
    let error = serde_json::from_slice::<ClientJsonRpcMessage>(text).err()?;
    let (outline, code, message) = examine(text, what, &error);
    // Who sent a notification is answered too: each request has its reply.
    let refusal = refuse(outline, code, message.clone()).unwrap_or(Refusal { id: None, code, message });
    Some(refusal.to_line())
}

/// What can be said of a text for which serde had `error`.
fn examine(text: &[u8], what: &str, error: &serde_json::Error) -> (Outline, ErrorCode, String) {
    // serde's quick look for syntax only: it minds neither surrogates, UTF-8, depth nor the size of numbers.
    let syntax = serde_json::from_slice::<IgnoredAny>(text).err();
    let mut outline = Outline::default();
    outline.add(&text[..syntax.as_ref().map_or(text.len(), |error| sound(text, error))]);
    let (code, message) = reason(text, what, syntax, error);
    (outline, code, message)
}

/// How many bytes come before a mistake in syntax. Beyond it nothing is certain: what looks like an id there may be part
/// of a string.
fn sound(text: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return text.len();
    }
    let lines = text.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1));
    (lines.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1)).min(text.len())
}

/// Why `text`, for which serde had `error`, is no message.
fn reason(
    text: &[u8],
    what: &str,
    syntax: Option<serde_json::Error>,
    error: &serde_json::Error,
) -> (ErrorCode, String) {
    if let Err(error) = std::str::from_utf8(text) {
        let message = format!("the {what} is not valid UTF-8 at byte column {}", error.valid_up_to() + 1);
        return (ErrorCode::PARSE_ERROR, message);
    }
    if let Some(error) = syntax {
        return (ErrorCode::PARSE_ERROR, format!("the {what} is not valid JSON: {error}"));
    }
    if text.trim_ascii_start().starts_with(b"[") {
        return (ErrorCode::INVALID_REQUEST, format!("batches are not supported; send one message a {what}"));
    }
    if let Some(place) = lone_surrogate(text) {
        let column = place + 1;
        let message = format!("the text contains a lone surrogate at byte column {column}, which is not valid Unicode");
        return (ErrorCode::INVALID_PARAMS, message);
    }
    if error.is_data() {
        let message = format!("the {what} is not a JSON-RPC 2.0 request, notification or response: {error}");
        return (ErrorCode::INVALID_REQUEST, message);
    }
    (ErrorCode::PARSE_ERROR, format!("the {what} cannot be read: {error}"))
}

/// The place of the first `\uD800` to `\uDFFF` that is not one of a pair, in valid JSON.
fn lone_surrogate(text: &[u8]) -> Option<usize> {
    let mut place = 0;
    while let Some(step) = text[place..].iter().position(|byte| *byte == b'\\') {
        place += step;
        place += match (unit(&text[place..]), text.get(place + 6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => return Some(place),
            (Some(_), _) => 6,
            // Another escape; its second byte may be a backslash that begins none.
            (None, _) => 2,
        };
    }
    None
}

/// The UTF-16 unit of the `\uXXXX` at the start of `text`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// An error reply to a line that is no message.
#[derive(Debug)]
struct Refusal {
    /// As the client wrote it.
    id: Option<Vec<u8>>,
    code: ErrorCode,
    message: String,
}

impl Refusal {
    fn of(id: &RequestId, code: ErrorCode, message: &str) -> Self {
        Self { id: serde_json::to_vec(id).ok(), code, message: message.to_owned() }
    }

    /// By hand, because rmcp leaves an id of null out, and cannot repeat an id that it does not accept.
    fn to_line(&self) -> Vec<u8> {
        let mut line = br#"{"jsonrpc":"2.0","id":"#.to_vec();
        line.extend_from_slice(self.id.as_deref().unwrap_or(b"null"));
        let error = serde_json::json!({ "code": self.code, "message": self.message });
        line.extend_from_slice(format!(",\"error\":{error}}}\n").as_bytes());
        line
    }
}

/// The reply to a line of which this much was seen. A notification gets none. An answer to a request of ours gets one
/// without its id, which the client would take for the id of a request of its own.
fn refuse(seen: Outline, code: ErrorCode, message: String) -> Option<Refusal> {
    let notification = seen.is_notification();
    tracing::warn!(code = code.0, notification, "refused a line from the client: {message}");
    let id = if seen.is_answer() { None } else { seen.into_id() };
    (!notification).then_some(Refusal { id, code, message })
}

/// How far the connection has opened. Until rmcp has a request with which to begin, it ends the connection at any
/// message that is not a request; such a message is not shown to it.
#[derive(Debug)]
enum Opening {
    Awaited,
    /// rmcp has a request of protocol 2026-07-28 or later, and has yet to say whether it knows the version.
    Offered(RequestId),
    Done,
}

impl Opening {
    fn admit(&mut self, message: ClientJsonRpcMessage) -> Reading {
        if let JsonRpcMessage::Request(request) = &message {
            self.admit_request(request)?;
        } else if matches!(self, Self::Awaited) {
            tracing::warn!("ignored a notification or response that came before the first request");
            return Err(None);
        }
        Ok(message)
    }

    fn admit_request(
        &mut self,
        JsonRpcRequest { id, request, .. }: &JsonRpcRequest<ClientRequest>,
    ) -> Result<(), Option<Refusal>> {
        match request {
            // What does not parse as an `initialize` becomes a request of an unknown kind.
            ClientRequest::CustomRequest(custom) if custom.method == "initialize" => {
                let message = "initialize needs params with protocolVersion, capabilities and clientInfo";
                return Err(Some(Refusal::of(id, ErrorCode::INVALID_PARAMS, message)));
            }
            ClientRequest::InitializeRequest(_) => *self = Self::Done,
            // rmcp answers these two and goes on waiting.
            ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => {}
            other if matches!(self, Self::Awaited) => {
                let meta = other.get_meta();
                if meta.protocol_version().is_none() {
                    // The code that protocol 2026-07-28 wants where `_meta` is missing; older ones name none.
                    let message = "send initialize first, or give every request the _meta of protocol 2026-07-28: \
                                   io.modelcontextprotocol/protocolVersion and clientCapabilities";
                    return Err(Some(Refusal::of(id, ErrorCode::INVALID_PARAMS, message)));
                }
                if meta.missing_required_keys(&ProtocolVersion::V_2026_07_28).is_empty() {
                    *self = Self::Offered(id.clone());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// rmcp refuses the first request when it does not know its version, and goes on waiting; so do we.
    fn answered(&mut self, item: &ServerJsonRpcMessage) {
        let Self::Offered(offered) = self else { return };
        match item {
            JsonRpcMessage::Error(error) if error.id.as_ref() == Some(offered) => {
                let unknown = error.error.code == ErrorCode::UNSUPPORTED_PROTOCOL_VERSION;
                *self = if unknown { Self::Awaited } else { Self::Done };
            }
            JsonRpcMessage::Response(response) if response.id == *offered => *self = Self::Done,
            _ => {}
        }
    }
}

/// Served directly, without rmcp's opening: a client may then change to the other protocol generation on the same pipe.
pub(in crate::server) async fn serve(server: Arc<Server>, resources: Arc<Resources>, stop: CancellationToken) {
    let transport = StdioTransport::stdio();
    let running = rmcp::service::serve_directly_with_ct(Handler::new(server, resources), transport, None, stop);
    let _ = running.waiting().await;
}

#[cfg(test)]
mod tests;
