//! All sessions by owner and name. Each owner has a `default`, made when it is first asked for, that stays.
//!
//! Runs in: server. Owns the table; a session itself is `handle.rs`. How sessions come into it is `making.rs` and
//! `earlier.rs`, how they leave it `ending.rs`, how they go to other servers `moving.rs`. The lock is held for look-ups only, never across an await, and no cell waits for it.

mod earlier;
mod ending;
mod error;
pub(crate) mod making;
mod moving;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;

pub(crate) use self::error::RegistryError;
use super::{
    active::Choice,
    context::Surroundings,
    death::DeathReason,
    handle::Session,
    happened::What,
    images::about::{About, Lasting},
    life::Ended,
    names::{DEFAULT, shorten},
};
use crate::server::owner::Owner;

/// The sessions of each owner, by name.
type Table = BTreeMap<Owner, BTreeMap<Arc<str>, Session>>;

#[derive(Debug)]
pub(crate) struct Registry {
    /// Copies of sessions that run for one call (`tools/cells/branches.rs`), by the number of their life. No other call finds them.
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

    /// All sessions and branches of all owners: all that runs code.
    #[must_use]
    pub(crate) fn all_and_branches(&self) -> Vec<Session> {
        let mut all = self.all();
        all.extend(self.branches.read().values().cloned());
        all
    }

    /// Something that concerns the users of every session.
    pub(in crate::server) fn tell_all(&self, what: impl Fn(&Session) -> What) {
        self.all().iter().for_each(|session| session.life.happened(what(session), None));
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
