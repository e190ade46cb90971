//! Alerts: raised once when a threshold is crossed, cleared once when the value is back, never in a storm.
//!
//! Runs in: server. [`Alarms`] belong to one session and are pure; the [`Book`] is the server's list, bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{server::owner::Owner, sys::age};

/// Most alerts remembered by the server.
const BOOK: usize = 256;
/// A value must fall below this part of its threshold before the alert is cleared.
const CLEAR_BELOW: f64 = 0.9;

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Resident memory above the alert threshold.
    Memory,
    /// Resident memory above the clean-up threshold.
    MemoryCleanup,
    /// Processor use above its threshold.
    Cpu,
    /// A ping unanswered beyond the limit.
    Unresponsive,
    /// Stopped by a signal.
    Stopped,
    /// Dead or a zombie.
    Unhealthy,
    /// Nearly as many processes as its limit.
    ProcessLimit,
    /// Nearly as much memory as its limit.
    MemoryLimit,
    /// Nearly as much on disk as its limit.
    DiskLimit,
    /// Given up: the restart budget is used up.
    Parked,
}

impl Kind {
    /// The word that clients see.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::MemoryCleanup => "memory_cleanup",
            Self::Cpu => "cpu",
            Self::Unresponsive => "unresponsive",
            Self::Stopped => "stopped",
            Self::Unhealthy => "unhealthy",
            Self::ProcessLimit => "process_limit",
            Self::MemoryLimit => "memory_limit",
            Self::DiskLimit => "disk_limit",
            Self::Parked => "parked",
        }
    }
}

/// One value against its threshold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measure {
    /// What.
    pub kind: Kind,
    /// How much; for kinds that are either so or not, 1 or 0.
    pub value: f64,
    /// From which on it is too much.
    pub threshold: f64,
    /// In words, as of now.
    pub words: String,
}

impl Measure {
    fn is_above(&self) -> bool {
        self.threshold > 0.0 && self.value >= self.threshold
    }

    /// Not so far below that an alert would be cleared.
    fn stays_up(&self) -> bool {
        self.threshold > 0.0 && self.value >= self.threshold * CLEAR_BELOW
    }

    /// Whether it would raise or clear an alert of these, but for the pause after one.
    #[must_use]
    pub(crate) fn is_news(&self, alarms: &Alarms) -> bool {
        if alarms.is_raised(self.kind) { !self.stays_up() } else { self.is_above() }
    }
}

/// What became of a measure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// The threshold was crossed.
    Raised(Measure),
    /// The value is back.
    Cleared(Kind),
}

/// A session's alarms.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Alarms(BTreeMap<Kind, Alarm>);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Alarm {
    raised: bool,
    #[serde(with = "age")]
    when: Instant,
}

impl Alarms {
    /// Takes new values in. An alert that was cleared is not raised again before `pause` is over.
    pub(crate) fn take(&mut self, measures: Vec<Measure>, now: Instant, pause: Duration) -> Vec<Change> {
        measures.into_iter().filter_map(|measure| self.take_one(measure, now, pause)).collect()
    }

    fn take_one(&mut self, measure: Measure, now: Instant, pause: Duration) -> Option<Change> {
        let kind = measure.kind;
        let above = measure.is_above();
        match self.0.get_mut(&kind) {
            Some(alarm) if alarm.raised => {
                if measure.stays_up() {
                    return None;
                }
                *alarm = Alarm { raised: false, when: now };
                Some(Change::Cleared(kind))
            }
            Some(alarm) if above && now.duration_since(alarm.when) < pause => None,
            _ if above => {
                self.0.insert(kind, Alarm { raised: true, when: now });
                Some(Change::Raised(measure))
            }
            _ => None,
        }
    }

    /// Kinds that are up.
    #[must_use]
    pub(crate) fn raised(&self) -> Vec<Kind> {
        self.0.iter().filter(|(_, alarm)| alarm.raised).map(|(kind, _)| *kind).collect()
    }

    /// Whether an alert of this kind is up.
    #[must_use]
    pub(crate) fn is_raised(&self, kind: Kind) -> bool {
        self.0.get(&kind).is_some_and(|alarm| alarm.raised)
    }
}

/// An alert as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Alert {
    /// Number, from 1, in the order raised.
    pub id: u64,
    /// The session.
    pub session_id: String,
    /// What it is about: `memory`, `memory_cleanup`, `cpu`, `unresponsive`, `stopped`, `unhealthy`, `process_limit`, `memory_limit`, `disk_limit`, `parked`.
    pub kind: Kind,
    /// In words.
    pub message: String,
    /// The value when it was raised: bytes, percent or seconds; 1 for kinds that have none.
    pub value: f64,
    /// The threshold that was crossed.
    pub threshold: f64,
    /// When (RFC 3339).
    pub raised_at: String,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared_at: Option<String>,
}

/// The server's alerts, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Book {
    next: AtomicU64,
    alerts: Mutex<VecDeque<Entry>>,
}

/// Whose alert it is: two sessions may have one name.
#[derive(Debug)]
struct Entry {
    owner: Owner,
    /// The number of the session's life.
    life: u64,
    alert: Alert,
}

/// The alerts, on their way to the program that this server becomes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PackedBook {
    next: u64,
    /// As JSON: a field that is left out has no place in a format without names.
    alerts: Vec<((u8, String), u64, String)>,
}

impl Book {
    /// Takes them along.
    pub(crate) fn pack(&self) -> PackedBook {
        let alerts = self.alerts.lock();
        let text = |alert: &Alert| serde_json::to_string(alert).ok();
        let entry = |entry: &Entry| Some((entry.owner.pack(), entry.life, text(&entry.alert)?));
        PackedBook { next: self.next.load(Ordering::Relaxed), alerts: alerts.iter().filter_map(entry).collect() }
    }

    /// Goes on with them.
    pub(crate) fn unpack(packed: PackedBook) -> Self {
        let entry = |(owner, life, alert): (_, _, String)| {
            Some(Entry { owner: Owner::unpack(owner), life, alert: serde_json::from_str(&alert).ok()? })
        };
        Self { next: packed.next.into(), alerts: Mutex::new(packed.alerts.into_iter().filter_map(entry).collect()) }
    }

    /// Enters a new alert.
    pub(crate) fn raise(&self, (owner, life): (&Owner, u64), session: &str, measure: &Measure, now: String) -> Alert {
        let alert = Alert {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            session_id: session.to_owned(),
            kind: measure.kind,
            message: measure.words.clone(),
            value: measure.value,
            threshold: measure.threshold,
            raised_at: now,
            cleared_at: None,
        };
        let mut alerts = self.alerts.lock();
        alerts.push_back(Entry { owner: owner.clone(), life, alert: alert.clone() });
        if alerts.len() > BOOK {
            // What is over goes first; what is still up is needed longer.
            let over = alerts.iter().position(|entry| entry.alert.cleared_at.is_some()).unwrap_or(0);
            alerts.remove(over);
        }
        alert
    }

    /// Notes that an alert is over.
    pub(crate) fn clear(&self, life: u64, kind: Kind, now: &str) {
        self.clear_those(life, now, |alert| alert.kind == kind);
    }

    /// A session is gone, and so is whatever was wrong with it.
    pub(crate) fn clear_all(&self, life: u64, now: &str) {
        self.clear_those(life, now, |_| true);
    }

    fn clear_those(&self, life: u64, now: &str, which: impl Fn(&Alert) -> bool) {
        let mut alerts = self.alerts.lock();
        for entry in alerts.iter_mut().filter(|entry| entry.life == life && which(&entry.alert)) {
            entry.alert.cleared_at.get_or_insert_with(|| now.to_owned());
        }
    }

    /// Those of an owner that are up.
    #[must_use]
    pub(crate) fn active(&self, owner: &Owner) -> Vec<Alert> {
        self.of(owner).into_iter().filter(|alert| alert.cleared_at.is_none()).collect()
    }

    /// All of an owner's that are remembered.
    #[must_use]
    pub(crate) fn of(&self, owner: &Owner) -> Vec<Alert> {
        let alerts = self.alerts.lock();
        alerts.iter().filter(|entry| entry.owner == *owner).map(|entry| entry.alert.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    fn memory(value: f64) -> Vec<Measure> {
        vec![Measure { kind: Kind::Memory, value, threshold: 500.0, words: format!("{value}") }]
    }

    #[test]
    fn a_value_that_swings_around_its_threshold_raises_one_alert() {
        let start = Instant::now();
        let mut alarms = Alarms::default();
        let mut changes = Vec::new();
        for second in 0..3600 {
            let value = if second % 2 == 0 { 510.0 } else { 490.0 };
            changes.extend(alarms.take(memory(value), start + Duration::from_secs(second), PAUSE));
        }
        assert_eq!(changes, [Change::Raised(memory(510.0).remove(0))]);
        assert!(alarms.is_raised(Kind::Memory));
    }

    #[test]
    fn a_value_that_leaps_is_told_at_most_once_in_a_pause() {
        let start = Instant::now();
        let mut alarms = Alarms::default();
        let mut raised = 0;
        for second in 0..600 {
            let value = if second % 2 == 0 { 900.0 } else { 10.0 };
            let changes = alarms.take(memory(value), start + Duration::from_secs(second), PAUSE);
            raised += changes.iter().filter(|change| matches!(change, Change::Raised(_))).count();
        }
        assert!((15..=20).contains(&raised), "{raised}");
    }

    #[test]
    fn a_threshold_of_zero_is_never_crossed_and_clears_what_was_up() {
        let start = Instant::now();
        let mut alarms = Alarms::default();
        assert_eq!(alarms.take(memory(600.0), start, PAUSE).len(), 1);
        let mut off = memory(600.0);
        off[0].threshold = 0.0;
        assert_eq!(alarms.take(off.clone(), start, PAUSE), [Change::Cleared(Kind::Memory)]);
        assert_eq!(alarms.take(off, start + PAUSE * 2, PAUSE), []);
    }

    #[test]
    fn the_book_is_bounded_and_keeps_what_is_up() {
        let book = Book::default();
        let user = &Owner::User;
        let first = book.raise((user, 1), "a", &memory(600.0)[0], "t0".to_owned());
        for turn in 0..1000 {
            book.raise((user, 2), "b", &memory(600.0)[0], format!("t{turn}"));
            book.clear(2, Kind::Memory, "later");
        }
        assert_eq!((book.of(user).len(), book.of(&Owner::Bearer).len()), (BOOK, 0));
        assert_eq!(book.active(user).iter().map(|alert| alert.id).collect::<Vec<_>>(), [first.id]);
        book.clear_all(1, "end");
        assert!(book.active(user).is_empty());
    }
}
