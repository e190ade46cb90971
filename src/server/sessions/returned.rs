//! What the task of a session hands over, and goes on with, when the server becomes another program.
//!
//! Runs in: server, before the exec and after it. Pure data; the session around it is `packed.rs`.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    active::Client,
    death::Death,
    images::{
        base::Base,
        packed::{Kept, PackedImage},
    },
};
pub(super) use crate::sys::age::before;
use crate::{
    server::{
        output::capture::PackedCapture,
        workers::{checkpoint::PackedCheckpoint, link::Worker, packed::PackedWorker},
        workspace::watch::NewFiles,
    },
    sys::{groups::Group, image::BaseId},
};

/// What the session's task holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PackedTask {
    pub(super) worker: Option<PackedWorker>,
    pub(super) last_cell: u64,
    pub(super) tip: u64,
    pub(super) base: Option<(u64, u64)>,
    pub(super) loaded: Option<u64>,
    pub(super) begun: bool,
    pub(super) holds: bool,
    pub(super) unsettled: Option<Death>,
    pub(super) background: Vec<u8>,
    /// Clients have been told that there is no copy.
    pub(super) told: bool,
    /// Where it sleeps.
    pub(super) asleep: Option<PackedImage>,
    /// It is awake, and has an image of how it was when it was at rest.
    pub(super) at_rest: Option<PackedImage>,
    /// What its image has in common with others.
    pub(super) common: Option<BaseId>,
    /// The cell that runs.
    pub(super) cell: Option<Box<PackedUnderway>>,
    /// Cells that wait.
    pub(super) waiting: Vec<PackedOrder>,
}

/// A cell that waits.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedOrder {
    pub(super) number: u64,
    pub(super) code: String,
    pub(super) client: Client,
    pub(super) timeout: Option<Duration>,
    /// How long ago it was asked for.
    pub(super) asked: Duration,
    pub(super) rolls_back: bool,
    pub(super) max_output: Option<usize>,
    pub(super) counts: bool,
}

/// A cell that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedUnderway {
    pub(super) order: PackedOrder,
    pub(super) ran: Duration,
    pub(super) queued: Duration,
    pub(super) before: u64,
    pub(super) background: Vec<u8>,
    pub(super) found: NewFiles,
    pub(super) anchor: Option<PackedCheckpoint>,
    /// What it has written.
    pub(super) streams: [PackedCapture; 2],
    /// Processor time that its session had used before it.
    pub(super) used: Option<Duration>,
    /// What calls have been shown of its streams.
    pub(super) shown: [u64; 2],
}

/// What a session's task goes on with.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(super) worker: Option<Worker>,
    pub(super) asleep: Option<Kept>,
    pub(super) at_rest: Option<Kept>,
    pub(super) common: Option<Arc<Base>>,
    pub(super) group: Option<Arc<Group>>,
    pub(super) task: PackedTask,
}

/// A time in RFC 3339.
pub(super) fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| Timestamp::now())
}
