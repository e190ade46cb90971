//! The quick way out: a reply that is written to the client's connection by the call itself, at once.
//!
//! Runs in: server. The usual way goes through rmcp's service: a value of every part, two hand-overs between tasks, then the
//! writing. A reply that is whole and can go out now is written from what it borrows, and the service is given an empty
//! [`told`] in its place, which the transport drops. What rmcp would do to the reply is done here too.

use std::{fmt, sync::Arc};

use rmcp::{
    RoleServer,
    model::{
        CallToolResult, ContentBlock, JsonObject, JsonRpcMessage, MetaObject, ProtocolVersion, RequestId,
        ServerJsonRpcMessage, ServerResult,
    },
    service::RequestContext,
};
use serde::Serialize;
use serde_json::Value;

/// In the place of a reply that is out.
const TOLD: &str = "forkpy/told";

/// Where lines go.
pub(crate) trait Line: Send + Sync {
    /// Has `write` add a line, without its newline, and sends it. False when it cannot be written now; nothing is sent then.
    fn put(&self, write: &mut dyn FnMut(&mut Vec<u8>) -> serde_json::Result<()>) -> bool;

    /// The number that the client knows a request by.
    fn number<'a>(&'a self, id: &'a RequestId) -> &'a RequestId {
        id
    }
}

/// A client's connection, as a call sees it.
#[derive(Clone)]
pub(crate) struct Lane(Arc<dyn Line>);

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lane")
    }
}

/// The result of a call, borrowed; keys as in [`CallToolResult`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told<'a, R> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) result_type: Option<&'static str>,
    pub(super) content: &'a [ContentBlock],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) structured_content: Option<&'a R>,
    pub(super) is_error: bool,
}

#[derive(Serialize)]
struct Response<'a, R> {
    jsonrpc: &'static str,
    id: &'a RequestId,
    result: &'a Told<'a, R>,
}

impl Lane {
    pub(crate) fn new(line: impl Line + 'static) -> Self {
        Self(Arc::new(line))
    }

    /// Sends the reply to a call that still waits for it. False when it is to go the usual way.
    pub(super) fn answer<R: Serialize>(&self, context: &RequestContext<RoleServer>, told: &Told<'_, R>) -> bool {
        // A call that was taken back gets no reply.
        if context.ct.is_cancelled() {
            return false;
        }
        let response = Response { jsonrpc: "2.0", id: self.0.number(&context.id), result: told };
        self.0.put(&mut |line| serde_json::to_writer(line, &response))
    }
}

/// What clients of 2026-07-28 and later are told of every result, and older ones are not.
pub(super) fn result_type(context: &RequestContext<RoleServer>) -> Option<&'static str> {
    // Dates of one format: in the order of their letters.
    let new =
        context.protocol_version().is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str());
    new.then_some("complete")
}

/// For the service, in the place of a reply that is out.
pub(super) fn told() -> CallToolResult {
    let mut result = CallToolResult::success(Vec::new());
    result.meta = Some(MetaObject(JsonObject::from_iter([(TOLD.to_owned(), Value::Null)])));
    result
}

/// Whether a message stands in the place of a reply that is out.
pub(crate) fn is_out(message: &ServerJsonRpcMessage) -> bool {
    let JsonRpcMessage::Response(response) = message else { return false };
    let ServerResult::CallToolResult(result) = &response.result else { return false };
    result.meta.as_ref().is_some_and(|meta| meta.0.contains_key(TOLD))
}
