//! What people do with forkpy before they use it: enter it into a client's configuration, ask whether this machine will do,
//! and have their shell and `man` know it.
//!
//! Runs in: a process of its own, which serves nothing. May start forkpy servers, as any client does.

use std::path::PathBuf;

/// Why a step was not taken; worded for the person who asked for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// A client's configuration that is not what that client reads.
    #[error("{path} is not changed: {reason}")]
    Configuration {
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    #[error("{what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the guide has no chapter {name:?}; there are: {known}")]
    Chapter { name: String, known: String },
    #[error("{0}")]
    Output(#[from] std::io::Error),
    /// There is no home directory to find configurations in.
    #[error("there is no home directory: name the file with --file")]
    NoHome,
    /// Where a client on Windows keeps its configuration is not found out.
    #[error("nothing was written: {0}")]
    Windows(String),
    /// A client that is not known.
    #[error("{words}")]
    Client { words: String },
    /// What to paste was shown, and nothing written.
    #[error("nothing was written: paste this into the client's configuration")]
    NotInstalled,
    #[error("{client} has no configuration for a project: leave --project out")]
    NoProject { client: &'static str },
    /// The client could not start forkpy so.
    #[error("nothing was written: forkpy could not be started with these options: {0}")]
    Options(String),
    /// A balancer keeps no sessions.
    #[error(
        "nothing was printed: --store is the servers' and not the balancer's; name it for systemd, kubernetes or agent-sandbox"
    )]
    NoStore,
    /// Something that sessions need does not work.
    #[error("{0} of these checks failed: the remedies stand beside them")]
    Unwell(usize),
}
