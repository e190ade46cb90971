//! What is remembered of one session's health: policy, history, alarms, restarts. Kept beside its status, under a lock of
//! its own, and shared by the session's task, the supervisor and the tools.
//!
//! Runs in: server. No I/O.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{
    HealthPolicy,
    alerts::Alarms,
    history::{Deep, History},
    recovery::Ledger,
};
use crate::{server::health::evidence::Stacks, sys::age};

/// Sentences that wait for the session's next reply; more are dropped, the oldest first.
const MAX_UNSAID: usize = 8;

/// What is about the moment is not taken along to another program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its thresholds and what is done about it.
    pub policy: HealthPolicy,
    pub history: History,
    /// Which alerts are up.
    pub alarms: Alarms,
    /// Restarts and other steps.
    pub ledger: Ledger,
    /// When the next restart is due, under `auto`.
    #[serde(with = "age::option")]
    pub revival: Option<Instant>,
    /// A collection was asked for since memory rose above the threshold.
    pub collected: bool,
    /// When the session was last examined deeply, and pinged.
    #[serde(with = "age::option")]
    pub examined: Option<Instant>,
    /// Deep readings that a call asked for between two of the supervisor's.
    #[serde(skip)]
    pub glimpse: Option<(Instant, Deep)>,
    /// Stacks of a worker, taken by another part that is about to end it.
    #[serde(skip)]
    pub last_sight: Option<(i32, Stacks)>,
    /// When the session's task was last asked to see to a hung worker.
    #[serde(skip)]
    pub wished: Option<Instant>,
    /// Processes beside the worker at the guard's last look, and how many there may be.
    pub processes: Option<(u32, u32)>,
    /// Bytes of memory at the guard's last look, and how many there may be.
    pub bytes: Option<(u64, u64)>,
    /// Bytes on disk at the last look, and how many there may be.
    pub disk: Option<(u64, u64)>,
    unsaid: Vec<String>,
}

impl Record {
    /// For a session just made.
    #[must_use]
    pub(crate) fn new(policy: HealthPolicy) -> Self {
        Self {
            policy,
            history: History::default(),
            alarms: Alarms::default(),
            ledger: Ledger::default(),
            revival: None,
            collected: false,
            examined: None,
            last_sight: None,
            wished: None,
            glimpse: None,
            processes: None,
            bytes: None,
            disk: None,
            unsaid: Vec::new(),
        }
    }

    /// Something for the session's next reply.
    pub(crate) fn tell(&mut self, sentence: String) {
        self.unsaid.push(sentence);
        if self.unsaid.len() > MAX_UNSAID {
            self.unsaid.remove(0);
        }
    }

    /// What is to be said, once.
    #[must_use]
    pub(crate) fn take_unsaid(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unsaid)
    }
}
