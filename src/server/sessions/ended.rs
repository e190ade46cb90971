//! What came of a cell, for all who keep it: callers that come later, and the history.
//!
//! Runs in: server. Pure data, shared.

use std::time::Instant;

use jiff::Timestamp;

use super::outcome::CellOutcome;

/// When something ended, and how much memory its reply takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(super) at: Instant,
    pub(super) when: Timestamp,
    pub(super) size: usize,
}

/// What came of a cell.
#[derive(Debug)]
pub(crate) struct Ended {
    /// All of it.
    pub(crate) outcome: CellOutcome,
    /// Who is given this has been told of all events of the session up to that number.
    pub(crate) told: u64,
    pub(super) done: Done,
}

impl Done {
    pub(super) fn now(size: usize) -> Self {
        Self { at: Instant::now(), when: Timestamp::now(), size }
    }
}

impl Ended {
    pub(super) fn now(outcome: CellOutcome, told: u64) -> Self {
        let size = outcome.size();
        Self { outcome, told, done: Done::now(size) }
    }
}
