//! Sessions end: by a call, because their owner is away or gone, or with the server. It is remembered what became of them.
//!
//! Runs in: server. Takes a session out of the table first; its worker ends after that, and its name is free.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Registry, RegistryError, Table};
use crate::server::{
    counters,
    health::evidence::Phase,
    owner::Owner,
    sessions::{death::DeathReason, handle::Session, life::Life, names::DEFAULT},
};

/// Sessions of which it is remembered why they are gone.
const MAX_ENDED: usize = 1000;

impl Registry {
    /// The session is out of the table: its life ends, with its checkpoints, and it is remembered how.
    pub(super) fn end_life(&self, life: &Life, why: DeathReason) {
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

    /// An owner will not come again: its sessions end.
    pub(in crate::server) fn end_owner(&self, owner: &Owner, why: DeathReason) {
        self.end_all_of(&mut self.sessions.write(), owner, why);
    }

    pub(super) fn clean_up(&self, sessions: &mut Table, owner: &Owner, limit: Duration) {
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

    /// A branch has been ended.
    pub(crate) fn end_branch(&self, branch: &Session) {
        if let Some(branch) = self.branches.write().remove(&branch.life.number()) {
            branch.life.end(DeathReason::Delete);
        }
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

/// Takes this session out, and none that has its name since. Whether it was there.
pub(super) fn take(sessions: &mut Table, owner: &Owner, session: &Session) -> bool {
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
pub(super) fn absence(sessions: &BTreeMap<Arc<str>, Session>) -> Option<Duration> {
    let away = sessions.values().map(|session| {
        let status = session.shared.get();
        let still = matches!(status.phase, Phase::Idle | Phase::Asleep | Phase::Dead);
        let rests = status.waiting == 0 && !session.runs.has_work() && still;
        rests.then(|| status.used_at.elapsed())
    });
    away.min().flatten()
}
