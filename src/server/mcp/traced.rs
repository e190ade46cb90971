//! A call of a tool as its trace has it: what the request says of it, and what came of it.
//!
//! Runs in: server. Reads requests and answers; what is made of them is `server/traces`.

use axum::http::{HeaderMap, request::Parts};
use rmcp::{
    RoleServer,
    model::{CallToolResponse, JsonObject, RequestId},
    service::RequestContext,
};
use serde_json::Value;

use super::identity::SESSION_HEADER;
use crate::server::{
    owner::Owner,
    tools::call::audit,
    traces::{self, Asked, CallSpan, Carrier},
};

/// Beside a request: the number that its client knows it by, where it has another one on its way.
#[derive(Debug, Clone)]
pub(super) struct Numbered(pub(super) RequestId);

/// A call begins; none where it is not traced.
#[must_use]
pub(super) fn begin(
    tool: &'static str,
    arguments: Option<&JsonObject>,
    context: &RequestContext<RoleServer>,
    owner: &Owner,
) -> Option<CallSpan> {
    if !traces::is_on() {
        return None;
    }
    let meta = &context.meta.0;
    let parts = context.extensions.get::<Parts>();
    let headers = parts.map(|parts| &parts.headers);
    let header = |name: &str| headers.and_then(|all: &HeaderMap| all.get(name)).and_then(|value| value.to_str().ok());
    traces::call(&Asked {
        tool,
        request: parts.and_then(|parts| parts.extensions.get()).map_or(&context.id, |Numbered(id)| id).to_string(),
        session: arguments.and_then(|all| all.get("session_id")).and_then(Value::as_str),
        owner: owner.mark(),
        mcp_session: header(SESSION_HEADER.as_str()),
        version: context.protocol_version().map(|version| version.to_string()),
        over_http: headers.is_some(),
        said: Carrier { traceparent: meta.get_traceparent(), tracestate: meta.get_tracestate() },
        sent: Carrier { traceparent: header("traceparent"), tracestate: header("tracestate") },
    })
}

/// It has ended.
pub(super) fn end(span: CallSpan, answer: &CallToolResponse) {
    let is_error = matches!(answer, CallToolResponse::Complete(result) if result.is_error == Some(true));
    span.end(audit::outcome_of(answer), is_error);
}
