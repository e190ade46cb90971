//! What happened in the server, for those that want to hear of it: what they asked for, and what they have yet to hear.
//!
//! Runs in: server, any of its threads ([`Changes::changed`] never waits). Knows what changed, and not how a client is told:
//! URIs and notifications are made in `mcp/resources`.
//!
//! What a subscriber has yet to hear is a set of what it asked for, so it never grows beyond that: a file written a
//! thousand times while its subscriber reads nothing is one entry. While no one is subscribed, an announcement is one atomic
//! load.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::owner::Owner;

/// Most wishes of one subscriber.
pub(crate) const MAX_WISHES: usize = 1000;
/// After telling a subscriber something, it is left alone for so long; what happens meanwhile is told together.
pub(crate) const REST: Duration = Duration::from_millis(500);

/// Something that changes and can be listened to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The alerts of all sessions of an owner.
    Alerts(Owner),
    /// The health of all sessions of an owner.
    Health(Owner),
    /// The health of one session, by its name.
    Session(Owner, String),
    /// A file, by its path in the workspace, which may be one owner's alone.
    File(Option<Owner>, String),
}

/// Keeps a subject watched as long as it lives.
pub(crate) type Hold = Box<dyn Send>;

/// Where changes are announced and heard of.
#[derive(Clone, Default)]
pub(crate) struct Changes(Arc<Hub>);

#[derive(Default)]
struct Hub {
    /// Subscriptions to single subjects, over all subscribers.
    watched: AtomicUsize,
    /// Subscribers that want to hear when the list changes.
    listing: AtomicUsize,
    queues: Mutex<Vec<Arc<Queue>>>,
}

/// One that listens, until it is dropped.
pub(crate) struct Subscriber {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

/// The end at which its changes come out.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Inner>);

struct Inner {
    /// Who listens.
    owner: Owner,
    /// The name of its connection, if another program could go on with that.
    name: Option<String>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<Subject, Wanted>,
    wants_list: bool,
    changed: BTreeSet<Subject>,
    list_changed: bool,
    closed: bool,
}

struct Wanted {
    /// As the subscriber calls it: it may not know the subject by another name.
    spellings: BTreeSet<String>,
    _hold: Option<Hold>,
}

/// What happened since a subscriber was last told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// There are other resources than before.
    pub list_changed: bool,
    /// Subjects that changed, as the subscriber calls them.
    pub names: Vec<String>,
}

/// The subscriber has [`MAX_WISHES`] already.
#[derive(Debug, thiserror::Error)]
#[error("this client has {MAX_WISHES} subscriptions already: take some back first")]
pub(crate) struct TooMany;

impl std::fmt::Debug for Changes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Changes").field("heard", &self.is_heard()).finish_non_exhaustive()
    }
}

impl Changes {
    /// A new subscriber, which wants nothing yet.
    #[must_use]
    pub(crate) fn subscriber(&self, owner: Owner) -> Subscriber {
        self.subscriber_named(owner, None)
    }

    /// The same for a connection that has a name.
    #[must_use]
    pub(crate) fn subscriber_named(&self, owner: Owner, name: Option<String>) -> Subscriber {
        let inner = Inner { owner, name, state: Mutex::default(), wake: Notify::new() };
        let queue = Arc::new(Queue(Arc::new(inner)));
        self.0.queues.lock().push(Arc::clone(&queue));
        Subscriber { hub: Arc::clone(&self.0), queue }
    }

    /// Whether any subscriber would hear of anything.
    #[must_use]
    pub(crate) fn is_heard(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed) > 0 || self.0.listing.load(Ordering::Relaxed) > 0
    }

    /// Whether any subscriber would hear of a single subject; naming them can be spared otherwise.
    #[must_use]
    pub(crate) fn is_watched(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed) > 0
    }

    /// What connections that have a name want to hear of, as they call it.
    pub(crate) fn wishes(&self) -> Vec<(String, Vec<String>)> {
        let queues = self.0.queues.lock();
        let named = queues.iter().filter_map(|queue| {
            let state = queue.0.state.lock();
            let spellings = state.wanted.values().flat_map(|wanted| wanted.spellings.iter().cloned());
            Some((queue.0.name.clone()?, spellings.collect()))
        });
        named.collect()
    }

    /// A subject changed, appeared or went.
    pub(crate) fn changed(&self, subject: &Subject) {
        self.announce(&self.0.watched, None, |state| {
            state.wanted.contains_key(subject) && state.changed.insert(subject.clone())
        });
    }

    /// Something has happened to a session.
    pub(crate) fn session(&self, owner: &Owner, name: &str) {
        if self.is_watched() {
            self.changed(&Subject::Session(owner.clone(), name.to_owned()));
            self.changed(&Subject::Health(owner.clone()));
        }
    }

    /// An alert of a session was raised or cleared.
    pub(crate) fn alert(&self, owner: &Owner, session: &str) {
        if self.is_watched() {
            self.changed(&Subject::Alerts(owner.clone()));
            self.session(owner, session);
        }
    }

    /// All files of a workspace whose path begins so may have changed.
    pub(crate) fn files_below(&self, of: Option<&Owner>, prefix: &str) {
        let first = Subject::File(of.cloned(), prefix.to_owned());
        let is_below = |subject: &&Subject| matches!(subject, Subject::File(whose, path) if whose.as_ref() == of && path.starts_with(prefix));
        self.announce(&self.0.watched, None, |state| {
            let from_here = state.wanted.range((Bound::Included(&first), Bound::Unbounded)).map(|(subject, _)| subject);
            let below: Vec<_> = from_here.take_while(is_below).cloned().collect();
            let before = state.changed.len();
            state.changed.extend(below);
            state.changed.len() > before
        });
    }

    /// There are other resources than before, for all or for one owner.
    pub(crate) fn list_changed(&self, of: Option<&Owner>) {
        self.list_changed_for(of);
    }

    /// The same for one owner: another is not to learn when sessions come and go.
    pub(crate) fn sessions_changed(&self, owner: &Owner) {
        self.list_changed_for(Some(owner));
    }

    fn list_changed_for(&self, owner: Option<&Owner>) {
        self.announce(&self.0.listing, owner, |state| state.wants_list && !mem::replace(&mut state.list_changed, true));
    }

    fn announce(&self, listeners: &AtomicUsize, owner: Option<&Owner>, is_news: impl Fn(&mut State) -> bool) {
        if listeners.load(Ordering::Relaxed) == 0 {
            return;
        }
        for queue in &*self.0.queues.lock() {
            if owner.is_none_or(|owner| *owner == queue.0.owner) && is_news(&mut queue.0.state.lock()) {
                queue.0.wake.notify_one();
            }
        }
    }
}

impl Subscriber {
    /// Wants to hear of a subject, which it calls `spelling`.
    pub(crate) fn add(&self, subject: Subject, spelling: &str, hold: Option<Hold>) -> Result<(), TooMany> {
        let mut state = self.queue.0.state.lock();
        let spellings: usize = state.wanted.values().map(|wanted| wanted.spellings.len()).sum();
        if spellings >= MAX_WISHES {
            return Err(TooMany);
        }
        // `hold` is let go of after the lock, here and below: it may call into a subscriber, which may be announcing.
        match state.wanted.get_mut(&subject) {
            Some(wanted) => {
                wanted.spellings.insert(spelling.to_owned());
            }
            None => {
                let spellings = BTreeSet::from([spelling.to_owned()]);
                state.wanted.insert(subject, Wanted { spellings, _hold: hold });
                self.hub.watched.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Does not want to hear of it any more; nothing happens if it never did.
    pub(crate) fn remove(&self, subject: &Subject, spelling: &str) {
        let mut state = self.queue.0.state.lock();
        let Some(wanted) = state.wanted.get_mut(subject) else { return };
        wanted.spellings.remove(spelling);
        if wanted.spellings.is_empty() {
            let gone = state.wanted.remove(subject);
            state.changed.remove(subject);
            drop(state);
            self.hub.watched.fetch_sub(1, Ordering::Relaxed);
            drop(gone);
        }
    }

    /// Hears that all it listens to may have changed.
    pub(crate) fn may_have_missed(&self) {
        let mut state = self.queue.0.state.lock();
        let all = state.wanted.keys().cloned().collect();
        state.changed = all;
        self.queue.0.wake.notify_one();
    }

    /// Wants to hear when there are other resources than before.
    pub(crate) fn want_list(&self) {
        if !mem::replace(&mut self.queue.0.state.lock().wants_list, true) {
            self.hub.listing.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whose news they are.
    #[must_use]
    pub(crate) fn owner(&self) -> &Owner {
        &self.queue.0.owner
    }

    #[must_use]
    pub(crate) fn queue(&self) -> Queue {
        Queue::clone(&self.queue)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.hub.queues.lock().retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        let mut state = self.queue.0.state.lock();
        state.closed = true;
        let wanted = mem::take(&mut state.wanted);
        let wants_list = mem::take(&mut state.wants_list);
        drop(state);
        self.hub.watched.fetch_sub(wanted.len(), Ordering::Relaxed);
        self.hub.listing.fetch_sub(usize::from(wants_list), Ordering::Relaxed);
        self.queue.0.wake.notify_one();
    }
}

impl Queue {
    /// Waits for something to tell; `None` when the subscriber is gone.
    pub(crate) async fn next(&self) -> Option<News> {
        loop {
            // Before the look: what comes in between wakes it.
            let woken = self.0.wake.notified();
            {
                let mut state = self.0.state.lock();
                if state.closed {
                    return None;
                }
                let news = state.take();
                if news != News::default() {
                    return Some(news);
                }
            }
            woken.await;
        }
    }
}

impl State {
    fn take(&mut self) -> News {
        let changed = mem::take(&mut self.changed);
        let spellings =
            changed.iter().filter_map(|subject| self.wanted.get(subject)).flat_map(|wanted| &wanted.spellings);
        News { list_changed: mem::take(&mut self.list_changed), names: spellings.cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Subject {
        Subject::File(None, path.to_owned())
    }

    fn heard(subscriber: &Subscriber) -> News {
        subscriber.queue.0.state.lock().take()
    }

    #[test]
    fn only_what_was_asked_for_is_kept_and_once() {
        let changes = Changes::default();
        let (one, other) = (changes.subscriber(Owner::User), changes.subscriber(Owner::User));
        assert!(!changes.is_heard());
        one.add(file("a"), "A", None).expect("room");
        one.add(file("a"), "a", None).expect("room");
        other.want_list();
        for _ in 0..1000 {
            changes.changed(&file("a"));
            changes.changed(&file("b"));
            changes.list_changed(None);
        }
        assert_eq!(heard(&one), News { list_changed: false, names: vec!["A".into(), "a".into()] });
        assert_eq!(heard(&other), News { list_changed: true, names: vec![] });
        assert_eq!(heard(&one), News::default());
        one.remove(&file("a"), "A");
        changes.changed(&file("a"));
        assert_eq!(heard(&one).names, ["a"]);
        one.remove(&file("a"), "a");
        changes.changed(&file("a"));
        assert_eq!(heard(&one), News::default());
        assert!(changes.is_heard());
        drop(other);
        assert!(!changes.is_heard());
    }

    #[test]
    fn an_owner_hears_of_its_own_sessions_only() {
        let changes = Changes::default();
        let (one, other) = (changes.subscriber(Owner::User), changes.subscriber(Owner::Bearer));
        for subscriber in [&one, &other] {
            let owner = subscriber.queue.0.owner.clone();
            subscriber.add(Subject::Session(owner.clone(), "a".to_owned()), "a", None).expect("room");
            subscriber.add(Subject::Alerts(owner), "alerts", None).expect("room");
            subscriber.want_list();
        }
        changes.alert(&Owner::User, "a");
        changes.sessions_changed(&Owner::User);
        assert_eq!(heard(&one), News { list_changed: true, names: vec!["alerts".into(), "a".into()] });
        assert_eq!(heard(&other), News::default());
        changes.list_changed(None);
        assert!(heard(&one).list_changed && heard(&other).list_changed);
    }

    #[test]
    fn a_prefix_means_all_that_begin_so() {
        let changes = Changes::default();
        let one = changes.subscriber(Owner::User);
        for path in ["a", "a/1", "a/2", "b", "0/a/1"] {
            one.add(file(path), path, None).expect("room");
        }
        one.add(Subject::Session(Owner::User, "a/3".to_owned()), "session", None).expect("room");
        changes.files_below(None, "a/");
        assert_eq!(heard(&one).names, ["a/1", "a/2"]);
        changes.session(&Owner::User, "a/3");
        assert_eq!(heard(&one).names, ["session"]);
    }

    #[test]
    fn subscriptions_are_bounded_and_let_go_of_what_they_hold() {
        struct Held(Arc<AtomicUsize>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (changes, gone) = (Changes::default(), Arc::default());
        let one = changes.subscriber(Owner::User);
        for number in 0..MAX_WISHES {
            let hold = Box::new(Held(Arc::clone(&gone)));
            one.add(file(&number.to_string()), "x", Some(hold)).expect("room");
        }
        assert!(one.add(file("one more"), "x", None).is_err());
        one.remove(&file("3"), "x");
        assert_eq!(gone.load(Ordering::Relaxed), 1);
        drop(one);
        assert_eq!(gone.load(Ordering::Relaxed), MAX_WISHES);
        assert_eq!(changes.0.watched.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_comes_while_nobody_waits_is_there_and_the_end_is_heard() {
        let changes = Changes::default();
        let one = changes.subscriber(Owner::User);
        let queue = one.queue();
        one.add(file("a"), "a", None).expect("room");
        changes.changed(&file("a"));
        assert_eq!(queue.next().await.expect("news").names, ["a"]);
        let waiting = tokio::spawn(async move { queue.next().await });
        drop(one);
        assert_eq!(waiting.await.expect("no panic"), None);
    }
}
