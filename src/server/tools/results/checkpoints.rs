//! What the tools about checkpoints, forks and branches give back.
//!
//! Runs in: server. Pure data.

use schemars::JsonSchema;
use serde::Serialize;

use super::Cell;
use crate::server::{sessions::checkpoints::Checkpoint, watch::shapes::LimitsInForce};

/// A checkpoint, as it is listed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct CheckpointEntry {
    /// Its name within the session.
    pub name: String,
    /// Its number within the server: older ones have lower ones.
    pub id: u64,
    /// The session it is of.
    pub session_id: String,
    /// The last cell that had run; null when none had.
    pub after_cell: Option<u64>,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// Seconds since.
    pub age: f64,
    /// forkpy made it by itself (policy `last`).
    pub automatic: bool,
    /// Its process.
    pub pid: i32,
    /// Bytes that it holds alone: what the session has changed since, and a little of its own.
    pub memory: u64,
}

impl CheckpointEntry {
    /// Of a checkpoint that holds so much alone.
    #[must_use]
    pub(crate) fn new(checkpoint: &Checkpoint, memory: u64) -> Self {
        Self {
            name: checkpoint.name.to_string(),
            id: checkpoint.number,
            session_id: checkpoint.of.session.to_string(),
            after_cell: (checkpoint.cell > 0).then_some(checkpoint.cell),
            created_at: checkpoint.made.to_string(),
            age: checkpoint.made_at.elapsed().as_secs_f64(),
            automatic: checkpoint.is_automatic(),
            pid: checkpoint.pid,
            memory,
        }
    }
}

/// `checkpoint_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct MadeCheckpoint {
    /// `created`.
    pub status: &'static str,
    /// The session.
    pub session_id: String,
    /// The checkpoint.
    pub checkpoint: CheckpointEntry,
    /// What it does not hold, a sentence each: open files and connections, tasks, child processes, locks, threads.
    pub warnings: Vec<String>,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `list_checkpoints`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct CheckpointList {
    /// Oldest first.
    pub checkpoints: Vec<CheckpointEntry>,
    /// How many.
    pub total: u64,
    /// Bytes that they hold alone.
    pub memory: u64,
    /// Bytes that the checkpoints of all sessions may hold alone.
    pub memory_limit: u64,
}

/// `restore_checkpoint`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct RestoredCheckpoint {
    /// `restored`.
    pub status: &'static str,
    /// The session.
    pub session_id: String,
    /// Name of the checkpoint, which is still there.
    pub checkpoint: String,
    /// The last cell whose effects are there; null when none is.
    pub after_cell: Option<u64>,
    /// The process that serves the session now.
    pub pid: Option<i32>,
    /// What the checkpoint did not hold, a sentence each.
    pub warnings: Vec<String>,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `fork_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ForkedSession {
    /// `created`.
    pub status: &'static str,
    /// The new session.
    pub session_id: String,
    /// The session it is a copy of.
    pub forked_from: String,
    /// The checkpoint it is a copy of; null when it is one of the session as it was.
    pub checkpoint: Option<String>,
    /// The last cell whose effects are there; null when none is.
    pub after_cell: Option<u64>,
    /// What the two share, a sentence each.
    pub warnings: Vec<String>,
    /// Limits of the new session: those of the other.
    pub limits: LimitsInForce,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `delete_checkpoint`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DeletedCheckpoint {
    /// `deleted`.
    pub status: &'static str,
    /// The session.
    pub session_id: String,
    /// Its name.
    pub name: String,
}

/// `run_branches`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Branches {
    /// The session.
    pub session_id: String,
    /// What each came to, in the order of `codes`.
    pub branches: Vec<Branch>,
    /// The one that the session goes on from, counted from 0; null when it is as before.
    pub kept: Option<u64>,
    /// Why none was kept although one was to be, and what the branches shared; a sentence each.
    pub notices: Vec<String>,
}

/// One branch.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Branch {
    /// Counted from 0.
    pub index: u64,
    /// What its code came to, as run_python_code has it; null when it could not be run, see `refused`.
    pub outcome: Option<Cell>,
    /// Why it could not be run.
    pub refused: Option<String>,
}
