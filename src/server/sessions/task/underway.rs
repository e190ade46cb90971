//! A cell under way: what has to be known of it when it ends.
//!
//! Runs in: server, in the session's task. Pure data.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::server::{
    sessions::{checkpoints::Checkpoint, orders::CellOrder},
    workspace::watch::{Mark, NewFiles},
};

/// A cell under way, but for what it has written.
pub(super) struct Underway {
    pub(super) cell: u64,
    pub(super) order: CellOrder,
    pub(super) since: Instant,
    /// How long it had waited for its turn.
    pub(super) queued: Duration,
    /// The newest event of the session when it began.
    pub(super) before: u64,
    /// What had come between the cell before and this one.
    pub(super) background: Vec<u8>,
    pub(super) mark: Mark,
    /// Files that appeared before the server became this program.
    pub(super) found: NewFiles,
    /// The state to go back to when it fails, if it is to.
    pub(super) anchor: Option<Arc<Checkpoint>>,
    /// What comes of it is kept for calls that ask later.
    pub(super) is_kept: bool,
}

impl Underway {
    /// When its time is over.
    pub(super) fn deadline(&self) -> Option<tokio::time::Instant> {
        self.order.timeout.map(|limit| (self.since + limit).into())
    }
}
