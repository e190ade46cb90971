//! What everybody may see of a session without asking its task: a snapshot under one short lock.
//!
//! Runs in: server. Written by the session's task, read by tools and the supervisor.

use crate::server::workers::view::WorkerView;

use crate::server::health::evidence::Phase;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    happened::KeptByValue,
    outcome::{Death, DeathReason},
};
use crate::{
    server::health::{HealthPolicy, Record},
    sys::groups::Group,
};

/// What is to be seen of a session that sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sleeping {
    /// Bytes of the image.
    pub bytes: u64,
    pub since: Timestamp,
    /// The last cell that had run.
    pub cell: u64,
}

/// A session as seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    /// What the session is doing.
    pub phase: Phase,
    /// The process that serves it.
    pub worker: Option<WorkerView>,
    /// What its maker said of it.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was made, for measuring.
    pub created_at: Instant,
    /// Last time a client used it.
    pub last_activity: Timestamp,
    /// The same, for measuring.
    pub used_at: Instant,
    /// Cells that ran or began to.
    pub executed: u64,
    pub waiting: usize,
    /// Orders whose turn has come, ever.
    pub taken: u64,
    /// Workers it has had beyond the first.
    pub restarts: u64,
    /// How the last worker ended, and when.
    pub last_exit: Option<(Death, Timestamp)>,
    /// A worker that was killed for a limit, and which: the reason of the death that is about to be heard.
    pub condemned: Option<(i32, DeathReason)>,
    /// A worker that ends because that was ordered: its end is no illness.
    pub parting: Option<i32>,
    /// A worker that has ended and may not have been reaped yet: a zombie is told by it.
    pub ended: Option<i32>,
    /// Why the last attempt to make a worker failed.
    pub trouble: Option<String>,
    /// Why policy `last` has no checkpoint of what there is now.
    pub unkept: Option<String>,
    /// What is kept of it by value, where it cannot be copied.
    pub by_value: Option<Arc<KeptByValue>>,
    /// It sleeps in an image.
    pub asleep: Option<Sleeping>,
    /// It is awake, and has an image of how it was when it was at rest.
    pub at_rest: Option<Sleeping>,
    /// How many orders had been taken when that was last tried.
    pub imaged: Option<u64>,
    /// Why it was not put to sleep when it had been at rest for long.
    pub stays_awake: Option<String>,
    /// Why it was not put away into the store when it had been at rest for long, and when that was tried.
    pub stays: Option<(String, Instant)>,
    /// When the first of the workers began that have served it without a loss, where it has slept between.
    pub up_since: Option<Instant>,
    /// Where the kernel keeps some of its limits: only where it has such, and the system allows it.
    pub group: Option<Arc<Group>>,
}

impl Status {
    /// The turn of one that waits has come.
    pub(super) fn take(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        self.taken += 1;
    }

    pub(crate) fn touch(&mut self) {
        self.last_activity = Timestamp::now();
        self.used_at = Instant::now();
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    status: Mutex<Status>,
    record: Mutex<Record>,
    /// Told when a start is over, well or not.
    started: Notify,
}

impl Shared {
    /// A session just made.
    #[must_use]
    pub(crate) fn new(description: String, policy: HealthPolicy) -> Self {
        let now = Timestamp::now();
        let status = Mutex::new(Status {
            phase: Phase::Starting,
            worker: None,
            description,
            created: now,
            created_at: Instant::now(),
            last_activity: now,
            used_at: Instant::now(),
            executed: 0,
            waiting: 0,
            taken: 0,
            restarts: 0,
            last_exit: None,
            condemned: None,
            parting: None,
            ended: None,
            trouble: None,
            unkept: None,
            by_value: None,
            asleep: None,
            at_rest: None,
            imaged: None,
            stays_awake: None,
            stays: None,
            up_since: None,
            group: None,
        });
        let record = Mutex::new(Record::new(policy));
        Self(Arc::new(Inner { status, record, started: Notify::new() }))
    }

    /// A copy, by value.
    #[must_use]
    pub(crate) fn get(&self) -> Status {
        self.0.status.lock().clone()
    }

    /// Looks at or changes what is remembered of its health.
    pub(crate) fn record<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.0.record.lock())
    }

    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let (result, over) = {
            let mut status = self.0.status.lock();
            let before = status.phase;
            let result = change(&mut status);
            (result, before == Phase::Starting && status.phase != Phase::Starting)
        };
        if over {
            self.0.started.notify_waiters();
        }
        result
    }

    /// A copy, taken when no worker is being made any more, or after `limit`.
    pub(crate) async fn settled(&self, limit: Duration) -> Status {
        let wait = async {
            loop {
                let notified = self.0.started.notified();
                if self.0.status.lock().phase != Phase::Starting {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
        self.get()
    }
}
