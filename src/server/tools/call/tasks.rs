//! Tasks (SEP-2663): calls whose clients were given a name in the place of a reply, and ask by it what came of them.
//!
//! Runs in: server. Owns these names. A name stands for a cell of a session, or for work with a number among its cells; what comes
//! of that is kept where it is kept for `wait_for_cell`, and for as long. A name is its owner's alone.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::server::{owner::Owner, sessions::handle::Session};

/// Names that are known; the oldest go first.
const MOST: usize = 4096;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    named: HashMap<String, Named>,
    /// In the order of their making.
    order: VecDeque<String>,
}

/// What a name stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Named {
    owner: (u8, String),
    pub(crate) session: String,
    /// The number of the session's life: another session of its name is not meant.
    pub(crate) life: u64,
    pub(crate) cell: u64,
    /// RFC 3339.
    pub(crate) created: String,
    /// Its client has taken it back.
    pub(crate) cancelled: bool,
}

impl Tasks {
    /// Gives a name to a cell of a session.
    pub(crate) fn name(&self, session: &Session, cell: u64) -> (String, Named) {
        let name = uuid::Uuid::new_v4().to_string();
        let named = Named {
            owner: session.life.owner().pack(),
            session: session.id.to_string(),
            life: session.life.number(),
            cell,
            created: Timestamp::now().to_string(),
            cancelled: false,
        };
        self.0.lock().insert(name.clone(), named.clone());
        (name, named)
    }

    /// What it stands for, if it is this owner's.
    pub(crate) fn find(&self, owner: &Owner, name: &str) -> Option<Named> {
        let inner = self.0.lock();
        inner.named.get(name).filter(|named| Owner::unpack(named.owner.clone()) == *owner).cloned()
    }

    /// Its client has taken it back.
    pub(crate) fn cancel(&self, name: &str) {
        if let Some(named) = self.0.lock().named.get_mut(name) {
            named.cancelled = true;
        }
    }

    /// As text, for the program that this server becomes.
    pub(crate) fn pack(&self) -> String {
        let inner = self.0.lock();
        let all: Vec<_> = inner.order.iter().filter_map(|name| Some((name, inner.named.get(name)?))).collect();
        serde_json::to_string(&all).unwrap_or_default()
    }

    /// Goes on with them.
    pub(crate) fn go_on(&self, packed: &str) {
        let all: Vec<(String, Named)> = serde_json::from_str(packed).unwrap_or_default();
        let mut inner = self.0.lock();
        all.into_iter().for_each(|(name, named)| inner.insert(name, named));
    }
}

impl Inner {
    fn insert(&mut self, name: String, named: Named) {
        self.named.insert(name.clone(), named);
        self.order.push_back(name);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.named.remove(&oldest);
        }
    }
}

/// How many milliseconds these are, for the wire.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
