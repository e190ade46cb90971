//! Why the server ended other than by its client's wish.
//!
//! Runs in: server. Pure data.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use crate::server::tools::catalogue::UnknownTool;

/// Why the server ended other than by its client's wish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The address cannot be had.
    #[error("failed to listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error(transparent)]
    Tools(#[from] UnknownTool),
    /// A system call at the start.
    #[error("failed to start the server: {0}")]
    Start(#[from] io::Error),
}

impl ServerError {
    /// Why this address cannot be had, and what to do about it.
    pub(crate) fn listen(address: SocketAddr, error: &io::Error) -> Self {
        let reason = match error.kind() {
            ErrorKind::AddrInUse => {
                let holder = listeners::get_process_by_port(address.port(), listeners::Protocol::TCP);
                // Of processes of other users nothing is seen.
                let holder = holder.map_or_else(
                    |_| "another process".to_owned(),
                    |process| format!("{} (process {})", process.name, process.pid),
                );
                format!("{holder} listens there. Choose another port with --port; --port 0 takes a free one")
            }
            ErrorKind::AddrNotAvailable => "this machine has no such address. Choose another with --host".to_owned(),
            ErrorKind::PermissionDenied => {
                "ports below 1024 are root's. Choose another with --port; --port 0 takes a free one".to_owned()
            }
            _ => error.to_string(),
        };
        Self::Listen { address, reason }
    }
}
