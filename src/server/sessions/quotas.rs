//! What owners may take, and what they have taken: sessions, cells at a time, seconds of cells a day, memory and disk.
//!
//! Runs in: server. Owns the count of cells and seconds; sessions are counted where they are (`registry/making.rs`), memory and disk where
//! they are seen (`watch/owners.rs`). Who may take what is
//! said in `--tokens` (`settings/tokens.rs`) and may change at any time; owners without a word there have no quota.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    server::owner::Owner,
    settings::tokens::{Rights, Tokens},
};

const DAY: i64 = 86_400;

/// Why an owner gets no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuotaError {
    #[error("it has {limit} sessions, which is its quota (sessions); delete one first")]
    Sessions { limit: usize },
    #[error("{now} of its cells run or wait, and its quota is {limit} (cells); try again when one has ended")]
    Cells { limit: usize, now: usize },
    #[error(
        "its sessions hold {} MiB of memory, and its quota is {} MiB (memory-mb); delete_session or restart_kernel makes room",
        used >> 20, limit >> 20
    )]
    Memory { limit: u64, used: u64 },
    #[error(
        "its workspace holds {} MiB, and its quota is {} MiB (disk-mb); delete_file makes room", used >> 20, limit >> 20
    )]
    Disk { limit: u64, used: u64 },
    #[error(
        "its cells have run {used:.1} s today, and its quota is {limit} s a day (cell-seconds-a-day); try again after {ends}"
    )]
    Seconds { limit: f64, used: f64, ends: Timestamp },
}

/// What one owner takes.
#[derive(Debug, Default)]
struct Used {
    cells: usize,
    /// Days since 1970, in UTC.
    day: i64,
    seconds: f64,
}

/// What one owner was seen to hold, a moment ago.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    pub memory: u64,
    pub disk: u64,
}

#[derive(Debug)]
pub(crate) struct Quotas {
    tokens: Option<Arc<Tokens>>,
    used: Mutex<BTreeMap<Owner, Used>>,
    held: Mutex<BTreeMap<Owner, Held>>,
}

/// A cell that counts, from when it was accepted to its end.
#[derive(Debug)]
pub(crate) struct Share {
    quotas: Arc<Quotas>,
    owner: Owner,
}

impl Quotas {
    #[must_use]
    pub(crate) fn new(tokens: Option<Arc<Tokens>>) -> Arc<Self> {
        Arc::new(Self { tokens, used: Mutex::default(), held: Mutex::default() })
    }

    /// Seconds that owners have used, and on which day.
    pub(in crate::server) fn pack(&self) -> Vec<((u8, String), i64, f64)> {
        let all = self.used.lock();
        all.iter().map(|(owner, used)| (owner.pack(), used.day, used.seconds)).collect()
    }

    /// Goes on counting.
    pub(in crate::server) fn go_on(&self, packed: Vec<((u8, String), i64, f64)>) {
        let mut all = self.used.lock();
        all.extend(
            packed.into_iter().map(|(owner, day, seconds)| (Owner::unpack(owner), Used { cells: 0, day, seconds })),
        );
    }

    /// What an owner may take.
    #[must_use]
    pub(crate) fn rights(&self, owner: &Owner) -> Rights {
        match (owner, &self.tokens) {
            (Owner::Named(name), Some(tokens)) => tokens.rights_of(name),
            (Owner::Subject(_), Some(tokens)) => tokens.rights_of_subjects(),
            _ => Rights::default(),
        }
    }

    /// What owners hold now.
    pub(in crate::server) fn hold(&self, held: BTreeMap<Owner, Held>) {
        *self.held.lock() = held;
    }

    /// Whether memory or disk of any owner has a quota.
    pub(in crate::server) fn limit_room(&self) -> bool {
        self.tokens.as_deref().is_some_and(Tokens::limit_room)
    }

    /// Whether an owner may write more to its workspace.
    ///
    /// # Errors
    /// [`QuotaError::Disk`] when not.
    pub(crate) fn may_write(&self, owner: &Owner) -> Result<(), QuotaError> {
        self.has_room(owner, &self.rights(owner), false)
    }

    fn has_room(&self, owner: &Owner, rights: &Rights, memory_matters: bool) -> Result<(), QuotaError> {
        let Held { memory, disk } = self.held.lock().get(owner).copied().unwrap_or_default();
        match (
            rights.memory.filter(|limit| memory_matters && memory > *limit),
            rights.disk.filter(|limit| disk > *limit),
        ) {
            (Some(limit), _) => Err(QuotaError::Memory { limit, used: memory }),
            (None, Some(limit)) => Err(QuotaError::Disk { limit, used: disk }),
            (None, None) => Ok(()),
        }
    }

    /// Whether an owner that has so many sessions may have one more.
    ///
    /// # Errors
    /// [`QuotaError`] when not.
    pub(crate) fn one_more(&self, owner: &Owner, sessions: usize) -> Result<(), QuotaError> {
        let rights = self.rights(owner);
        match rights.sessions {
            Some(limit) if sessions >= limit => Err(QuotaError::Sessions { limit }),
            _ => self.has_room(owner, &rights, true),
        }
    }

    /// A place for a cell. None for owners that have no quota.
    ///
    /// # Errors
    /// [`QuotaError`] when there is none.
    pub(crate) fn admit(self: &Arc<Self>, owner: &Owner) -> Result<Option<Share>, QuotaError> {
        if self.tokens.is_none() || !matches!(owner, Owner::Named(_) | Owner::Subject(_)) {
            return Ok(None);
        }
        let rights = self.rights(owner);
        self.has_room(owner, &rights, true)?;
        let mut all = self.used.lock();
        let used = all.entry(owner.clone()).or_default();
        let today = used.turn(Timestamp::now());
        if let Some(limit) = rights.cells.filter(|limit| used.cells >= *limit) {
            return Err(QuotaError::Cells { limit, now: used.cells });
        }
        if let Some(limit) = rights.seconds.filter(|limit| used.seconds >= *limit) {
            let ends = Timestamp::from_second((today + 1) * DAY).unwrap_or(Timestamp::MAX);
            return Err(QuotaError::Seconds { limit, used: used.seconds, ends });
        }
        used.cells += 1;
        drop(all);
        Ok(Some(Share { quotas: Arc::clone(self), owner: owner.clone() }))
    }
}

impl Used {
    /// Another day begins with nothing.
    fn turn(&mut self, now: Timestamp) -> i64 {
        let today = now.as_second().div_euclid(DAY);
        if self.day != today {
            (self.day, self.seconds) = (today, 0.0);
        }
        today
    }
}

impl Share {
    /// The cell has run so long, and counts no more.
    pub(crate) fn ran(self, time: Duration) {
        if let Some(used) = self.quotas.used.lock().get_mut(&self.owner) {
            used.turn(Timestamp::now());
            used.seconds += time.as_secs_f64();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(used) = self.quotas.used.lock().get_mut(&self.owner) {
            used.cells = used.cells.saturating_sub(1);
        }
    }
}
