//! Who may knock: Host and Origin, for every route but `/healthz`.
//!
//! Runs in: server. Pure. The rules are those of rmcp's own service, which keeps them to itself and to one route.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// What the two headers may say.
#[derive(Debug)]
pub(crate) struct Door {
    hosts: Vec<(String, Option<u16>)>,
    origins: Vec<Origin>,
}

#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Null,
    Of { scheme: String, host: String, port: Option<u16> },
}

impl Door {
    /// From names with or without a port, and origins with a port, without one, or with `:*`.
    #[must_use]
    pub(crate) fn new(hosts: &[String], origins: &[String]) -> Self {
        Self {
            hosts: hosts.iter().map(|host| authority(host)).collect(),
            origins: origins
                .iter()
                .filter_map(|origin| Origin::read(origin.strip_suffix(":*").unwrap_or(origin)))
                .collect(),
        }
    }

    /// The refusal of a request that is not let in.
    pub(super) fn turns_away(&self, request: &Request) -> Option<Response> {
        let (status, words) = self.refusal(request.uri(), request.headers())?;
        Some((status, format!("{words}\n")).into_response())
    }

    /// Why a request is turned away, if it is.
    fn refusal(&self, uri: &Uri, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        let said = match headers.get(header::HOST) {
            Some(value) => value.to_str().ok().and_then(|value| Authority::try_from(value).ok()),
            None => uri.authority().cloned(),
        };
        let Some(said) = said else { return Some((StatusCode::BAD_REQUEST, "the request names no host")) };
        // A request line may name a host of its own.
        if !uri.authority().into_iter().chain([&said]).all(|host| self.knows(host)) {
            return Some((StatusCode::FORBIDDEN, "this Host is not one of this server's names: see --allow-host"));
        }
        let origin = headers.get(header::ORIGIN)?;
        let origin = origin.to_str().ok().and_then(Origin::read);
        if origin.is_some_and(|origin| self.origins.iter().any(|known| known.admits(&origin))) {
            return None;
        }
        Some((StatusCode::FORBIDDEN, "pages of this Origin may not call this server: see --allow-origin"))
    }

    fn knows(&self, host: &Authority) -> bool {
        let (name, port) = (bare(host.host()), host.port_u16());
        self.hosts.iter().any(|(known, at)| *known == name && (at.is_none() || *at == port))
    }
}

/// Headers that must not be there twice: a program that reads the other one of the two would be told something else.
const SINGLE: [header::HeaderName; 3] = [header::HOST, header::ORIGIN, header::AUTHORIZATION];

/// The refusal of a request that says one thing twice; of another one what must not be shown is marked.
pub(crate) fn one_of_each(request: &mut Request) -> Option<Response> {
    for name in SINGLE {
        if request.headers().get_all(&name).iter().nth(1).is_some() {
            let words = format!("the request has more than one {name} header\n");
            return Some((StatusCode::BAD_REQUEST, words).into_response());
        }
    }
    for name in [header::AUTHORIZATION, header::COOKIE, crate::server::mcp::identity::SESSION_HEADER] {
        if let header::Entry::Occupied(mut values) = request.headers_mut().entry(name) {
            values.iter_mut().for_each(|value| value.set_sensitive(true));
        }
    }
    None
}

/// Lets in whom the door lets in.
pub(crate) async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    match door.turns_away(&request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).to_ascii_lowercase()
}

fn authority(text: &str) -> (String, Option<u16>) {
    match Authority::try_from(text.trim()) {
        Ok(authority) => (bare(authority.host()), authority.port_u16()),
        Err(_) => (bare(text.trim()), None),
    }
}

impl Origin {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("null") {
            return Some(Self::Null);
        }
        let uri = Uri::try_from(text).ok()?;
        let (scheme, authority) = (uri.scheme_str()?.to_ascii_lowercase(), uri.authority()?);
        Some(Self::Of { scheme, host: bare(authority.host()), port: authority.port_u16() })
    }

    /// A browser leaves out the port that the scheme implies.
    fn admits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Of { scheme, host, port }, Self::Of { scheme: theirs, host: other, port: at }) => {
                let implied = match theirs.as_str() {
                    "http" => Some(80),
                    "https" => Some(443),
                    _ => None,
                };
                scheme == theirs && host == other && (port.is_none() || *port == at.or(implied))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status(host: &str, origin: Option<&str>) -> u16 {
        let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let door = Door::new(
            &words(&["localhost", "127.0.0.1", "[::1]", "py.example:8000"]),
            &words(&["http://localhost:*", "http://[::1]:*", "https://app.example:443", "https://any.example"]),
        );
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).expect("a header"))]);
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).expect("a header"));
        }
        door.refusal(&Uri::from_static("/"), &headers).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn only_names_of_the_server_and_pages_of_its_friends_come_in() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8000", "py.example:8000"] {
            assert_eq!(status(host, None), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "py.example", "py.example:1", "127.0.0.2"] {
            assert_eq!(status(host, None), 403, "{host}");
        }
        assert_eq!(status("a b", None), 400);
        for origin in [
            "http://localhost:5173",
            "http://localhost",
            "http://[::1]:1",
            "https://app.example",
            "https://app.example:443",
            "https://any.example:7",
        ] {
            assert_eq!(status("localhost", Some(origin)), 200, "{origin}");
        }
        for origin in [
            "https://localhost",
            "http://evil.example",
            "null",
            "",
            "localhost",
            "https://app.example:444",
            "http://localhost.evil.example",
        ] {
            assert_eq!(status("localhost", Some(origin)), 403, "{origin}");
        }
        assert_eq!(
            Door::new(&["h".into()], &[]).refusal(&Uri::from_static("/"), &HeaderMap::new()).map(|(s, _)| s.as_u16()),
            Some(400)
        );
    }
}
