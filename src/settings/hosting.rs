//! One server among several: its name, and how it leaves.
//!
//! Runs in: server, and commands before they start one.

use clap::Args;

use std::path::PathBuf;

use super::{bounds::seconds, paths::path};

/// One server among several.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Several servers")]
pub(crate) struct HostingOptions {
    /// What this server is called, where several serve: replies name it
    #[arg(long, value_name = "NAME", env = "FORKPY_SERVER_NAME")]
    pub server_name: Option<String>,

    /// Directory in which each owner with a token of its own has a workspace of its own (http); made when missing. Needs --tokens or
    /// --oauth-issuer
    #[arg(long, value_name = "DIR", env = "FORKPY_WORKSPACES", value_parser = path)]
    pub workspaces: Option<PathBuf>,

    /// Seconds after which a server that drains (SIGUSR1) ends, with the sessions that it still has; 0: it stays until it is
    /// ended
    #[arg(long, value_name = "SECONDS", env = "FORKPY_DRAIN_LIMIT", default_value = "0", value_parser = seconds)]
    pub drain_limit: f64,
}
