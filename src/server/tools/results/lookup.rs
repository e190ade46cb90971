//! What `code_completion` and `inspect_object` give back.
//!
//! Runs in: server. Pure data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `code_completion`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Completion {
    /// What could stand between `cursor_start` and `cursor_end`, public names first.
    pub matches: Vec<String>,
    /// Where the text to be replaced begins, in characters.
    pub cursor_start: u64,
    /// Where it ends, in characters.
    pub cursor_end: u64,
    /// Types of the matches, as Jupyter's kernels give them, and `left_out`, when there are more.
    pub metadata: Map<String, Value>,
    /// `ok`, `busy` (the interpreter does not answer now), `error`.
    pub status: &'static str,
    /// What to know, in a sentence.
    pub notice: Option<String>,
    /// The session.
    pub session_id: String,
}

/// `inspect_object`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Inspection {
    /// There is something to tell.
    pub found: bool,
    /// By mime type; `text/plain` has signature, type, value in short, docstring and, when asked for, source.
    pub data: BTreeMap<String, String>,
    /// The name that was looked up.
    pub metadata: Map<String, Value>,
    /// `ok`, `busy` (the interpreter does not answer now), `error`.
    pub status: &'static str,
    /// What to know, in a sentence.
    pub notice: Option<String>,
    /// The session.
    pub session_id: String,
}

/// What a worker says to a question of completion.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Matches {
    /// As in [`Completion`].
    pub matches: Vec<String>,
    /// As in [`Completion`].
    pub cursor_start: u64,
    /// As in [`Completion`].
    pub cursor_end: u64,
    /// As in [`Completion`].
    pub metadata: Map<String, Value>,
}

/// What a worker says to a question of inspection.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Found {
    /// As in [`Inspection`].
    pub found: bool,
    /// As in [`Inspection`].
    pub data: BTreeMap<String, String>,
    /// As in [`Inspection`].
    pub metadata: Map<String, Value>,
}
