//! By what a caller is recognised over HTTP, and whose sessions it may use: decided here, once for each request.
//!
//! Runs in: server. Reads headers and nothing else. The rules, the first that fits:
//!
//! 1. Where sessions are shared, they are all the user's who runs the server.
//! 2. Who has the token: all that have it are one owner. Of several tokens (`--tokens`), each is of a named owner; one of an
//!    issuer (`--oauth-issuer`) is of its subject.
//! 3. The session of its protocol (`Mcp-Session-Id`, up to 2025-11-25).
//! 4. Our cookie (2026-07-28).
//! 5. All others together: nothing tells them apart from one request to the next. Not even the connection does: clients of one
//!    Node process share it, and it ends after some seconds of rest.

use std::sync::Arc;

use axum::http::{Extensions, HeaderMap, HeaderName, header};

use crate::server::{owner::Owner, scope::Scopes, sessions::active::Client, tools::call::request::Visitor};

pub(super) const COOKIE: &str = "forkpy_client";
/// The header of a session of protocols up to 2025-11-25.
pub(super) const SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");
/// The first version without such sessions.
pub(super) const STATELESS: &[u8] = b"2026-07-28";
/// Ends the cookie of a client that had been at sessions before it got one: it stays with those that have none, or it would not
/// find again what it has just made.
const UNNAMED: char = 'u';

/// A caller.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) client: Client,
    pub(super) visitor: Visitor,
    /// What it may do.
    pub(super) scopes: Scopes,
}

impl Who {
    /// A caller who needs no token.
    #[must_use]
    pub(super) fn of(client: Client, owner: Owner) -> Self {
        Self { client, visitor: Visitor::new(owner), scopes: Scopes::UNLIMITED }
    }
}

/// Whose token a request has shown.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) owner: Owner,
    pub(super) scopes: Scopes,
}

tokio::task_local! {
    /// Who makes the HTTP request that this task serves, for what rmcp asks without saying who.
    pub(super) static WHO: Who;
}

/// Whose sessions are whose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// All clients have the same sessions.
    pub(super) shared: bool,
    /// Who comes this far has the one token that there is.
    pub(super) has_token: bool,
}

impl Policy {
    /// The owner whose sessions surely are used, of which the default one is made before the first client comes.
    pub(super) fn first(self) -> Option<Owner> {
        match (self.shared, self.has_token) {
            (true, _) => Some(Owner::User),
            (false, true) => Some(Owner::Bearer),
            (false, false) => None,
        }
    }

    /// Who sends a request with these headers.
    #[must_use]
    pub(super) fn who(self, headers: &HeaderMap, extensions: &Extensions) -> Who {
        let client = client_of(headers, extensions);
        let known = extensions.get::<Known>();
        let scopes = known.map_or(Scopes::UNLIMITED, |known| known.scopes);
        let known = || known.map(|known| known.owner.clone());
        let owner = self.first().or_else(known).unwrap_or_else(|| match &client {
            Client::HttpSession(session) => Owner::HttpSession(Arc::from(session.as_str())),
            Client::Cookie(cookie) if !cookie.ends_with(UNNAMED) => Owner::Cookie(Arc::from(cookie.as_str())),
            _ => Owner::Unnamed,
        });
        Who { client, visitor: Visitor::new(owner), scopes }
    }
}

/// The value of our cookie.
pub(super) fn cookie_in(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).find_map(|pair| {
        let value = pair.trim().strip_prefix(COOKIE)?.strip_prefix('=')?;
        let digits = value.strip_suffix(UNNAMED).unwrap_or(value);
        let is_ours = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_ours.then(|| value.to_owned())
    })
}

/// A new cookie, for the reply to this visitor.
pub(super) fn new_cookie(visitor: &Visitor) -> String {
    let digits = uuid::Uuid::new_v4().simple();
    if visitor.has_entered() { format!("{digits}{UNNAMED}") } else { digits.to_string() }
}

/// The number of the connection that a request has come over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection(pub u64);

/// A proxy has sent it, over a connection on which others come too.
fn is_relayed(headers: &HeaderMap) -> bool {
    ["forwarded", "via", "x-forwarded-for", "x-real-ip"].into_iter().any(|name| headers.contains_key(name))
}

/// What an HTTP request's sender can be recognised by.
fn client_of(headers: &HeaderMap, extensions: &Extensions) -> Client {
    let is_stateless = headers.get("mcp-protocol-version").is_some_and(|version| version.as_bytes() >= STATELESS);
    let session = headers.get(SESSION_HEADER).filter(|_| !is_stateless).and_then(|value| value.to_str().ok());
    match (session, cookie_in(headers)) {
        (Some(session), _) => Client::HttpSession(session.to_owned()),
        (None, Some(cookie)) => Client::Cookie(cookie),
        (None, None) => match extensions.get::<Connection>() {
            Some(Connection(number)) if !is_relayed(headers) => Client::Connection(*number),
            _ => Client::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const OURS: &str = "0123456789abcdef0123456789abcdef";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a header");
        all.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
    }

    #[test]
    fn only_a_cookie_of_our_making_is_taken() {
        let found = |value: &str| cookie_in(&headers(&[("cookie", value)]));
        assert_eq!(found(&format!("a=b; {COOKIE}={OURS}; c=d")).as_deref(), Some(OURS));
        assert_eq!(found(&format!("{COOKIE}=short")), None);
        assert_eq!(found(&format!("x{COOKIE}={OURS}")), None);
        let visitor = Visitor::new(Owner::Unnamed);
        let _ = visitor.owner();
        let unnamed = new_cookie(&visitor);
        assert_eq!(found(&format!("{COOKIE}={unnamed}")), Some(unnamed));
    }

    #[test]
    fn the_first_rule_that_fits_says_whose_sessions_they_are() {
        let cookie = format!("{COOKIE}={OURS}");
        let unnamed = format!("{COOKIE}={OURS}u");
        let owner = |shared, has_token, all: &[(&'static str, &str)]| {
            let who = Policy { shared, has_token }.who(&headers(all), &Extensions::new());
            who.visitor.owner().clone()
        };
        let (by_session, by_cookie) = (Owner::HttpSession("s".into()), Owner::Cookie(OURS.into()));
        let both = [("mcp-session-id", "s"), ("cookie", cookie.as_str())];
        assert_eq!(owner(true, true, &both), Owner::User);
        assert_eq!(owner(false, true, &both), Owner::Bearer);
        assert_eq!(owner(false, false, &both), by_session);
        assert_eq!(owner(false, false, &both[1..]), by_cookie);
        assert_eq!(owner(false, false, &[("cookie", &unnamed)]), Owner::Unnamed);
        assert_eq!(owner(false, false, &[]), Owner::Unnamed);
        let stateless = [("mcp-protocol-version", "2026-07-28"), both[0], both[1]];
        assert_eq!(owner(false, false, &stateless), by_cookie, "every client can write that header there");
    }
}
