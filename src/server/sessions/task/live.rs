//! The loop of a session's task: what it waits for, and what it does then.
//!
//! Runs in: server, in the session's task. Everything outside talks to it by its handle: cells queue in order, restart and
//! deletion jump the queue. A cell is sent to a worker once; whatever happens after that, it is never sent again.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{
    cell::Done,
    errands::{next_number, taken_back},
    state::{Task, keep_tail},
};
use crate::{
    protocol::{FrameError, FromWorker, StateReport, ToWorker, Variable, asynchronous::sleep_until},
    server::{
        counters,
        health::errand::Errand,
        output::pipe::Output,
        sessions::{
            active::Client,
            death::{DeathReason, Fate},
            images::packed::Kept,
            occurrences::Occurred,
            orders::{Caller, Carry, NoWorker, Order, Packing, SessionError, Urgent},
            outcome::Ending,
            quotas::Share,
            returned::{PackedTask, Returned},
            runs::Reply,
            status::Status,
        },
        workers::zygote::ZygoteError,
    },
    sys::{groups, parcel::Parcel},
};

/// What woke an idle session.
enum Event {
    Order(Order),
    Urgent(Urgent),
    WorkerEnded,
    WorkerSpoke,
    /// It has come to an end with an errand that was broken off.
    DebtPaid,
    /// Time for the next restart, under policy `auto`.
    RevivalDue,
    /// It has been at rest long enough for a copy.
    AtRest,
    Nothing,
    NobodyLeft,
}

impl Task {
    pub(in crate::server::sessions) async fn live(mut self) {
        match std::mem::take(&mut self.returned) {
            Some(returned) => self.return_with(*returned).await,
            None => self.begin().await,
        }
        self.plan_revival();
        loop {
            match self.next_event().await {
                Event::Order(Order::Rest { why }) => self.rest(why).await,
                Event::Order(Order::Freshen) => self.freshen().await,
                Event::Order(Order::KeepByValue { why }) => self.keep_by_value(why).await,
                Event::Order(Order::FallAsleep { asked: None, .. }) => self.fall_asleep_at_rest().await,
                Event::Order(Order::WriteImage) => self.write_image_at_rest().await,
                Event::Order(Order::Depart(departure)) => {
                    if self.depart(departure).await {
                        return;
                    }
                }
                Event::Order(order) => {
                    self.shared.update(Status::take);
                    self.serve(order).await;
                }
                Event::Urgent(urgent) => {
                    if self.intervene(urgent).await {
                        return;
                    }
                }
                Event::WorkerEnded => {
                    self.await_end().await;
                    self.died_idle(DeathReason::Itself).await;
                }
                Event::WorkerSpoke => {
                    self.kill().await;
                    self.died_idle(DeathReason::ProtocolBroken).await;
                }
                Event::DebtPaid => {
                    if let Some(owed) = self.owed.take() {
                        self.paid(owed);
                    }
                    self.settle();
                }
                Event::RevivalDue => {
                    let _ = self.revive().await;
                    self.plan_revival();
                }
                Event::AtRest => {
                    self.keep_at_rest().await;
                    // The worker may have died of it.
                    if self.worker.is_none() {
                        self.plan_revival();
                    }
                }
                Event::Nothing => {}
                Event::NobodyLeft => {
                    self.end(DeathReason::Delete, Fate::Lost).await;
                    return;
                }
            }
        }
    }

    async fn begin(&mut self) {
        if self.worker.is_some() {
            self.take_over().await;
        }
        // One that sleeps on wakes when it is used.
        if self.asleep.is_some() {
            return;
        }
        match self.ensure_worker().await {
            Ok(()) | Err(NoWorker::Zygote(ZygoteError::Superseded)) => {}
            Err(error) => tracing::warn!(session = %self.id, %error, "no worker yet"),
        }
    }

    /// What this session holds, for the program that this server becomes. Nothing is given away: the exec may fail.
    pub(super) fn pack(&mut self, parcel: &mut Parcel) -> io::Result<PackedTask> {
        if self.owed.is_some() || !self.later.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let status = self.shared.get();
        Ok(PackedTask {
            worker: self.worker.as_ref().map(|worker| worker.pack(parcel)).transpose()?,
            last_cell: self.last_cell,
            tip: self.tip,
            base: self.base,
            loaded: self.loaded,
            begun: self.begun,
            holds: self.holds,
            unsettled: self.unsettled.clone(),
            background: self.background.clone(),
            told: self.keeping.told.load(Ordering::Relaxed),
            asleep: self.asleep.as_ref().map(|image| image.pack(status.asleep)),
            at_rest: self.at_rest.as_ref().map(|image| image.pack(status.at_rest)),
            common: self.common.as_ref().map(|base| base.id),
            cell: None,
            waiting: self.pack_orders()?,
        })
    }

    /// Goes on in another program where it was before.
    async fn return_with(&mut self, returned: Returned) {
        let Returned { worker, asleep, at_rest, common, task, .. } = returned;
        self.worker = worker;
        if let Some(pid) = self.worker.as_ref().map(|worker| worker.pid) {
            let before = groups::name_of(pid);
            self.take_over().await;
            self.take_family_over(before).await;
            // Another copy is made when it has been at rest: this one may be older than what was left to do.
            self.keeping.due = self.is_kept_at_rest().then(Instant::now);
        }
        (self.last_cell, self.tip, self.base, self.loaded) = (task.last_cell, task.tip, task.base, task.loaded);
        (self.begun, self.holds, self.unsettled) = (task.begun, task.holds, task.unsettled);
        self.background = task.background;
        self.keeping.told.store(task.told, Ordering::Relaxed);
        if let Some(Kept { image, shown, about }) = asleep {
            // It wakes in another program, as in the next server.
            (self.asleep, self.adopted) = (Some(Arc::new(image)), about);
            self.shared.update(|status| status.asleep = Some(shown));
        }
        if let Some(Kept { image, shown, .. }) = at_rest {
            self.at_rest = Some(image);
            self.shared.update(|status| status.at_rest = Some(shown));
        }
        self.common = common;
        self.settle();
        self.resume(task.cell.map(|cell| *cell), task.waiting).await;
    }

    async fn next_event(&mut self) -> Event {
        if let Some(urgent) = self.later.pop_front() {
            return Event::Urgent(urgent);
        }
        let Some(worker) = &mut self.worker else {
            let revival = self.shared.record(|record| record.revival);
            return tokio::select! {
                biased;
                urgent = self.interventions.recv() => urgent.map_or(Event::NobodyLeft, Event::Urgent),
                () = sleep_until(revival.map(Into::into)) => Event::RevivalDue,
                order = self.orders.recv() => order.map_or(Event::NobodyLeft, Event::Order),
            };
        };
        let due = self.keeping.due.map(Into::into);
        tokio::select! {
            biased;
            urgent = self.interventions.recv() => urgent.map_or(Event::NobodyLeft, Event::Urgent),
            _ = worker.pidfd.readable() => Event::WorkerEnded,
            order = self.orders.recv() => order.map_or(Event::NobodyLeft, Event::Order),
            reply = worker.replies.read::<FromWorker>() => match reply {
                Err(FrameError::Closed | FrameError::Io(_)) => Event::WorkerEnded,
                Ok(_) if self.owed.is_some() => Event::DebtPaid,
                _ => Event::WorkerSpoke,
            },
            () = sleep_until(due) => Event::AtRest,
            Ok(()) = worker.stdout.readable() => overheard(&mut worker.stdout, &mut self.background),
            Ok(()) = worker.stderr.readable() => overheard(&mut worker.stderr, &mut self.background),
        }
    }

    async fn serve(&mut self, order: Order) {
        if let Some(death) = self.unsettled.take() {
            self.mourn(death).await;
        }
        let Some(order) = order.unless_taken_back(&self.id) else { return };
        match order {
            Order::Cell { cell, number, reply, share } => {
                let queued = cell.asked.elapsed();
                let (code, client, cancel) = (cell.code.clone(), cell.client.clone(), cell.cancel.clone());
                let done = self.run_cell(cell, (number, &reply), queued).await;
                self.hand_over(done, (code, client, cancel), reply, share).await;
            }
            Order::State { carry, path, caller, reply } => {
                let carried = self.carry_for(carry, path, &caller).await;
                let changed = carry == Carry::Load && carried.is_ok();
                let _ = reply.send(carried);
                if changed {
                    self.keep_state().await;
                }
            }
            order @ (Order::Checkpoint { .. } | Order::Restore { .. } | Order::Hold(_)) => {
                self.serve_checkpoints(order).await;
            }
            Order::Variables { reply, .. } if reply.is_closed() => {}
            Order::Variables { caller, reply } => {
                let found = self.list(&caller).await;
                let _ = reply.send(found);
            }
            Order::FallAsleep { asked: Some((caller, reply)), by_value } => {
                let _ = reply.send(self.fall_asleep_for(&caller, by_value).await);
            }
            Order::FallAsleep { asked: None, .. } => self.fall_asleep_at_rest().await,
            Order::WriteImage => self.write_image_at_rest().await,
            // Its turn comes in the loop only.
            Order::Depart(_) => {}
            Order::Rest { why } => self.rest(why).await,
            Order::Freshen => self.freshen().await,
            Order::KeepByValue { why } => self.keep_by_value(why).await,
        }
    }

    /// Gives what came of a cell to those who wait for it, and sees to what is to be done then.
    /// For clients that ask what has happened.
    pub(super) fn occurred(&self, what: impl FnOnce() -> Occurred) {
        self.around.occurrences.note(self.life.owner(), &self.id, what);
    }

    pub(super) async fn hand_over(
        &mut self,
        Done { outcome, told }: Done,
        (code, client, cancel): (String, Client, CancellationToken),
        reply: Reply,
        share: Option<Share>,
    ) {
        self.settle();
        // Before its client hears of it, who may send the next one at once.
        if let Some(share) = share {
            share.ran(outcome.ran);
        }
        let ended = outcome.measured();
        let kept = matches!(outcome.ending, Ending::Finished) || self.is_kept_at_rest();
        let (cell, status) = (outcome.cell, outcome.ending.status());
        self.occurred(|| Occurred::CellEnded { cell, status: status.to_owned() });
        // Only what has gone to a waiting caller counts as told.
        if reply.send(outcome, told, code, &self.history) && !cancel.is_cancelled() {
            self.life.told(&client, told);
        }
        counters::cell_ended(ended);
        self.plan_revival();
        // The reply goes out now: all that can be done about it is done before this goes on.
        tokio::task::yield_now().await;
        self.history.settle();
        self.around.spares.begin();
        if kept {
            self.keep_state().await;
        }
        self.plan_revival();
    }

    /// Lets the worker go. A call that came meanwhile keeps it.
    async fn rest(&mut self, why: DeathReason) {
        if self.orders.is_empty() && self.asleep.is_some() {
            return self.forget_image(why);
        }
        if self.orders.is_empty() && self.worker.is_some() {
            // What it was is over: no later death brings it back.
            self.drop_copies();
            self.parts(why);
            self.say_farewell().await;
            if let Some(death) = self.bury(why, None, None).await {
                self.note_loss(death);
            }
            // No death to recover from: whatever the policy, the next call simply gets a worker.
            self.begun = false;
        }
    }

    /// True when the session is over.
    async fn intervene(&mut self, urgent: Urgent) -> bool {
        match urgent {
            Urgent::Delete { why, reply } => {
                self.end(why, Fate::Lost).await;
                let _ = reply.send(());
                true
            }
            Urgent::Leave { reply } => {
                self.leave().await;
                let _ = reply.send(());
                false
            }
            Urgent::Restart { preserve, caller, reply } => {
                let restarted = self.restart(preserve, &caller).await;
                let _ = reply.send(restarted);
                // What was carried over has no copy yet, and no burst is to be feared.
                if preserve && self.keeping.due.is_some() {
                    self.keep_at_rest().await;
                }
                self.plan_revival();
                false
            }
            // No cell runs.
            Urgent::Look { .. } => false,
            Urgent::Pack(Packing { mut parcel, thaw, reply }) => {
                let packed = self.pack(&mut parcel);
                let stands_still = packed.is_ok();
                let _ = reply.send((packed, parcel));
                if stands_still {
                    thaw.cancelled().await;
                }
                false
            }
            Urgent::Reconsider => {
                self.plan_revival();
                false
            }
            Urgent::Heal(step) => {
                self.heal(step).await;
                self.plan_revival();
                false
            }
        }
    }

    pub(super) async fn list(&mut self, caller: &Caller) -> Result<Vec<Variable>, SessionError> {
        let errand = next_number();
        let asked = (errand, ToWorker::ListVariables { errand });
        match self.ask(Errand::List, asked, &[], taken_back(caller)).await? {
            FromWorker::Variables(variables) => Ok(variables),
            other => Err(self.unexpected(other)),
        }
    }

    /// Carries variables for a client. What it counts on and is lost is not saved as if it had never been.
    async fn carry_for(&mut self, carry: Carry, path: String, caller: &Caller) -> Result<StateReport, SessionError> {
        if carry == Carry::Save && self.life.news(&caller.client).fate() == Fate::Lost {
            return Err(SessionError::NothingToSave(self.id.to_string()));
        }
        self.carry(carry, path, caller).await
    }
}

/// Keeps what the worker wrote between cells.
fn overheard(output: &mut Output, background: &mut Vec<u8>) -> Event {
    output.take_known(|bytes| keep_tail(background, bytes));
    Event::Nothing
}
