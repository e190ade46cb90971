//! What a request to `/mcp` passes before it comes to rmcp.
//!
//! Runs in: server. One piece, because each layer of a router costs every request a copy of all that lies within it. In order: the
//! door, the token, who it is, whether there is a place for the client, the body, what its token has to be for, the session that a header names too and where it lives,
//! parameters of a notebook, which are numbers of Python's, of any size. A plain call goes the quick way then, all else to rmcp.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::Response,
};
use tokio_util::sync::CancellationToken;

use super::{
    alone::Alone,
    bodies::{self, Intake},
    clients::{self, Clients},
    door::Door,
    keys::{self, Keys},
    misdirected, quick, routing,
};
use crate::server::{
    mcp::{
        identity::{COOKIE, Policy, WHO, cookie_in, new_cookie},
        needs,
        resources::Resources,
    },
    output::numbers,
    sessions::active::Client,
    tools::call::server::Server,
};

pub(super) struct Passage {
    pub(super) door: Arc<Door>,
    pub(super) keys: Keys,
    pub(super) policy: Policy,
    pub(super) intake: Arc<Intake>,
    pub(super) shown: Arc<Resources>,
    pub(super) server: Arc<Server>,
    pub(super) clients: Arc<Clients>,
    pub(super) alone: Alone,
    pub(super) stop: CancellationToken,
}

pub(super) async fn through(State(passage): State<Arc<Passage>>, mut request: Request, next: Next) -> Response {
    if let Some(refusal) = passage.door.turns_away(&request) {
        return refusal;
    }
    if let Err(refusal) = passage.keys.admit(&mut request).await {
        return refusal;
    }
    // Says who it is, and gives a cookie to a client that has none and is known by nothing else.
    let who = passage.policy.who(request.headers(), request.extensions());
    let known = matches!(who.client, Client::HttpSession(_)) || cookie_in(request.headers()).is_some();
    request.extensions_mut().insert(who.clone());
    let visitor = who.visitor.clone();
    let mut response = WHO.scope(who, inside(&passage, request, next)).await;
    if !known && response.status() != StatusCode::FORBIDDEN {
        let value = new_cookie(&visitor);
        let cookie = format!("{COOKIE}={value}; Path=/mcp; HttpOnly; SameSite=Strict");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}

/// Who it is is known.
async fn inside(passage: &Passage, request: Request, next: Next) -> Response {
    if let Some(refusal) = clients::refusal(&passage.clients, &request) {
        return refusal;
    }
    if request.method() != Method::POST {
        return without_content(request, next).await;
    }
    let (parts, taken) = match bodies::receive(&passage.intake, request).await {
        Ok(whole) => whole,
        Err(refusal) => return refusal,
    };
    if let Some(refusal) = passage.refusal(&parts, &taken.bytes).await {
        return refusal;
    }
    let Passage { clients, alone, stop, .. } = passage;
    match quick::answer((clients, alone), parts, &taken.bytes, stop).await {
        Ok(response) => response,
        Err(parts) => {
            let request = to_rmcp(*parts, &taken.bytes);
            bodies::answered(taken.bytes.clone(), next.run(request)).await
        }
    }
}

impl Passage {
    async fn refusal(&self, parts: &Parts, bytes: &Bytes) -> Option<Response> {
        if let Some(refusal) = routing::refusal(&parts.headers, bytes) {
            return Some(refusal);
        }
        // The handler looks too, and sees what rmcp has read. Here it is told as OAuth has it, with which a client gets more.
        if keys::is_limited(&parts.extensions)
            && let Some(refusal) = keys::shortage(&parts.extensions, needs::of_body(&self.shown, bytes))
        {
            return Some(refusal);
        }
        misdirected::refusal(&self.server, bytes).await
    }
}

fn to_rmcp(mut parts: Parts, bytes: &Bytes) -> Request {
    let found = memchr::memmem::find(bytes, b"run_notebook").and_then(|_| std::str::from_utf8(bytes).ok());
    let body = match found.map(|text| numbers::mark(text, numbers::Keep::Impossible).into_owned()) {
        Some(text) => {
            if parts.headers.contains_key(header::CONTENT_LENGTH) {
                parts.headers.insert(header::CONTENT_LENGTH, text.len().into());
            }
            Body::from(text)
        }
        None => Body::from(bytes.clone()),
    };
    Request::from_parts(parts, body)
}

/// The end of a session is answered with 204. rmcp says 202, "accepted", and every Python client takes that for a failure and
/// logs "Session termination failed: 202": they know 200 and 204 only. The specification names neither; to be removed when
/// rmcp answers so itself.
async fn without_content(request: Request, next: Next) -> Response {
    let ends = request.method() == Method::DELETE;
    let mut response = next.run(request).await;
    if ends && response.status() == StatusCode::ACCEPTED {
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response
}
