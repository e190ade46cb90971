//! The quick way for the request that comes most: a plain call of a tool.
//!
//! Runs in: server, behind the door, the token and all that looks into a body. What is not plainly such a call is rmcp's to serve
//! or to refuse. What is saved: reading the message as one of many kinds, and the way of the reply through values and queues.
//!
//! A client of protocols up to 2025-11-25 has a session, and is answered by events that it can have again (`clients.rs`); a reply that
//! is there within a moment goes out in one piece, with the event that would have come before it. One of 2026-07-28 is answered by
//! JSON, or by events where something comes before the reply (`alone.rs`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, future::Either, stream};
use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, ErrorCode, GetExtensions, GetMeta, JsonRpcMessage, JsonRpcRequest,
    ProtocolVersion, ServerJsonRpcMessage,
};
use tokio_util::sync::CancellationToken;

use super::{
    alone::{Alone, Told},
    clients::{Clients, Known},
    words,
};
use crate::server::{
    mcp::{envelope, identity::SESSION_HEADER, traced::Numbered},
    tools,
};

/// Versions of the protocol that have such clients.
const VERSIONS: [&[u8]; 4] = [b"2024-11-05", b"2025-03-26", b"2025-06-18", b"2025-11-25"];
/// Headers that say again what the body says: rmcp compares them.
const REPEATING: [&str; 3] = [METHOD, NAME, "mcp-param-session-id"];
const VERSION: &str = "mcp-protocol-version";
const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const NO: HeaderValue = HeaderValue::from_static("no");
/// How often a stream on which nothing comes says that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// The reply to a plain call; or the request's head back, for rmcp.
pub(super) async fn answer(
    (clients, alone): (&Clients, &Alone),
    parts: Parts,
    body: &[u8],
    stop: &CancellationToken,
) -> Result<Response, Box<Parts>> {
    // Should what they have in common have ended by a fault, rmcp has a service for each.
    if let Some(request) = plain_alone(&parts, body).filter(|_| alone.is_served()) {
        return Ok(answer_alone(alone, parts, request, stop).await);
    }
    let Some((client, message)) = plain(clients, &parts, body) else { return Err(Box::new(parts)) };
    let message = addressed(&client, parts, message);
    Ok(match clients.ask(&client, message).await {
        Ok(Either::Left(all)) => (head(), all).into_response(),
        Ok(Either::Right(events)) => {
            let stop = stop.clone().cancelled_owned();
            let events = events.map(|event| {
                let mut text = Vec::new();
                event.write(&mut text);
                text
            });
            (head(), Body::from_stream(paced(events).take_until(stop))).into_response()
        }
        Err(_) => words::refusal(StatusCode::NOT_FOUND, "Not Found: Session not found"),
    })
}

/// Whose call it is, and the call, if it is a plain one.
fn plain(clients: &Clients, parts: &Parts, body: &[u8]) -> Option<(Arc<Known>, ClientJsonRpcMessage)> {
    let id = parts.headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok())?;
    if parts.method != Method::POST || !has_usual_headers(&parts.headers) {
        return None;
    }
    // Its parameters are numbers of Python's, which are marked before they are read.
    if memchr::memmem::find(body, b"run_notebook").is_some() {
        return None;
    }
    let client = clients.connected(id)?;
    let message = envelope::call(body)?;
    let JsonRpcMessage::Request(request) = &message else { return None };
    let says_its_version = request.request.get_meta().protocol_version().is_some();
    (!says_its_version).then_some((client, message))
}

/// The call, if it is a plain one that stands for itself.
fn plain_alone(parts: &Parts, body: &[u8]) -> Option<JsonRpcRequest<ClientRequest>> {
    let headers = &parts.headers;
    let says = |name: &str, what: &[u8]| headers.get(name).is_some_and(|value| value.as_bytes() == what);
    let version = ProtocolVersion::V_2026_07_28;
    let repeats = headers.keys().any(|name| name.as_str().starts_with("mcp-param-"));
    if parts.method != Method::POST
        || !says(VERSION, version.as_str().as_bytes())
        || !says(METHOD, b"tools/call")
        || headers.contains_key(SESSION_HEADER)
        || !takes_both_and_sends_json(headers)
        || ![VERSION, METHOD, NAME, "accept", "content-type"].into_iter().all(|name| is_one(headers, name))
        || repeats
        || memchr::memmem::find(body, b"run_notebook").is_some()
    {
        return None;
    }
    let JsonRpcMessage::Request(request) = envelope::call(body)? else { return None };
    let ClientRequest::CallToolRequest(call) = &request.request else { return None };
    let meta = request.request.get_meta();
    let is_whole = meta.protocol_version() == Some(version.clone()) && meta.missing_required_keys(&version).is_empty();
    let is_ours = says(NAME, call.params.name.as_bytes()) && tools::find(&call.params.name).is_some();
    (is_whole && is_ours).then_some(request)
}

async fn answer_alone(
    alone: &Alone,
    mut parts: Parts,
    request: JsonRpcRequest<ClientRequest>,
    stop: &CancellationToken,
) -> Response {
    let mut answers = alone.ask(request, |request, lane, id| {
        parts.extensions.insert(lane);
        parts.extensions.insert(Numbered(id));
        request.extensions_mut().insert(parts);
    });
    let first = tokio::select! {
        first = answers.next() => first,
        () = stop.cancelled() => None,
    };
    match first {
        Some(Told::Written(text)) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Some(Told::Message(message)) if !matches!(*message, JsonRpcMessage::Notification(_)) => {
            let text = serde_json::to_vec(&message).unwrap_or_default();
            (status(&message), [(header::CONTENT_TYPE, JSON)], text).into_response()
        }
        Some(first) => {
            let rest = stream::unfold(answers, |mut answers| async move { Some((answers.next().await?, answers)) });
            let told = stream::iter([first]).chain(rest).map(event_of);
            let stop = stop.clone().cancelled_owned();
            (head(), Body::from_stream(paced(told).take_until(stop))).into_response()
        }
        None => words::refusal(StatusCode::INTERNAL_SERVER_ERROR, "the server ends, and the call with it"),
    }
}

/// As rmcp has it for this protocol.
fn status(message: &ServerJsonRpcMessage) -> StatusCode {
    let JsonRpcMessage::Error(error) = message else { return StatusCode::OK };
    match error.error.code {
        ErrorCode::UNSUPPORTED_PROTOCOL_VERSION
        | ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY
        | ErrorCode::HEADER_MISMATCH => StatusCode::BAD_REQUEST,
        ErrorCode::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        _ => StatusCode::OK,
    }
}

/// Nothing of it can be had again, so it has no id.
fn event_of(told: Told) -> Vec<u8> {
    let mut text = b"data: ".to_vec();
    match told {
        Told::Message(message) => drop(serde_json::to_writer(&mut text, &message)),
        Told::Written(reply) => text.extend_from_slice(&reply),
    }
    text.extend_from_slice(b"\n\n");
    text
}

fn is_one(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(name).iter().nth(1).is_none()
}

fn takes_both_and_sends_json(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let takes = |accepted: &str, kind: &str| accepted.split(',').any(|one| one.trim().eq_ignore_ascii_case(kind));
    let both = text(header::ACCEPT)
        .is_some_and(|accepted| takes(accepted, "application/json") && takes(accepted, "text/event-stream"));
    let kind = text(header::CONTENT_TYPE).map(|kind| kind.split_once(';').map_or(kind, |(kind, _)| kind).trim());
    both && kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
}

/// Whether they say what the headers of such a call say as a rule.
fn has_usual_headers(headers: &HeaderMap) -> bool {
    let version = headers.get(VERSION).is_none_or(|version| VERSIONS.contains(&version.as_bytes()));
    let repeats = REPEATING.iter().any(|name| headers.contains_key(*name));
    let once =
        [SESSION_HEADER.as_str(), VERSION, "accept", "content-type"].into_iter().all(|name| is_one(headers, name));
    once && version && !repeats && takes_both_and_sends_json(headers)
}

/// The call with what its handler looks for beside it: the request's head, in which is the way for the reply.
fn addressed(client: &Known, mut parts: Parts, mut message: ClientJsonRpcMessage) -> ClientJsonRpcMessage {
    if let JsonRpcMessage::Request(request) = &mut message {
        parts.extensions.insert(client.lane(request.id.clone()));
        request.request.extensions_mut().insert(parts);
    }
    message
}

fn head() -> [(header::HeaderName, HeaderValue); 3] {
    let buffering = header::HeaderName::from_static("x-accel-buffering");
    [(header::CONTENT_TYPE, EVENTS), (header::CACHE_CONTROL, NO_CACHE), (buffering, NO)]
}

/// As they go over the line, with signs of life between them.
fn paced(events: impl Stream<Item = Vec<u8>> + Send + 'static) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(Box::pin(events), |mut events| async move {
        let text = match tokio::time::timeout(SIGN_OF_LIFE, events.next()).await {
            Ok(event) => event?.into(),
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok(text), events))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(changed: &[(&'static str, &'static str)]) -> HeaderMap {
        let usual = [
            ("mcp-session-id", "s"),
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
        ];
        let kept = usual.into_iter().filter(|(name, _)| !changed.iter().any(|(other, _)| other == name));
        let all = kept.chain(changed.iter().copied());
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(header::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn headers_as_clients_send_them_go_the_quick_way() {
        for changed in [
            &[][..],
            &[("mcp-protocol-version", "2025-06-18")],
            &[("accept", "Text/Event-Stream,application/json")],
            &[("content-type", "Application/JSON")],
            &[("content-type", "application/json; charset=utf-8")],
            &[("cookie", "forkpy_client=1"), ("authorization", "Bearer x")],
        ] {
            assert!(has_usual_headers(&headers(changed)), "{changed:?}");
        }
    }

    /// rmcp refuses some of them and serves others.
    #[test]
    fn all_others_are_left_to_rmcp() {
        for changed in [
            &[("mcp-protocol-version", "2026-07-28")][..],
            &[("mcp-protocol-version", "2025-06-18"), ("mcp-protocol-version", "2025-06-18")],
            &[("mcp-protocol-version", "nonsense")],
            &[("accept", "application/json")],
            &[("accept", "*/*")],
            &[("accept", "application/json;q=0, text/event-stream")],
            &[("accept", "application/json"), ("accept", "text/event-stream")],
            &[("content-type", "text/plain")],
            &[("mcp-session-id", "a"), ("mcp-session-id", "b")],
            &[("mcp-method", "tools/call")],
            &[("mcp-param-session-id", "x")],
        ] {
            assert!(!has_usual_headers(&headers(changed)), "{changed:?}");
        }
    }
}
