//! Checkpoints on their way to the program that this server process becomes (`forkpy restart`).
//!
//! Runs in: server, before the exec and after it. The process notices nothing.

use std::{
    io,
    os::{fd::RawFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{
    link::{Link, State},
    standing::{Checkpoint, NUMBERS, watched},
};
use crate::{
    protocol::{MAX_ZYGOTE, Missed, asynchronous::framed},
    server::workers::{children::Children, incarnation::Incarnation, twin::Twin},
    sys::parcel::{self, Parcel},
};

/// A restart waits this long for the answer of one.
const ANSWERS: Duration = Duration::from_secs(5);

/// A checkpoint on its way to the program that this server process becomes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedCheckpoint {
    number: u64,
    quiet: bool,
    name: String,
    cell: u64,
    /// When it was made (RFC 3339).
    made: String,
    age: Duration,
    pid: i32,
    missing: Vec<Missed>,
    link: RawFd,
    /// What it had to say of itself, if it has.
    frozen: Option<(Vec<String>, Vec<String>)>,
    memory: u64,
}

impl Checkpoint {
    /// Takes it along, once it has answered what it is being asked (it looks at what it lacks, wakes a twin). Nothing when it is
    /// of no use any more, or does not answer.
    pub(crate) async fn pack(&self, parcel: &mut Parcel) -> Option<PackedCheckpoint> {
        let link = tokio::time::timeout(ANSWERS, self.link.lock()).await.ok()?;
        let frozen = match &link.state {
            State::Settling => None,
            State::Frozen { hazards, binding } => Some((hazards.clone(), binding.clone())),
            State::Broken(_) => return None,
        };
        if !self.is_alive() || !self.is_valid() || self.room.is_some() || link.reader.is_in_a_message() {
            return None;
        }
        self.twin.end();
        Some(PackedCheckpoint {
            number: self.number,
            quiet: self.quiet,
            name: self.name.to_string(),
            cell: self.cell,
            made: self.made.to_string(),
            age: self.made_at.elapsed(),
            pid: self.pid,
            missing: self.missing.clone(),
            link: parcel.add(link.writer.descriptor()).ok()?,
            frozen,
            memory: self.memory(),
        })
    }

    /// Goes on with it.
    ///
    /// # Safety
    /// The number of its socket must come from a parcel, and be used once.
    pub(crate) unsafe fn unpack(
        packed: PackedCheckpoint,
        of: &Incarnation,
        children: &Children,
    ) -> io::Result<Arc<Self>> {
        // SAFETY: as the caller says.
        let link = UnixStream::from(unsafe { parcel::take(packed.link) }?);
        NUMBERS.fetch_max(packed.number + 1, Ordering::Relaxed);
        let (killer, alive) = watched(packed.pid, children)?;
        let (reader, writer) = framed(link, MAX_ZYGOTE, MAX_ZYGOTE)?;
        let state = match packed.frozen {
            Some((hazards, binding)) => State::Frozen { hazards, binding },
            None => State::Settling,
        };
        Ok(Arc::new(Self {
            number: packed.number,
            name: Arc::from(packed.name),
            of: of.clone(),
            cell: packed.cell,
            room: None,
            quiet: packed.quiet,
            made: packed.made.parse().unwrap_or_else(|_| Timestamp::now()),
            made_at: Instant::now().checked_sub(packed.age).unwrap_or_else(Instant::now),
            pid: packed.pid,
            missing: packed.missing,
            children: children.clone(),
            link: Mutex::new(Link { reader, writer, state }),
            killer,
            alive,
            memory: AtomicU64::new(packed.memory),
            revoked: AtomicBool::new(false),
            twin: Twin::default(),
        }))
    }
}
