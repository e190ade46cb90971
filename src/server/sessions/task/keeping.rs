//! Copies that a session keeps of itself without being asked, so that a worker's death costs little.
//!
//! Runs in: server, in the session's task. Policy `last` makes one behind each cell; policy `auto` makes one when the
//! session has been at rest for a moment, so that calls in a burst pay nothing, and makes none of what is large. How a
//! session goes on from one is `rollback.rs`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::state::Task;
use crate::{
    server::{
        health::errand::Errand,
        sessions::{
            happened::{KeptByValue, Uncopied, What},
            life::Life,
            orders::{BrokenOff, Order, SessionError},
            status::Shared,
        },
        workers::{checkpoint::LAST, zygote::Stage},
    },
    settings::policy::Automatic,
    sys::{fault, processes},
};

/// Attempts that failed, after which the pause before the next does not grow any more.
const MOST_MISSES: u32 = 8;
/// How long a session whose cell has written most of what it holds must be at rest.
const REWRITTEN: Duration = Duration::from_secs(10);
/// What is small may be rewritten by each cell.
const SMALL: u64 = 32 << 20;
/// A copy may make a session with a limit of memory this part of it larger.
const PART_OF_LIMIT: u64 = 4;

/// An automatic checkpoint may take so long: no call asked for it, and the next one may be waiting.
const AUTOMATIC: Duration = Duration::from_secs(5);

/// A call waits behind one for two of these at most. Not less: breaking it off is an interrupt, which a fork hook of a
/// library (`logging` has one) may meet in its middle, and on a busy machine an ordinary copy takes long too.
const GIVES_WAY: Duration = Duration::from_millis(250);

/// A copy takes a millisecond or two. One that takes long is broken off when a call waits behind it, or at its limit.
async fn too_long(queue: mpsc::WeakSender<Order>) -> BrokenOff {
    let limit = fault::limit(AUTOMATIC);
    let began = Instant::now();
    let mut waits = false;
    while began.elapsed() < limit {
        tokio::time::sleep(GIVES_WAY.min(limit)).await;
        let waited = waits;
        waits = queue.upgrade().is_some_and(|queue| queue.capacity() < queue.max_capacity());
        if waited && waits {
            return BrokenOff::GivesWay;
        }
    }
    BrokenOff::Limit(limit)
}

/// Noted for health, and told once: a client that counts on a copy must know that there is none.
pub(super) fn cannot_be_kept(
    shared: &Shared,
    life: &Life,
    told: &AtomicBool,
    why: Uncopied,
    by_value: Option<Arc<KeptByValue>>,
) {
    shared.update(|status| {
        status.unkept = Some(why.to_string());
        status.by_value.clone_from(&by_value);
    });
    if !told.swap(true, Ordering::Relaxed) {
        life.happened(What::Uncopied { why, by_value }, None);
    }
}

impl Task {
    /// Whether also what a cell that failed has left is kept: at rest, there is nothing better to keep.
    pub(super) fn is_kept_at_rest(&self) -> bool {
        self.shared.record(|record| record.policy.checkpoints) == Automatic::Auto
    }

    /// What there is now is worth keeping: after a cell and its reply, and wherever the state has become another.
    pub(super) async fn keep_state(&mut self) {
        match self.shared.record(|record| record.policy.checkpoints) {
            Automatic::Off => self.keeping.due = None,
            Automatic::Last => self.keep_last().await,
            Automatic::Auto => {
                let after = self.around.checkpoints.bounds().after * 2_u32.pow(self.keeping.misses.min(MOST_MISSES));
                self.keeping.due = self.worker.is_some().then(|| Instant::now() + after);
                self.keeping.waited = false;
            }
        }
    }

    /// The state has become another by an order that is answered already: a burst is not to be feared.
    pub(super) async fn keep_now(&mut self) {
        self.keep_state().await;
        if self.keeping.due.is_some() {
            self.keep_at_rest().await;
        }
    }

    /// Policy `auto`: the session has been at rest.
    pub(super) async fn keep_at_rest(&mut self) {
        self.keeping.due = None;
        let wanted = self.shared.record(|record| record.policy.checkpoints) == Automatic::Auto;
        if !wanted || !self.holds || self.owed.is_some() {
            return;
        }
        if let Some(held) = self.too_large() {
            self.keeping.misses += 1;
            return self.cannot_be_kept(Uncopied::Large { held, limit: self.most_copied() });
        }
        if !self.keeping.waited && self.was_rewritten().await {
            self.keeping.waited = true;
            self.keeping.due = Some(Instant::now() + REWRITTEN);
            return;
        }
        self.keep_last().await;
    }

    /// Makes a copy in the place of the one before.
    async fn keep_last(&mut self) {
        if self.worker.is_none() {
            return;
        }
        if self.around.checkpoints.last(&self.life).is_some_and(|last| !self.has_newer_values(last.cell)) {
            // It has everything.
            self.keeping.values = None;
        }
        if !self.around.checkpoints.admit_automatic(&self.life) {
            self.unkept("there are too many checkpoints (--max-checkpoints-total)".to_owned());
            return;
        }
        match self.freeze(Errand::Keep, LAST, false, too_long(self.queue.clone())).await {
            Ok(checkpoint) => {
                self.keeping.misses = 0;
                self.shared.update(|status| (status.unkept, status.by_value) = (None, None));
                self.fresh = Arc::downgrade(&checkpoint);
                // The one before is let go when this one is known to be of use.
                let (store, life) = (self.around.checkpoints.clone(), self.life.clone());
                let (queue, told) = (self.queue.clone(), Arc::clone(&self.keeping.told));
                let left_behind = Arc::clone(&self.keeping.left_behind);
                tokio::spawn(async move {
                    if checkpoint.hazards().await.is_err() {
                        return;
                    }
                    let binding = if checkpoint.quiet { checkpoint.binding().await } else { Vec::new() };
                    if binding.is_empty() {
                        told.store(false, Ordering::Relaxed);
                        store.keep_after(&life, checkpoint, &left_behind);
                    } else {
                        // A process that waits for the end of a pipe, or for a lock, would wait for the copy too.
                        checkpoint.revoke();
                        let why = Uncopied::Binding(binding.join(", "));
                        if let Some(queue) = queue.upgrade() {
                            let _ = queue.try_send(Order::KeepByValue { why });
                        }
                    }
                });
            }
            Err(SessionError::Threads { threads, .. }) => {
                self.keep_by_value(Uncopied::Threads(threads)).await;
            }
            Err(error) => {
                self.keeping.misses += 1;
                self.unkept(error.to_string());
            }
        }
    }

    fn cannot_be_kept(&self, why: Uncopied) {
        cannot_be_kept(&self.shared, &self.life, &self.keeping.told, why, None);
    }

    fn unkept(&self, reason: String) {
        tracing::debug!(session = %self.id, reason, "no checkpoint of what there is now");
        self.shared.update(|status| status.unkept = Some(reason));
    }

    /// Bytes that a session may hold for a copy to be made of it.
    pub(super) fn most_copied(&self) -> u64 {
        let limit = self.limits.memory.map_or(u64::MAX, |limit| limit / PART_OF_LIMIT);
        self.around.checkpoints.bounds().of_auto.min(limit)
    }

    /// What the session holds and the zygote does not, if it is too much.
    fn too_large(&self) -> Option<u64> {
        let worker = self.worker.as_ref()?.pid;
        let base = match self.around.zygote.stage() {
            Stage::Warm { pid, .. } => processes::anonymous_memory(pid).unwrap_or(0),
            _ => 0,
        };
        let held = processes::anonymous_memory(worker)?.saturating_sub(base);
        (held > self.most_copied()).then_some(held)
    }

    /// Whether the session has written most of what it holds since the copy that there is.
    async fn was_rewritten(&self) -> bool {
        let Some(last) = self.around.checkpoints.last(&self.life) else { return false };
        let Some(worker) = self.worker.as_ref().map(|worker| worker.pid) else { return false };
        let read = tokio::task::spawn_blocking(move || {
            let changed = processes::private_memory(last.pid)?;
            Some((changed, processes::anonymous_memory(worker)?))
        });
        let Ok(Some((changed, held))) = read.await else { return false };
        changed > SMALL && changed > held / 2
    }
}
