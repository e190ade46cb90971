//! The quick way for the request that comes most: a plain call of a tool by a client of protocols up to 2025-11-25.
//!
//! Runs in: server, behind the door, the token and all that looks into a body. What is not plainly such a call is rmcp's to serve
//! or to refuse. What is saved: reading the message as one of many kinds, and the way of the reply through values and queues. A
//! reply that is there within a moment goes out in one piece, with the event that would have come before it.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, future::Either, stream};
use rmcp::{
    model::{ClientJsonRpcMessage, GetExtensions, GetMeta, JsonRpcMessage},
    transport::streamable_http_server::SessionId,
};
use tokio_util::sync::CancellationToken;

use super::{clients::Clients, events::Event, words};
use crate::server::mcp::{envelope, identity::SESSION_HEADER};

/// Versions of the protocol that have such clients.
const VERSIONS: [&[u8]; 4] = [b"2024-11-05", b"2025-03-26", b"2025-06-18", b"2025-11-25"];
/// Headers that say again what the body says: rmcp compares them.
const REPEATING: [&str; 3] = ["mcp-method", "mcp-name", "mcp-param-session-id"];
const VERSION: &str = "mcp-protocol-version";
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const NO: HeaderValue = HeaderValue::from_static("no");
/// How often a stream on which nothing comes says that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// The reply to a plain call; or the request's head back, for rmcp.
pub(super) async fn answer(
    clients: &Clients,
    parts: Parts,
    body: &[u8],
    stop: &CancellationToken,
) -> Result<Response, Box<Parts>> {
    let Some((id, message)) = plain(clients, &parts, body) else { return Err(Box::new(parts)) };
    let message = addressed(clients, &id, parts, message);
    Ok(match clients.ask(&id, message).await {
        Ok(Either::Left(all)) => (head(), all).into_response(),
        Ok(Either::Right(events)) => {
            let stop = stop.clone().cancelled_owned();
            (head(), Body::from_stream(paced(events).take_until(stop))).into_response()
        }
        Err(_) => words::refusal(StatusCode::NOT_FOUND, "Not Found: Session not found"),
    })
}

/// Whose call it is, and the call, if it is a plain one.
fn plain(clients: &Clients, parts: &Parts, body: &[u8]) -> Option<(SessionId, ClientJsonRpcMessage)> {
    let id = parts.headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok())?;
    if parts.method != Method::POST || !has_usual_headers(&parts.headers) || !clients.is_open(id) {
        return None;
    }
    // Its parameters are numbers of Python's, which are marked before they are read.
    if memchr::memmem::find(body, b"run_notebook").is_some() {
        return None;
    }
    let message = envelope::call(body)?;
    let JsonRpcMessage::Request(request) = &message else { return None };
    let says_its_version = request.request.get_meta().protocol_version().is_some();
    (!says_its_version).then(|| (id.into(), message))
}

/// Whether they say what the headers of such a call say as a rule.
fn has_usual_headers(headers: &HeaderMap) -> bool {
    let is_one = |name: &str| headers.get_all(name).iter().nth(1).is_none();
    let version = headers.get(VERSION).is_none_or(|version| VERSIONS.contains(&version.as_bytes()));
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let takes = |accepted: &str, kind: &str| accepted.split(',').any(|one| one.trim().eq_ignore_ascii_case(kind));
    let both = text(header::ACCEPT)
        .is_some_and(|accepted| takes(accepted, "application/json") && takes(accepted, "text/event-stream"));
    let kind = text(header::CONTENT_TYPE).map(|kind| kind.split_once(';').map_or(kind, |(kind, _)| kind).trim());
    let is_json = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let repeats = REPEATING.iter().any(|name| headers.contains_key(*name));
    [SESSION_HEADER.as_str(), VERSION, "accept", "content-type"].into_iter().all(is_one)
        && version
        && both
        && is_json
        && !repeats
}

/// The call with what its handler looks for beside it: the request's head, in which is the way for the reply.
fn addressed(
    clients: &Clients,
    id: &SessionId,
    mut parts: Parts,
    mut message: ClientJsonRpcMessage,
) -> ClientJsonRpcMessage {
    if let JsonRpcMessage::Request(request) = &mut message {
        if let Some(lane) = clients.lane(id, request.id.clone()) {
            parts.extensions.insert(lane);
        }
        request.request.extensions_mut().insert(parts);
    }
    message
}

fn head() -> [(header::HeaderName, HeaderValue); 3] {
    let buffering = header::HeaderName::from_static("x-accel-buffering");
    [(header::CONTENT_TYPE, EVENTS), (header::CACHE_CONTROL, NO_CACHE), (buffering, NO)]
}

/// As they go over the line, with signs of life between them.
fn paced(events: impl Stream<Item = Event> + Send + 'static) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(Box::pin(events), |mut events| async move {
        let text = match tokio::time::timeout(SIGN_OF_LIFE, events.next()).await {
            Ok(event) => {
                let mut text = Vec::new();
                event?.write(&mut text);
                text.into()
            }
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
