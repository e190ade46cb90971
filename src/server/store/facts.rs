//! What is known: who has a session, which numbers were seen, and which signs of life.
//!
//! Runs in: server. Data, and what tells this process from others.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::StoreError;
use crate::{
    server::owner::Owner,
    sys::{fault, processes},
};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(5);

/// Whose session it is, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Whose {
    pub(crate) owner: Owner,
    pub(crate) session: String,
}

/// A server: what it is called, and what tells it from the one of that name before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) instance: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// A server has it.
    Awake,
    /// No server has it: it lies in the store.
    Away,
    /// It has ended.
    Gone,
}

/// What a session was put away as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) object: String,
    pub(crate) bytes: u64,
    /// The last cell that had run.
    pub(crate) cell: u64,
    /// The server that put it away, and when by its clock (RFC 3339). For people: nothing is decided by it.
    pub(crate) server: String,
    pub(crate) at: String,
    pub(crate) description: String,
    /// Milliseconds since 1970: when it was made.
    pub(crate) created: i64,
    pub(crate) executed: u64,
}

/// What stands in the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) session: String,
    pub(crate) holder: Holder,
    pub(crate) state: State,
    /// The last that was put away; also while a server has the session, for the case that this server is killed.
    pub(crate) kept: Option<Kept>,
}

/// A lease with its number.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) number: u64,
    pub(crate) lease: Lease,
}

/// The highest numbers that this server has seen: a store that shows lower ones gives old data.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<HashMap<String, u64>>);

impl Numbers {
    pub(super) fn check(&self, folder: &str, shown: u64) -> Result<(), StoreError> {
        let mut all = self.0.lock();
        let known = all.entry(folder.to_owned()).or_insert(shown);
        if shown < *known {
            return Err(StoreError::Old { known: *known, shown });
        }
        *known = shown;
        Ok(())
    }
}

/// What is known of servers.
#[derive(Debug)]
pub(super) struct Beats {
    /// The name of this server's object.
    pub(super) own: String,
    /// When the last sign was written, by the clock that goes on while a machine sleeps; and how many there were.
    pub(super) last: Mutex<(Duration, u64)>,
    /// How often signs have come again after a silence that was long enough for doubt.
    pub(super) silences: AtomicU64,
    /// What the sign of a server was, and since when.
    pub(super) seen: Mutex<HashMap<String, (Option<String>, Instant)>>,
}

impl Beats {
    pub(super) fn new(me: &Holder) -> Self {
        Self { own: sign_of(&me.instance), last: Mutex::default(), silences: AtomicU64::new(0), seen: Mutex::default() }
    }
}

/// Seconds between two signs.
#[must_use]
pub(crate) fn beat() -> Duration {
    fault::beat(BEAT)
}

/// The name of a server's object.
pub(super) fn sign_of(instance: &str) -> String {
    format!("servers/{instance}")
}

/// What tells this process from all others. It stays when the process becomes another program.
pub(super) fn instance() -> String {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let of_machine = ["/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/hostname"].map(fs::read_to_string);
    let started = processes::look_up(pid).map_or(0, |process| process.started);
    let names = fs::metadata("/proc/self/ns/pid").map_or(0, |status| status.ino());
    let text = format!("{of_machine:?} {pid} {started} {names}");
    Sha256::digest(text).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
