//! What a session does for somebody beside running cells.
//!
//! Runs in: server. Pure.

use std::time::Duration;

/// An errand: a request to the worker, or a step of the session's own, during which no cell runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    List,
    /// `save_session`, and `restart_kernel` with `preserve_state`.
    Save,
    Load,
    /// A checkpoint is made.
    Checkpoint,
    Collect,
    /// The session goes on from a checkpoint.
    GoBack,
    /// Branches run on copies of it.
    Branches,
}

impl Errand {
    /// What the session does: `lists its variables`.
    #[must_use]
    pub fn doing(self) -> &'static str {
        match self {
            Self::List => "lists its variables",
            Self::Save => "saves its variables",
            Self::Load => "loads variables",
            Self::Checkpoint => "makes a checkpoint",
            Self::Collect => "collects garbage",
            Self::GoBack => "goes back to a checkpoint",
            Self::Branches => "waits for branches of run_branches",
        }
    }

    /// The same as a thing: `listing its variables`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "listing its variables",
            Self::Save => "saving its variables",
            Self::Load => "loading variables",
            Self::Checkpoint => "making a checkpoint",
            Self::Collect => "collecting garbage",
            Self::GoBack => "going back to a checkpoint",
            Self::Branches => "running branches",
        }
    }

    /// How long it may take before it is interrupted.
    #[must_use]
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::List => 30,
            Self::Checkpoint | Self::Collect | Self::GoBack => 60,
            Self::Save | Self::Load => 300,
            Self::Branches => 3600,
        })
    }
}
