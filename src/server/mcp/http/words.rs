//! Refusals at `/mcp` in the words of JSON-RPC, whichever part refuses: the door, the token, rmcp, or the intake of bodies.
//!
//! Runs in: server. Pure. Owns which code goes with which status.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

const LONGEST: usize = 64 << 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Says what was refused in words as a JSON-RPC error without an id, which is what clients of `/mcp` read.
pub(crate) async fn as_json_rpc(response: Response) -> Response {
    let is_refusal = response.status().is_client_error() || response.status().is_server_error();
    let is_json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(JSON.as_bytes()));
    if !is_refusal || is_json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = to_bytes(body, LONGEST).await.unwrap_or_default();
    let said = refusal(head.status, String::from_utf8_lossy(&text).trim_end());
    head.headers.insert(header::CONTENT_TYPE, JSON);
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, said.into_body())
}

pub(crate) fn refusal(status: StatusCode, message: &str) -> Response {
    let message = if message.is_empty() { status.canonical_reason().unwrap_or("refused") } else { message };
    let error = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code(status), "message": message } });
    (status, [(header::CONTENT_TYPE, JSON)], error.to_string()).into_response()
}

/// An error that is JSON-RPC already.
pub(crate) fn bad_request(line: Vec<u8>) -> Response {
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, JSON)], Body::from(line)).into_response()
}

fn code(status: StatusCode) -> i32 {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => -32600,
        // What the official SDKs say of a session that is gone.
        StatusCode::NOT_FOUND => -32001,
        StatusCode::INTERNAL_SERVER_ERROR => -32603,
        _ => -32000,
    }
}
