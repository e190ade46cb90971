//! Every way a cell can end, as one type; reason and method of an ending kept apart.
//!
//! Runs in: server. Pure data and pure functions: no I/O, no MCP.

use serde::{Deserialize, Serialize};

use crate::server::output::captured::{CapturedText, Method};

use std::time::Duration;

pub(crate) use super::death::{Death, DeathReason, Fate, Recovered, signal_name};
use super::notice::Notice;
use crate::{
    protocol::{CellError, Display, PlainResult},
    server::{counters::Ended, workspace::watch::NewFiles},
};

/// What one submitted cell came to.
#[derive(Debug, Clone, PartialEq)]
pub struct CellOutcome {
    /// Number of the cell in its session; 0 when it was refused before it got one.
    pub cell: u64,
    pub ending: Ending,
    /// What it wrote to descriptor 1.
    pub stdout: CapturedText,
    /// What it wrote to descriptor 2.
    pub stderr: CapturedText,
    /// What arrived between the previous cell and this one (background threads and processes), both streams.
    pub background: String,
    /// The last expression's value, when it had nothing richer.
    pub results: Vec<PlainResult>,
    /// What it displayed, its last value included when that is rich.
    pub displays: Vec<Display>,
    pub error: Option<CellError>,
    /// Files that appeared in the workspace meanwhile.
    pub new_files: NewFiles,
    /// Time it waited for its turn.
    pub queued: Duration,
    pub ran: Duration,
    /// What became of the session's variables.
    pub fate: Fate,
    /// The checkpoint that the session went on from after its worker's death.
    pub recovered: Option<Recovered>,
    /// What the caller must know about the session.
    pub notices: Vec<Notice>,
    /// What the supervisor has to say about the session since its last reply.
    pub alerts: Vec<String>,
}

impl CellOutcome {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let shown = |display: &Display| {
            let data: usize = display.data.iter().map(|data| data.bytes.len() + data.mime.len() + 64).sum();
            display.text.len() + display.metadata.len() + data
        };
        let error = self.error.as_ref().map_or(0, |error| error.traceback.len() + error.message.len());
        let streams = self.stdout.text.len() + self.stderr.text.len() + self.background.len();
        let results: usize = self.results.iter().map(|result| result.text.len()).sum();
        let files: usize = self.new_files.paths.iter().map(String::len).sum();
        1024 + error + streams + results + files + self.displays.iter().map(shown).sum::<usize>()
    }

    /// What is counted of it; taken before the outcome goes to its client.
    #[must_use]
    pub fn measured(&self) -> Ended {
        Ended { status: self.ending.status(), queued: self.queued, ran: self.ran }
    }
}

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// To its last line.
    Finished,
    Raised,
    /// By `sys.exit` and the like.
    Exited(i32),
    /// By an interrupt that forkpy did not send (a signal from outside, or raised by the code itself).
    Interrupted,
    /// Its time was over.
    TimedOut {
        limit: Duration,
        /// How it was ended.
        method: Method,
    },
    /// Its processor time was over.
    CpuUsedUp {
        limit: Duration,
        /// How it was ended.
        method: Method,
    },
    /// The client took the request back.
    Cancelled {
        /// How it was ended.
        method: Method,
    },
    /// Its worker ended under it.
    Died(Death),
    /// It was not run at all.
    Refused {
        reason: String,
    },
}

/// What becomes of the session's state when a cell does not end well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnError {
    /// It stays as the cell left it.
    #[default]
    Keep,
    /// It is as before the cell.
    RollBack,
}

impl Ending {
    /// The word in `status`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::Finished => "ok",
            Self::Raised => "error",
            Self::Exited(_) => "exited",
            Self::Interrupted => "interrupted",
            Self::TimedOut { .. } | Self::CpuUsedUp { .. } => "timeout",
            Self::Cancelled { .. } => "cancelled",
            Self::Died(_) => "died",
            Self::Refused { .. } => "refused",
        }
    }

    /// Whether the tool call failed, as MCP means it. Code that raises did not make the call fail.
    #[must_use]
    pub fn is_tool_error(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. }
                | Self::CpuUsedUp { .. }
                | Self::Cancelled { .. }
                | Self::Died(_)
                | Self::Refused { .. }
        )
    }
}

/// The outcome of a cell that was not run.
#[must_use]
pub(crate) fn refusal(reason: String, queued: Duration) -> CellOutcome {
    CellOutcome {
        cell: 0,
        ending: Ending::Refused { reason },
        stdout: CapturedText::default(),
        stderr: CapturedText::default(),
        background: String::new(),
        results: Vec::new(),
        displays: Vec::new(),
        error: None,
        new_files: NewFiles::default(),
        queued,
        ran: Duration::ZERO,
        fate: Fate::Kept,
        recovered: None,
        notices: Vec::new(),
        alerts: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endings_that_are_not_the_codes_own_are_tool_errors() {
        let method = Method::Interrupt;
        assert!(!Ending::Raised.is_tool_error() && !Ending::Exited(3).is_tool_error());
        assert!(Ending::TimedOut { limit: Duration::from_secs(1), method }.is_tool_error());
        assert!(Ending::Refused { reason: String::new() }.is_tool_error());
    }
}
