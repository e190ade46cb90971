//! Who calls, and which session is active for them.
//!
//! Runs in: server. Owns the map from client to active session; knows nothing of a session beyond its name. Two HTTP
//! clients never move each other's active session.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::registry::DEFAULT;

/// Clients remembered at a time; the one whose choice is oldest is forgotten first.
const MAX_CLIENTS: usize = 4096;

/// What a call can be recognised by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// Standard input and output: one process, one client.
    Process,
    /// `Mcp-Session-Id` of protocol versions up to 2025-11-25.
    HttpSession(String),
    /// Our cookie: all that tells two clients of the stateless 2026-07-28 protocol apart.
    Cookie(String),
    /// Nothing. Such a client works in `default` and names other sessions in each call.
    Unknown,
}

/// The map.
#[derive(Debug, Default)]
pub struct ActiveSessions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    choices: BTreeMap<Client, (Arc<str>, u64)>,
    counter: u64,
}

impl ActiveSessions {
    /// The session that a call of this client works in when it names none.
    #[must_use]
    pub fn of(&self, client: &Client) -> Arc<str> {
        let inner = self.0.lock();
        inner.choices.get(client).map_or_else(|| Arc::from(DEFAULT), |(session, _)| Arc::clone(session))
    }

    /// Makes another session the active one; gives the previous one. `None` when the client cannot be recognised again.
    pub fn switch(&self, client: &Client, session: Arc<str>) -> Option<Arc<str>> {
        if *client == Client::Unknown {
            return None;
        }
        let mut inner = self.0.lock();
        inner.counter += 1;
        let number = inner.counter;
        let previous = inner.choices.insert(client.clone(), (session, number));
        if inner.choices.len() > MAX_CLIENTS
            && let Some(oldest) =
                inner.choices.iter().min_by_key(|(_, (_, number))| *number).map(|(client, _)| client.clone())
        {
            inner.choices.remove(&oldest);
        }
        Some(previous.map_or_else(|| Arc::from(DEFAULT), |(session, _)| session))
    }

    /// A session is gone: whoever had it active has `default` now, also should another of that name be made.
    pub fn forget(&self, session: &str) {
        self.0.lock().choices.retain(|_, (active, _)| &**active != session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(text: &str) -> Client {
        Client::Cookie(text.to_owned())
    }

    #[test]
    fn clients_do_not_move_each_other() {
        let active = ActiveSessions::default();
        assert_eq!(active.switch(&cookie("one"), "a".into()).as_deref(), Some(DEFAULT));
        assert_eq!(active.switch(&cookie("one"), "b".into()).as_deref(), Some("a"));
        assert_eq!((&*active.of(&cookie("one")), &*active.of(&cookie("two"))), ("b", DEFAULT));
    }

    #[test]
    fn a_client_that_cannot_be_recognised_is_told_so() {
        let active = ActiveSessions::default();
        assert_eq!(active.switch(&Client::Unknown, "a".into()), None);
        assert_eq!(&*active.of(&Client::Unknown), DEFAULT);
    }

    #[test]
    fn a_session_made_again_under_the_same_name_is_nobodys_active_one() {
        let active = ActiveSessions::default();
        active.switch(&cookie("one"), "a".into());
        active.forget("a");
        assert_eq!(&*active.of(&cookie("one")), DEFAULT);
    }

    #[test]
    fn the_map_is_bounded() {
        let active = ActiveSessions::default();
        for number in 0..MAX_CLIENTS + 10 {
            active.switch(&cookie(&number.to_string()), "a".into());
        }
        assert_eq!(active.0.lock().choices.len(), MAX_CLIENTS);
        assert_eq!(&*active.of(&cookie("3")), DEFAULT);
    }
}
