//! Sessions are made: afresh, as copies of others, or by their owner's first call; and whether there is room for them.
//!
//! Runs in: server. Asks whether there is room and enters the session in one step, so that two calls do not take one place.

use std::{collections::BTreeMap, sync::Arc};

use super::{Registry, RegistryError, Table, ending::absence};
use crate::{
    server::{
        health::HealthPolicy,
        owner::Owner,
        sessions::{
            active::Client,
            beginning::{Beginning, Origin},
            checkpoints::Checkpoint,
            handle::Session,
            life::Life,
            names::{DEFAULT, is_name, made_up, shorten},
        },
        workers::link::Worker,
    },
    settings::policy::Automatic,
};

/// An owner that was away for this part of the time after which it is forgotten gives way, when there is no room for others.
const GIVES_WAY: u32 = 24;

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

impl Registry {
    /// Makes an owner's default session: its worker begins to be made.
    pub(super) fn make_default(&self, owner: &Owner) -> Result<Session, RegistryError> {
        let limits = self.around.settings.limits.confined(self.around.quotas.rights(owner).sandbox);
        let policy = self.around.health;
        let beginning = |life| Beginning { life, description: String::new(), policy, limits, origin: Origin::Afresh };
        self.insert(owner, DEFAULT, None, beginning).map(|(session, _)| session)
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
        self.admit(&mut sessions, owner)?;
        let place = self.around.places.of(owner)?;
        let session = Session::start(beginning(self.life(owner, id, by)), Arc::clone(&self.around), place);
        sessions.entry(owner.clone()).or_default().insert(Arc::clone(&session.id), session.clone());
        drop(sessions);
        self.around.changes.sessions_changed(owner);
        Ok((session, true))
    }

    /// Whether one more of this owner may be there; sees to it that there is a place.
    pub(super) fn admit(&self, sessions: &mut Table, owner: &Owner) -> Result<(), RegistryError> {
        if let Owner::Named(name) | Owner::Subject(name) = owner {
            let own = sessions.get(owner).map_or(0, BTreeMap::len);
            let fail = |why| RegistryError::Quota { owner: Arc::clone(name), why };
            self.around.quotas.one_more(owner, own).map_err(fail)?;
        }
        self.make_room(sessions, owner)
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
        let life = self.life(owner, fork.id, Some(fork.by));
        let session = self.copy(life, fork, (worker, policy));
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
        let policy = HealthPolicy { checkpoints: Automatic::Off, ..policy };
        let life = Life::new(fork.source.life.owner().clone(), Arc::from(fork.id));
        let session = self.copy(life, fork, (worker, policy));
        self.branches.write().insert(session.life.number(), session.clone());
        Ok(session)
    }

    /// A session that begins with what a checkpoint woke, with the limits and the policy of the one that it is a copy of.
    fn copy(&self, life: Life, fork: Fork<'_>, (worker, policy): (Worker, HealthPolicy)) -> Session {
        let Fork { description, source, from, .. } = fork;
        let origin = Origin::Copy { worker: Box::new(worker), cell: from.cell };
        let beginning = Beginning { life, description, policy, limits: source.limits, origin };
        Session::start(beginning, Arc::clone(&self.around), Arc::clone(&source.place))
    }

    async fn wake(&self, fork: &Fork<'_>) -> Result<(Worker, HealthPolicy), RegistryError> {
        let woken = fork.from.wake(&self.around.zygote, fork.id, false).await?;
        Ok((woken, fork.source.shared.record(|record| record.policy)))
    }

    /// A session that was there before an exec goes on.
    pub(crate) fn go_on(&self, session: Session) {
        let owner = session.life.owner().clone();
        self.sessions.write().entry(owner.clone()).or_default().insert(Arc::clone(&session.id), session);
        self.around.changes.sessions_changed(&owner);
    }
}

fn count(sessions: &Table) -> usize {
    sessions.values().map(BTreeMap::len).sum()
}
