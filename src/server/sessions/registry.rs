//! All sessions by owner and name. Each owner has a `default`, made when it is first asked for, that stays.
//!
//! Runs in: server. Owns the table and the rules for names; a session itself is `handle.rs`. The lock is held for
//! look-ups only, never across an await, and no cell waits for it. Nothing that is said to an owner tells of another's sessions.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;

use super::{
    active::{Choice, Client},
    checkpoints::{Checkpoint, CheckpointError},
    context::Surroundings,
    death::{Death, DeathReason},
    handle::{Beginning, Session},
    images::about::{About, Lasting},
    life::{Ended, KeptByValue, Life, What, Without},
    names::{DEFAULT, MAX_NAME, is_name, made_up, shorten},
    quotas::QuotaError,
};
use crate::{
    protocol::{WorkerExit, attach::ServerEnd},
    server::{
        counters,
        health::{HealthPolicy, evidence::Phase},
        owner::Owner,
        workers::link::Worker,
    },
    settings::policy::Automatic,
};

/// An owner that was away for this part of the time after which it is forgotten gives way, when there is no room for others.
const GIVES_WAY: u32 = 24;
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
    /// It sleeps where another server has it.
    #[error(
        "session {id:?} is asleep in --state-dir and belongs to another forkpy server on this workspace, which runs (process {pid}): \
         use it there, or end that server first; then it is here"
    )]
    Elsewhere { id: String, pid: u32 },
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
    #[error(
        "{all} sessions exist, which is the limit (--max-sessions); {}",
        if *own == 0 { "all of them are other clients': try again later" } else { "delete one first" }
    )]
    Full { all: usize, own: usize },
    /// The server takes none any more.
    #[error(
        "this server{} drains: it makes no new sessions, and those that it has go on. Connect anew, so that a balancer can \
         send you to another server",
        name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()
    )]
    Drains {
        /// What it is called among several.
        name: Option<String>,
    },
    /// The owner's own limit.
    #[error("no session was made for {owner}: {why}")]
    Quota { owner: Arc<str>, why: QuotaError },
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

/// The sessions of each owner, by name.
type Table = BTreeMap<Owner, BTreeMap<Arc<str>, Session>>;

#[derive(Debug)]
pub(crate) struct Registry {
    /// Copies of sessions that run for one call (`tools/branches.rs`), by the number of their life. No other call finds them.
    branches: RwLock<BTreeMap<u64, Session>>,
    sessions: RwLock<Table>,
    /// Sessions that are gone, with what became of them, oldest first.
    ended: RwLock<VecDeque<Ended>>,
    around: Arc<Surroundings>,
    /// How long a passing owner may be away.
    away: Duration,
}

impl Registry {
    /// An empty table. Passing owners that are away for so long lose their sessions.
    #[must_use]
    pub(crate) fn new(around: Arc<Surroundings>, away: Duration) -> Self {
        let (branches, sessions, ended) = Default::default();
        Self { branches, sessions, ended, around, away }
    }

    /// The server before this one has ended, with these sessions of its user: the next client that uses them is to learn it.
    pub(in crate::server) fn succeed(&self, sessions: &[String], end: ServerEnd) {
        let reason = DeathReason::Server { end };
        for name in sessions.iter().filter(|name| **name != *DEFAULT && is_name(name)) {
            self.end_life(&Life::new(Owner::User, Arc::from(name.as_str())), reason);
        }
        self.lose_default(&Owner::User, reason);
    }

    /// These sessions were there before this program was in another's place, and are lost.
    pub(in crate::server) fn not_taken_along(&self, lost: &[(Owner, String)]) {
        let reason = DeathReason::Server { end: ServerEnd::Killed };
        for (owner, name) in lost {
            if name == DEFAULT {
                self.lose_default(owner, reason);
            } else {
                self.end_life(&Life::new(owner.clone(), Arc::from(name.as_str())), reason);
            }
        }
    }

    /// Takes over sessions that servers before this one have left asleep. Each has its name, or one beside it when that is taken.
    pub(in crate::server) fn adopt(&self) {
        let mut sessions = self.sessions.write();
        for left in self.around.images.adopt() {
            let Some(owner) = left.about.owner.as_ref().map(Lasting::owner) else { continue };
            let own = sessions.entry(owner.clone()).or_default();
            let name = beside(&left.about.session, own);
            let renamed = (*name != left.about.session).then(|| left.about.session.clone());
            let life = Life::new(owner, Arc::from(name));
            let kept = left
                .about
                .by_value
                .clone()
                .map(|(names, left_out)| Arc::new(KeptByValue { cell: left.about.cell, names, left_out }));
            let without = Without { checkpoints: left.about.checkpoints.clone(), name: renamed, by_value: kept };
            let (since, cell, lost) = (left.about.written_at(), left.about.cell, left.lost());
            life.happened(What::Slept { since, cell, lost, without }, None);
            tracing::info!(session = %life.session(), "sleeps on, as a server before this one has left it");
            let About { description, policy, limits, .. } = left.about.clone();
            let beginning = Beginning {
                life,
                description,
                policy,
                limits,
                first: None,
                asleep: Some(Box::new(left)),
                returned: None,
            };
            let session = Session::start(beginning, Arc::clone(&self.around));
            own.insert(Arc::clone(&session.id), session);
        }
    }

    /// This client used the default session of a server that has ended.
    pub(in crate::server) fn lost_with_its_server(&self, client: &Client) {
        let Ok(session) = self.get(&Owner::User, DEFAULT) else { return };
        if session.life.newest() == 0 {
            // Nothing was written of that server.
            self.lose_default(&Owner::User, DeathReason::Server { end: ServerEnd::Killed });
        }
        session.life.relied_on_by(client);
    }

    fn lose_default(&self, owner: &Owner, reason: DeathReason) {
        let death = Death { reason, exit: WorkerExit::Unknown, cell: None, during: None, report: None };
        if let Ok(session) = self.get(owner, DEFAULT) {
            session.life.happened(What::Lost { death, newest: 0 }, None);
        }
    }

    /// Most sessions at a time, of all owners together.
    #[must_use]
    pub(crate) fn max_sessions(&self) -> usize {
        self.around.settings.max_sessions
    }

    /// How long a passing owner may be away.
    #[must_use]
    pub(crate) fn away(&self) -> Duration {
        self.away
    }

    /// An owner's session by name. Its `default` is made, if there is none.
    pub(crate) fn get(&self, owner: &Owner, id: &str) -> Result<Session, RegistryError> {
        if let Some(session) = self.find(owner, id) {
            return Ok(session);
        }
        if let Some(pid) = self.left_by_others(owner, id) {
            return Err(RegistryError::Elsewhere { id: id.to_owned(), pid });
        }
        // A server may have ended meanwhile that had it.
        if let Some(session) = self.find(owner, id) {
            return Ok(session);
        }
        let known = list(&self.sessions.read(), owner);
        if id == DEFAULT {
            return self.make_default(owner);
        }
        Err(match self.became_of(owner, id) {
            Some(why) => RegistryError::Ended { id: id.to_owned(), why, known },
            None => RegistryError::Unknown { id: shorten(id), known },
        })
    }

    fn find(&self, owner: &Owner, id: &str) -> Option<Session> {
        self.sessions.read().get(owner).and_then(|own| own.get(id)).cloned()
    }

    /// A session that is not here may sleep where other servers have left it: takes it over, or gives the process id of the server
    /// that has it.
    fn left_by_others(&self, owner: &Owner, id: &str) -> Option<u32> {
        if !self.around.images.is_for_the_next() || id == DEFAULT {
            return None;
        }
        self.adopt();
        let wanted = Lasting::of(owner);
        let is_it = |about: &About| about.session == id && about.owner == wanted;
        self.find(owner, id).is_none().then(|| self.around.images.held_elsewhere(is_it)).flatten()
    }

    fn became_of(&self, owner: &Owner, id: &str) -> Option<DeathReason> {
        let ended = self.ended.read();
        ended.iter().find(|ended| ended.owner == *owner && *ended.session == *id).map(|ended| ended.why)
    }

    /// Makes an owner's default session: its worker begins to be made.
    fn make_default(&self, owner: &Owner) -> Result<Session, RegistryError> {
        let limits = self.around.settings.limits.confined(self.around.quotas.rights(owner).sandbox);
        let policy = self.around.health;
        let beginning = |life| Beginning {
            life,
            description: String::new(),
            policy,
            limits,
            first: None,
            asleep: None,
            returned: None,
        };
        self.insert(owner, DEFAULT, None, beginning).map(|(session, _)| session)
    }

    /// The session that a client has chosen, and none that bears its name since.
    pub(crate) fn chosen(&self, owner: &Owner, choice: &Choice) -> Result<Session, RegistryError> {
        let sessions = self.sessions.read();
        let found = sessions.get(owner).and_then(|own| own.get(&choice.session));
        match found.filter(|session| session.life.number() == choice.life) {
            Some(session) => Ok(session.clone()),
            None => Err(RegistryError::ActiveEnded {
                id: choice.session.to_string(),
                why: self.ended.read().iter().find(|ended| ended.life == choice.life).map(|ended| ended.why),
                made_anew: found.is_some(),
                known: list(&sessions, owner),
            }),
        }
    }

    /// The session is out of the table: its life ends, with its checkpoints, and it is remembered how.
    fn end_life(&self, life: &Life, why: DeathReason) {
        let ended = life.end(why);
        self.around.checkpoints.forget(life);
        self.around.alerts.clear_all(life.number(), &jiff::Timestamp::now().to_string());
        let mut all = self.ended.write();
        all.retain(|earlier| earlier.owner != ended.owner || earlier.session != ended.session);
        all.push_back(ended);
        if all.len() > MAX_ENDED {
            all.pop_front();
        }
    }

    /// The life of a session that is made now: those who used an earlier one of its name are to learn it, but for its maker.
    fn life(&self, owner: &Owner, id: &str, by: Option<&Client>) -> Life {
        let mut ended = self.ended.write();
        let earlier = ended.iter().position(|ended| ended.owner == *owner && *ended.session == *id);
        match earlier.and_then(|place| ended.remove(place)) {
            Some(earlier) => Life::after(earlier, by),
            None => Life::new(owner.clone(), Arc::from(id)),
        }
    }

    /// Takes a session out of the table, which is no end of its worker yet; later calls are told why. False when it is
    /// not there.
    #[must_use]
    pub(crate) fn forget(&self, session: &Session, why: DeathReason) -> bool {
        let owner = session.life.owner();
        if !take(&mut self.sessions.write(), owner, session) {
            return false;
        }
        self.end_life(&session.life, why);
        self.around.changes.sessions_changed(owner);
        true
    }

    /// Makes a session, or finds the one of that name (false). Without a name it gets one.
    pub(crate) fn create(
        &self,
        owner: &Owner,
        id: Option<String>,
        by: &Client,
        beginning: impl FnOnce(Life) -> Beginning,
    ) -> Result<(Session, bool), RegistryError> {
        let id = id.unwrap_or_else(made_up);
        if !is_name(&id) {
            return Err(RegistryError::BadName(shorten(&id)));
        }
        self.insert(owner, &id, Some(by), beginning)
    }

    fn insert(
        &self,
        owner: &Owner,
        id: &str,
        by: Option<&Client>,
        beginning: impl FnOnce(Life) -> Beginning,
    ) -> Result<(Session, bool), RegistryError> {
        let mut sessions = self.sessions.write();
        if let Some(session) = sessions.get(owner).and_then(|own| own.get(id)) {
            return Ok((session.clone(), false));
        }
        if let Owner::Named(name) = owner {
            let own = sessions.get(owner).map_or(0, BTreeMap::len);
            let fail = |why| RegistryError::Quota { owner: Arc::clone(name), why };
            self.around.quotas.one_more(owner, own).map_err(fail)?;
        }
        self.make_room(&mut sessions, owner)?;
        let session = Session::start(beginning(self.life(owner, id, by)), Arc::clone(&self.around));
        sessions.entry(owner.clone()).or_default().insert(Arc::clone(&session.id), session.clone());
        drop(sessions);
        self.around.changes.sessions_changed(owner);
        Ok((session, true))
    }

    /// Sees to it that there is a place for one session more: of those that came by a name which does not come again, the owner
    /// that was away longest gives way, if that was long.
    fn make_room(&self, sessions: &mut Table, owner: &Owner) -> Result<(), RegistryError> {
        if self.around.drain.is_on() {
            return Err(RegistryError::Drains { name: self.around.settings.server_name.clone() });
        }
        if count(sessions) < self.max_sessions() {
            return Ok(());
        }
        let others = sessions.iter().filter(|(other, _)| other.is_passing() && *other != owner);
        let limit = self.away / GIVES_WAY;
        let away = others.filter_map(|(other, own)| Some((absence(own)?, other.clone())));
        match away.max().filter(|(absent, _)| *absent >= limit) {
            Some((_, absent)) => {
                tracing::info!(
                    "a client that is away loses its sessions, because another needs a place (--max-sessions)"
                );
                self.clean_up(sessions, &absent, limit);
                Ok(())
            }
            None => {
                let own = sessions.get(owner).map_or(0, BTreeMap::len);
                Err(RegistryError::Full { all: count(sessions), own })
            }
        }
    }

    /// An owner will not come again: its sessions end.
    pub(in crate::server) fn end_owner(&self, owner: &Owner, why: DeathReason) {
        self.end_all_of(&mut self.sessions.write(), owner, why);
    }

    fn clean_up(&self, sessions: &mut Table, owner: &Owner, limit: Duration) {
        let why = DeathReason::Idle { limit };
        let all = sessions.get(owner).map_or(0, BTreeMap::len);
        (0..all).for_each(|_| counters::session_cleaned(why.word()));
        self.end_all_of(sessions, owner, why);
    }

    fn end_all_of(&self, sessions: &mut Table, owner: &Owner, why: DeathReason) {
        for session in sessions.remove(owner).into_iter().flatten().map(|(_, session)| session) {
            self.end_life(&session.life, why);
            tokio::spawn(async move { session.end(why).await });
        }
    }

    /// Passing owners that were away for too long: their sessions end.
    pub(in crate::server) fn end_the_absent(&self) {
        let mut sessions = self.sessions.write();
        let is_gone = |own| absence(own).is_some_and(|absent| absent >= self.away);
        let cookies = sessions.iter().filter(|(owner, own)| matches!(owner, Owner::Cookie(_)) && is_gone(own));
        let gone: Vec<Owner> = cookies.map(|(owner, _)| owner.clone()).collect();
        for owner in gone {
            self.clean_up(&mut sessions, &owner, self.away);
        }
    }

    /// Whether a session of this name may be made now.
    pub(crate) fn may_create(&self, owner: &Owner, id: &str) -> Result<(), RegistryError> {
        if !is_name(id) {
            return Err(RegistryError::BadName(shorten(id)));
        }
        let mut sessions = self.sessions.write();
        if sessions.get(owner).is_some_and(|own| own.contains_key(id)) {
            return Err(RegistryError::Taken(id.to_owned()));
        }
        self.make_room(&mut sessions, owner)
    }

    /// Makes a session as a copy of another, of the same owner.
    ///
    /// # Errors
    /// [`RegistryError`]; also when the checkpoint cannot start a worker.
    pub(crate) async fn fork(&self, fork: Fork<'_>) -> Result<Session, RegistryError> {
        let (worker, policy) = self.wake(&fork).await?;
        let owner = fork.source.life.owner();
        // Asked again, in one step with the making: the waking took its time.
        if let Err(error) = self.may_create(owner, fork.id) {
            worker.retire(self.around.zygote.endings());
            return Err(error);
        }
        let Fork { id, description, by, source, from } = fork;
        let life = self.life(owner, id, Some(by));
        let beginning = Beginning {
            life,
            description,
            policy,
            limits: source.limits,
            first: Some((worker, from.cell)),
            asleep: None,
            returned: None,
        };
        let session = Session::start(beginning, Arc::clone(&self.around));
        self.sessions.write().entry(owner.clone()).or_default().insert(Arc::clone(&session.id), session.clone());
        self.around.changes.sessions_changed(owner);
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
        let life = Life::new(source.life.owner().clone(), Arc::from(id));
        let beginning = Beginning {
            life,
            description,
            policy,
            limits: source.limits,
            first: Some((worker, from.cell)),
            asleep: None,
            returned: None,
        };
        let session = Session::start(beginning, Arc::clone(&self.around));
        self.branches.write().insert(session.life.number(), session.clone());
        Ok(session)
    }

    /// A branch has been ended.
    pub(crate) fn end_branch(&self, branch: &Session) {
        if let Some(branch) = self.branches.write().remove(&branch.life.number()) {
            branch.life.end(DeathReason::Delete);
        }
    }

    async fn wake(&self, fork: &Fork<'_>) -> Result<(Worker, HealthPolicy), RegistryError> {
        let woken = fork.from.wake(&self.around.zygote, fork.id, false).await?;
        Ok((woken, fork.source.shared.record(|record| record.policy)))
    }

    /// All sessions and branches of all owners: all that runs code.
    #[must_use]
    pub(crate) fn all_and_branches(&self) -> Vec<Session> {
        let mut all = self.all();
        all.extend(self.branches.read().values().cloned());
        all
    }

    /// Something that concerns the users of every session.
    pub(in crate::server) fn tell_all(&self, what: impl Fn() -> What) {
        self.all().iter().for_each(|session| session.life.happened(what(), None));
    }

    /// Ends an owner's session and all it started. Its name is free at once.
    pub(crate) async fn delete(&self, owner: &Owner, id: &str) -> Result<(), RegistryError> {
        if id == DEFAULT {
            return Err(RegistryError::DefaultStays);
        }
        let session = self.get(owner, id)?;
        let _ = take(&mut self.sessions.write(), owner, &session);
        self.end_life(&session.life, DeathReason::Delete);
        session.delete().await;
        self.around.changes.sessions_changed(owner);
        Ok(())
    }

    /// A session that was there before an exec goes on.
    pub(crate) fn go_on(&self, session: Session) {
        let owner = session.life.owner().clone();
        self.sessions.write().entry(owner.clone()).or_default().insert(Arc::clone(&session.id), session);
        self.around.changes.sessions_changed(&owner);
    }

    /// All sessions of all owners, for those that look after them.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Session> {
        self.sessions.read().values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// All sessions of an owner, by name; its `default` always, as long as there is room for it.
    #[must_use]
    pub(crate) fn of(&self, owner: &Owner) -> Vec<Session> {
        let _ = self.get(owner, DEFAULT);
        self.sessions.read().get(owner).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Ends every session, all at once. What they have is left to the next server, where that can find it, within this time.
    pub(crate) async fn shut_down(&self, leaving: Duration) {
        self.around.images.leave_to_the_next();
        if self.around.images.is_for_the_next() {
            let all = self.all();
            let left = futures::future::join_all(all.iter().map(Session::leave));
            if tokio::time::timeout(leaving, left).await.is_err() {
                tracing::warn!(?leaving, "not all sessions could be written to disk in the time that there is");
            }
        }
        let sessions = std::mem::take(&mut *self.sessions.write());
        let branches = std::mem::take(&mut *self.branches.write());
        let all: Vec<Session> =
            sessions.into_values().flat_map(BTreeMap::into_values).chain(branches.into_values()).collect();
        for session in &all {
            session.life.end(DeathReason::Delete);
            self.around.checkpoints.forget(&session.life);
        }
        futures::future::join_all(all.iter().map(Session::delete)).await;
    }
}

/// A name that is not taken.
fn beside(wanted: &str, own: &BTreeMap<Arc<str>, Session>) -> String {
    let cut = &wanted[..wanted.len().min(MAX_NAME - 8)];
    let others = (2..).map(|number| format!("{cut}-{number}"));
    std::iter::once(wanted.to_owned()).chain(others).find(|name| !own.contains_key(name.as_str())).unwrap_or_default()
}

fn count(sessions: &Table) -> usize {
    sessions.values().map(BTreeMap::len).sum()
}

/// Takes this session out, and none that has its name since. Whether it was there.
fn take(sessions: &mut Table, owner: &Owner, session: &Session) -> bool {
    let Some(own) = sessions.get_mut(owner) else { return false };
    if own.get(&session.id).is_none_or(|found| found.life.number() != session.life.number()) {
        return false;
    }
    own.remove(&session.id);
    if own.is_empty() {
        sessions.remove(owner);
    }
    true
}

/// For how long an owner has used none of its sessions; nothing while one of them is at work.
fn absence(sessions: &BTreeMap<Arc<str>, Session>) -> Option<Duration> {
    let away = sessions.values().map(|session| {
        let status = session.shared.get();
        let still = matches!(status.phase, Phase::Idle | Phase::Asleep | Phase::Dead);
        let rests = status.waiting == 0 && !session.runs.has_work() && still;
        rests.then(|| status.used_at.elapsed())
    });
    away.min().flatten()
}

/// What became of a session, as far as that is remembered.
fn how(why: Option<DeathReason>) -> String {
    why.map_or_else(|| "is gone".to_owned(), DeathReason::cleaned_up)
}

fn list(sessions: &Table, owner: &Owner) -> String {
    const SHOWN: usize = 12;
    let none = BTreeMap::new();
    let sessions = sessions.get(owner).unwrap_or(&none);
    let mut names: Vec<String> = sessions.keys().take(SHOWN).map(|name| format!("{name:?}")).collect();
    if sessions.len() > SHOWN {
        names.push(format!("and {} more", sessions.len() - SHOWN));
    }
    if names.is_empty() { format!("{DEFAULT:?}") } else { names.join(", ") }
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
