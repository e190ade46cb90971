//! A session goes back, or on in another process: checkpoints made, restored, and promoted when the worker is gone.
//!
//! Runs in: server, in the session's task. What a checkpoint is and who keeps it: `sessions/checkpoints.rs`. Whichever way a
//! session comes by a worker from a checkpoint, that worker counts when a ping and an evaluation have come back from it;
//! until then the old one, where there is one, is left as it is.

use std::{
    future::pending,
    os::fd::AsFd,
    sync::{Arc, Weak, atomic::Ordering},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    errands::{next_number, taken_back, unless_called},
    state::Task,
};
use crate::{
    protocol::{FromWorker, ToWorker, list_missed},
    server::{
        counters,
        health::{
            RecoveryPolicy,
            errand::Errand,
            evidence::Phase,
            recovery::{Next, Step},
        },
        sessions::{
            checkpoints::{self, Checkpoint, Making},
            death::Recovered,
            happened::What,
            orders::{BrokenOff, Caller, CheckpointWish, Chosen, Hold, Order, SessionError, Urgent},
        },
        workers::{
            checkpoint::{Birth, LAST},
            link::Worker,
        },
    },
    settings::policy::Automatic,
    sys::fault,
};

/// Name of a temporary checkpoint, which is never listed: it is dropped when its purpose is over.
const UNNAMED: &str = "-";

/// How a session came back after its worker's death.
pub(super) struct CameBack {
    pub(super) recovered: Recovered,
    /// Number of the checkpoint.
    pub(super) copy: u64,
    /// What else is to be told.
    pub(super) then: Vec<What>,
}

impl Task {
    /// Makes a checkpoint that was asked for.
    pub(super) async fn make_checkpoint(
        &mut self,
        wish: CheckpointWish,
        caller: &Caller,
    ) -> Result<Arc<Checkpoint>, SessionError> {
        let gone = taken_back(caller);
        let store = self.around.checkpoints.clone();
        let name = wish.name.unwrap_or_else(|| store.made_up(&self.life, self.tip));
        if wish.kept {
            store.admit(&self.life, &name)?;
        }
        let checkpoint =
            self.freeze(Errand::Checkpoint, if wish.kept { &name } else { UNNAMED }, wish.force, gone).await?;
        if caller.cancel.is_cancelled() {
            let (session, errand) = (self.id.to_string(), Errand::Checkpoint);
            return Err(SessionError::BrokenOff { session, errand, why: BrokenOff::Cancelled });
        }
        if wish.kept {
            store.keep(&self.life, Arc::clone(&checkpoint));
        }
        Ok(checkpoint)
    }

    /// Forks the worker into a checkpoint.
    pub(super) async fn freeze(
        &mut self,
        why: Errand,
        name: &str,
        force: bool,
        gone: impl Future<Output = BrokenOff>,
    ) -> Result<Arc<Checkpoint>, SessionError> {
        let fail = |session: &str, error: std::io::Error| SessionError::Worker {
            session: session.to_owned(),
            reason: format!("no checkpoint could be made: {error}"),
        };
        let (making, theirs) = Making::begin(&self.around.children).map_err(|error| fail(&self.id, error))?;
        let errand = next_number();
        let asked = (errand, ToWorker::Checkpoint { errand, number: making.number, force });
        let began = Instant::now();
        let answer = self.ask(why, asked, &[theirs.as_fd()], gone).await;
        if let Ok(FromWorker::Checkpointed { pid, missing }) = answer {
            counters::checkpoint_made(began.elapsed());
            let policy = self.shared.record(|record| record.policy.checkpoints);
            let quiet = name == LAST && policy == Automatic::Auto;
            let room = self.worker.as_ref().and_then(|worker| worker.room.clone());
            let birth = Birth { name, of: self.life.incarnation(), cell: self.tip, quiet, room };
            return making.born(birth, pid, missing).map_err(|error| fail(&self.id, error));
        }
        making.give_up();
        match answer? {
            FromWorker::Threaded(threads) => {
                Err(SessionError::Threads { session: self.id.to_string(), threads: list_missed(&threads) })
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Goes on from a checkpoint; the worker there was is ended, once the new one has proven itself.
    pub(super) async fn go_on_from(
        &mut self,
        from: &Arc<Checkpoint>,
        keep_random: bool,
        gone: impl Future<Output = BrokenOff>,
    ) -> Result<Recovered, SessionError> {
        self.go_on(Errand::GoBack, from, keep_random, gone).await
    }

    /// The same, and what it is for.
    pub(super) async fn go_on(
        &mut self,
        errand: Errand,
        from: &Arc<Checkpoint>,
        keep_random: bool,
        gone: impl Future<Output = BrokenOff>,
    ) -> Result<Recovered, SessionError> {
        self.shared.update(|status| status.phase = Phase::Serving { errand, since: Instant::now() });
        let gone_on = self.wake_and_prove(from, keep_random, gone).await;
        self.settle();
        gone_on
    }

    async fn wake_and_prove(
        &mut self,
        from: &Arc<Checkpoint>,
        keep_random: bool,
        gone: impl Future<Output = BrokenOff>,
    ) -> Result<Recovered, SessionError> {
        let fail = |session: &str, reason: String| SessionError::Worker { session: session.to_owned(), reason };
        let limit = fault::limit(Errand::GoBack.limit(0));
        // A worker that comes up all the same, when no call waits any more, is ended.
        let waking = async {
            tokio::select! {
                biased;
                why = gone => Err(why),
                woken = tokio::time::timeout(limit, from.wake(&self.around.zygote, &self.id, keep_random)) => {
                    woken.map_err(|_| BrokenOff::Limit(limit))
                }
            }
        };
        let woken = unless_called(&mut self.interventions, &mut self.later, waking).await;
        let woken = woken.unwrap_or(Err(BrokenOff::Called)).map_err(|why| {
            let (session, errand) = (self.id.to_string(), Errand::GoBack);
            SessionError::BrokenOff { session, errand, why }
        })?;
        let woken = woken.map_err(|error| fail(&self.id, error.to_string()))?;
        counters::worker_started(woken.born.elapsed());
        let old = self.worker.replace(woken);
        if let Err(reason) = self.verify().await {
            let unproven = std::mem::replace(&mut self.worker, old);
            unproven.into_iter().for_each(|worker| self.retire(worker));
            return Err(fail(
                &self.id,
                format!("a worker of checkpoint {:?} did not prove itself: {reason}", from.name),
            ));
        }
        if let Some(old) = old {
            self.shared.update(|status| status.restarts += 1);
            self.retire(old);
        }
        self.owed = None;
        self.take_over().await;
        let recovered = self.recovered_by(from);
        self.last_cell = self.last_cell.max(from.cell);
        self.runs.go_on_from(Some(from.cell));
        (self.holds, self.tip, self.base) = (true, from.cell, Some((from.cell, self.last_cell + 1)));
        self.loaded = self.loaded.filter(|before| from.number > *before);
        Ok(recovered)
    }

    /// Which cells' effects a checkpoint has, and which it has not.
    fn recovered_by(&self, from: &Checkpoint) -> Recovered {
        // What ran since the namespace last came from there; what ran before that was left behind then.
        let first = match self.base {
            Some((cell, next)) if cell == from.cell => next,
            _ => from.cell + 1,
        };
        Recovered { from: from.cell, lost: (first <= self.last_cell).then_some((first, self.last_cell)) }
    }

    /// Shows the worker that there is now.
    pub(super) async fn take_over(&mut self) {
        let view = self.worker.as_ref().map(Worker::view);
        self.put_into_group().await;
        self.shared.update(|status| {
            status.phase = Phase::Idle;
            status.worker = view;
            status.asleep = None;
            status.trouble = None;
        });
        self.begun = true;
        // Its image is of a state that it has left, or goes on from.
        self.asleep = None;
        self.adopted = None;
        self.unsettled = None;
        self.announce();
    }

    /// Has the kernel keep the worker that there is now to the session's limits. Where it does not, the guard counts. The kernel
    /// takes milliseconds for it, in which other sessions go on.
    async fn put_into_group(&self) {
        let Some((group, worker)) = self.shared.get().group.zip(self.worker.as_ref()) else { return };
        let (pid, most) = (worker.pid, self.limits.processes);
        let taken = tokio::task::spawn_blocking(move || {
            // What the last worker had started may not be gone yet, and must not keep this one from its threads.
            most.map(|most| group.bound_processes(0, most));
            group.take_in(pid)
        });
        let taken = taken.await;
        if let Err(error) = taken.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::warn!(session = %self.id, %error, "the kernel does not keep this session to its limits");
            self.shared.update(|status| status.group = None);
        }
    }

    /// What a worker had started before an exec, and copies of it, are in the group that the program before had made.
    pub(super) async fn take_family_over(&self, before: Option<String>) {
        let Some((group, before)) = self.shared.get().group.zip(before) else { return };
        let _ = tokio::task::spawn_blocking(move || group.take_in_all_of(&before)).await;
    }

    /// Ends a worker that is the session's no more, and all it started, behind.
    fn retire(&self, worker: Worker) {
        worker.retire(self.around.zygote.endings());
    }

    /// The worker has died without an order: goes on from the checkpoint that policy `last` keeps.
    /// Where that has none, a new worker gets what was kept by value.
    pub(super) async fn recover_state(&mut self) -> Option<CameBack> {
        let policy = self.shared.record(|record| record.policy);
        let ordered = self.shared.get().last_exit.is_some_and(|(death, _)| death.reason.is_ordered());
        if self.worker.is_some() || ordered || policy.recovery == RecoveryPolicy::Manual {
            return None;
        }
        let last = self.newest_copy().await.filter(|last| !self.has_newer_values(last.cell));
        if last.is_none() && self.keeping.values.is_none() {
            return None;
        }
        let began = Instant::now();
        // A session that dies again and again is not kept alive for ever.
        let parked = self.shared.record(|record| {
            let parked = matches!(record.ledger.next(began, &policy, 0.0), Next::Park(_));
            record.ledger.begin(began);
            parked
        });
        if parked {
            return None;
        }
        let Some(last) = last else { return Box::pin(self.bring_back(began)).await };
        let lacks_loaded = self.loaded.is_some_and(|before| last.number <= before);
        // It is still there when what it woke did not come up, and may be asked once more.
        let promoted = match self.go_on_from(&last, false, pending()).await {
            Err(SessionError::BrokenOff { why: BrokenOff::Called, .. }) => return None,
            Err(_) => self.go_on_from(&last, false, pending()).await,
            gone_on => gone_on,
        };
        let detail = match &promoted {
            Ok(_) => {
                format!("went on from the checkpoint after cell {}; it answered a ping and an evaluation", last.cell)
            }
            Err(error) => format!("could not go on from the checkpoint after cell {}: {error}", last.cell),
        };
        self.enter(Step::Restart, promoted.is_ok(), detail, began);
        let recovered = promoted.ok()?;
        self.shared.record(|record| record.ledger.proven(&policy));
        let mut unheld = last.hazards().await.unwrap_or_default();
        if lacks_loaded {
            unheld.insert(0, "the variables that load_session brought in after it was made are not there".to_owned());
        }
        let lacks = (!unheld.is_empty()).then_some(What::CopyLacks { lacks: unheld });
        Some(CameBack { recovered, copy: last.number, then: lacks.into_iter().collect() })
    }

    /// The newest checkpoint of policy `last` that is of use.
    pub(super) async fn newest_copy(&mut self) -> Option<Arc<Checkpoint>> {
        if let Some(fresh) = std::mem::take(&mut self.fresh).upgrade()
            && fresh.is_valid()
            && let Some(Ok(_)) = unless_called(&mut self.interventions, &mut self.later, fresh.hazards()).await
        {
            self.around.checkpoints.keep(&self.life, Arc::clone(&fresh));
        }
        self.kept_copy()
    }

    /// The checkpoint to go on from, of those that are known to be of use: what was kept of itself, or else the one that the
    /// session has gone back to, as long as that is kept.
    pub(super) fn kept_copy(&self) -> Option<Arc<Checkpoint>> {
        let gone_back = || {
            let keeps = self.shared.record(|record| record.policy.checkpoints) != Automatic::Off;
            self.gone_back.upgrade().filter(|checkpoint| keeps && checkpoint.is_valid() && checkpoint.is_alive())
        };
        self.around.checkpoints.last(&self.life).or_else(gone_back)
    }

    /// The state that policy `last` has kept is left behind: gives what there was of it.
    pub(super) async fn leave_behind(&mut self) -> Option<Arc<Checkpoint>> {
        let newest = self.newest_copy().await;
        self.keeping.left_behind.store(checkpoints::newest(), Ordering::Relaxed);
        self.gone_back = Weak::new();
        // One that was asked for stays.
        if let Some(newest) = newest.as_ref().filter(|newest| newest.is_automatic()) {
            newest.revoke();
            let _ = self.around.checkpoints.delete(&self.life, LAST);
        }
        newest
    }

    /// The same, of which nothing is wanted.
    pub(super) fn drop_copies(&mut self) {
        self.keeping.left_behind.store(checkpoints::newest(), Ordering::Relaxed);
        self.drop_values();
        self.gone_back = Weak::new();
        if let Some(fresh) = std::mem::take(&mut self.fresh).upgrade() {
            fresh.revoke();
        }
        if let Ok(last) = self.around.checkpoints.delete(&self.life, LAST) {
            last.revoke();
        }
    }

    /// Whether policy `last` has, or may have, a checkpoint to go on from.
    pub(super) fn has_copy(&self) -> bool {
        self.fresh.upgrade().is_some_and(|fresh| fresh.is_valid()) || self.kept_copy().is_some()
    }

    /// Stands still for a call that tries things out on copies.
    pub(super) async fn hold(&mut self, hold: Hold) {
        let held = self.freeze(Errand::Checkpoint, UNNAMED, false, taken_back(&hold.caller)).await;
        let ready = held.is_ok();
        if hold.held.send(held).is_err() || !ready {
            return;
        }
        let errand = Errand::Branches;
        self.shared.update(|status| status.phase = Phase::Serving { errand, since: Instant::now() });
        self.await_release(hold.release, &hold.caller).await;
        self.settle();
    }

    async fn await_release(&mut self, mut release: oneshot::Receiver<Option<Chosen>>, caller: &Caller) {
        let released = loop {
            tokio::select! {
                biased;
                urgent = self.interventions.recv() => match urgent {
                    Some(Urgent::Heal(_) | Urgent::Reconsider | Urgent::Look { .. } | Urgent::Pack(_)) => {}
                    // Carried out when we are back; the holder then finds no caller to answer.
                    Some(urgent) => {
                        self.later.push_back(urgent);
                        return;
                    }
                    None => return,
                },
                released = &mut release => break released,
            }
        };
        if let Ok(Some((chosen, answer))) = released {
            let gone_on = self.go_on_from(&chosen, false, pending()).await.map(drop);
            let done = gone_on.is_ok();
            if done {
                self.life.happened(What::BranchKept, Some(&caller.client));
            }
            if done {
                self.drop_copies();
            }
            let _ = answer.send(gone_on);
            if done {
                self.keep_now().await;
            }
        }
    }

    /// Answers an order about checkpoints.
    pub(super) async fn serve_checkpoints(&mut self, order: Order) {
        match order {
            Order::Checkpoint { wish, caller, reply } => {
                let made = self.make_checkpoint(wish, &caller).await;
                let _ = reply.send(made);
            }
            Order::Restore { from, keep_random, caller, reply } => {
                let restored = self.go_on_from(&from, keep_random, taken_back(&caller)).await;
                if let Ok(recovered) = &restored {
                    from.wake_ahead(&self.around.zygote, &self.id, keep_random);
                    let (checkpoint, copy) = (Arc::clone(&from.name), from.number);
                    let what = What::WentBack { checkpoint, recovered: *recovered, copy };
                    self.life.happened(what, Some(&caller.client));
                    self.drop_copies();
                    // Until there is a copy of what comes now, the checkpoint itself is one.
                    self.gone_back = Arc::downgrade(&from);
                }
                let is_another = restored.is_ok();
                let _ = reply.send(restored.map(drop));
                if is_another {
                    self.keep_state().await;
                }
            }
            Order::Hold(hold) => self.hold(hold).await,
            Order::Cell { .. }
            | Order::Depart(_)
            | Order::Variables { .. }
            | Order::State { .. }
            | Order::Rest { .. }
            | Order::FallAsleep { .. }
            | Order::WriteImage
            | Order::Freshen
            | Order::KeepByValue { .. } => {}
        }
    }
}
