//! This server as a protected resource of OAuth 2.1: what it publishes of itself (RFC 9728), and how a request without a good
//! token learns where to get one (RFC 6750).
//!
//! Runs in: server. Pure. Whether a token is good is `server/oauth`'s.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use crate::{
    server::{
        mcp::needs,
        scope::{Scope, Scopes},
    },
    settings::oauth::Oauth,
};

const DOCUMENT: &str = "oauth-protected-resource";
/// What the challenge of a server without an issuer says.
const PLAIN: HeaderValue = HeaderValue::from_static("Bearer realm=\"forkpy\"");

/// What is published.
#[derive(Debug)]
pub(super) struct Protected {
    document: String,
    /// Where, as clients reach it.
    address: String,
    /// Paths at which it is: without the resource's own path, with the one that this server has, and with the one that a proxy
    /// in front of it has.
    paths: [String; 3],
}

/// What is wrong with a request's token, in the words of RFC 6750.
pub(super) enum Fault<'a> {
    /// There is none, or none that is meant for an issuer.
    Missing,
    Invalid(&'a str),
    /// It is good, and not for this.
    Scope {
        had: Scopes,
        needed: Scope,
    },
}

impl Protected {
    #[must_use]
    pub(super) fn new(oauth: &Oauth) -> Self {
        let document = json!({
            "resource": oauth.audience.text,
            "authorization_servers": [oauth.issuer.text],
            "scopes_supported": Scope::ALL.map(Scope::word),
            "bearer_methods_supported": ["header"],
            "resource_name": "forkpy",
        });
        let root = format!("/.well-known/{DOCUMENT}");
        let paths = [format!("{root}/mcp"), oauth.audience.well_known_path(DOCUMENT), root];
        Self { document: document.to_string(), address: oauth.audience.well_known(DOCUMENT), paths }
    }

    fn challenge(&self, fault: &Fault<'_>) -> HeaderValue {
        let (error, scope) = match fault {
            Fault::Missing => (String::new(), Scopes::OF_USERS.words_with(None)),
            Fault::Invalid(words) => {
                let told = format!(", error=\"invalid_token\", error_description=\"{}\"", quotable(words));
                (told, Scopes::OF_USERS.words_with(None))
            }
            Fault::Scope { had, needed } => {
                (", error=\"insufficient_scope\"".to_owned(), had.words_with(Some(*needed)))
            }
        };
        let address = &self.address;
        let value = format!("Bearer realm=\"forkpy\"{error}, scope=\"{scope}\", resource_metadata=\"{address}\"");
        HeaderValue::from_str(&value).unwrap_or(PLAIN)
    }
}

/// The routes of what is published.
pub(super) fn routes(protected: Option<Arc<Protected>>) -> Router {
    let Some(protected) = protected else { return Router::new() };
    let root = format!("/.well-known/{DOCUMENT}");
    let router = Router::new().route(&root, get(publish)).route(&format!("{root}/{{*path}}"), get(publish));
    router.with_state(protected)
}

async fn publish(State(protected): State<Arc<Protected>>, uri: Uri) -> Response {
    if !protected.paths.iter().any(|path| path == uri.path()) {
        return (StatusCode::NOT_FOUND, "there is no such resource here\n").into_response();
    }
    ([(header::CONTENT_TYPE, "application/json")], protected.document.clone()).into_response()
}

/// The refusal of a request whose token is not good, or not good enough.
pub(super) fn refusal(protected: Option<&Protected>, fault: &Fault<'_>) -> Response {
    let challenge = protected.map_or(PLAIN, |protected| protected.challenge(fault));
    let (status, words) = match fault {
        Fault::Missing => (
            StatusCode::UNAUTHORIZED,
            "this server demands its bearer token: send `Authorization: Bearer TOKEN`\n".to_owned(),
        ),
        Fault::Invalid(words) => (StatusCode::UNAUTHORIZED, format!("{words}\n")),
        Fault::Scope { needed, .. } => (StatusCode::FORBIDDEN, format!("{}\n", needs::lacks(*needed))),
    };
    (status, [(header::WWW_AUTHENTICATE, challenge)], words).into_response()
}

/// What may stand between the quotation marks of a header.
fn quotable(words: &str) -> String {
    words.replace(['"', '\\'], "'").chars().filter(|letter| matches!(letter, ' '..='~')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_a_header_whatever_a_token_said() {
        assert_eq!(quotable("a \"b\\c\"\r\nX: d é"), "a 'b'c'X: d ");
    }
}
