//! Who calls, and which session is active for them.
//!
//! Runs in: server. Owns the map from client to active session; knows nothing of a session beyond its name. Two HTTP
//! clients never move each other's active session.

use serde::{Deserialize, Serialize};

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// Clients remembered at a time; the one whose choice is oldest is forgotten first.
const MAX_CLIENTS: usize = 4096;

/// What a call can be recognised by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Client {
    /// Standard input and output: one process, one client.
    Process,
    /// A front (`forkpy attach`): each connection is one client.
    Front(u64),
    /// `Mcp-Session-Id` of protocol versions up to 2025-11-25.
    HttpSession(String),
    /// Our cookie: all that tells two clients of the stateless 2026-07-28 protocol apart.
    Cookie(String),
    /// Its connection, as long as that lasts: it sends neither of both.
    Connection(u64),
    /// Nothing: others may come over the same connection. Such a client, as the one before, works in `default` and names
    /// other sessions in each call.
    Unknown,
}

impl Client {
    /// It may be one that was here before, and cannot be recognised.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Unknown)
    }

    /// The name of its connection, where another program can go on with that.
    pub(crate) fn lasting_name(&self) -> Option<&str> {
        match self {
            Self::HttpSession(id) => Some(id),
            Self::Process | Self::Front(_) | Self::Cookie(_) | Self::Connection(_) | Self::Unknown => None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ActiveSessions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    choices: BTreeMap<Client, (Choice, u64)>,
    counter: u64,
}

/// The session that a client has made its active one: this one, and none that gets its name later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub session: Arc<str>,
    /// The number of its life.
    pub life: u64,
}

impl ActiveSessions {
    /// The session that a call of this client works in when it names none; `None` is the default one. It may have ended.
    #[must_use]
    pub(crate) fn of(&self, client: &Client) -> Option<Choice> {
        self.0.lock().choices.get(client).map(|(choice, _)| choice.clone())
    }

    /// Makes another session the active one. False when the client cannot be recognised again.
    #[must_use]
    pub(crate) fn switch(&self, client: &Client, choice: Choice) -> bool {
        if client.is_passing() {
            return false;
        }
        let mut inner = self.0.lock();
        inner.counter += 1;
        let number = inner.counter;
        inner.choices.insert(client.clone(), (choice, number));
        if inner.choices.len() > MAX_CLIENTS
            && let Some(oldest) =
                inner.choices.iter().min_by_key(|(_, (_, number))| *number).map(|(client, _)| client.clone())
        {
            inner.choices.remove(&oldest);
        }
        true
    }

    /// All choices, for the program that this server becomes.
    #[must_use]
    pub(crate) fn pack(&self) -> Vec<(Client, (String, u64))> {
        let inner = self.0.lock();
        let choice = |choice: &Choice| (choice.session.to_string(), choice.life);
        inner.choices.iter().map(|(client, (chosen, _))| (client.clone(), choice(chosen))).collect()
    }

    /// Goes on with them.
    pub(crate) fn go_on(&self, choices: Vec<(Client, (String, u64))>) {
        for (client, (session, life)) in choices {
            let _ = self.switch(&client, Choice { session: session.into(), life });
        }
    }

    /// The client has ended its active session itself, and works in the default one again.
    pub(crate) fn leave(&self, client: &Client) {
        self.0.lock().choices.remove(client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(text: &str) -> Client {
        Client::Cookie(text.to_owned())
    }

    fn choice(session: &str) -> Choice {
        Choice { session: session.into(), life: 1 }
    }

    #[test]
    fn clients_do_not_move_each_other() {
        let active = ActiveSessions::default();
        assert!(active.switch(&cookie("one"), choice("a")) && active.switch(&cookie("one"), choice("b")));
        assert_eq!((active.of(&cookie("one")), active.of(&cookie("two"))), (Some(choice("b")), None));
        active.leave(&cookie("one"));
        assert_eq!(active.of(&cookie("one")), None);
    }

    #[test]
    fn a_client_that_cannot_be_recognised_is_told_so() {
        let active = ActiveSessions::default();
        for client in [Client::Unknown, Client::Connection(7)] {
            assert!(!active.switch(&client, choice("a")));
            assert_eq!(active.of(&client), None);
        }
    }

    #[test]
    fn the_map_is_bounded() {
        let active = ActiveSessions::default();
        for number in 0..MAX_CLIENTS + 10 {
            assert!(active.switch(&cookie(&number.to_string()), choice("a")));
        }
        assert_eq!(active.0.lock().choices.len(), MAX_CLIENTS);
        assert_eq!(active.of(&cookie("3")), None);
    }
}
