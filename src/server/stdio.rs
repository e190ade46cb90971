//! MCP over standard input and output: one JSON-RPC message a line, each way. A line that is no message is answered.
//!
//! Runs in: server. Owns both streams for as long as the connection lasts. Knows JSON-RPC and the order in which a
//! connection opens; never tools, sessions or what a request asks for.
//!
//! Ours rather than rmcp's, because rmcp's drops what it cannot parse without a word, so that the client waits for ever,
//! and because rmcp's service ends when the first message is one that it does not expect.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rmcp::{
    RoleServer,
    model::{
        ClientJsonRpcMessage, ClientRequest, ErrorCode, GetMeta, JsonRpcMessage, JsonRpcRequest, ProtocolVersion,
        RequestId, ServerJsonRpcMessage,
    },
    transport::{StdioReader, StdioWriter, Transport, stdio_pipes},
};
use serde::{Serialize, de::IgnoredAny};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Mutex, Notify},
    task::JoinSet,
};

use crate::config::MAX_REQUEST;

/// Room for one read: what a pipe holds.
const CHUNK: usize = 64 << 10;
/// Buffers that grew beyond this for a large message are given back after it.
const KEEP: usize = 1 << 20;
/// Longest id that is repeated in a reply to a line that is no message.
const MAX_ID: usize = 1 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why a message did not go out.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
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
pub struct StdioTransport<R, W> {
    lines: Lines<R>,
    outgoing: Arc<Outgoing<W>>,
    /// The reply to a line that was no message, at most one: the next line is read when it is out. A task, because rmcp
    /// drops the future of `receive` at any time, and because a send must not wait for `receive` to be polled.
    replies: JoinSet<()>,
    opening: Opening,
}

/// The message, or else the reply that says why the line is none; no reply where JSON-RPC wants none.
type Reading = Result<ClientJsonRpcMessage, Option<Refusal>>;

impl StdioTransport<StdioReader, StdioWriter> {
    /// Over this process's standard input and output. Must be called inside a tokio runtime.
    #[must_use]
    pub fn stdio() -> Self {
        let (reader, writer) = stdio_pipes();
        Self::new(reader, writer, MAX_REQUEST)
    }
}

impl<R, W> StdioTransport<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Over any two streams. Lines of more than `limit` bytes are refused.
    #[must_use]
    pub fn new(reader: R, writer: W, limit: usize) -> Self {
        Self {
            lines: Lines::new(reader, limit),
            outgoing: Arc::new(Outgoing::new(writer)),
            replies: JoinSet::new(),
            opening: Opening::Awaited,
        }
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
            let line = tokio::select! {
                biased;
                line = self.lines.next() => line?,
                () = self.outgoing.closing.notified() => return None,
            };
            let Some(reading) = line.read() else { continue };
            match reading.and_then(|message| self.opening.admit(message)) {
                Ok(message) => return Some(message),
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

/// The way out, shared by every send.
#[derive(Debug)]
struct Outgoing<W> {
    sink: Mutex<Sink<W>>,
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
        Self { sink: Mutex::new(sink), closed: AtomicBool::new(false), closing: Notify::new() }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_one();
    }

    async fn send(&self, message: &ServerJsonRpcMessage) -> Result<(), StdioError> {
        let mut sink = self.sink.lock().await;
        if self.is_closed() {
            return Err(StdioError::Closed);
        }
        sink.append(message).map_err(StdioError::Serialise)?;
        self.drain(&mut sink).await
    }

    async fn send_line(&self, line: &[u8]) -> Result<(), StdioError> {
        let mut sink = self.sink.lock().await;
        if self.is_closed() {
            return Err(StdioError::Closed);
        }
        sink.bytes.extend_from_slice(line);
        self.drain(&mut sink).await
    }

    async fn drain(&self, sink: &mut Sink<W>) -> Result<(), StdioError> {
        sink.drain().await.map_err(|error| {
            self.close();
            StdioError::Write(error)
        })
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
    /// `None` for a line with nothing in it.
    fn read(self) -> Option<Reading> {
        match self {
            Self::Whole(bytes) => {
                let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes).trim_ascii();
                (!text.is_empty()).then(|| parse(text))
            }
            Self::TooLong { seen: TooLong { size, outline }, limit } => {
                let message = format!("the message has {size} bytes; the limit is {limit} bytes");
                Some(Err(outline.refuse(ErrorCode::INVALID_REQUEST, message)))
            }
        }
    }
}

fn parse(text: &[u8]) -> Reading {
    serde_json::from_slice(text).map_err(|error| {
        // serde's quick look for syntax only: it minds neither surrogates, UTF-8, depth nor the size of numbers.
        let syntax = serde_json::from_slice::<IgnoredAny>(text).err();
        let mut outline = Outline::default();
        outline.add(&text[..syntax.as_ref().map_or(text.len(), |error| sound(text, error))]);
        let (code, message) = reason(text, syntax, &error);
        outline.refuse(code, message)
    })
}

/// How many bytes come before a mistake in syntax. Beyond it nothing is certain: what looks like an id there may be part
/// of a string.
fn sound(text: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() { text.len() } else { error.column().saturating_sub(1).min(text.len()) }
}

/// Why `text`, for which serde had `error`, is no message.
fn reason(text: &[u8], syntax: Option<serde_json::Error>, error: &serde_json::Error) -> (ErrorCode, String) {
    if let Err(error) = std::str::from_utf8(text) {
        let message = format!("the line is not valid UTF-8 at byte column {}", error.valid_up_to() + 1);
        return (ErrorCode::PARSE_ERROR, message);
    }
    if let Some(error) = syntax {
        return (ErrorCode::PARSE_ERROR, format!("the line is not valid JSON: {error}"));
    }
    if text.starts_with(b"[") {
        return (ErrorCode::INVALID_REQUEST, "batches are not supported; send one message a line".to_owned());
    }
    if let Some(place) = lone_surrogate(text) {
        let column = place + 1;
        let message = format!("the text contains a lone surrogate at byte column {column}, which is not valid Unicode");
        return (ErrorCode::INVALID_PARAMS, message);
    }
    if error.is_data() {
        let message = format!("the line is not a JSON-RPC 2.0 request, notification or response: {error}");
        return (ErrorCode::INVALID_REQUEST, message);
    }
    (ErrorCode::PARSE_ERROR, format!("the line cannot be read: {error}"))
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

/// What a JSON object has at its top level, found in one pass with little memory, from as many pieces as it comes in.
/// Stops at the first thing that cannot be JSON; what was seen before that stands.
#[derive(Debug, Default)]
struct Outline {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// A string has just ended, and only punctuation may follow.
    after_string: bool,
    /// Top level: a value is being read, not a key.
    in_value: bool,
    /// Top level: the key or the id that is being read.
    token: Vec<u8>,
    /// Top level: the value that is being read is the id's.
    in_id: bool,
    ids: usize,
    id: Option<Vec<u8>>,
    method: bool,
    answer: bool,
    state: Extent,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Extent {
    #[default]
    Open,
    Complete,
    Broken,
}

impl Outline {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.state == Extent::Broken {
                return;
            }
            self.take(*byte);
        }
    }

    fn take(&mut self, byte: u8) {
        if self.in_string {
            return self.take_in_string(byte);
        }
        let punctuation = matches!(byte, b',' | b':' | b'}' | b']');
        match byte {
            b' ' | b'\t' | b'\r' => return,
            _ if self.state == Extent::Complete || (self.after_string && !punctuation) => self.state = Extent::Broken,
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(byte),
            b':' if self.depth == 1 && !self.in_value => self.end_key(),
            b',' if self.depth == 1 => self.end_value(),
            b',' | b':' if self.depth > 1 => {}
            b'"' if self.depth > 0 => {
                self.in_string = true;
                self.keep(byte);
            }
            b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.' if self.depth > 0 => self.keep(byte),
            _ => self.state = Extent::Broken,
        }
        self.after_string = false;
    }

    fn take_in_string(&mut self, byte: u8) {
        self.keep(byte);
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
            self.after_string = true;
        } else if byte < b' ' {
            self.state = Extent::Broken;
        }
    }

    /// One byte more than [`MAX_ID`] is kept, by which [`Self::end_value`] knows that there were too many.
    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && (self.in_id || !self.in_value) && self.token.len() <= MAX_ID {
            self.token.push(byte);
        }
    }

    fn open(&mut self, byte: u8) {
        match self.depth {
            0 if byte == b'[' => self.state = Extent::Broken,
            // An object is no id: what is kept must not look like one.
            1 => self.keep(byte),
            _ => {}
        }
        self.depth += 1;
    }

    fn close(&mut self, byte: u8) {
        match self.depth {
            0 => return self.state = Extent::Broken,
            1 if byte == b'}' => {
                self.end_value();
                self.state = Extent::Complete;
            }
            1 => self.state = Extent::Broken,
            _ => {}
        }
        self.depth -= 1;
    }

    fn end_key(&mut self) {
        // Through serde, because a key may be written with escapes.
        let key = serde_json::from_slice::<String>(&self.token).unwrap_or_default();
        self.token.clear();
        self.in_value = true;
        self.in_id = key == "id";
        self.method |= key == "method";
        self.answer |= key == "result" || key == "error";
    }

    fn end_value(&mut self) {
        if self.in_id {
            self.ids += 1;
            let value = (self.token.len() <= MAX_ID).then(|| serde_json::from_slice(&self.token).ok()).flatten();
            let usable = self.ids == 1 && matches!(value, Some(Value::Number(_) | Value::String(_)));
            self.id = usable.then(|| self.token.clone());
        }
        self.token.clear();
        self.in_value = false;
        self.in_id = false;
    }

    /// The reply to the line. A notification gets none. An answer to a request of ours gets one without its id, which
    /// the client would take for the id of a request of its own.
    fn refuse(self, code: ErrorCode, message: String) -> Option<Refusal> {
        let notification = self.state == Extent::Complete && self.method && self.ids == 0;
        tracing::warn!(code = code.0, notification, "refused a line from the client: {message}");
        let id = self.id.filter(|_| self.method || !self.answer);
        (!notification).then_some(Refusal { id, code, message })
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rmcp::{
        ServerHandler,
        model::{ErrorData, ServerCapabilities, ServerConfig},
        service::{serve_directly, serve_server},
    };
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines as ClientLines, duplex};

    use super::*;

    type Server = StdioTransport<DuplexStream, DuplexStream>;

    const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

    /// The other end.
    struct Client {
        input: DuplexStream,
        output: ClientLines<BufReader<DuplexStream>>,
    }

    impl Client {
        async fn write(&mut self, bytes: impl AsRef<[u8]>) {
            self.input.write_all(bytes.as_ref()).await.unwrap();
        }

        async fn read(&mut self) -> Value {
            let line = tokio::time::timeout(Duration::from_secs(5), self.output.next_line());
            let line = line.await.expect("no reply").unwrap().expect("output ended");
            serde_json::from_str(&line).unwrap()
        }

        async fn ask(&mut self, line: &str) -> Value {
            self.write(format!("{line}\n")).await;
            self.read().await
        }

        /// No more input; everything that was still written.
        async fn finish(self) -> Vec<Value> {
            let Self { input, mut output } = self;
            drop(input);
            let mut lines = Vec::new();
            while let Some(line) = output.next_line().await.unwrap() {
                lines.push(serde_json::from_str(&line).unwrap());
            }
            lines
        }
    }

    fn pair_of(limit: usize, capacity: usize) -> (Server, Client) {
        let (input, reader) = duplex(capacity);
        let (writer, output) = duplex(capacity);
        let client = Client { input, output: BufReader::new(output).lines() };
        (StdioTransport::new(reader, writer, limit), client)
    }

    /// A connection that has opened already.
    fn pair() -> (Server, Client) {
        let (mut server, client) = pair_of(4096, 1 << 20);
        server.opening = Opening::Done;
        (server, client)
    }

    fn ping(id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)
    }

    fn id_of(message: ClientJsonRpcMessage) -> Value {
        message.into_request().expect("a request").1.into_json_value()
    }

    /// Sends `line`, then a ping; returns the reply to the line, if any, once the ping came through.
    async fn refused(line: impl AsRef<[u8]>) -> Option<Value> {
        let (mut server, mut client) = pair();
        client.write(line).await;
        client.write(format!("\n{}\n", ping("99"))).await;
        assert_eq!(id_of(server.receive().await.expect("the connection goes on")), 99);
        drop(server);
        let mut replies = client.finish().await;
        assert!(replies.len() <= 1, "{replies:?}");
        replies.pop()
    }

    async fn code_and_id(line: impl AsRef<[u8]>) -> (i64, Value) {
        let reply = refused(line).await.expect("a reply");
        assert_eq!(reply["jsonrpc"], "2.0");
        let id = reply.as_object().unwrap().get("id").expect("an id, or null").clone();
        (reply["error"]["code"].as_i64().unwrap(), id)
    }

    #[tokio::test]
    async fn garbage_is_answered_and_the_next_line_read() {
        assert_eq!(code_and_id("hello").await, (-32700, Value::Null));
        assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":7,"method":"x", nonsense}"#).await, (-32700, json!(7)));
        assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":7,"method":"#).await, (-32700, json!(7)));
        assert_eq!(code_and_id("null").await, (-32600, Value::Null));
    }

    #[tokio::test]
    async fn an_id_after_a_mistake_is_not_trusted() {
        let line = r#"{"params":{"code":"a "quote", "x},"id":3,"method":"y"}"#;
        assert_eq!(code_and_id(line).await, (-32700, Value::Null));
    }

    #[tokio::test]
    async fn bytes_that_are_not_utf8_are_answered() {
        assert_eq!(code_and_id(b"\xff\xfe\x80").await, (-32700, Value::Null));
        let line = b"{\"jsonrpc\":\"2.0\",\"method\":\"ping\",\"params\":{\"a\":\"\xc3\x28\"},\"id\":\"seven\"}";
        let reply = refused(line).await.unwrap();
        assert_eq!(reply["id"], "seven");
        assert_eq!(reply["error"]["message"], "the line is not valid UTF-8 at byte column 49");
    }

    #[tokio::test]
    async fn json_that_is_no_message_is_answered_with_its_id() {
        assert_eq!(code_and_id(r#"{"id":5}"#).await, (-32600, json!(5)));
        assert_eq!(code_and_id(r#"{"id":1.5,"jsonrpc":"2.0","method":"ping"}"#).await, (-32600, json!(1.5)));
        assert_eq!(code_and_id(r#"{"\u0069d":6,"method":"ping"}"#).await, (-32600, json!(6)));
        assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#).await, (-32600, Value::Null));
        assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}"#).await, (-32600, Value::Null));
        assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","params":{"id":4}}"#).await, (-32600, Value::Null));
        assert_eq!(code_and_id(format!("[{}]", ping("1"))).await, (-32600, Value::Null));
    }

    #[tokio::test]
    async fn a_bad_answer_to_a_request_of_ours_is_not_answered_as_one_of_theirs() {
        assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#).await, (-32600, Value::Null));
    }

    #[tokio::test]
    async fn depth_beyond_what_serde_takes_is_answered_with_the_id() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let line = format!(r#"{{"jsonrpc":"2.0","method":"ping","params":{{"a":{deep}}},"id":8}}"#);
        assert_eq!(code_and_id(line).await, (-32700, json!(8)));
    }

    #[tokio::test]
    async fn a_lone_surrogate_is_refused_with_the_id_of_its_request() {
        let line = |text: &str| {
            format!(
                r#"{{"method":"tools/call","params":{{"name":"x","arguments":{{"c":"{text}"}}}},"jsonrpc":"2.0","id":12}}"#
            )
        };
        for text in [r"\ud800", r"\udc00", r"a\\\ud83dz", r"\ud83d\ud83d\ude00", r"\uD83D\n"] {
            let reply = refused(line(text)).await.expect(text);
            assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(12), &json!(-32602)), "{text}");
        }
        let text = line(r"\u0041\ud800");
        let column = text.find(r"\ud800").unwrap() + 1;
        let message = format!("the text contains a lone surrogate at byte column {column}, which is not valid Unicode");
        assert_eq!(refused(text).await.unwrap()["error"]["message"], message);
    }

    #[tokio::test]
    async fn pairs_and_escaped_backslashes_are_no_lone_surrogates() {
        for text in [r"\ud83d\ude00", r"\\ud800", r"\\\\udc00"] {
            let (mut server, mut client) = pair();
            client
                .write(format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{{\"a\":\"{text}\"}}}}\n"))
                .await;
            assert_eq!(id_of(server.receive().await.unwrap()), 1, "{text}");
        }
    }

    #[tokio::test]
    async fn a_notification_gets_no_reply() {
        assert_eq!(refused(r#"{"jsonrpc":"2.0","method":"a","params":"\ud800"}"#).await, None);
        assert_eq!(refused(r#"{"method":"a"}"#).await, None);
        assert_eq!(refused(b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":\"\xff\"}").await, None);
    }

    #[tokio::test]
    async fn empty_lines_byte_order_mark_and_carriage_returns_are_tolerated() {
        let (mut server, mut client) = pair();
        client.write(format!("\u{feff}{}\r\n\r\n  \t\n\n{}\r\n", ping("1"), ping("2"))).await;
        assert_eq!(id_of(server.receive().await.unwrap()), 1);
        assert_eq!(id_of(server.receive().await.unwrap()), 2);
        drop(server);
        assert_eq!(client.finish().await, Vec::<Value>::new());
    }

    #[tokio::test]
    async fn the_last_line_may_lack_its_newline() {
        let (mut server, mut client) = pair();
        client.write(ping("1")).await;
        client.input.shutdown().await.unwrap();
        assert_eq!(id_of(server.receive().await.unwrap()), 1);
        assert!(server.receive().await.is_none());
        assert!(server.receive().await.is_none());
    }

    #[tokio::test]
    async fn half_a_line_at_the_end_is_answered() {
        let (mut server, mut client) = pair();
        client.write(r#"{"jsonrpc":"2.0","id":3,"meth"#).await;
        client.input.shutdown().await.unwrap();
        assert!(server.receive().await.is_none());
        let reply = client.read().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(3), &json!(-32700)));
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_refused_without_being_kept() {
        let (mut server, mut client) = pair_of(64 << 10, 4096);
        server.opening = Opening::Done;
        let text = r#"\" \\ {[,\"id\":4,"#.repeat(400_000);
        let line = format!(r#"{{"method":"tools/call","params":{{"id":5,"c":"{text}"}},"jsonrpc":"2.0","id":"last"}}"#);
        let size = line.len();
        let writer = tokio::spawn(async move {
            client.write(line + "\n" + &ping("2") + "\n").await;
            client
        });
        assert_eq!(id_of(server.receive().await.unwrap()), 2);
        assert!(server.lines.buffer.capacity() <= KEEP);
        let reply = writer.await.unwrap().read().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!("last"), &json!(-32600)));
        let message = format!("the message has {size} bytes; the limit is 65536 bytes");
        assert_eq!(reply["error"]["message"], message);
    }

    #[tokio::test]
    async fn the_limit_is_exact_and_holds_at_the_end_of_input() {
        let line = ping("1");
        let (mut server, mut client) = pair_of(line.len(), 4096);
        server.opening = Opening::Done;
        client.write(format!("{line}\n{line} \n{line} ")).await;
        client.input.shutdown().await.unwrap();
        assert_eq!(id_of(server.receive().await.unwrap()), 1);
        assert!(server.receive().await.is_none());
        for _ in 0..2 {
            assert_eq!(client.read().await["error"]["code"], -32600);
        }
    }

    #[tokio::test]
    async fn a_large_buffer_is_given_back() {
        let (mut server, mut client) = pair_of(16 << 20, 4096);
        server.opening = Opening::Done;
        let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":"{}"}}}}"#, "a".repeat(8 << 20));
        let writer = tokio::spawn(async move {
            client.write(large + "\n" + &ping("2") + "\n").await;
            client
        });
        assert_eq!(id_of(server.receive().await.unwrap()), 1);
        assert!(server.lines.buffer.capacity() > 8 << 20);
        assert_eq!(id_of(server.receive().await.unwrap()), 2);
        server.lines.make_room();
        assert!(server.lines.buffer.capacity() <= KEEP);
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn receiving_may_be_dropped_at_any_time() {
        let (mut server, mut client) = pair_of(4096, 4096);
        server.opening = Opening::Done;
        let mut ids = Vec::new();
        for byte in format!("{}\nnonsense\n{}\n", ping("1"), ping("2")).bytes() {
            client.write([byte]).await;
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(1), server.receive()).await {
                ids.push(id_of(message.unwrap()));
            }
        }
        assert_eq!(ids, [1, 2]);
        assert_eq!(client.read().await["error"]["code"], -32700);
    }

    fn response(id: i64, text: &str) -> ServerJsonRpcMessage {
        ServerJsonRpcMessage::error(ErrorData::internal_error(text.to_owned(), None), Some(RequestId::Number(id)))
    }

    #[tokio::test]
    async fn sends_never_interleave() {
        let (mut server, mut client) = pair_of(4096, 512);
        let mut sends = JoinSet::new();
        for id in 0..50 {
            sends.spawn(server.send(response(id, &"x".repeat(100 * id as usize))));
        }
        let mut seen = Vec::new();
        for _ in 0..50 {
            let line = client.read().await;
            let id = line["id"].as_i64().unwrap();
            assert_eq!(line["error"]["message"].as_str().unwrap().len() as i64, 100 * id);
            seen.push(id);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        while let Some(result) = sends.join_next().await {
            result.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_send_that_is_dropped_half_way_tears_no_message() {
        let (mut server, mut client) = pair_of(4096, 64);
        let dropped = tokio::time::timeout(Duration::from_millis(5), server.send(response(1, &"x".repeat(1000)))).await;
        assert!(dropped.is_err());
        let next = tokio::spawn(server.send(response(2, "y")));
        assert_eq!(client.read().await["id"], 1);
        assert_eq!(client.read().await["id"], 2);
        next.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_reads_no_more_ends_the_connection() {
        let (mut server, Client { input, output }) = pair_of(4096, 64);
        drop(output);
        assert!(matches!(server.send(response(1, "x")).await, Err(StdioError::Write(_))));
        assert!(server.receive().await.is_none());
        assert!(matches!(server.send(response(2, "x")).await, Err(StdioError::Closed)));
        drop(input);
    }

    #[tokio::test]
    async fn closing_does_not_wait_for_a_client_that_does_not_read() {
        let (mut server, mut client) = pair_of(4096, 16);
        let receiving = async {
            client.write("nonsense\n").await;
            server.receive().await
        };
        assert!(tokio::time::timeout(Duration::from_millis(5), receiving).await.is_err());
        tokio::time::timeout(Duration::from_secs(1), server.close()).await.unwrap().unwrap();
        assert!(server.receive().await.is_none());
    }

    /// rmcp's own answers to everything.
    struct Plain;
    impl ServerHandler for Plain {
        fn get_info(&self) -> ServerConfig {
            ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
        }
    }

    fn inline(id: i64, method: &str, version: &str) -> String {
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"_meta": {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
        }}})
        .to_string()
    }

    const NONSENSE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}
{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}
{"jsonrpc":"2.0","id":1,"result":{}}
{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}
"#;

    #[tokio::test]
    async fn nonsense_before_initialize_does_not_end_the_server() {
        let (server, mut client) = pair_of(4096, 1 << 16);
        let serving = tokio::spawn(serve_server(Plain, server));
        client.write(NONSENSE).await;
        assert_eq!(client.ask("garbage").await["error"]["code"], -32700);
        assert_eq!(client.ask(&ping("1")).await, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
        let early = client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}"#).await;
        assert_eq!((&early["id"], &early["error"]["code"]), (&json!(2), &json!(-32602)));
        assert!(early["error"]["message"].as_str().unwrap().starts_with("send initialize first"), "{early}");
        let bad = client.ask(r#"{"jsonrpc":"2.0","id":3,"method":"initialize","params":{}}"#).await;
        assert_eq!((&bad["id"], &bad["error"]["code"]), (&json!(3), &json!(-32602)));
        assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
        let running = serving.await.unwrap().unwrap();
        assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
        assert!(client.ask(&inline(9, "server/discover", "2026-07-28")).await["result"].is_object());
        assert!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["result"]["tools"].is_array());
        assert_eq!(client.finish().await, Vec::<Value>::new());
        running.waiting().await.unwrap();
    }

    #[tokio::test]
    async fn discover_may_come_twice_and_before_initialize() {
        let (server, mut client) = pair_of(4096, 1 << 16);
        let serving = tokio::spawn(serve_server(Plain, server));
        assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":0,"method":"server/discover"}"#).await["error"]["code"], -32602);
        for id in 1..3 {
            assert!(client.ask(&inline(id, "server/discover", "2026-07-28")).await["result"].is_object());
            client.write(NONSENSE).await;
        }
        assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
        assert!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["result"]["tools"].is_array());
        serving.await.unwrap().unwrap().cancel().await.unwrap();
    }

    #[tokio::test]
    async fn a_first_request_of_an_unknown_version_leaves_the_connection_unopened() {
        let (server, mut client) = pair_of(4096, 1 << 16);
        let serving = tokio::spawn(serve_server(Plain, server));
        assert_eq!(client.ask(&inline(1, "tools/list", "2031-01-01")).await["error"]["code"], -32022);
        client.write(NONSENSE).await;
        assert!(client.ask(&inline(2, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
        client.write(NONSENSE).await;
        assert!(client.ask(&inline(3, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
        serving.await.unwrap().unwrap().cancel().await.unwrap();
    }

    /// What the guard is for: without it rmcp's opening fails at the first of these.
    #[tokio::test]
    async fn rmcp_alone_would_end_at_nonsense() {
        let (mut server, mut client) = pair_of(4096, 1 << 16);
        server.opening = Opening::Done;
        client.write(NONSENSE).await;
        assert!(serve_server(Plain, server).await.is_err());
    }

    /// With `serve_directly` a connection may change its lifecycle.
    #[tokio::test]
    async fn served_directly_either_lifecycle_may_follow_the_other() {
        let (server, mut client) = pair_of(4096, 1 << 16);
        let running = serve_directly::<RoleServer, _, _, _, _>(Plain, server, None);
        client.write(NONSENSE).await;
        assert_eq!(client.ask(&ping("1")).await["result"], json!({}));
        assert!(client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#).await["error"].is_object());
        assert!(client.ask(&inline(3, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
        assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
        assert!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["result"]["tools"].is_array());
        assert!(client.ask(&inline(5, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
        running.cancel().await.unwrap();
    }

    /// rmcp's rule, which no transport can change: what opened without `initialize` stays so.
    #[tokio::test]
    async fn served_with_rmcps_opening_a_connection_keeps_its_lifecycle() {
        let (server, mut client) = pair_of(4096, 1 << 16);
        let serving = tokio::spawn(serve_server(Plain, server));
        assert!(client.ask(&inline(3, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
        assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["error"]["code"], -32602);
        serving.await.unwrap().unwrap().cancel().await.unwrap();
    }
}
