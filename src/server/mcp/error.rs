//! Why the server ended other than by its client's wish.
//!
//! Runs in: server. Pure data.

use std::{io, net::SocketAddr};

use crate::server::tools::catalogue::UnknownTool;

/// Why the server ended other than by its client's wish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The address cannot be had.
    #[error("failed to listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tools(#[from] UnknownTool),
    /// A system call at the start.
    #[error("failed to start the server: {0}")]
    Start(#[from] io::Error),
}
