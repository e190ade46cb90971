//! Workers that are ready and belong to no session yet: a session that begins takes one, and need not wait for a fork.
//!
//! Runs in: server, one task that forks them, and one for each that hears its end. They are made with the limits of the
//! server; a session with limits of its own has its own fork. Their number follows the need: one at first, twice as many
//! whenever a session came and none was ready, fewer again when none comes. The first is made after the first cell has
//! its reply, so that none delays the start.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    protocol::{ToWorker, WorkerLimits},
    server::{
        counters,
        workers::{
            link::Worker,
            process::watch,
            zygote::{Zygote, ZygoteError},
        },
        workspace::workplace::Workplace,
    },
};

/// The session that has just taken one has something to do, and shall not share the processor with a fork.
const PAUSE: Duration = Duration::from_millis(20);
/// After a fork that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// So long without need, and there are half as many.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct Spares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ready: Mutex<Vec<Spare>>,
    limits: WorkerLimits,
    /// Where they work: where all do.
    place: Arc<Workplace>,
    most: usize,
    /// How many there are to be; none until the first cell has run.
    target: AtomicUsize,
    wanted: Notify,
    /// Counts up when all that were made before are to go.
    generation: AtomicU64,
    zygote: Zygote,
}

#[derive(Debug)]
struct Spare {
    worker: Worker,
    hearing: AbortHandle,
}

impl Spares {
    /// A pool of at most so many; `keep` fills it.
    #[must_use]
    pub(crate) fn new(most: usize, limits: WorkerLimits, zygote: Zygote, place: Arc<Workplace>) -> Self {
        Self(Arc::new(Inner {
            place,
            ready: Mutex::default(),
            limits,
            most,
            target: AtomicUsize::new(0),
            wanted: Notify::new(),
            generation: AtomicU64::new(0),
            zygote,
        }))
    }

    /// A cell has run: there may be a spare worker from now on.
    pub(crate) fn begin(&self) {
        if self.0.target.load(Ordering::Relaxed) == 0 && self.0.most > 0 {
            self.0.target.store(1, Ordering::Relaxed);
            self.0.wanted.notify_one();
        }
    }

    /// A worker for `session`, if one with these limits is ready in this place.
    #[must_use]
    pub(crate) fn take(&self, session: &str, limits: WorkerLimits, place: &Workplace) -> Option<Worker> {
        if limits != self.0.limits || place.whose().is_some() || self.0.target.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let taken = std::iter::from_fn(|| self.pop()).find_map(|worker| self.assign(worker, session));
        if taken.is_none() {
            let more = |target: usize| Some((target * 2).min(self.0.most));
            let _ = self.0.target.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
        counters::spare_taken(taken.is_some());
        self.0.wanted.notify_one();
        taken
    }

    fn pop(&self) -> Option<Worker> {
        let mut ready = self.0.ready.lock();
        let oldest = (!ready.is_empty()).then(|| ready.remove(0))?;
        oldest.hearing.abort();
        Some(oldest.worker)
    }

    /// Makes it the session's, unless it has just died.
    fn assign(&self, mut worker: Worker, session: &str) -> Option<Worker> {
        let mut ended = [PollFd::new(worker.pidfd.get_ref().as_fd(), PollFlags::POLLIN)];
        let lives = poll(&mut ended, PollTimeout::ZERO) == Ok(0);
        let told = ToWorker::Become { session: session.to_owned() };
        if lives && worker.requests.write_with(&told, &[]).is_ok() {
            return Some(worker);
        }
        worker.retire(self.0.zygote.endings());
        None
    }

    /// Packages have changed, so that what a worker has cached of the disk is old; or the zygote has more than it had.
    pub(crate) fn renew(&self) {
        self.0.generation.fetch_add(1, Ordering::Relaxed);
        while let Some(worker) = self.pop() {
            worker.retire(self.0.zygote.endings());
        }
        self.0.wanted.notify_one();
    }

    /// How many are ready.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.0.ready.lock().len()
    }

    /// Fills the pool; runs until the task is dropped.
    pub(crate) async fn keep(self) {
        loop {
            if tokio::time::timeout(IDLE, self.0.wanted.notified()).await.is_err() {
                self.shrink();
                continue;
            }
            tokio::time::sleep(PAUSE).await;
            while self.count() < self.0.target.load(Ordering::Relaxed) {
                if let Err(error) = self.add().await {
                    tracing::debug!(%error, "no spare worker");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn add(&self) -> Result<(), ZygoteError> {
        let generation = self.0.generation.load(Ordering::Relaxed);
        let made = Worker::start(&self.0.zygote, "", self.0.limits, &self.0.place).await?;
        if generation != self.0.generation.load(Ordering::Relaxed) {
            made.retire(self.0.zygote.endings());
            return Ok(());
        }
        let pid = made.pid;
        let ended = match watch(pid) {
            Ok(ended) => ended,
            Err(error) => {
                made.retire(self.0.zygote.endings());
                return Err(error.into());
            }
        };
        let pool = self.clone();
        let hearing = tokio::spawn(async move {
            let _ = ended.readable().await;
            pool.bury(pid);
        });
        self.0.ready.lock().push(Spare { worker: made, hearing: hearing.abort_handle() });
        Ok(())
    }

    fn bury(&self, pid: i32) {
        let dead = {
            let mut ready = self.0.ready.lock();
            let place = ready.iter().position(|spare| spare.worker.pid == pid);
            place.map(|place| ready.remove(place))
        };
        if let Some(dead) = dead {
            tracing::debug!(pid, "a spare worker ended");
            dead.worker.retire(self.0.zygote.endings());
            self.0.wanted.notify_one();
        }
    }

    fn shrink(&self) {
        let fewer = |target: usize| (target > 1).then_some(target / 2);
        if self.0.target.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            while self.count() > self.0.target.load(Ordering::Relaxed)
                && let Some(worker) = self.pop()
            {
                worker.retire(self.0.zygote.endings());
            }
        }
    }
}
