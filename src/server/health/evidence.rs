//! What is seen of a session: its phase, a reading of its process, a ping without an answer, stacks. Verdicts are made of it.
//!
//! Runs in: server. Pure data, filled in by the rooms that look.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errand::Errand;
use crate::sys::threads::Thread;

/// What the session is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    /// A worker is being made.
    Starting,
    /// Waiting for a cell.
    Idle,
    /// Running one.
    Busy {
        /// Its number.
        cell: u64,
        /// Since when.
        since: Instant,
    },
    /// Running one that waits for a line of input, which its client has been asked for.
    WaitingInput {
        /// Its number.
        cell: u64,
        /// Since when it runs; its time limit counts the waiting too.
        since: Instant,
    },
    /// Doing something else for a caller; no cell runs meanwhile.
    Serving {
        /// What.
        errand: Errand,
        /// Since when.
        since: Instant,
    },
    /// No worker: the session lies in an image, from which the next call wakes it.
    Asleep,
    /// No worker.
    Dead,
}

impl Phase {
    /// The cell that runs, if one does, and since when.
    #[must_use]
    pub(crate) fn cell(self) -> Option<(u64, Instant)> {
        match self {
            Self::Busy { cell, since } | Self::WaitingInput { cell, since } => Some((cell, since)),
            Self::Starting | Self::Idle | Self::Serving { .. } | Self::Asleep | Self::Dead => None,
        }
    }
}

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Resident memory, bytes.
    pub memory: u64,
    /// Threads.
    pub threads: u64,
    /// Processor time since its start.
    pub cpu: Duration,
    /// State letter of `/proc/PID/stat`.
    pub state: char,
}

/// The oldest ping that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// How long it has waited.
    pub waited: Duration,
    /// Whether the control thread has said that it is alive.
    pub heartbeat: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Stacks {
    /// Stacks of all Python threads as faulthandler writes them, the most recent call first; empty when none came.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub python: String,
    /// How they were read: `interpreter` (exact), `signal` (native code held the interpreter), `crash` (by the handler of
    /// a fatal signal), `none`.
    pub route: String,
    /// Threads of the process as the kernel sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub threads: Vec<Thread>,
}
