//! What clients may send to the tools that write sessions to files.
//!
//! Runs in: server. Pure.

use schemars::JsonSchema;
use serde::Deserialize;

/// `save_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct SaveSession {
    /// File to write, relative to the workspace; replaced when it exists.
    pub path: String,
    /// Session whose variables are written; the active one when left out.
    pub session_id: Option<String>,
}

/// `load_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct LoadSession {
    /// File that save_session wrote, relative to the workspace. Loading it runs code that is in it.
    pub path: String,
    /// Session that gets the variables; the active one when left out.
    pub session_id: Option<String>,
}
