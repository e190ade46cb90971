//! What strangers at the HTTP door may take: the flags, and the values.
//!
//! Runs in: server. Pure. Kept by the files of `server/mcp/http`: `connections.rs` (connections, the time for a
//! request's head), `bodies.rs` (memory and time for bodies), `clients.rs` (state kept for clients).

use std::time::Duration;

use clap::Args;

use crate::settings::bounds::MAX_SECONDS;

/// The flags.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct BoundArgs {
    /// Clients of protocols up to 2025-11-25 that are known at a time; one that is away gives way to a new one
    #[arg(long, value_name = "N", env = "FORKPY_MAX_CLIENTS", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_clients: u32,

    /// A client of such a protocol that asked for nothing for so many seconds is forgotten: it has to initialize again
    #[arg(long, value_name = "SECONDS", env = "FORKPY_CLIENT_IDLE", default_value_t = 86_400.0, value_parser = time)]
    pub client_idle: f64,

    /// Connections at a time; one that waits for its client's next request gives way to a new one
    #[arg(long, value_name = "N", env = "FORKPY_MAX_CONNECTIONS", default_value_t = 1_024,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_connections: u32,

    /// Time in which a request must have arrived, in seconds; large bodies have a second more for each 64 kB
    #[arg(long, value_name = "SECONDS", env = "FORKPY_REQUEST_TIMEOUT", default_value_t = 30.0, value_parser = time)]
    pub request_timeout: f64,

    /// Memory for large requests that arrive at the same time, in MB; further ones wait
    #[arg(long, value_name = "MB", env = "FORKPY_REQUEST_MEMORY", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    pub request_memory: u32,
}

/// The values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Clients with a state here.
    pub clients: usize,
    /// How long one may be away.
    pub client_idle: Duration,
    /// Connections.
    pub connections: usize,
    /// For a request's head, and the least for its body.
    pub request_time: Duration,
    /// KiB for large bodies.
    pub request_memory: u32,
}

impl From<BoundArgs> for Bounds {
    fn from(args: BoundArgs) -> Self {
        Self {
            clients: args.max_clients as usize,
            client_idle: Duration::from_secs_f64(args.client_idle),
            connections: args.max_connections as usize,
            request_time: Duration::from_secs_f64(args.request_timeout),
            request_memory: args.request_memory << 10,
        }
    }
}

fn time(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=MAX_SECONDS).contains(&value) => Ok(value),
        Ok(_) => Err(format!("must be between 0.1 and {MAX_SECONDS}")),
        Err(error) => Err(error.to_string()),
    }
}
