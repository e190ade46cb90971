//! What a session does for callers beside running cells.
//!
//! Runs in: server. Pure.

use serde::{Deserialize, Serialize};

use std::time::Duration;

/// Calls wait behind an errand, so it may not take long.
const USUAL: Duration = Duration::from_secs(30);
/// Branches have time limits of their own.
const BRANCHES: Duration = Duration::from_secs(3600);
/// Bytes of variables that are saved or loaded in a second, on a slow disk and with many small objects.
const CARRIED_A_SECOND: u64 = 20 << 20;

/// An errand: a request to the worker, or a step of the session's own, during which no cell runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errand {
    List,
    /// `save_session`, and `restart_kernel` with `preserve_state`.
    Save,
    Load,
    /// A checkpoint is made.
    Checkpoint,
    /// A copy is made that no call asked for: it gives way to a call.
    Keep,
    Collect,
    /// The session goes on from a checkpoint.
    GoBack,
    /// Branches run on copies of it.
    Branches,
    /// It is written to disk.
    Sleep,
    /// It comes back from there.
    Wake,
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
            Self::Keep => "makes a copy of itself",
            Self::Collect => "collects garbage",
            Self::GoBack => "goes back to a checkpoint",
            Self::Branches => "waits for branches of run_branches",
            Self::Sleep => "falls asleep",
            Self::Wake => "wakes up",
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
            Self::Keep => "making a copy of itself",
            Self::Collect => "collecting garbage",
            Self::GoBack => "going back to a checkpoint",
            Self::Branches => "running branches",
            Self::Sleep => "falling asleep",
            Self::Wake => "waking up",
        }
    }

    /// How long it may take before it is interrupted: the same for all, and longer where many bytes have to be carried.
    #[must_use]
    pub fn limit(self, bytes: u64) -> Duration {
        match self {
            Self::Save | Self::Load => USUAL + Duration::from_secs(bytes / CARRIED_A_SECOND),
            Self::List | Self::Checkpoint | Self::Keep | Self::Collect | Self::GoBack | Self::Sleep | Self::Wake => {
                USUAL
            }
            Self::Branches => BRANCHES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_that_is_carried_gets_more_time_and_nothing_else_does() {
        assert_eq!(Errand::Save.limit(50 << 20), Duration::from_secs(32));
        assert_eq!(Errand::Load.limit(10 << 30), Duration::from_secs(542));
        assert_eq!(Errand::List.limit(10 << 30), Duration::from_secs(30));
    }
}
