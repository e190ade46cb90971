//! What clients may send to the tools about checkpoints, forks and branches.
//!
//! Runs in: server. Pure.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::server::sessions::outcome;

/// What becomes of a session's state when a cell does not end well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnCellError {
    /// It stays as the cell left it.
    #[default]
    Keep,
    /// It is as before the cell.
    Rollback,
}

impl From<OnCellError> for outcome::OnError {
    fn from(asked: OnCellError) -> Self {
        match asked {
            OnCellError::Keep => Self::Keep,
            OnCellError::Rollback => Self::RollBack,
        }
    }
}

/// `checkpoint_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CheckpointSession {
    /// Session to copy; the active one when left out.
    pub session_id: Option<String>,
    /// Name of the checkpoint within the session: up to 64 letters, digits, '_', '-', '.'. Made up when left out.
    pub name: Option<String>,
    /// Make it although threads run that it will not have. Default false.
    pub force: Option<bool>,
}

/// `list_checkpoints`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListCheckpoints {
    /// Only those of this session; those of all when left out.
    pub session_id: Option<String>,
}

/// `restore_checkpoint`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RestoreCheckpoint {
    /// Name of the checkpoint; `last` is the one that policy `last` keeps.
    pub name: String,
    /// Session to roll back; the active one when left out.
    pub session_id: Option<String>,
    /// Let `random` and `numpy.random` draw again what they drew after the checkpoint. Default false: other numbers.
    pub keep_random: Option<bool>,
}

/// `fork_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ForkSession {
    /// Name of the new session: up to 64 letters, digits, '_', '-', '.'.
    pub new_session_id: String,
    /// Session to copy; the active one when left out.
    pub session_id: Option<String>,
    /// Copy this checkpoint of it instead of what it is now.
    pub checkpoint: Option<String>,
    /// What the new session is for, shown by list_sessions.
    pub description: Option<String>,
    /// Copy it although threads run that the copy will not have. Default false.
    pub force: Option<bool>,
}

/// `delete_checkpoint`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct DeleteCheckpoint {
    /// Name of the checkpoint.
    pub name: String,
    /// Whose it is; the active session's when left out.
    pub session_id: Option<String>,
}

/// `run_branches`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunBranches {
    /// Code of each branch. All begin from the session as it is now, and none sees another.
    pub codes: Vec<String>,
    /// Which one the session goes on from: `none` (default), `first` (the first that ended well), `max` or `min` (the one
    /// whose last expression is the largest or smallest number), or a number, counted from 0.
    pub keep: Option<Keep>,
    /// Session to branch; the active one when left out.
    pub session_id: Option<String>,
    /// Seconds each branch may run. The server's default when left out.
    pub timeout: Option<f64>,
    /// Branches that run at a time. The number of processors when left out.
    pub max_parallel: Option<u32>,
}

/// Which branch the session goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Keep {
    /// This one.
    Number(u32),
    /// By a rule.
    Rule(KeepRule),
}

/// A rule by which a branch is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeepRule {
    /// The session stays as it is.
    None,
    /// The first that ended well.
    First,
    /// The largest number as value of the last expression.
    Max,
    /// The smallest.
    Min,
}
