//! All sessions by name. `default` is made at the start and stays.
//!
//! Runs in: server. Owns the table and the rules for names; a session itself is `handle.rs`. The lock is held for
//! look-ups only, never across an await, and no cell waits for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::RwLock;

use super::{
    active::{Choice, Client},
    checkpoints::{Checkpoint, CheckpointError},
    context::Surroundings,
    death::{Death, DeathReason},
    handle::{Beginning, Session},
    life::{Ended, Life, What},
    names::{DEFAULT, MAX_NAME, is_name, made_up, shorten},
};
use crate::{
    protocol::{WorkerExit, attach::ServerEnd},
    server::{health::HealthPolicy, workers::link::Worker},
    settings::{limits::Limits, policy::Automatic},
};

/// Sessions of which it is remembered why they are gone.
const MAX_ENDED: usize = 1000;

/// Why the table cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("session {id:?} does not exist; there are: {known}. create_session makes a new one")]
    Unknown {
        /// The name asked for, cut when long.
        id: String,
        known: String,
    },
    /// It was there and is not any more.
    #[error(
        "session {id:?} does not exist any more: it {}; its variables are gone. create_session makes a new one of that \
         name; there are: {known}", why.cleaned_up()
    )]
    Ended {
        id: String,
        /// What became of it.
        why: DeathReason,
        known: String,
    },
    /// The session that the client had made its active one is gone.
    #[error(
        "nothing was done: your active session {id:?} {}, so its variables are gone. Calls without session_id are refused \
         until you choose where they go: switch_session makes another session the active one, or pass session_id in each \
         call; there are: {known}{}", how(*why),
        if *made_anew { format!(" (this {id:?} is another session, which was made later)") } else { String::new() }
    )]
    ActiveEnded {
        id: String,
        /// What became of it, if that is remembered.
        why: Option<DeathReason>,
        /// There is another of that name.
        made_anew: bool,
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
    /// A checkpoint that cannot start a worker.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The one that stays.
    #[error("session \"default\" always exists and cannot be deleted; restart_kernel gives it a fresh interpreter")]
    DefaultStays,
}

/// A session to make as a copy of another.
#[derive(Debug)]
pub(crate) struct Fork<'a> {
    pub id: &'a str,
    /// What it is for.
    pub description: String,
    pub by: &'a Client,
    /// Whose copy it is; it has its limits and its policy.
    pub source: &'a Session,
    /// What it begins as.
    pub from: &'a Arc<Checkpoint>,
}

#[derive(Debug)]
pub(crate) struct Registry {
    /// Copies of sessions that run for one call (`tools/branches.rs`). No other call finds them.
    branches: RwLock<BTreeMap<Arc<str>, Session>>,
    sessions: RwLock<BTreeMap<Arc<str>, Session>>,
    /// Sessions that are gone, with what became of them, oldest first.
    ended: RwLock<VecDeque<Ended>>,
    around: Arc<Surroundings>,
}

impl Registry {
    /// A table with the default session, whose worker is being made.
    #[must_use]
    pub(crate) fn new(around: Arc<Surroundings>) -> Self {
        let limits = around.settings.limits;
        let life = Life::new(Arc::from(DEFAULT));
        let beginning = Beginning { life, description: String::new(), policy: around.health, limits, first: None };
        let first = Session::start(beginning, Arc::clone(&around));
        let sessions = RwLock::new(BTreeMap::from([(Arc::clone(&first.id), first)]));
        Self { branches: RwLock::default(), sessions, ended: RwLock::default(), around }
    }

    /// The server before this one has ended, with these sessions: the next client that uses them is to learn it.
    pub(in crate::server) fn succeed(&self, sessions: &[String], end: ServerEnd) {
        let reason = DeathReason::Server { end };
        for name in sessions.iter().filter(|name| **name != *DEFAULT && is_name(name)) {
            self.end_life(&Life::new(Arc::from(name.as_str())), reason);
        }
        self.lose_default(reason);
    }

    /// This client used the default session of a server that has ended.
    pub(in crate::server) fn lost_with_its_server(&self, client: &Client) {
        let Ok(session) = self.get(DEFAULT) else { return };
        if session.life.newest() == 0 {
            // Nothing was written of that server.
            self.lose_default(DeathReason::Server { end: ServerEnd::Killed });
        }
        session.life.relied_on_by(client);
    }

    fn lose_default(&self, reason: DeathReason) {
        let death = Death { reason, exit: WorkerExit::Unknown, cell: None, during: None, report: None };
        if let Ok(session) = self.get(DEFAULT) {
            session.life.happened(What::Lost { death, newest: 0 }, None);
        }
    }

    /// Most sessions at a time.
    #[must_use]
    pub(crate) fn max_sessions(&self) -> usize {
        self.around.settings.max_sessions
    }

    /// A session by name.
    pub(crate) fn get(&self, id: &str) -> Result<Session, RegistryError> {
        let sessions = self.sessions.read();
        sessions.get(id).cloned().ok_or_else(|| {
            let known = list(&sessions);
            match self.ended.read().iter().find(|ended| *ended.session == *id) {
                Some(ended) => RegistryError::Ended { id: id.to_owned(), why: ended.why, known },
                None => RegistryError::Unknown { id: shorten(id), known },
            }
        })
    }

    /// The session that a client has chosen, and none that bears its name since.
    pub(crate) fn chosen(&self, choice: &Choice) -> Result<Session, RegistryError> {
        let sessions = self.sessions.read();
        let found = sessions.get(&choice.session);
        match found.filter(|session| session.life.number() == choice.life) {
            Some(session) => Ok(session.clone()),
            None => Err(RegistryError::ActiveEnded {
                id: choice.session.to_string(),
                why: self.ended.read().iter().find(|ended| ended.life == choice.life).map(|ended| ended.why),
                made_anew: found.is_some(),
                known: list(&sessions),
            }),
        }
    }

    /// The session is out of the table: its life ends, with its checkpoints, and it is remembered how.
    fn end_life(&self, life: &Life, why: DeathReason) {
        let ended = life.end(why);
        self.around.checkpoints.forget(life);
        let mut all = self.ended.write();
        all.retain(|earlier| earlier.session != ended.session);
        all.push_back(ended);
        if all.len() > MAX_ENDED {
            all.pop_front();
        }
    }

    /// The life of a session that is made now: those who used an earlier one of its name are to learn it.
    fn life(&self, id: &str, by: &Client) -> Life {
        let mut ended = self.ended.write();
        let earlier = ended.iter().position(|ended| *ended.session == *id);
        match earlier.and_then(|place| ended.remove(place)) {
            Some(earlier) => Life::after(Arc::from(id), earlier, by),
            None => Life::new(Arc::from(id)),
        }
    }

    /// Takes a session out of the table, which is no end of its worker yet; later calls are told why. False when it is
    /// not there.
    #[must_use]
    pub(crate) fn forget(&self, id: &Arc<str>, why: DeathReason) -> bool {
        let Some(session) = self.sessions.write().remove(id) else { return false };
        self.end_life(&session.life, why);
        self.around.changes.list_changed();
        true
    }

    /// Makes a session, or finds the one of that name (false). Without a name it gets one.
    pub(crate) fn create(
        &self,
        id: Option<String>,
        description: String,
        policy: HealthPolicy,
        limits: Limits,
        by: &Client,
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
        let beginning = Beginning { life: self.life(&id, by), description, policy, limits, first: None };
        let session = Session::start(beginning, Arc::clone(&self.around));
        sessions.insert(Arc::clone(&session.id), session.clone());
        self.around.changes.list_changed();
        Ok((session, true))
    }

    /// Whether a session of this name may be made now.
    pub(crate) fn may_create(&self, id: &str) -> Result<(), RegistryError> {
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
    /// [`RegistryError`]; also when the checkpoint cannot start a worker.
    pub(crate) async fn fork(&self, fork: Fork<'_>) -> Result<Session, RegistryError> {
        let (worker, policy) = self.wake(&fork).await?;
        // Asked again, in one step with the making: the waking took its time.
        if let Err(error) = self.may_create(fork.id) {
            worker.retire(self.around.zygote.endings());
            return Err(error);
        }
        let Fork { id, description, by, source, from } = fork;
        let life = self.life(id, by);
        let beginning =
            Beginning { life, description, policy, limits: source.limits, first: Some((worker, from.cell)) };
        let session = Session::start(beginning, Arc::clone(&self.around));
        self.sessions.write().insert(Arc::clone(&session.id), session.clone());
        self.around.changes.list_changed();
        Ok(session)
    }

    /// The same for a branch: no entry of the table, and no checkpoints of its own.
    ///
    /// # Errors
    /// When the checkpoint cannot start a worker.
    pub(crate) async fn branch(&self, fork: Fork<'_>) -> Result<Session, RegistryError> {
        let (worker, policy) = self.wake(&fork).await?;
        let Fork { id, description, source, from, .. } = fork;
        let policy = HealthPolicy { checkpoints: Automatic::Off, ..policy };
        let life = Life::new(Arc::from(id));
        let beginning =
            Beginning { life, description, policy, limits: source.limits, first: Some((worker, from.cell)) };
        let session = Session::start(beginning, Arc::clone(&self.around));
        self.branches.write().insert(Arc::clone(&session.id), session.clone());
        Ok(session)
    }

    /// A branch has been ended.
    pub(crate) fn end_branch(&self, id: &Arc<str>) {
        if let Some(branch) = self.branches.write().remove(id) {
            branch.life.end(DeathReason::Delete);
        }
    }

    async fn wake(&self, fork: &Fork<'_>) -> Result<(Worker, HealthPolicy), RegistryError> {
        let woken = fork.from.wake(&self.around.zygote, fork.id, false).await?;
        Ok((woken, fork.source.shared.record(|record| record.policy)))
    }

    /// All sessions and branches: everybody that runs code.
    #[must_use]
    pub(crate) fn all_and_branches(&self) -> Vec<Session> {
        let mut all = self.all();
        all.extend(self.branches.read().values().cloned());
        all
    }

    /// Ends a session and all it started. Its name is free at once.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), RegistryError> {
        if id == DEFAULT {
            return Err(RegistryError::DefaultStays);
        }
        let session = self.get(id)?;
        self.sessions.write().remove(id);
        self.end_life(&session.life, DeathReason::Delete);
        session.delete().await;
        self.around.changes.list_changed();
        self.around.alerts.clear_all(id, &jiff::Timestamp::now().to_string());
        Ok(())
    }

    /// All sessions, by name.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Session> {
        self.sessions.read().values().cloned().collect()
    }

    /// Ends every session, all at once.
    pub(crate) async fn shut_down(&self) {
        let mut sessions = std::mem::take(&mut *self.sessions.write());
        sessions.extend(std::mem::take(&mut *self.branches.write()));
        for session in sessions.values() {
            session.life.end(DeathReason::Delete);
            self.around.checkpoints.forget(&session.life);
        }
        futures::future::join_all(sessions.values().map(Session::delete)).await;
    }
}

/// What became of a session, as far as that is remembered.
fn how(why: Option<DeathReason>) -> String {
    why.map_or_else(|| "is gone".to_owned(), DeathReason::cleaned_up)
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
    fn a_long_name_does_not_flood_the_error() {
        let error = RegistryError::BadName(shorten(&"ä".repeat(300))).to_string();
        assert!(error.contains("300 characters") && error.len() < 400, "{error}");
    }
}
