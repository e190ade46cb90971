//! Requests of a client that does not read what it is answered: which wait, and which have begun.
//!
//! Runs in: server.

use std::collections::VecDeque;

use rmcp::model::{ClientJsonRpcMessage, JsonRpcMessage, RequestId};

/// Requests that wait, and their bytes, from which on nothing more is read.
const MOST_HELD: usize = 256;
const MOST_HELD_BYTES: usize = 1 << 20;
/// Requests that have begun and are not answered, from which on others get their turn before the next one begins.
pub(super) const MANY: usize = 32;

/// Requests of a client that does not read what it is answered: they begin when it has. What is no request passes by, so
/// that a cancellation arrives.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub requests: VecDeque<(ClientJsonRpcMessage, usize)>,
    pub bytes: usize,
    /// Requests that have begun, without those that were cancelled then.
    pub begun: usize,
}

impl Held {
    pub(super) fn is_any(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.requests.len() >= MOST_HELD || self.bytes >= MOST_HELD_BYTES
    }

    pub(super) fn push(&mut self, message: ClientJsonRpcMessage, size: usize) {
        self.bytes += size;
        self.requests.push_back((message, size));
    }

    pub(super) fn pop(&mut self) -> Option<ClientJsonRpcMessage> {
        let (message, size) = self.requests.pop_front()?;
        self.bytes -= size;
        self.begun += 1;
        Some(message)
    }

    /// Whether it was one of these, which is none any more: what is cancelled gets no reply.
    pub(super) fn cancel(&mut self, id: &RequestId) -> bool {
        let is_it = |message: &ClientJsonRpcMessage| matches!(message, JsonRpcMessage::Request(held) if held.id == *id);
        let place = self.requests.iter().position(|(message, _)| is_it(message));
        let removed = place.and_then(|place| self.requests.remove(place));
        self.bytes -= removed.as_ref().map_or(0, |(_, size)| *size);
        removed.is_some()
    }
}
