//! All sessions by name. `default` is made at the start and stays.
//!
//! Runs in: server. Owns the table and the rules for names; a session itself is `session.rs`. The lock is held for
//! look-ups only, never across an await, and no cell waits for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::RwLock;

use super::checkpoints::{Checkpoint, CheckpointError};
use crate::{
    server::{
        health::HealthPolicy,
        sessions::task::{Session, Surroundings},
        workers::link::Worker,
    },
    settings::{limits::Limits, policy::Automatic},
};

/// The session that always exists.
pub const DEFAULT: &str = "default";
/// Longest name.
pub const MAX_NAME: usize = 64;
/// Sessions of which it is remembered why they are gone.
const MAX_CLEANED: usize = 1000;

/// Why the table cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No such session.
    #[error("session {id:?} does not exist; there are: {known}. create_session makes a new one")]
    Unknown {
        /// The name asked for, cut when long.
        id: String,
        /// Those that exist.
        known: String,
    },
    /// It was there and is not any more.
    #[error(
        "session {id:?} {how}; its variables are gone. create_session makes a new one of that name; there are: {known}"
    )]
    CleanedUp {
        /// Its name.
        id: String,
        /// What became of it.
        how: String,
        /// Those that exist.
        known: String,
    },
    /// A name that cannot be one.
    #[error(
        "session id {0:?} is not allowed: 1 to {MAX_NAME} letters (a-z, A-Z), digits, '_', '-' and '.', beginning with a \
         letter or digit"
    )]
    BadName(String),
    /// The limit is reached.
    #[error("{0} sessions exist, which is the limit (--max-sessions); delete one first")]
    Full(usize),
    /// A copy must have a name of its own.
    #[error("session {0:?} exists already; choose another name, or delete_session it first")]
    Taken(String),
    /// A checkpoint that wakes nobody.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The one that stays.
    #[error("session \"default\" always exists and cannot be deleted; restart_kernel gives it a fresh interpreter")]
    DefaultStays,
}

/// A session to make as a copy of another.
#[derive(Debug)]
pub struct Fork<'a> {
    /// Its name.
    pub id: &'a str,
    /// What it is for.
    pub description: String,
    /// Whose copy it is; it has its limits and its policy.
    pub source: &'a Session,
    /// What it begins as.
    pub from: &'a Arc<Checkpoint>,
}

/// The table.
#[derive(Debug)]
pub struct Registry {
    /// Copies of sessions that run for one call (`tools/branches.rs`). Nobody else finds them.
    branches: RwLock<BTreeMap<Arc<str>, Session>>,
    sessions: RwLock<BTreeMap<Arc<str>, Session>>,
    /// Sessions that were cleaned up, with what became of them, oldest first.
    cleaned: RwLock<VecDeque<(Arc<str>, String)>>,
    around: Arc<Surroundings>,
}

impl Registry {
    /// A table with the default session, whose worker is being made.
    #[must_use]
    pub fn new(around: Arc<Surroundings>) -> Self {
        let limits = around.settings.limits;
        let first = Session::start(DEFAULT, String::new(), around.health, limits, Arc::clone(&around));
        let sessions = RwLock::new(BTreeMap::from([(Arc::clone(&first.id), first)]));
        Self { branches: RwLock::default(), sessions, cleaned: RwLock::default(), around }
    }

    /// Most sessions at a time.
    #[must_use]
    pub fn max_sessions(&self) -> usize {
        self.around.settings.max_sessions
    }

    /// A session by name.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::CleanedUp`].
    pub fn get(&self, id: &str) -> Result<Session, RegistryError> {
        let sessions = self.sessions.read();
        sessions.get(id).cloned().ok_or_else(|| {
            let known = list(&sessions);
            match self.cleaned.read().iter().find(|(name, _)| **name == *id) {
                Some((_, how)) => RegistryError::CleanedUp { id: id.to_owned(), how: how.clone(), known },
                None => RegistryError::Unknown { id: shorten(id), known },
            }
        })
    }

    /// Takes a session out of the table, which is no end of it yet; later calls are told `how` it ended. False when it
    /// is not there.
    #[must_use]
    pub fn forget(&self, id: &Arc<str>, how: String) -> bool {
        let was_there = self.sessions.write().remove(id).is_some();
        if was_there {
            self.around.checkpoints.forget(id);
            let mut cleaned = self.cleaned.write();
            cleaned.retain(|(name, _)| name != id);
            cleaned.push_back((Arc::clone(id), how));
            if cleaned.len() > MAX_CLEANED {
                cleaned.pop_front();
            }
            self.around.changes.list_changed();
        }
        was_there
    }

    /// Makes a session, or finds the one of that name (false). Without a name it gets one.
    ///
    /// # Errors
    /// [`RegistryError::BadName`], [`RegistryError::Full`].
    pub fn create(
        &self,
        id: Option<String>,
        description: String,
        policy: HealthPolicy,
        limits: Limits,
    ) -> Result<(Session, bool), RegistryError> {
        let id = id.unwrap_or_else(made_up);
        if !is_name(&id) {
            return Err(RegistryError::BadName(shorten(&id)));
        }
        let mut sessions = self.sessions.write();
        if let Some(session) = sessions.get(id.as_str()) {
            return Ok((session.clone(), false));
        }
        if sessions.len() >= self.max_sessions() {
            return Err(RegistryError::Full(sessions.len()));
        }
        let session = Session::start(&id, description, policy, limits, Arc::clone(&self.around));
        self.cleaned.write().retain(|(name, _)| **name != *id);
        sessions.insert(Arc::clone(&session.id), session.clone());
        self.around.changes.list_changed();
        Ok((session, true))
    }

    /// Whether a session of this name may be made now.
    ///
    /// # Errors
    /// [`RegistryError::BadName`], [`RegistryError::Taken`], [`RegistryError::Full`].
    pub fn may_create(&self, id: &str) -> Result<(), RegistryError> {
        if !is_name(id) {
            return Err(RegistryError::BadName(shorten(id)));
        }
        let sessions = self.sessions.read();
        if sessions.contains_key(id) {
            return Err(RegistryError::Taken(id.to_owned()));
        }
        if sessions.len() >= self.max_sessions() {
            return Err(RegistryError::Full(sessions.len()));
        }
        Ok(())
    }

    /// Makes a session as a copy of another.
    ///
    /// # Errors
    /// [`RegistryError`]; also when the checkpoint wakes nobody.
    pub async fn fork(&self, fork: Fork<'_>) -> Result<Session, RegistryError> {
        let (worker, policy) = self.wake(&fork).await?;
        // Asked again, in one step with the making: the waking took its time.
        if let Err(error) = self.may_create(fork.id) {
            worker.retire(&self.around.zygote, &self.around.children);
            return Err(error);
        }
        let Fork { id, description, source, from } = fork;
        let first = Some((worker, from.cell));
        let session = Session::start_with(id, description, policy, source.limits, Arc::clone(&self.around), first);
        self.cleaned.write().retain(|(name, _)| **name != *id);
        self.sessions.write().insert(Arc::clone(&session.id), session.clone());
        self.around.changes.list_changed();
        Ok(session)
    }

    /// The same for a branch: no entry of the table, and no checkpoints of its own.
    ///
    /// # Errors
    /// When the checkpoint wakes nobody.
    pub async fn branch(&self, fork: Fork<'_>) -> Result<Session, RegistryError> {
        let (worker, policy) = self.wake(&fork).await?;
        let Fork { id, description, source, from } = fork;
        let policy = HealthPolicy { checkpoints: Automatic::Off, ..policy };
        let first = Some((worker, from.cell));
        let session = Session::start_with(id, description, policy, source.limits, Arc::clone(&self.around), first);
        self.branches.write().insert(Arc::clone(&session.id), session.clone());
        Ok(session)
    }

    /// A branch has been ended.
    pub fn end_branch(&self, id: &Arc<str>) {
        self.branches.write().remove(id);
    }

    async fn wake(&self, fork: &Fork<'_>) -> Result<(Worker, HealthPolicy), RegistryError> {
        let woken = fork.from.wake(&self.around.zygote, fork.id, false).await?;
        Ok((woken, fork.source.shared.record(|record| record.policy)))
    }

    /// All sessions and branches: everybody that runs code.
    #[must_use]
    pub fn all_and_branches(&self) -> Vec<Session> {
        let mut all = self.all();
        all.extend(self.branches.read().values().cloned());
        all
    }

    /// Ends a session and all it started. Its name is free at once.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::DefaultStays`].
    pub async fn delete(&self, id: &str) -> Result<(), RegistryError> {
        if id == DEFAULT {
            return Err(RegistryError::DefaultStays);
        }
        let session = self.get(id)?;
        self.sessions.write().remove(id);
        self.around.checkpoints.forget(&session.id);
        session.delete().await;
        self.around.changes.list_changed();
        self.around.alerts.clear_all(id, &jiff::Timestamp::now().to_string());
        Ok(())
    }

    /// All sessions, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Session> {
        self.sessions.read().values().cloned().collect()
    }

    /// Ends every session, all at once.
    pub async fn shut_down(&self) {
        let mut sessions = std::mem::take(&mut *self.sessions.write());
        sessions.extend(std::mem::take(&mut *self.branches.write()));
        for id in sessions.keys() {
            self.around.checkpoints.forget(id);
        }
        futures::future::join_all(sessions.values().map(Session::delete)).await;
    }
}

/// Whether this can be the name of a session.
#[must_use]
pub fn is_name(id: &str) -> bool {
    id.len() <= MAX_NAME
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id.chars().all(|character| character.is_ascii_alphanumeric() || "_-.".contains(character))
}

fn made_up() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("session-{}", &random[..8])
}

fn shorten(id: &str) -> String {
    match id.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}… ({} characters)", &id[..end], id.chars().count()),
        None => id.to_owned(),
    }
}

fn list(sessions: &BTreeMap<Arc<str>, Session>) -> String {
    const SHOWN: usize = 12;
    let mut names: Vec<String> = sessions.keys().take(SHOWN).map(|name| format!("{name:?}")).collect();
    if sessions.len() > SHOWN {
        names.push(format!("and {} more", sessions.len() - SHOWN));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_nothing_are_no_names() {
        for bad in ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "é", "a\0b", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
        for good in ["default", "a", "7", "run_2.v-1", &made_up(), &"a".repeat(64)] {
            assert!(is_name(good), "{good:?}");
        }
    }

    #[test]
    fn a_long_name_does_not_flood_the_error() {
        let error = RegistryError::BadName(shorten(&"ä".repeat(300))).to_string();
        assert!(error.contains("300 characters") && error.len() < 400, "{error}");
    }
}
