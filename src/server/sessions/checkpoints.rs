//! Checkpoints of sessions: forks of their workers that stand still until they are asked for another worker.
//!
//! Runs in: server. `frozen.rs` is one such process and how to talk to it; here is the table of those that are kept, by
//! session and name, and its bounds. A checkpoint that nobody holds any more ends its process. Sessions make them and go on
//! from them in `session/rollback.rs`.

use crate::server::workers::checkpoint::LAST;

use crate::settings::policy::Bounds;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

pub use crate::server::workers::checkpoint::{Checkpoint, CheckpointError, Making};

/// Why a checkpoint is not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such name.
    #[error("session {session:?} has no checkpoint {name:?}; it has: {known}. checkpoint_session makes one")]
    Unknown {
        /// Whose.
        session: String,
        /// What was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// The name is taken.
    #[error("session {session:?} has a checkpoint {name:?} already; delete_checkpoint it, or choose another name")]
    Taken {
        /// Whose.
        session: String,
        /// The name.
        name: String,
    },
    /// A name that cannot be one.
    #[error(
        "checkpoint name {0:?} is not allowed: 1 to 64 letters (a-z, A-Z), digits, '_', '-' and '.', beginning with a letter \
         or digit; \"last\" is forkpy's own"
    )]
    BadName(String),
    /// Too many of the session.
    #[error("session {session:?} has {count} checkpoints, which is the limit (--max-checkpoints); delete one first")]
    Full {
        /// Whose.
        session: String,
        /// How many.
        count: usize,
    },
    /// Too many of all.
    #[error("there are {0} checkpoints, which is the limit (--max-checkpoints-total); delete one first")]
    AllFull(usize),
    /// Too much memory.
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

/// The table.
#[derive(Debug, Clone)]
pub struct Checkpoints(Arc<Inner>);

/// By session and name.
type Table = BTreeMap<(Arc<str>, Arc<str>), Arc<Checkpoint>>;

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    /// What was dropped for want of room, and what one that was used does not hold: a sentence each, until the session's
    /// next reply has said it.
    dropped: Mutex<BTreeMap<Arc<str>, Vec<String>>>,
    bounds: Bounds,
}

impl Checkpoints {
    /// An empty table.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Inner { table: Mutex::default(), dropped: Mutex::default(), bounds }))
    }

    /// Whether a checkpoint of this name may be made now. Automatic ones give way first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn admit(&self, session: &Arc<str>, name: &str) -> Result<(), StoreError> {
        self.clear_dead();
        let key = (Arc::clone(session), Arc::from(name));
        let table = self.0.table.lock();
        if table.contains_key(&key) {
            return Err(StoreError::Taken { session: session.to_string(), name: name.to_owned() });
        }
        let of_session = table.values().filter(|held| held.session == *session && !held.is_automatic()).count();
        if of_session >= self.0.bounds.per_session {
            return Err(StoreError::Full { session: session.to_string(), count: of_session });
        }
        let (all, named) = (table.len(), table.values().filter(|held| !held.is_automatic()).count());
        drop(table);
        if named >= self.0.bounds.all {
            return Err(StoreError::AllFull(all));
        }
        if all >= self.0.bounds.all {
            self.drop_oldest_automatic("there are too many checkpoints (--max-checkpoints-total)");
        }
        let held = self.memory();
        if held > self.0.bounds.memory && !self.drop_oldest_automatic("checkpoints hold too much memory") {
            return Err(StoreError::NoMemory { held, limit: self.0.bounds.memory });
        }
        Ok(())
    }

    /// Whether there is room for an automatic one: it may push out other automatic ones, and nothing else.
    #[must_use]
    pub fn admit_automatic(&self, session: &Arc<str>) -> bool {
        self.clear_dead();
        let table = self.0.table.lock();
        table.contains_key(&(Arc::clone(session), Arc::from(LAST))) || table.len() < self.0.bounds.all
    }

    /// Keeps it, in the place of an older automatic one of the same session if it is one itself.
    pub fn keep(&self, checkpoint: Arc<Checkpoint>) {
        let key = (Arc::clone(&checkpoint.session), Arc::clone(&checkpoint.name));
        let mut table = self.0.table.lock();
        let newer = table.get(&key).is_some_and(|held| held.number > checkpoint.number);
        let replaced = if newer || !checkpoint.is_valid() { Some(checkpoint) } else { table.insert(key, checkpoint) };
        drop(table);
        drop(replaced);
    }

    /// One by name.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn get(&self, session: &Arc<str>, name: &str) -> Result<Arc<Checkpoint>, StoreError> {
        self.clear_dead();
        let found = self.0.table.lock().get(&(Arc::clone(session), Arc::from(name))).cloned();
        found.ok_or_else(|| self.unknown(session, name))
    }

    /// The automatic one of a session.
    #[must_use]
    pub fn last(&self, session: &Arc<str>) -> Option<Arc<Checkpoint>> {
        self.get(session, LAST).ok()
    }

    /// Takes one out; its process ends with the last who uses it.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn delete(&self, session: &Arc<str>, name: &str) -> Result<Arc<Checkpoint>, StoreError> {
        let removed = self.0.table.lock().remove(&(Arc::clone(session), Arc::from(name)));
        removed.ok_or_else(|| self.unknown(session, name))
    }

    fn unknown(&self, session: &Arc<str>, name: &str) -> StoreError {
        let known: Vec<String> = self.of(Some(session)).iter().map(|held| format!("{:?}", held.name)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        StoreError::Unknown { session: session.to_string(), name: name.chars().take(80).collect(), known }
    }

    /// All of a session, or of all sessions, oldest first.
    #[must_use]
    pub fn of(&self, session: Option<&Arc<str>>) -> Vec<Arc<Checkpoint>> {
        self.clear_dead();
        let table = self.0.table.lock();
        let mut found: Vec<_> =
            table.values().filter(|held| session.is_none_or(|session| held.session == *session)).cloned().collect();
        found.sort_by_key(|held| held.number);
        found
    }

    /// The session is over, and so are its checkpoints.
    pub fn forget(&self, session: &Arc<str>) {
        let gone: Vec<_> = {
            let mut table = self.0.table.lock();
            let keys: Vec<_> = table.keys().filter(|key| key.0 == *session).cloned().collect();
            keys.iter().filter_map(|key| table.remove(key)).collect()
        };
        drop(gone);
        self.0.dropped.lock().remove(session);
    }

    /// Bytes that all of them held alone when that was last looked at.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.0.table.lock().values().map(|held| held.memory()).sum()
    }

    /// The same, of one session.
    #[must_use]
    pub fn memory_of(&self, session: &Arc<str>) -> u64 {
        self.0.table.lock().values().filter(|held| held.session == *session).map(|held| held.memory()).sum()
    }

    /// What was dropped of a session's and nobody has been told of.
    #[must_use]
    pub fn take_dropped(&self, session: &Arc<str>) -> Vec<String> {
        self.0.dropped.lock().remove(session).unwrap_or_default()
    }

    /// Keeps a sentence about a checkpoint for the session's next reply.
    pub fn remark(&self, session: &Arc<str>, words: String) {
        self.0.dropped.lock().entry(Arc::clone(session)).or_default().push(words);
    }

    /// The bounds.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.0.bounds
    }

    /// A name for one that was given none.
    #[must_use]
    pub fn made_up(&self, session: &Arc<str>, cell: u64) -> String {
        let table = self.0.table.lock();
        let free = |name: &String| !table.contains_key(&(Arc::clone(session), Arc::from(name.as_str())));
        let plain = format!("cell-{cell}");
        if free(&plain) {
            return plain;
        }
        (2..).map(|count| format!("cell-{cell}-{count}")).find(free).unwrap_or(plain)
    }

    /// Brings the table within its bounds of memory: the oldest automatic ones go first, then the oldest.
    pub(in crate::server) fn relieve(&self) {
        const WHY: &str = "checkpoints held more memory than --checkpoint-memory allows";
        while self.memory() > self.0.bounds.memory {
            if !self.drop_oldest_automatic(WHY) && !self.drop_oldest(|_| true, WHY) {
                return;
            }
        }
        for session in self.crowded() {
            while self.memory_of(&session) > self.0.bounds.memory / 2
                && self.drop_oldest(
                    |held| held.session == session,
                    "the session's checkpoints held more than half of \
                    the memory of --checkpoint-memory",
                )
            {}
        }
    }

    fn crowded(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.0.table.lock().keys().map(|key| Arc::clone(&key.0)).collect();
        names.dedup();
        names.retain(|name| self.memory_of(name) > self.0.bounds.memory / 2);
        names
    }

    fn drop_oldest_automatic(&self, why: &str) -> bool {
        self.drop_oldest(Checkpoint::is_automatic, why)
    }

    fn drop_oldest(&self, which: impl Fn(&Checkpoint) -> bool, why: &str) -> bool {
        let dropped = {
            let mut table = self.0.table.lock();
            let oldest = table.values().filter(|held| which(held)).min_by_key(|held| held.number).cloned();
            oldest.inspect(|held| drop(table.remove(&(Arc::clone(&held.session), Arc::clone(&held.name)))))
        };
        let Some(dropped) = dropped else { return false };
        let words = format!("Checkpoint {:?} (after cell {}) was dropped: {why}.", dropped.name, dropped.cell);
        tracing::warn!(session = %dropped.session, "{words}");
        self.0.dropped.lock().entry(Arc::clone(&dropped.session)).or_default().push(words);
        true
    }

    /// Those whose process has ended, by the system's hand or somebody's, are none any more.
    fn clear_dead(&self) {
        let dead: Vec<_> = {
            let mut table = self.0.table.lock();
            let keys: Vec<_> = table.iter().filter(|(_, held)| !held.is_alive()).map(|(key, _)| key.clone()).collect();
            keys.iter().filter_map(|key| table.remove(key)).collect()
        };
        for held in dead {
            let words = format!("Checkpoint {:?} (after cell {}) is lost: its process ended.", held.name, held.cell);
            tracing::warn!(session = %held.session, "{words}");
            self.0.dropped.lock().entry(Arc::clone(&held.session)).or_default().push(words);
        }
    }
}

/// Whether clients may give a checkpoint this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name != LAST && super::registry::is_name(name)
}
