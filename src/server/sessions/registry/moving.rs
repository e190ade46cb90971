//! Sessions that go to another server and come from one: out of the table without an end, and into it asleep.
//!
//! Runs in: server. What a session is put away as is `moves/away`'s.

use std::sync::Arc;

use super::{Registry, RegistryError};
use crate::server::{
    owner::Owner,
    sessions::{
        beginning::{Beginning, Origin},
        handle::Session,
        happened::What,
        images::{about::About, adopt::Adopted},
        life::Life,
    },
};

impl Registry {
    /// Whether an owner has a session of this name here.
    pub(in crate::server) fn has(&self, owner: &Owner, id: &str) -> bool {
        self.find(owner, id).is_some()
    }

    /// Takes a session out of the table: calls do not find it. It has not ended. False when it is not there.
    #[must_use]
    pub(in crate::server) fn let_go(&self, session: &Session) -> bool {
        super::ending::take(&mut self.sessions.write(), session.life.owner(), session)
    }

    /// It lives elsewhere from now on, or nowhere until it is asked for: here nothing is remembered of it.
    pub(in crate::server) fn is_elsewhere(&self, session: &Session) {
        let life = &session.life;
        let _ = life.end(crate::server::sessions::death::DeathReason::Delete);
        self.around.checkpoints.forget(life);
        self.around.alerts.clear_all(life.number(), &jiff::Timestamp::now().to_string());
        self.around.changes.sessions_changed(life.owner());
    }

    /// Whether there is room for one more of this owner.
    pub(in crate::server) fn may_come(&self, owner: &Owner) -> Result<(), RegistryError> {
        let mut sessions = self.sessions.write();
        self.admit(&mut sessions, owner)
    }

    /// A session that was put away sleeps here from now on.
    pub(in crate::server) fn come(&self, owner: &Owner, came: Adopted, what: What) -> Result<Session, RegistryError> {
        let mut sessions = self.sessions.write();
        self.admit(&mut sessions, owner)?;
        let place = self.around.places.of(owner)?;
        let life = Life::new(owner.clone(), Arc::from(came.about.session.as_str()));
        life.happened(what, None);
        let About { description, policy, limits, .. } = came.about.clone();
        let beginning = Beginning { life, description, policy, limits, origin: Origin::Asleep(Box::new(came)) };
        let session = Session::start(beginning, Arc::clone(&self.around), place);
        sessions.entry(owner.clone()).or_default().insert(Arc::clone(&session.id), session.clone());
        drop(sessions);
        self.around.changes.sessions_changed(owner);
        Ok(session)
    }
}
