//! How far each client of a session has been told what happened to it.
//!
//! Runs in: server. Pure, but for the clock.
//!
//! A client without a cookie is known by its connection, and a new connection may be an old client. All of those are also
//! one reader together: a new connection begins where that one stands, and is reminded of what others may have been told in its
//! place.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::active::Client;

/// Clients of one session that are remembered; the one that was away longest is forgotten first.
pub(super) const MAX_READERS: usize = 512;
/// A client that could not be recognised may come with a cookie within this time.
const UNKNOWN_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Readers {
    all: BTreeMap<Client, Reader>,
    uses: u64,
}

/// Where a client stands in the session's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// The newest event that it has been told.
    pub told: u64,
    /// It may be one of several: events after this one were perhaps told to another.
    pub doubt: Option<u64>,
    /// The newest event when it came.
    pub joined: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    reading: Reading,
    used: u64,
    seen: Instant,
}

impl Readers {
    /// This client uses the session; one that is new has been told all up to `from`.
    pub(super) fn read_by(&mut self, client: &Client, from: u64, newest: u64) -> Reading {
        match client {
            Client::Unknown => {
                let shared = self.reader(client, Reading { told: from, doubt: None, joined: newest });
                Reading { doubt: Some(shared.joined), joined: u64::MAX, ..shared }
            }
            Client::Connection(_) => {
                let shared = self.reader(&Client::Unknown, Reading { told: from, doubt: None, joined: newest });
                self.reader(client, Reading { told: shared.told, doubt: Some(shared.joined), joined: newest })
            }
            Client::Cookie(_) => {
                // It may have been here a moment ago, before it was given its cookie.
                let before = self.all.get(&Client::Unknown).filter(|reader| reader.seen.elapsed() < UNKNOWN_FOR);
                let told = before.map_or(from, |unknown| unknown.reading.told.min(from));
                self.reader(client, Reading { told, doubt: None, joined: newest })
            }
            _ => self.reader(client, Reading { told: from, doubt: None, joined: newest }),
        }
    }

    fn reader(&mut self, client: &Client, new: Reading) -> Reading {
        self.uses += 1;
        let (used, seen) = (self.uses, Instant::now());
        if let Some(reader) = self.all.get_mut(client) {
            (reader.used, reader.seen) = (used, seen);
            return reader.reading;
        }
        if self.all.len() >= MAX_READERS {
            // Connections come and go: they make room first.
            let lasts = |client: &Client| !matches!(client, Client::Connection(_));
            let oldest = self.all.iter().min_by_key(|(client, reader)| (lasts(client), reader.used));
            if let Some(oldest) = oldest.map(|(client, _)| client.clone()) {
                self.all.remove(&oldest);
            }
        }
        self.all.insert(client.clone(), Reader { reading: new, used, seen });
        new
    }

    /// A reply has told this client of all up to that event.
    pub(super) fn told(&mut self, client: &Client, number: u64) {
        let shared = client.is_passing().then_some(&Client::Unknown);
        for client in [Some(client), shared].into_iter().flatten() {
            if let Some(reader) = self.all.get_mut(client) {
                reader.reading.told = reader.reading.told.max(number);
                reader.reading.doubt = None;
            }
        }
    }

    pub(super) fn pack(&self) -> Vec<(Client, u64)> {
        self.all.iter().map(|(client, reader)| (client.clone(), reader.reading.told)).collect()
    }

    /// Those that were there before an exec.
    pub(super) fn going_on(packed: Vec<(Client, u64)>, joined: u64) -> Self {
        let seen = Instant::now();
        let reader = |told| Reader { reading: Reading { told, doubt: None, joined }, used: 0, seen };
        Self { all: packed.into_iter().map(|(client, told)| (client, reader(told))).collect(), uses: 0 }
    }

    pub(super) fn clients(&self) -> Vec<Client> {
        self.all.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_too_many_and_connections_make_room_first() {
        let mut readers = Readers::default();
        readers.read_by(&Client::Process, 0, 0);
        for number in 0..2 * MAX_READERS as u64 {
            readers.read_by(&Client::Connection(number), 0, 0);
        }
        assert_eq!(readers.all.len(), MAX_READERS);
        assert!(readers.all.contains_key(&Client::Process) && readers.all.contains_key(&Client::Unknown));
        for number in 0..2 * MAX_READERS {
            readers.read_by(&Client::Cookie(number.to_string()), 0, 0);
        }
        assert_eq!(readers.all.len(), MAX_READERS);
    }
}
