//! Sessions of servers before this one: those that sleep are taken over, and of those that are gone their clients learn it.
//!
//! Runs in: server, at its start, and when a session is asked for that is not here.

use std::{collections::BTreeMap, sync::Arc};

use super::Registry;
use crate::{
    protocol::{WorkerExit, attach::ServerEnd},
    server::{
        owner::Owner,
        sessions::{
            active::Client,
            beginning::{Beginning, Origin},
            death::{Death, DeathReason},
            handle::Session,
            happened::{What, Without},
            images::about::{About, Lasting},
            life::Life,
            names::{DEFAULT, MAX_NAME, is_name},
        },
    },
};

impl Registry {
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
            let place = match self.around.places.of(&owner) {
                Ok(place) => place,
                Err(error) => {
                    tracing::error!(session = left.about.session, "a session stays asleep: {error}");
                    continue;
                }
            };
            let own = sessions.entry(owner.clone()).or_default();
            let name = beside(&left.about.session, own);
            let renamed = (*name != left.about.session).then(|| left.about.session.clone());
            let life = Life::new(owner, Arc::from(name));
            let kept = left.about.kept_by_value().map(Arc::new);
            let without = Without { checkpoints: left.about.checkpoints.clone(), name: renamed, by_value: kept };
            let (since, cell, lost) = (left.about.written_at(), left.about.cell, left.lost());
            life.happened(What::Slept { since, cell, lost, without }, None);
            tracing::info!(session = %life.session(), "sleeps on, as a server before this one has left it");
            let About { description, policy, limits, .. } = left.about.clone();
            let origin = Origin::Asleep(Box::new(left));
            let beginning = Beginning { life, description, policy, limits, origin };
            let session = Session::start(beginning, Arc::clone(&self.around), place);
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
}

/// A name that is not taken.
fn beside(wanted: &str, own: &BTreeMap<Arc<str>, Session>) -> String {
    let cut = &wanted[..wanted.len().min(MAX_NAME - 8)];
    let others = (2..).map(|number| format!("{cut}-{number}"));
    std::iter::once(wanted.to_owned()).chain(others).find(|name| !own.contains_key(name.as_str())).unwrap_or_default()
}
