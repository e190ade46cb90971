//! Checkpoints of sessions: forks of their workers that stand still until they are asked for another worker.
//!
//! Runs in: server. `workers/checkpoint` is one such process and how to talk to it; here is the table of those that are kept, by
//! session and name, and its bounds. A checkpoint without a holder ends its process. Sessions make them and go on
//! from them in `task/rollback.rs`.

use crate::server::workers::checkpoint::LAST;

use crate::settings::policy::Bounds;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    happened::{Gone, What},
    life::Life,
};
use crate::server::owner::Owner;
pub(crate) use crate::server::workers::checkpoint::{Checkpoint, CheckpointError, Making, newest};

/// Why a checkpoint is not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("session {session:?} has no checkpoint {name:?}; it has: {known}. checkpoint_session makes one")]
    Unknown {
        session: String,
        /// What was asked for.
        name: String,
        known: String,
    },
    /// The name is taken.
    #[error("session {session:?} has a checkpoint {name:?} already; delete_checkpoint it, or choose another name")]
    Taken { session: String, name: String },
    /// A name that cannot be one.
    #[error(
        "checkpoint name {0:?} is not allowed: 1 to 64 letters (a-z, A-Z), digits, '_', '-' and '.', beginning with a letter \
         or digit; \"last\" is forkpy's own"
    )]
    BadName(String),
    /// Too many of the session.
    #[error("session {session:?} has {count} checkpoints, which is the limit (--max-checkpoints); delete one first")]
    Full { session: String, count: usize },
    /// Too many of all.
    #[error("there are {0} checkpoints, which is the limit (--max-checkpoints-total); delete one first")]
    AllFull(usize),
    #[error(
        "the checkpoints hold {} MiB that are no session's any more, and their limit is {} MiB (--checkpoint-memory); delete \
         one first",
        held >> 20,
        limit >> 20
    )]
    NoMemory {
        /// Bytes.
        held: u64,
        /// Bytes.
        limit: u64,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Checkpoints(Arc<Inner>);

/// By number of the session's life, and name.
type Table = BTreeMap<(u64, Arc<str>), Held>;

/// One that is kept, and the session that hears of its loss.
#[derive(Debug, Clone)]
struct Held {
    life: Life,
    checkpoint: Arc<Checkpoint>,
}

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    bounds: Bounds,
}

impl Checkpoints {
    #[must_use]
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Inner { table: Mutex::default(), bounds }))
    }

    /// Whether a checkpoint of this name may be made now. Automatic ones give way first.
    pub(crate) fn admit(&self, life: &Life, name: &str) -> Result<(), StoreError> {
        self.clear_dead();
        let table = self.0.table.lock();
        if table.contains_key(&key(life, name)) {
            return Err(StoreError::Taken { session: life.session().to_string(), name: name.to_owned() });
        }
        let of_session = of(&table, life).filter(|held| !held.is_automatic()).count();
        if of_session >= self.0.bounds.per_session {
            return Err(StoreError::Full { session: life.session().to_string(), count: of_session });
        }
        let (all, named) = (table.len(), table.values().filter(|held| !held.is_automatic()).count());
        drop(table);
        if named >= self.0.bounds.all {
            return Err(StoreError::AllFull(all));
        }
        if all >= self.0.bounds.all {
            self.drop_oldest_automatic(Gone::TooMany);
        }
        let held = self.memory();
        if held > self.0.bounds.memory && !self.drop_oldest_automatic(Gone::Memory) {
            return Err(StoreError::NoMemory { held, limit: self.0.bounds.memory });
        }
        Ok(())
    }

    /// Whether there is room for an automatic one: it may push out other automatic ones, and nothing else.
    #[must_use]
    pub(crate) fn admit_automatic(&self, life: &Life) -> bool {
        self.clear_dead();
        let table = self.0.table.lock();
        let has_room = table.contains_key(&key(life, LAST)) || table.len() < self.0.bounds.all;
        drop(table);
        has_room || self.drop_oldest_automatic(Gone::TooMany)
    }

    /// Keeps it, in the place of an older automatic one of the same session if it is one itself; unless the session is
    /// over, or has left that state.
    pub(crate) fn keep(&self, life: &Life, checkpoint: Arc<Checkpoint>) {
        self.keep_after(life, checkpoint, &AtomicU64::new(0));
    }

    /// The same, unless it is of a past that its session has left behind meanwhile: that of copies up to this number.
    pub(crate) fn keep_after(&self, life: &Life, checkpoint: Arc<Checkpoint>, left_behind: &AtomicU64) {
        let key = key(life, &checkpoint.name);
        let mut table = self.0.table.lock();
        let newer = table.get(&key).is_some_and(|held| held.number > checkpoint.number);
        let past = checkpoint.number <= left_behind.load(Ordering::Relaxed);
        let useless = newer || past || !checkpoint.is_valid();
        let held = Held { life: life.clone(), checkpoint };
        let replaced = if useless { Some(held) } else { table.insert(key, held) };
        drop(table);
        drop(replaced);
    }

    pub(crate) fn get(&self, life: &Life, name: &str) -> Result<Arc<Checkpoint>, StoreError> {
        self.clear_dead();
        let found = self.0.table.lock().get(&key(life, name)).map(Held::share);
        found.ok_or_else(|| self.unknown(life, name))
    }

    /// The automatic one of a session.
    #[must_use]
    pub(crate) fn last(&self, life: &Life) -> Option<Arc<Checkpoint>> {
        self.get(life, LAST).ok()
    }

    /// Takes one out; its process ends with the last who uses it.
    pub(crate) fn delete(&self, life: &Life, name: &str) -> Result<Arc<Checkpoint>, StoreError> {
        let removed = self.0.table.lock().remove(&key(life, name)).map(|held| held.checkpoint);
        removed.ok_or_else(|| self.unknown(life, name))
    }

    fn unknown(&self, life: &Life, name: &str) -> StoreError {
        let known: Vec<String> = self.of(life).iter().map(|held| format!("{:?}", held.name)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        StoreError::Unknown { session: life.session().to_string(), name: name.chars().take(80).collect(), known }
    }

    /// All of a session, oldest first.
    #[must_use]
    pub(crate) fn of(&self, life: &Life) -> Vec<Arc<Checkpoint>> {
        self.sorted(|held| held.life.number() == life.number())
    }

    /// All of an owner's sessions, oldest first.
    #[must_use]
    pub(crate) fn of_owner(&self, owner: &Owner) -> Vec<Arc<Checkpoint>> {
        self.sorted(|held| held.life.owner() == owner)
    }

    /// All there are, oldest first.
    #[must_use]
    pub(in crate::server) fn all(&self) -> Vec<Arc<Checkpoint>> {
        self.sorted(|_| true)
    }

    fn sorted(&self, which: impl Fn(&Held) -> bool) -> Vec<Arc<Checkpoint>> {
        self.clear_dead();
        let table = self.0.table.lock();
        let mut found: Vec<_> = table.values().filter(|held| which(held)).map(Held::share).collect();
        found.sort_by_key(|held| held.number);
        found
    }

    /// The session is over ([`Life::end`]), and so are its checkpoints: those that are kept, and those on their way.
    pub(crate) fn forget(&self, life: &Life) {
        debug_assert!(life.is_over(), "else one may still be kept");
        let gone: Vec<_> = {
            let mut table = self.0.table.lock();
            let keys: Vec<_> = table.keys().filter(|key| key.0 == life.number()).cloned().collect();
            keys.iter().filter_map(|key| table.remove(key)).collect()
        };
        drop(gone);
    }

    /// Bytes that all of them held alone when that was last looked at.
    #[must_use]
    pub(crate) fn memory(&self) -> u64 {
        self.0.table.lock().values().map(|held| held.memory()).sum()
    }

    /// The same, of one session.
    #[must_use]
    pub(crate) fn memory_of(&self, life: &Life) -> u64 {
        of(&self.0.table.lock(), life).map(|held| held.memory()).sum()
    }

    #[must_use]
    pub(crate) fn bounds(&self) -> Bounds {
        self.0.bounds
    }

    /// A name for one that was given none.
    #[must_use]
    pub(crate) fn made_up(&self, life: &Life, cell: u64) -> String {
        let table = self.0.table.lock();
        let free = |name: &String| !table.contains_key(&key(life, name));
        let plain = format!("cell-{cell}");
        if free(&plain) {
            return plain;
        }
        (2..).map(|count| format!("cell-{cell}-{count}")).find(free).unwrap_or(plain)
    }

    /// Brings the table within its bounds of memory: the oldest automatic ones go first, then the oldest.
    pub(in crate::server) fn relieve(&self) {
        while self.memory() > self.0.bounds.memory {
            if !self.drop_oldest_automatic(Gone::Memory) && !self.drop_oldest(|_| true, Gone::Memory) {
                return;
            }
        }
        for life in self.crowded() {
            while self.memory_of(&life) > self.0.bounds.memory / 2
                && self.drop_oldest(|held| held.life.number() == life.number(), Gone::SessionMemory)
            {}
        }
    }

    fn crowded(&self) -> Vec<Life> {
        let mut lives: Vec<_> = self.0.table.lock().values().map(|held| held.life.clone()).collect();
        lives.dedup_by_key(|life| life.number());
        lives.retain(|life| self.memory_of(life) > self.0.bounds.memory / 2);
        lives
    }

    /// The system is short of memory: copies that no call asked for go at once.
    pub(in crate::server) fn drop_automatic(&self) {
        while self.drop_oldest_automatic(Gone::Memory) {}
    }

    fn drop_oldest_automatic(&self, why: Gone) -> bool {
        self.drop_oldest(|held| held.is_automatic(), why)
    }

    fn drop_oldest(&self, which: impl Fn(&Held) -> bool, why: Gone) -> bool {
        let dropped = {
            let mut table = self.0.table.lock();
            let oldest = table.values().filter(|held| which(held)).min_by_key(|held| held.number).cloned();
            oldest.inspect(|held| drop(table.remove(&key(&held.life, &held.name))))
        };
        let Some(dropped) = dropped else { return false };
        tell_gone(&dropped, why);
        true
    }

    /// A restart of the server goes on without it.
    pub(super) fn leave_behind(&self, life: &Life, checkpoint: &Arc<Checkpoint>) {
        let removed = self.0.table.lock().remove(&key(life, &checkpoint.name));
        if let Some(held) = removed.filter(|held| held.is_valid()) {
            tell_gone(&held, if held.is_alive() { Gone::LeftBehind } else { Gone::Died });
        }
    }

    /// Those whose process has ended, by the system or by a signal, are none any more.
    fn clear_dead(&self) {
        let dead: Vec<_> = {
            let mut table = self.0.table.lock();
            let keys: Vec<_> = table.iter().filter(|(_, held)| !held.is_alive()).map(|(key, _)| key.clone()).collect();
            keys.iter().filter_map(|key| table.remove(key)).collect()
        };
        dead.iter().for_each(|held| tell_gone(held, Gone::Died));
    }
}

impl Held {
    fn share(&self) -> Arc<Checkpoint> {
        Arc::clone(&self.checkpoint)
    }
}

impl std::ops::Deref for Held {
    type Target = Checkpoint;

    fn deref(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

fn key(life: &Life, name: &str) -> (u64, Arc<str>) {
    (life.number(), Arc::from(name))
}

fn of<'a>(table: &'a Table, life: &Life) -> impl Iterator<Item = &'a Held> {
    let number = life.number();
    table.values().filter(move |held| held.life.number() == number)
}

/// No call ordered it, so the clients of its session are to learn it.
fn tell_gone(held: &Held, why: Gone) {
    let (life, Checkpoint { name, cell, .. }) = (&held.life, &*held.checkpoint);
    if held.quiet {
        tracing::debug!(session = %life.session(), cell, ?why, "an automatic copy is gone");
        return;
    }
    tracing::warn!(session = %life.session(), checkpoint = %name, cell, ?why, "a checkpoint is gone");
    life.happened(What::CheckpointGone { checkpoint: Arc::clone(name), cell: *cell, why }, None);
}

/// Whether clients may give a checkpoint this name.
#[must_use]
pub(crate) fn is_name(name: &str) -> bool {
    name != LAST && super::names::is_name(name)
}
