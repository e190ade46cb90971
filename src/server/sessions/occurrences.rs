//! What has happened to sessions, for clients that ask by and by: cells that have ended, workers that have died, alerts.
//!
//! Runs in: server. Facts in order, bounded; how a client asks, and what it is told, is made in `mcp/events.rs`. Nothing is noted before
//! a client has asked for the first time: it begins there.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::returned::time;
use crate::server::owner::Owner;

/// Most that are kept; the oldest go first.
const MOST: usize = 1000;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Occurred {
    CellEnded { cell: u64, status: String },
    Died { reason: String, words: String },
    Raised { alert: String, words: String },
    Cleared { alert: String },
}

/// That it has, and to which session.
#[derive(Debug, Clone)]
pub(crate) struct Occurrence {
    pub(crate) number: u64,
    pub(crate) when: Timestamp,
    owner: Owner,
    pub(crate) session: String,
    pub(crate) what: Occurred,
}

/// Where a reader is: behind the occurrence of that number, in a log of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) log: String,
    pub(crate) number: u64,
}

/// What a reader gets.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) occurrences: Vec<Occurrence>,
    pub(crate) position: Position,
    /// Some that it may have wanted are not kept any more, or too old for it.
    pub(crate) is_cut: bool,
    pub(crate) has_more: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Occurrences {
    /// A client has asked.
    wanted: AtomicBool,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    /// Positions of another log mean nothing here.
    name: String,
    /// The number of the newest.
    newest: u64,
    kept: VecDeque<Occurrence>,
}

/// Its number, when (RFC 3339), whose, which session, and what.
type PackedOne = (u64, String, (u8, String), String, Occurred);

/// On its way to the program that this server becomes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PackedOccurrences {
    wanted: bool,
    name: String,
    newest: u64,
    kept: Vec<PackedOne>,
}

impl Default for Occurrences {
    fn default() -> Self {
        let name = uuid::Uuid::new_v4().simple().to_string();
        Self { wanted: AtomicBool::new(false), log: Mutex::new(Log { name, newest: 0, kept: VecDeque::new() }) }
    }
}

impl Occurrences {
    /// Notes what has happened, if any client has ever asked.
    pub(crate) fn note(&self, owner: &Owner, session: &str, what: impl FnOnce() -> Occurred) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut log = self.log.lock();
        log.newest += 1;
        let (number, when, session) = (log.newest, Timestamp::now(), session.to_owned());
        log.kept.push_back(Occurrence { number, when, owner: owner.clone(), session, what: what() });
        if log.kept.len() > MOST {
            log.kept.pop_front();
        }
    }

    /// What has happened since a position, to sessions of this owner; from now on when there is none.
    pub(crate) fn since(
        &self,
        owner: &Owner,
        from: Option<Position>,
        (max_age, most): (Option<Duration>, usize),
        is_wanted: impl Fn(&Occurrence) -> bool,
    ) -> Batch {
        self.wanted.store(true, Ordering::Relaxed);
        let log = self.log.lock();
        let now = Position { log: log.name.clone(), number: log.newest };
        let Some(from) = from else {
            return Batch { occurrences: Vec::new(), position: now, is_cut: false, has_more: false };
        };
        let is_ours = from.log == log.name && from.number <= log.newest;
        let behind = if is_ours { from.number } else { 0 };
        let oldest = log.kept.front().map_or(log.newest + 1, |oldest| oldest.number);
        let limit = max_age.and_then(|age| Timestamp::now().checked_sub(age).ok());
        let is_fresh = |one: &&Occurrence| limit.is_none_or(|limit| one.when >= limit);
        let is_wanted = &is_wanted;
        let own = || log.kept.iter().filter(move |one| one.number > behind && one.owner == *owner && is_wanted(one));
        let is_cut = !is_ours || behind + 1 < oldest || own().any(|one| !is_fresh(&one));
        let mut rest = own().filter(is_fresh);
        let occurrences: Vec<_> = rest.by_ref().take(most).cloned().collect();
        let has_more = rest.next().is_some();
        let position = match occurrences.last() {
            Some(last) if has_more => Position { number: last.number, ..now },
            _ => now,
        };
        Batch { occurrences, position, is_cut, has_more }
    }

    /// For the program that this server becomes.
    pub(in crate::server) fn pack(&self) -> PackedOccurrences {
        let log = self.log.lock();
        let kept = log.kept.iter().cloned();
        let kept = kept.map(|one| (one.number, one.when.to_string(), one.owner.pack(), one.session, one.what));
        PackedOccurrences {
            wanted: self.wanted.load(Ordering::Relaxed),
            name: log.name.clone(),
            newest: log.newest,
            kept: kept.collect(),
        }
    }

    pub(in crate::server) fn unpack(packed: PackedOccurrences) -> Self {
        let one = |(number, when, owner, session, what): PackedOne| Occurrence {
            number,
            when: time(&when),
            owner: Owner::unpack(owner),
            session,
            what,
        };
        let kept = packed.kept.into_iter().map(one).collect();
        let log = Log { name: packed.name, newest: packed.newest, kept };
        Self { wanted: AtomicBool::new(packed.wanted), log: Mutex::new(log) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(cell: u64) -> Occurred {
        Occurred::CellEnded { cell, status: "ok".to_owned() }
    }

    fn read(log: &Occurrences, from: Option<Position>, most: usize) -> (Vec<u64>, Position, bool, bool) {
        let batch = log.since(&Owner::User, from, (None, most), |_| true);
        let cells = batch.occurrences.into_iter().map(|one| match one.what {
            Occurred::CellEnded { cell, .. } => cell,
            other => panic!("{other:?}"),
        });
        (cells.collect(), batch.position, batch.is_cut, batch.has_more)
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_learns_what_it_has_missed() {
        let log = Occurrences::default();
        log.note(&Owner::User, "a", || panic!("no client has asked"));
        let (none, start, ..) = read(&log, None, 9);
        assert!(none.is_empty());
        for number in 1..=3 {
            log.note(&Owner::User, "a", || cell(number));
            log.note(&Owner::Bearer, "a", || cell(100 + number));
        }
        let (first, position, cut, more) = read(&log, Some(start.clone()), 2);
        assert_eq!((first, cut, more), (vec![1, 2], false, true));
        let (second, position, cut, more) = read(&log, Some(position), 2);
        assert_eq!((second, cut, more), (vec![3], false, false));
        assert_eq!(read(&log, Some(position.clone()), 2).0, [0; 0]);
        // In another program, and of a log that this is not.
        let log = Occurrences::unpack(log.pack());
        log.note(&Owner::User, "a", || cell(4));
        assert_eq!(read(&log, Some(position.clone()), 9).0, [4]);
        let (all, _, cut, _) = read(&log, Some(Position { log: "other".to_owned(), number: 77 }), 9);
        assert_eq!((all, cut), (vec![1, 2, 3, 4], true));
        for number in 0..=MOST as u64 {
            log.note(&Owner::User, "a", || cell(number));
        }
        assert!(read(&log, Some(position), 9).2, "the oldest are not kept any more");
    }
}
