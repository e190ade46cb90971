//! Why a call was refused, in words that a model can act on.
//!
//! Runs in: server. The errors of the rooms behind, as one type; only an unknown tool is a protocol error.

use std::time::Duration;

use crate::server::{
    environment::error::PackageError,
    moves::away::AwayError,
    scripts::ScriptError,
    sessions::{checkpoints::CheckpointError, orders::SessionError, registry::RegistryError},
    tools::workspace::notebooks::document::NotebookError,
    workspace::handle::FileError,
};

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The arguments.
    #[error("{0}")]
    Argument(String),
    /// The name of a session, or the number of them.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Its turn did not come while its client could wait.
    #[error(
        "nothing was done: cell {cell} of session {session:?} runs, for {} s, and this call would have waited for its end. \
         wait_for_cell(cell: {cell}) waits for it, interrupt_cell(cell: {cell}) ends it; then call again",
        ran.as_secs()
    )]
    Busy { session: String, cell: u64, ran: Duration },
    /// It is not here, or does not come.
    #[error(transparent)]
    Away(#[from] AwayError),
    /// The session, and what has happened to it.
    #[error("{error}. {news}")]
    Told {
        /// What it refused.
        error: SessionError,
        /// Why, in whole sentences.
        news: String,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Notebook(#[from] NotebookError),
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A client that cannot be recognised wants to be remembered.
    #[error(
        "this client sends nothing to recognise it by (no cookie, no session header), so its active session cannot be \
         remembered; pass session_id in each call instead"
    )]
    NotRecognised,
    /// A second call for a question that no cell waits with.
    #[error(
        "no running cell waits for this answer: it was answered before, the session was deleted, or the server was \
         started again since. Nothing was run; to run the code anew, call again without requestState"
    )]
    NoQuestion,
    /// Why the work of an earlier call failed, as it was told.
    #[error("{0}")]
    Kept(String),
    /// The server's own fault.
    #[error("the work was not done to its end: {0}")]
    Broken(String),
    /// The reply could not be made.
    #[error("failed to encode the reply: {0}")]
    Encode(#[from] serde_json::Error),
}

/// Arguments that cannot be meant, with the reason.
pub(crate) fn refuse<T>(words: impl Into<String>) -> Result<T, ToolError> {
    Err(ToolError::Argument(words.into()))
}
