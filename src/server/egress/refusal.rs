//! Why the proxy does not do what it was asked, in words for the code that asked: they travel in the status line, which is what
//! libraries show of a tunnel that was refused.
//!
//! Runs in: server. Pure.

use std::{io, net::IpAddr};

use hyper::StatusCode;

use crate::settings::network::{Host, HostError};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the proxy cannot read this address: {0}")]
    Host(#[from] HostError),
    #[error("the proxy cannot read this address: {0}")]
    Address(&'static str),
    #[error("{host}:{port} is not allowed; the server's option --allow-net {host}:{port} would allow it")]
    NotListed { host: Host, port: u16 },
    #[error(
        "{host}:{port} leads to {address}, which is no public address; the server's option --allow-net {} would allow it",
        beside(host, *address, *port)
    )]
    Private { host: Host, port: u16, address: IpAddr },
    #[error("{host}:{port} is this server itself, which no session reaches")]
    Server { host: Host, port: u16 },
    #[error("the secret {0} cannot be used now; the server's log says why")]
    NoSecret(String),
    #[error("the name {0} leads nowhere: {1}")]
    Unresolved(Host, io::Error),
    #[error("{host}:{port} could not be reached: {source}")]
    Unreachable { host: Host, port: u16, source: io::Error },
    #[error("{host}:{port} broke the connection off: {source}")]
    Broken { host: Host, port: u16, source: hyper::Error },
}

/// What has to be in the list for a host at this address.
fn beside(host: &Host, address: IpAddr, port: u16) -> String {
    let address = Host::Address(address);
    if *host == address { format!("{address}:{port}") } else { format!("{host}:{port},{address}:{port}") }
}

impl Refusal {
    /// The status that says it.
    #[must_use]
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) | Self::Address(_) => StatusCode::BAD_REQUEST,
            Self::NotListed { .. } | Self::Private { .. } | Self::Server { .. } => StatusCode::FORBIDDEN,
            Self::NoSecret(_) | Self::Unresolved(..) | Self::Unreachable { .. } | Self::Broken { .. } => {
                StatusCode::BAD_GATEWAY
            }
        }
    }
}
