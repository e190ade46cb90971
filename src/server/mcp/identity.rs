//! By what a caller is recognised over HTTP: the session of its protocol, or the cookie that it was given.
//!
//! Runs in: server. Reads headers and nothing else.

use axum::http::{HeaderMap, HeaderName, header, request::Parts};

use crate::server::sessions::active::Client;

pub(super) const COOKIE: &str = "forkpy_client";
/// The header of a session of protocols up to 2025-11-25.
pub(super) const SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");

/// The value of our cookie.
pub(super) fn cookie_in(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).find_map(|pair| {
        let value = pair.trim().strip_prefix(COOKIE)?.strip_prefix('=')?;
        let is_ours = value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_ours.then(|| value.to_owned())
    })
}

/// The number of the connection that a request has come over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection(pub u64);

/// A proxy has sent it, over a connection on which others come too.
fn is_relayed(headers: &HeaderMap) -> bool {
    ["forwarded", "via", "x-forwarded-for", "x-real-ip"].into_iter().any(|name| headers.contains_key(name))
}

/// What an HTTP request's sender can be recognised by.
#[must_use]
pub(super) fn client_of(parts: &Parts) -> Client {
    let session = parts.headers.get(SESSION_HEADER).and_then(|value| value.to_str().ok());
    match (session, cookie_in(&parts.headers)) {
        (Some(session), _) => Client::HttpSession(session.to_owned()),
        (None, Some(cookie)) => Client::Cookie(cookie),
        (None, None) => match parts.extensions.get::<Connection>() {
            Some(Connection(number)) if !is_relayed(&parts.headers) => Client::Connection(*number),
            _ => Client::Unknown,
        },
    }
}
