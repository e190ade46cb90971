//! What a token of an issuer has to be for, by what a message asks: the tool says it, or the resource's provider.
//!
//! Runs in: server. Pure. The handler asks for what rmcp has read; the transport asks before, for the status of its answer.

use rmcp::ErrorData;
use serde::Deserialize;
use serde_json::Value;

use super::resources::Resources;
use crate::server::{
    scope::{Scope, Scopes},
    tools,
};

/// What a message of JSON-RPC asks for, as far as it concerns a scope.
#[derive(Debug, Deserialize)]
struct Asked {
    method: String,
    #[serde(default)]
    params: Value,
}

/// What a body has to have a token for. One that is no message needs none: those refuse it who read it whole.
#[must_use]
pub(super) fn of_body(shown: &Resources, body: &[u8]) -> Option<Scope> {
    let Asked { method, params } = serde_json::from_slice(body).ok()?;
    let word = |name: &str| params[name].as_str().unwrap_or_default();
    match &*method {
        "tools/call" => tools::find(word("name"))?.scope,
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => shown.needs(word("uri")),
        method => of_method(method),
    }
}

/// The same for methods that need it whatever they name.
#[must_use]
pub(super) fn of_method(method: &str) -> Option<Scope> {
    let is_of_sessions = method.starts_with("events/") || method.starts_with("tasks/");
    is_of_sessions.then_some(Scope::CellsRun)
}

/// That a token is not for this.
#[must_use]
pub(super) fn lacks(needed: Scope) -> String {
    format!("this needs the scope {}, which the token has not", needed.word())
}

/// The refusal of what a caller's token is not for.
///
/// # Errors
/// In words.
pub(super) fn met(scopes: Scopes, needed: Option<Scope>) -> Result<(), ErrorData> {
    match needed.filter(|needed| !scopes.has(*needed)) {
        Some(needed) => Err(ErrorData::invalid_request(lacks(needed), None)),
        None => Ok(()),
    }
}
