//! What lets a client in: the token of all, one of an owner's, or an access token of the issuer.
//!
//! Runs in: server. Owns which of them counts, in this order; and which paths need more than to be let in.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;

use super::protected::{self, Fault, Protected};
use crate::{
    server::{
        mcp::identity::Known,
        oauth::{Denied, issuer::Issuer},
        owner::Owner,
        scope::{Scope, Scopes},
    },
    settings::{resolve::HttpSettings, tokens::Tokens},
};

/// What of them there is.
#[derive(Clone)]
pub(super) struct Keys {
    token: Option<Arc<str>>,
    tokens: Option<Arc<Tokens>>,
    issuer: Option<(Arc<Issuer>, Arc<Protected>)>,
}

/// That a request has come in by the issuer's word.
#[derive(Clone)]
struct Vouched(Arc<Protected>);

impl Keys {
    pub(super) fn new(settings: &HttpSettings, issuer: Option<&Arc<Issuer>>) -> Self {
        Self {
            token: settings.token.as_deref().map(Arc::from),
            tokens: settings.tokens.clone(),
            issuer: issuer.map(|issuer| (Arc::clone(issuer), Arc::new(Protected::new(issuer.settings())))),
        }
    }

    /// What is published of this server.
    pub(super) fn protected(&self) -> Option<Arc<Protected>> {
        self.issuer.as_ref().map(|(_, protected)| Arc::clone(protected))
    }

    /// Whether only one token lets anyone in.
    pub(super) fn are_one(&self) -> bool {
        self.token.is_some() && self.tokens.is_none() && self.issuer.is_none()
    }

    fn are_none(&self) -> bool {
        self.token.is_none() && self.tokens.is_none() && self.issuer.is_none()
    }

    /// Notes whose token a request shows, or gives its refusal.
    pub(super) async fn admit(&self, request: &mut Request) -> Result<(), Response> {
        if self.are_none() {
            return Ok(());
        }
        let protected = self.issuer.as_ref().map(|(_, protected)| protected);
        let refuse = |fault: Fault<'_>| protected::refusal(protected.map(|protected| &**protected), &fault);
        let Some(given) = bearer(request.headers()) else { return Err(refuse(Fault::Missing)) };
        let known = match (self.own(given), &self.issuer) {
            (Some(known), _) => known,
            (None, None) => return Err(refuse(Fault::Missing)),
            (None, Some((issuer, protected))) => match issuer.check(given).await {
                Ok(granted) => {
                    let vouched = Vouched(Arc::clone(protected));
                    request.extensions_mut().insert(vouched);
                    Known { owner: Owner::Subject(granted.subject), scopes: granted.scopes }
                }
                Err(error @ Denied::Unreachable(_)) => {
                    let words = format!("{error}; try again later\n");
                    let wait = [(header::RETRY_AFTER, "5")];
                    return Err((StatusCode::SERVICE_UNAVAILABLE, wait, words).into_response());
                }
                Err(error) => return Err(refuse(Fault::Invalid(&error.to_string()))),
            },
        };
        request.extensions_mut().insert(known);
        Ok(())
    }

    /// Whose token it is, if this server has given it out.
    fn own(&self, given: &str) -> Option<Known> {
        let is_the_one = self.token.as_ref().is_some_and(|token| given.as_bytes().ct_eq(token.as_bytes()).into());
        if is_the_one {
            return Some(Known { owner: Owner::Bearer, scopes: Scopes::UNLIMITED });
        }
        let tokens = self.tokens.as_ref()?;
        let owner = tokens.owner_of(given)?;
        let scopes = if tokens.rights_of(&owner).admin { Scopes::UNLIMITED } else { Scopes::OF_USERS };
        Some(Known { owner: Owner::Named(owner), scopes })
    }
}

/// Lets in whom a token lets in.
pub(super) async fn demand_token(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    match keys.admit(&mut request).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal,
    }
}

/// Orders to the server are nothing that all programs of this machine may give.
pub(super) async fn with_a_token_alone(request: Request, next: Next) -> Response {
    if request.extensions().get::<Known>().is_some() {
        return next.run(request).await;
    }
    let words = "this needs a token, and the server has none: start it with --token-file, --tokens or --oauth-issuer, or send SIGUSR1\n";
    (StatusCode::FORBIDDEN, words).into_response()
}

/// What a token of the issuer has to be for, on the way behind it.
pub(super) async fn demand_scope(State(needed): State<Scope>, request: Request, next: Next) -> Response {
    match shortage(request.extensions(), Some(needed)) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

/// The refusal of a request whose token is not for this.
pub(super) fn shortage(extensions: &Extensions, needed: Option<Scope>) -> Option<Response> {
    let needed = needed?;
    let known = extensions.get::<Known>().filter(|known| !known.scopes.has(needed))?;
    Some(match extensions.get::<Vouched>() {
        Some(Vouched(protected)) => protected::refusal(Some(protected), &Fault::Scope { had: known.scopes, needed }),
        None => {
            let words = "this concerns all owners: it needs a token with `admin = true`\n";
            (StatusCode::FORBIDDEN, words).into_response()
        }
    })
}

/// Whether there may be a shortage at all.
pub(super) fn is_limited(extensions: &Extensions) -> bool {
    extensions.get::<Vouched>().is_some()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, rest) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    #[test]
    fn the_token_is_needed_whole_and_as_a_bearer_token() {
        let keys = Keys { token: Some("secret".into()), tokens: None, issuer: None };
        let bears = |headers: &HeaderMap| bearer(headers).and_then(|given| keys.own(given)).is_some();
        let authorization = |value: &str| bears(&headers(header::AUTHORIZATION, value));
        assert!(authorization("Bearer secret") && authorization("bearer secret"));
        for wrong in ["secret", "Basic secret", "Bearer secre", "Bearer secrets", "Bearer ", ""] {
            assert!(!authorization(wrong), "{wrong:?}");
        }
        assert!(!bears(&HeaderMap::new()));
    }
}
