//! The header by which balancers route (SEP-2243): where a client sends it, it says what the body says.
//!
//! Runs in: server. Pure. A request whose header is missing is served: clients that have not listed the tools yet cannot know
//! of it (FastMCP's first call), and on one server nothing depends on it. One that contradicts its body is refused, because
//! it may have been routed to a server that has another session of that name.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

const HEADER: &str = "mcp-param-session-id";
/// The protocol's code for a header that is not what the body says.
const MISMATCH: i32 = -32_020;

/// The refusal of a request whose header and body name different sessions.
pub(super) fn refusal(headers: &HeaderMap, body: &[u8]) -> Option<Response> {
    if !headers.contains_key(HEADER) {
        return None;
    }
    // What is no JSON is refused by those who read it whole.
    let request: Value = serde_json::from_slice(body).ok()?;
    if request["method"] != "tools/call" {
        return None;
    }
    let words = contradiction(headers, request["params"]["arguments"]["session_id"].as_str())?;
    let error = json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": MISMATCH, "message": words}});
    Some((StatusCode::BAD_REQUEST, Json(error)).into_response())
}

fn contradiction(headers: &HeaderMap, in_body: Option<&str>) -> Option<String> {
    let mut values = headers.get_all(HEADER).iter();
    let (first, None) = (values.next()?, values.next()) else {
        return Some(format!("there is more than one {HEADER} header"));
    };
    let Some(in_header) = first.to_str().ok().and_then(decoded) else {
        return Some(format!("the {HEADER} header is neither text nor valid base64"));
    };
    match in_body {
        Some(session) if session == in_header => None,
        Some(session) => {
            Some(format!("the {HEADER} header says {in_header:?}, and session_id in the body is {session:?}"))
        }
        None => Some(format!("the {HEADER} header says {in_header:?}, and the body has no session_id")),
    }
}

/// A value as it was before it was made fit for a header: `=?base64?...?=`.
fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(packed) => String::from_utf8(STANDARD.decode(packed).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn said(values: &[&'static str], in_body: Option<&str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_static(value));
        }
        contradiction(&headers, in_body)
    }

    #[test]
    fn a_header_that_agrees_passes_in_either_spelling() {
        assert_eq!(said(&["work"], Some("work")), None);
        assert_eq!(said(&["=?base64?d29yaw==?="], Some("work")), None);
        assert_eq!(said(&["=?base64?d29yaw=="], Some("=?base64?d29yaw==")), None, "literal without its end");
        assert_eq!(said(&[], Some("work")), None);
    }

    #[test]
    fn a_header_that_contradicts_is_told_apart() {
        assert!(said(&["other"], Some("work")).is_some_and(|words| words.contains("\"other\"")));
        assert!(said(&["work"], None).is_some_and(|words| words.contains("no session_id")));
        assert!(said(&["work", "work"], Some("work")).is_some_and(|words| words.contains("more than one")));
        for broken in ["=?base64?d29yaw?=", "=?base64?d29!aw==?=", "=?base64?/w==?="] {
            assert!(said(&[broken], Some("work")).is_some_and(|words| words.contains("base64")), "{broken}");
        }
    }
}
