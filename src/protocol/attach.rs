//! What a front and a server say to each other before messages flow, and what a server leaves written about itself.
//!
//! Runs in: server, front, and the commands that ask after servers. Pure data: one JSON object a line, each way.
//!
//! The front speaks first ([`Hello`]) and sends nothing else until the [`Welcome`] has come: a server that is about to end
//! has then taken nothing that would be lost. After a welcome to `mcp` the lines are MCP's; after `status` and `stop` the
//! connection ends.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest line of these, bytes.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wants {
    /// Messages of a client.
    Mcp,
    /// To know how the server is.
    Status,
    Stop,
    /// The server is to be replaced by another program ([`Hello::program`]), and to keep its sessions.
    Restart,
}

/// What a server says to a front, between the client's messages: it is about to be replaced. The front sends nothing
/// more, waits for the answers that are open, leaves, and comes back to the server's socket.
pub(crate) const HOLD: &[u8] = b"{\"forkpy\":\"hold\"}\n";
/// It is not replaced after all: who has not left goes on.
pub(crate) const GO_ON: &[u8] = b"{\"forkpy\":\"go on\"}\n";

/// The first line to a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) wants: Wants,
    /// Version of the front.
    pub(crate) version: String,
    /// The server that the front was connected to before, when that ended under it.
    #[serde(default)]
    pub(crate) after: Option<i32>,
    /// The front knows [`HOLD`].
    #[serde(default)]
    pub(crate) holds: bool,
    /// The number that the server has given the front, when the front has left to let it be replaced.
    #[serde(default)]
    pub(crate) client: Option<u64>,
    /// By which program the server is to be replaced.
    #[serde(default)]
    pub(crate) program: Option<PathBuf>,
}

impl Hello {
    /// Of this version of forkpy.
    pub(crate) fn new(wants: Wants) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { wants, version, after: None, holds: true, client: None, program: None }
    }
}

/// The first line from a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) pid: i32,
    pub(crate) version: String,
    /// The options that it was started with.
    pub(crate) args: Vec<String>,
    /// How it is; for those who asked.
    #[serde(default)]
    pub(crate) status: Option<ServerStatus>,
    /// Number of the front.
    #[serde(default)]
    pub(crate) client: Option<u64>,
    /// Why it is not replaced; for those who asked for that.
    #[serde(default)]
    pub(crate) refused: Option<String>,
}

/// How a server is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerStatus {
    /// Since when it runs (RFC 3339).
    pub(crate) since: String,
    pub(crate) workspace: String,
    /// Clients that are connected.
    pub(crate) clients: usize,
    /// It ends after so many seconds without clients and cells; 0 is never.
    pub(crate) idle_exit: f64,
    pub(crate) sessions: Vec<SessionSummary>,
    /// How often it has become another program; not said by versions that cannot.
    #[serde(default)]
    pub(crate) restarts: Option<u64>,
}

/// A session, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionSummary {
    pub(crate) session_id: String,
    /// Cells that it has run.
    pub(crate) cells: u64,
    /// A cell runs now.
    pub(crate) busy: bool,
    /// When it was last used (RFC 3339).
    pub(crate) last_activity: String,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerEnd {
    /// It was killed, or it crashed: it did not write why.
    Killed,
    /// `forkpy stop`, or a signal that asks for the end.
    Stopped,
    /// No client had used it for long.
    Idle,
}

/// What a server keeps written beside its socket, for the one that comes after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) pid: i32,
    pub(crate) version: String,
    /// Clients have been connected.
    pub(crate) used: bool,
    /// Names of its sessions.
    pub(crate) sessions: Vec<String>,
    /// How it ended, once it has.
    pub(crate) ended: Option<ServerEnd>,
}

/// A line of these.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A span of time for people: `3 h`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds, and no time is negative")]
pub(crate) fn span(seconds: f64) -> String {
    match seconds.max(0.0) as u64 {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds if seconds < 172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
