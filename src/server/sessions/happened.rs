//! What can happen to a session beside its cells, and what several such events come to for its variables.
//!
//! Runs in: server. Pure data; `life.rs` keeps the events of a session, `tools/call/notices.rs` puts them into words.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    active::Client,
    death::{Death, DeathReason, Fate, Recovered},
};

/// Something that happened to a session, beside its cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the session's log, from 1.
    pub number: u64,
    /// The client that ordered it, and whose order was carried out: it knows.
    pub by: Option<Client>,
    pub what: What,
    pub at: Instant,
}

/// Why policy `auto` has no copy of a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Uncopied {
    #[error("threads do not survive a fork, and it has {0}")]
    Threads(String),
    #[error("a copy would keep {0} open when the session closes it")]
    Binding(String),
    #[error("it holds {} MiB, and copies are kept of up to {} MiB (--checkpoint-auto-memory)", held >> 20, limit >> 20)]
    Large { held: u64, limit: u64 },
}

/// Variables of a session that cannot be copied as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptByValue {
    /// The last cell that had run.
    pub cell: u64,
    /// Names of those that are kept, or have come back.
    pub names: Vec<String>,
    /// Names of the others, with the reason.
    pub left_out: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An earlier session of this name had ended, and this one was made.
    MadeAnew {
        /// How the earlier one ended.
        ended: DeathReason,
    },
    /// The worker ended, and the variables with it.
    Lost {
        death: Death,
        /// The newest checkpoint then: one that is older has what was lost.
        newest: u64,
    },
    /// The worker ended, and the session went on from a checkpoint.
    Restored {
        death: Death,
        recovered: Recovered,
        /// Number of the checkpoint.
        copy: u64,
    },
    Restarted {
        /// Variables were carried over; how many were not.
        carried: Option<usize>,
        newest: u64,
    },
    /// `restore_checkpoint`, or a restart for which a checkpoint had the variables.
    WentBack {
        checkpoint: Arc<str>,
        recovered: Recovered,
        /// Number of the checkpoint.
        copy: u64,
    },
    /// `run_branches` made one of its branches the session's state.
    BranchKept,
    /// A checkpoint is not there any more, and no call deleted it.
    CheckpointGone {
        checkpoint: Arc<str>,
        /// The last cell that had run in it.
        cell: u64,
        why: Gone,
    },
    /// What the checkpoint that it has just gone on from does not hold.
    CopyLacks { lacks: Vec<String> },
    /// It has no copy to go on from, whatever the policy; what is kept of it by value instead.
    Uncopied { why: Uncopied, by_value: Option<Arc<KeptByValue>> },
    /// The worker has ended, and a new one has what was kept by value.
    BroughtBack { by_value: Arc<KeptByValue> },
    /// It was put to sleep with its variables alone, as was wished: it could not sleep as it was.
    SleptByValue { by_value: Arc<KeptByValue> },
    /// It slept on disk while its server ended, and goes on in this one.
    Slept { since: Timestamp, cell: u64, lost: Option<(u64, u64)>, without: Without },
    /// It had been put away into the store, and goes on here.
    TakenUp(Arrival),
    /// Packages of its environment are others than when its image was written.
    OtherPackages { names: Vec<String> },
    /// Its server takes no new sessions, and ends after this time; whether it is put away into the store then.
    ServerDrains { limit: Option<Duration>, is_put_away: bool },
    /// So much that not all of it is remembered.
    Forgotten {
        count: u64,
        /// What they came to.
        fate: Fate,
    },
}

/// What a session that comes from the server before has not brought along.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Without {
    /// Named checkpoints.
    pub checkpoints: Vec<String>,
    /// The name that it had, when another session has that now.
    pub name: Option<String>,
    /// It comes by value: these variables, and not the others.
    pub by_value: Option<Arc<KeptByValue>>,
}

/// How a session came out of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The server that put it away, and when by its clock (RFC 3339).
    pub from: String,
    pub at: String,
    /// The last cell whose effects it has.
    pub cell: u64,
    /// A server that had it since, and has ended without putting it away: what it did is lost.
    pub ended: Option<String>,
    pub without: Without,
    /// Why it does not come as a whole.
    pub why: Option<String>,
}

/// Why a checkpoint is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// There were too many.
    TooMany,
    /// All of them held too much memory.
    Memory,
    /// Those of the session did.
    SessionMemory,
    Died,
    /// It did not answer when the server became another program.
    LeftBehind,
}

impl What {
    /// What it meant for the session's variables.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self {
            Self::MadeAnew { .. } | Self::Lost { .. } | Self::Restarted { carried: None, .. } => Fate::Lost,
            Self::Restored { .. }
            | Self::WentBack { .. }
            | Self::BranchKept
            | Self::SleptByValue { .. }
            | Self::Restarted { carried: Some(_), .. } => Fate::Restored,
            Self::CheckpointGone { .. }
            | Self::CopyLacks { .. }
            | Self::Uncopied { .. }
            | Self::BroughtBack { .. }
            | Self::OtherPackages { .. }
            | Self::ServerDrains { .. } => Fate::Kept,
            Self::Slept { lost, without, .. } => match lost.is_some() || without.by_value.is_some() {
                true => Fate::Restored,
                false => Fate::Kept,
            },
            Self::TakenUp(Arrival { ended, without, .. }) => match ended.is_some() || without.by_value.is_some() {
                true => Fate::Restored,
                false => Fate::Kept,
            },
            Self::Forgotten { fate, .. } => *fate,
        }
    }

    /// What is there since, and the number of the checkpoint that had it.
    fn recovered(&self) -> Option<(Recovered, u64)> {
        match self {
            Self::Restored { recovered, copy, .. } | Self::WentBack { recovered, copy, .. } => {
                Some((*recovered, *copy))
            }
            Self::SleptByValue { by_value } => Some((Recovered { from: by_value.cell, lost: None }, 0)),
            Self::Slept { cell, lost, .. } if self.fate() == Fate::Restored => {
                Some((Recovered { from: *cell, lost: *lost }, 0))
            }
            Self::TakenUp(Arrival { cell, .. }) if self.fate() == Fate::Restored => {
                Some((Recovered { from: *cell, lost: None }, 0))
            }
            _ => None,
        }
    }

    /// A loss: checkpoints up to this number have what was lost.
    fn loss(&self) -> Option<u64> {
        match self {
            Self::Lost { newest, .. } | Self::Restarted { carried: None, newest } => Some(*newest),
            _ => (self.fate() == Fate::Lost).then_some(0),
        }
    }

    /// The client that ordered this knows what the session holds since, whatever was before.
    pub(super) fn makes_plain(&self) -> bool {
        matches!(self, Self::Restarted { carried: None, .. } | Self::WentBack { .. } | Self::BranchKept)
    }
}

/// What several events came to for a client that has been told of none of them, and the checkpoint that the session
/// stands on since, if it came back from one and has lost nothing after that.
#[must_use]
pub(crate) fn came_to(events: &[Event]) -> (Fate, Option<Recovered>) {
    let (mut fate, mut recovered, mut lost) = (Fate::Kept, None::<Recovered>, None::<u64>);
    for event in events {
        if let Some(newest) = event.what.loss() {
            lost = Some(lost.map_or(newest, |earlier| earlier.min(newest)));
            recovered = None;
        } else if let Some((what, copy)) = event.what.recovered() {
            lost = lost.filter(|newest| copy > *newest);
            // What an earlier one left behind has not come back by this one.
            let left = recovered.and_then(|earlier| earlier.lost).into_iter().chain(what.lost);
            let left = left.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
            recovered = Some(Recovered { lost: left, ..what });
        }
        fate = fate.or_worse(if event.what.fate() == Fate::Lost { Fate::Kept } else { event.what.fate() });
    }
    (if lost.is_some() { Fate::Lost } else { fate }, recovered)
}
