//! The life of one session: which bearer of its name it is, whether it is over, and what its clients have to learn of it.
//!
//! Runs in: server. The session's task writes what happened (checkpoints write what became of them); the code that replies to a
//! client reads what that client has not been told. No sentences here, and no MCP: words are `tools/call/notices.rs`.
//!
//! A session's name can be given again; a [`Life`] cannot. Copies of a session hold its incarnation, so that what was on its way
//! when a session ended never reaches the next one of that name.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    active::Client,
    death::{DeathReason, Fate},
    happened::{Event, What, came_to},
    readers::{Readers, Reading},
};
use crate::server::{owner::Owner, workers::incarnation::Incarnation};

/// Events of one session that are kept; of older ones only what they came to.
const MAX_EVENTS: usize = 64;
/// So long a client that cannot be recognised is reminded of what another may have been told in its place.
const REMINDED_FOR: Duration = Duration::from_secs(600);

/// One session from its making to its end. Cheap to copy.
#[derive(Debug, Clone)]
pub(crate) struct Life(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    incarnation: Incarnation,
    owner: Owner,
    log: Mutex<Log>,
}

/// What a client has not been told.
#[derive(Debug, Clone, Default)]
pub(crate) struct News {
    /// Oldest first; without what it knows because it ordered it.
    pub events: Vec<Event>,
    /// Perhaps it has: it cannot be recognised, and a client that cannot be recognised either has been told, or has ordered it.
    pub doubtful: Vec<Event>,
    /// Number of the newest event that was looked at.
    pub up_to: u64,
}

impl News {
    /// What they came to.
    #[must_use]
    pub(crate) fn fate(&self) -> Fate {
        came_to(&self.events).0
    }
}

/// The end of a session, for those who come later.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub owner: Owner,
    pub session: Arc<str>,
    pub life: u64,
    pub why: DeathReason,
    /// Who had used it.
    readers: Vec<Client>,
}

/// What is taken along of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedLog {
    newest: u64,
    /// What all of it came to.
    fate: Fate,
    told: u64,
    /// Clients, and how far each has been told.
    readers: Vec<(Client, u64)>,
}

#[derive(Debug, Default)]
struct Log {
    /// Number of the newest event.
    newest: u64,
    events: VecDeque<Event>,
    /// Number and outcome of those that are not kept any more.
    forgotten: (u64, Fate),
    /// The newest event that a reply to a cell has told any client.
    told: u64,
    readers: Readers,
}

impl Life {
    /// A session that begins.
    #[must_use]
    pub(crate) fn new(owner: Owner, session: Arc<str>) -> Self {
        Self(Arc::new(Inner { incarnation: Incarnation::new(session), owner, log: Mutex::default() }))
    }

    /// What clients have been told, for the program that this server becomes.
    pub(super) fn pack(&self) -> PackedLog {
        let log = self.0.log.lock();
        let untold = came_to(&log.events.iter().cloned().collect::<Vec<_>>()).0;
        PackedLog {
            newest: log.newest,
            fate: untold.or_worse(log.forgotten.1),
            told: log.told,
            readers: log.readers.pack(),
        }
    }

    /// One that goes on. Of what has happened to it only what it came to is remembered.
    pub(super) fn going_on(owner: Owner, session: Arc<str>, number: u64, log: PackedLog) -> Self {
        let PackedLog { newest, fate, told, readers } = log;
        let readers = Readers::going_on(readers, newest);
        let log = Log { newest, events: VecDeque::new(), forgotten: (newest, fate), told, readers };
        let incarnation = Incarnation::going_on(session, number);
        Self(Arc::new(Inner { incarnation, owner, log: Mutex::new(log) }))
    }

    /// One that bears the name of a session that has ended: those who used that one are to learn it, but for its maker.
    #[must_use]
    pub(crate) fn after(ended: Ended, by: Option<&Client>) -> Self {
        let life = Self::new(ended.owner, ended.session);
        {
            let mut log = life.0.log.lock();
            for client in ended.readers {
                log.readers.read_by(&client, 0, 0);
            }
        }
        life.happened(What::MadeAnew { ended: ended.why }, by);
        // It is of no interest for those who come new.
        life.0.log.lock().told = 1;
        life
    }

    /// Its number within the server: two sessions never have the same.
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        self.0.incarnation.number
    }

    /// Which bearer of its name it is, for what must not outlive it.
    #[must_use]
    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.0.incarnation
    }

    /// Whose it is.
    #[must_use]
    pub(crate) fn owner(&self) -> &Owner {
        &self.0.owner
    }

    #[must_use]
    pub(crate) fn session(&self) -> &Arc<str> {
        &self.0.incarnation.session
    }

    /// The session has been deleted, or is about to end: nothing of it is kept from now on.
    pub(crate) fn end(&self, why: DeathReason) -> Ended {
        self.0.incarnation.end();
        let readers = self.0.log.lock().readers.clients();
        Ended { owner: self.owner().clone(), session: Arc::clone(self.session()), life: self.number(), why, readers }
    }

    /// Whether it is over.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.0.incarnation.is_over()
    }

    /// Notes what happened, and who ordered it.
    pub(crate) fn happened(&self, what: What, by: Option<&Client>) {
        let mut log = self.0.log.lock();
        log.newest += 1;
        let number = log.newest;
        log.events.push_back(Event { number, by: by.cloned(), what, at: Instant::now() });
        if log.events.len() > MAX_EVENTS
            && let Some(oldest) = log.events.pop_front()
        {
            log.forgotten = (oldest.number, log.forgotten.1.or_worse(oldest.what.fate()));
        }
    }

    /// Number of the newest event.
    #[must_use]
    pub(crate) fn newest(&self) -> u64 {
        self.0.log.lock().newest
    }

    /// This client uses the session.
    pub(crate) fn used_by(&self, client: &Client) {
        let mut log = self.0.log.lock();
        let (told, newest) = (log.told, log.newest);
        log.readers.read_by(client, told, newest);
    }

    /// This client uses the session, and counts on what was there before anything that its log holds.
    pub(in crate::server) fn relied_on_by(&self, client: &Client) {
        self.0.log.lock().readers.read_by(client, 0, 0);
    }

    /// What this client has not been told.
    #[must_use]
    pub(crate) fn news(&self, client: &Client) -> News {
        let mut log = self.0.log.lock();
        let (told, up_to) = (log.told, log.newest);
        let Reading { told, doubt, joined } = log.readers.read_by(client, told, up_to);
        let since = doubt.map_or(told, |doubt| doubt.min(told));
        if since == up_to {
            return News { up_to, ..News::default() };
        }
        let young = |event: &&Event| event.at.elapsed() < REMINDED_FOR && event.what.fate() != Fate::Kept;
        let perhaps_told = |event: &&Event| since < event.number && event.number <= told;
        let mut doubtful: Vec<Event> = log.events.iter().filter(perhaps_told).filter(young).cloned().collect();
        let (forgotten, fate) = log.forgotten;
        let lump = (told < forgotten).then(|| {
            let what = What::Forgotten { count: forgotten - told, fate };
            Event { number: forgotten, by: None, what, at: Instant::now() }
        });
        let untold = lump.into_iter().chain(log.events.iter().filter(|event| event.number > told).cloned());
        let is_own = |event: &Event| event.by.as_ref() == Some(client) && *client != Client::Unknown;
        // Before its connection was made, it may have ordered it over another.
        let perhaps_own = |event: &Event| {
            client.is_passing() && event.number <= joined && event.by.as_ref().is_some_and(Client::is_passing)
        };
        let mut events: Vec<Event> = untold.collect();
        if let Some(place) = events.iter().rposition(|event| is_own(event) && event.what.makes_plain()) {
            let later = events.split_off(place);
            events.retain(|event| matches!(event.what, What::CheckpointGone { .. }));
            events.extend(later);
        }
        events.retain(|event| !is_own(event));
        doubtful.retain(|event| !is_own(event));
        let (perhaps, events): (Vec<_>, Vec<_>) = events.into_iter().partition(perhaps_own);
        doubtful.extend(perhaps);
        News { events, doubtful, up_to }
    }

    /// A reply has told this client of all up to that event.
    pub(crate) fn told(&self, client: &Client, number: u64) {
        let mut log = self.0.log.lock();
        log.told = log.told.max(number);
        log.readers.told(client, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::WorkerExit,
        server::sessions::death::{Death, Recovered},
    };

    fn cookie(text: &str) -> Client {
        Client::Cookie(text.to_owned())
    }

    fn death() -> Death {
        Death { reason: DeathReason::Itself, exit: WorkerExit::Signal(9), cell: None, during: None, report: None }
    }

    /// A loss after the checkpoints up to that number had been made.
    fn lost(newest: u64) -> What {
        What::Lost { death: death(), newest }
    }

    fn restored(copy: u64) -> What {
        What::Restored { death: death(), recovered: Recovered { from: 1, lost: None }, copy }
    }

    fn numbers(life: &Life, client: &Client) -> Vec<u64> {
        life.news(client).events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn each_client_learns_of_everything_once() {
        let (life, one, two) = (Life::new(Owner::User, "a".into()), cookie("one"), cookie("two"));
        life.used_by(&one);
        life.used_by(&two);
        life.happened(lost(0), None);
        assert_eq!(numbers(&life, &one), [1]);
        assert_eq!(numbers(&life, &one), [1], "until it has been told");
        life.told(&one, 1);
        assert_eq!((numbers(&life, &one), numbers(&life, &two)), (vec![], vec![1]));
        assert_eq!(numbers(&life, &cookie("new")), [0; 0], "what was told is no news for who comes new");
    }

    #[test]
    fn who_ordered_it_knows_and_knows_what_came_before() {
        let (life, one, two) = (Life::new(Owner::User, "a".into()), cookie("one"), cookie("two"));
        life.used_by(&one);
        life.used_by(&two);
        life.happened(lost(0), None);
        life.happened(What::Restarted { carried: None, newest: 0 }, Some(&two));
        assert_eq!((numbers(&life, &one), numbers(&life, &two)), (vec![1, 2], vec![]));
        // Carrying over what there is after a loss does not undo the loss.
        life.happened(lost(0), None);
        life.happened(What::Restarted { carried: Some(0), newest: 0 }, Some(&two));
        assert_eq!(numbers(&life, &two), [3]);
    }

    #[test]
    fn a_checkpoint_from_before_a_loss_undoes_it_and_a_later_one_does_not() {
        let (life, one) = (Life::new(Owner::User, "a".into()), cookie("one"));
        life.used_by(&one);
        life.happened(lost(5), None);
        life.happened(restored(6), None);
        assert_eq!(life.news(&one).fate(), Fate::Lost);
        life.happened(restored(5), None);
        assert_eq!(life.news(&one).fate(), Fate::Restored);
        life.happened(What::BranchKept, None);
        assert_eq!(life.news(&one).fate(), Fate::Restored);
    }

    #[test]
    fn a_client_without_a_cookie_is_told_by_connection_and_what_is_not_sure_is_told_too() {
        let (life, one, two, new) =
            (Life::new(Owner::User, "a".into()), Client::Connection(1), Client::Connection(2), Client::Connection(3));
        life.used_by(&one);
        life.used_by(&two);
        life.happened(lost(0), None);
        life.told(&one, life.news(&one).up_to);
        assert_eq!((life.news(&one).fate(), life.news(&two).fate()), (Fate::Kept, Fate::Lost));
        // It may be the first one, over a new connection, or one that was not told.
        let news = life.news(&new);
        assert_eq!((news.fate(), news.doubtful.len()), (Fate::Kept, 1));
        life.told(&new, news.up_to);
        assert_eq!(life.news(&new).doubtful.len(), 0, "once for each connection");
        // Behind a proxy not even connections are told apart.
        for _ in 0..2 {
            let news = life.news(&Client::Unknown);
            assert_eq!((news.fate(), news.doubtful.len()), (Fate::Kept, 1));
            life.told(&Client::Unknown, news.up_to);
        }
        assert_eq!(life.news(&two).fate(), Fate::Lost, "and no other client has taken it from this one");
        assert!(life.news(&cookie("new")).doubtful.is_empty());
    }

    #[test]
    fn who_ordered_it_may_come_by_another_connection() {
        let (life, one, two, old) =
            (Life::new(Owner::User, "a".into()), Client::Connection(1), Client::Connection(2), Client::Connection(3));
        life.used_by(&one);
        life.used_by(&old);
        life.happened(What::Restarted { carried: None, newest: 0 }, Some(&one));
        assert_eq!(life.news(&old).fate(), Fate::Lost, "it was here, and did not order it");
        let news = life.news(&two);
        assert_eq!((news.fate(), news.doubtful.len()), (Fate::Kept, 1));
    }

    #[test]
    fn what_nobody_was_told_is_news_for_who_comes_new() {
        let life = Life::new(Owner::User, "a".into());
        life.happened(lost(0), None);
        assert_eq!(numbers(&life, &cookie("new")), [1]);
    }

    #[test]
    fn a_name_that_is_given_again_is_news_for_those_who_used_it() {
        let (first, one, two) = (Life::new(Owner::User, "a".into()), cookie("one"), cookie("two"));
        first.used_by(&one);
        first.used_by(&two);
        let second = Life::after(first.end(DeathReason::Delete), Some(&two));
        assert!(first.is_over() && !second.is_over() && first.number() != second.number());
        second.happened(restored(1), None);
        let fate = |client: &str| second.news(&cookie(client)).fate();
        assert_eq!((fate("one"), fate("two"), fate("three")), (Fate::Lost, Fate::Restored, Fate::Restored));
    }

    #[test]
    fn the_log_is_bounded_and_what_fell_out_is_still_said() {
        let (life, away) = (Life::new(Owner::User, "a".into()), cookie("away"));
        life.used_by(&away);
        life.happened(lost(0), None);
        for _ in 0..2 * MAX_EVENTS {
            life.happened(What::BranchKept, None);
        }
        let news = life.news(&away);
        assert_eq!((news.events.len(), news.fate()), (MAX_EVENTS + 1, Fate::Lost));
    }
}
