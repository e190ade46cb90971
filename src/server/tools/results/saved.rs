//! What the tools that write sessions to files give back.
//!
//! Runs in: server. Pure data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

/// `save_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SavedSession {
    /// `saved`.
    pub status: &'static str,
    /// The session.
    pub session_id: String,
    /// The file, relative to the workspace.
    pub path: String,
    /// Its size, bytes.
    pub size: u64,
    /// Names of the variables that are in it.
    pub saved: Vec<String>,
    /// Names of those that are not, with the reason.
    pub skipped: BTreeMap<String, String>,
}

/// `load_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct LoadedSession {
    /// `loaded`.
    pub status: &'static str,
    /// The session.
    pub session_id: String,
    /// The file, relative to the workspace.
    pub path: String,
    /// Names of the variables that the session has from it.
    pub loaded: Vec<String>,
    /// Those of them that stood for something else before.
    pub replaced: Vec<String>,
    /// Names of variables in the file that could not be brought back, with the reason.
    pub skipped: BTreeMap<String, String>,
}
