//! The reply to a text that is no message: what is wrong with it, where, and the id that it had.
//!
//! Runs in: server. Knows JSON-RPC; never tools, sessions or what a request asks for.

use rmcp::model::{ClientJsonRpcMessage, ErrorCode, RequestId};
use serde::de::IgnoredAny;

use crate::{
    protocol::outline::Outline,
    server::{mcp::envelope, output::numbers},
};

/// The message, or else the reply that says why the line is none; no reply where JSON-RPC wants none.
pub(super) type Reading = Result<ClientJsonRpcMessage, Option<Refusal>>;

pub(super) fn parse(text: &[u8]) -> Reading {
    // Parameters of a notebook are numbers of Python's, of any size.
    let marked = memchr::memmem::find(text, b"run_notebook")
        .and_then(|_| std::str::from_utf8(text).ok())
        .map(|text| numbers::mark(text, numbers::Keep::Impossible));
    let text_of_it = marked.as_ref().map_or(text, |marked| marked.as_bytes());
    if let Some(call) = envelope::call(text_of_it) {
        return Ok(call);
    }
    let parsed = serde_json::from_slice(text_of_it);
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
pub(super) struct Refusal {
    /// As the client wrote it.
    id: Option<Vec<u8>>,
    code: ErrorCode,
    message: String,
}

impl Refusal {
    pub(super) fn of(id: &RequestId, code: ErrorCode, message: &str) -> Self {
        Self { id: serde_json::to_vec(id).ok(), code, message: message.to_owned() }
    }

    /// By hand, because rmcp leaves an id of null out, and cannot repeat an id that it does not accept.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = br#"{"jsonrpc":"2.0","id":"#.to_vec();
        line.extend_from_slice(self.id.as_deref().unwrap_or(b"null"));
        let error = serde_json::json!({ "code": self.code, "message": self.message });
        line.extend_from_slice(format!(",\"error\":{error}}}\n").as_bytes());
        line
    }
}

/// The reply to a line of which this much was seen. A notification gets none. An answer to a request of ours gets one
/// without its id, which the client would take for the id of a request of its own.
pub(super) fn refuse(seen: Outline, code: ErrorCode, message: String) -> Option<Refusal> {
    let notification = seen.is_notification();
    tracing::warn!(code = code.0, notification, "refused a line from the client: {message}");
    let id = if seen.is_answer() { None } else { seen.into_id() };
    (!notification).then_some(Refusal { id, code, message })
}
