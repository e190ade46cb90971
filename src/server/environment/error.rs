//! Why packages could not be listed or installed.
//!
//! Runs in: server. Pure data.

use crate::server::{scripts::ScriptError, workspace::handle::FileError};
use std::io;

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    #[error("`packages` names nothing to install: give requirements such as \"numpy\" or \"numpy>=2\"")]
    Nothing,
    /// A very long list.
    #[error("more than {0} requirements in one call")]
    TooMany(usize),
    /// One of the items.
    #[error("cannot install {item:?}{place}: {reason}")]
    Item {
        /// As it was given, cut when long.
        item: String,
        /// In which file, if in one.
        place: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file that was named.
    #[error(transparent)]
    File(#[from] FileError),
    /// The environment could not be looked at.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// The tool could not be started.
    #[error("failed to start {tool}: {source}")]
    Tool { tool: &'static str, source: io::Error },
    #[error("there is no session environment to install into: {0}")]
    NoEnvironment(String),
    /// It was stopped before it began.
    #[error("nothing was installed: the call was cancelled, or the server is shutting down")]
    Stopped,
}
