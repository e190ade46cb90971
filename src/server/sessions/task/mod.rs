//! One session: a task that solely owns its worker, runs its cells one after the other and gives each exactly one ending.
//!
//! Runs in: server, one task a session. Everything outside talks to it by its handle (`session/handle.rs`): cells queue in
//! order, restart and deletion jump the queue. A cell is sent to a worker once; whatever happens after that, it is never
//! sent again.

mod cell;
mod cpu_budget;
mod ending;
mod errands;
mod follow;
mod question;
mod recover;
mod restart;
mod rollback;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use self::{
    errands::{Owed, next_number, taken_back},
    recover::Obituary,
};
pub use self::{
    recover::NoWorker,
    rollback::{CheckpointWish, Chosen, Hold},
};
use super::{
    checkpoints::{Checkpoint, Checkpoints},
    life::{Life, What},
    oom::OomCounter,
    outcome::{CellOutcome, Death, DeathReason, Ending, Fate, OnError, Recovered},
    status::Shared,
};
pub use crate::server::sessions::handle::{Caller, CellOrder, Question, Restarted, Session, SessionError};
use crate::{
    protocol::{FrameError, FromWorker, ToWorker, Variable, WorkerExit},
    server::{
        counters,
        events::Changes,
        health::{
            HealthPolicy,
            alerts::Book,
            errand::Errand,
            evidence::{Phase, Stacks},
        },
        output::captured::{CapturedText, Method},
        sessions::{
            crashes::Crashes,
            handle::{Carry, Order, Urgent},
            history::{History, Recorded},
        },
        workers::{
            children::Children,
            link::Worker,
            spares::Spares,
            zygote::{Zygote, ZygoteError},
        },
        workspace::watch::{NewFiles, Watcher},
    },
    settings::{limits::Limits, resolve::SessionSettings},
};

/// How long a worker may take to end by itself when asked to.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the exit status of a dead worker may take to arrive.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// What the kernel's OOM killer leaves behind, and any other SIGKILL.
const KILLED: WorkerExit = WorkerExit::Signal(9);
/// Bytes of output kept from between cells.
const BACKGROUND_CAP: usize = 8 << 10;

/// A cell's two read buffers: room for what a pipe holds.
pub(super) const CHUNK: usize = 64 << 10;
/// What every session needs of its surroundings.
#[derive(Debug)]
pub struct Surroundings {
    /// For workers.
    pub zygote: Zygote,
    /// For ending what a session started.
    pub children: Children,
    /// Limits.
    pub settings: SessionSettings,
    /// Where whole outputs go.
    pub outputs: PathBuf,
    /// Where variables are carried over; ours alone.
    pub scratch: PathBuf,
    /// Which files appear in the workspace.
    pub files: Arc<Watcher>,
    /// Whether the kernel has killed for want of memory.
    pub oom: OomCounter,
    /// Thresholds and recovery of sessions that name none.
    pub health: HealthPolicy,
    /// Alerts of all sessions.
    pub alerts: Book,
    /// Where changes of resources are announced.
    pub changes: Changes,
    /// Where crash reports go.
    pub crashes: Crashes,
    /// Frozen copies of sessions.
    pub checkpoints: Checkpoints,
    /// Workers that are ready and nobody's.
    pub spares: Spares,
}

/// The session itself.
pub(super) struct Task {
    pub(super) id: Arc<str>,
    pub(super) life: Life,
    pub(super) history: Arc<History>,
    pub(super) shared: Shared,
    pub(super) limits: Limits,
    pub(super) around: Arc<Surroundings>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) interventions: mpsc::UnboundedReceiver<Urgent>,
    pub(super) worker: Option<Worker>,
    pub(super) last_cell: u64,
    /// It has had a worker: the next one is a recovery, and must prove itself.
    pub(super) begun: bool,
    /// Taken before a kill, for the report on it.
    pub(super) evidence: Option<Stacks>,
    /// A death whose report is not written yet.
    pub(super) obituary: Option<Obituary>,
    /// There may be something in the namespace that a client counts on.
    pub(super) holds: bool,
    /// The last cell whose effects are in the namespace.
    pub(super) tip: u64,
    /// The cell that the namespace began with when it came from a checkpoint, and the first cell that ran in it.
    pub(super) base: Option<(u64, u64)>,
    /// The answer to an errand that was broken off and could not be interrupted.
    pub(super) owed: Option<Owed>,
    /// The newest automatic checkpoint, of which it is not known yet whether it is of use.
    pub(super) fresh: Option<Arc<Checkpoint>>,
    pub(super) background: Vec<u8>,
    /// Interventions that came in the middle of something and are still to be carried out.
    pub(super) later: VecDeque<Urgent>,
    pub(super) buffers: [Box<[u8]>; 2],
}

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
    Nothing,
    NobodyLeft,
}

impl Task {
    pub(super) async fn live(mut self) {
        if self.worker.is_some() {
            self.take_over();
        }
        match self.ensure_worker().await {
            Ok(()) | Err(NoWorker::Zygote(ZygoteError::Superseded)) => {}
            Err(error) => tracing::warn!(session = %self.id, %error, "no worker yet"),
        }
        self.plan_revival();
        loop {
            match self.next_event().await {
                Event::Order(Order::Rest { why }) => self.rest(why).await,
                Event::Order(order) => {
                    self.shared.update(|status| status.waiting = status.waiting.saturating_sub(1));
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
                    self.kill();
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
                Event::Nothing => {}
                Event::NobodyLeft => {
                    self.end(DeathReason::Delete, Fate::Lost).await;
                    return;
                }
            }
        }
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
                () = cell::sleep_until(revival.map(Into::into)) => Event::RevivalDue,
                order = self.orders.recv() => order.map_or(Event::NobodyLeft, Event::Order),
            };
        };
        let mut first = [0; 4 << 10];
        let mut second = [0; 4 << 10];
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
            Ok(count) = worker.stdout.read(&mut first) => { keep_tail(&mut self.background, &first[..count]); Event::Nothing }
            Ok(count) = worker.stderr.read(&mut second) => { keep_tail(&mut self.background, &second[..count]); Event::Nothing }
        }
    }

    async fn serve(&mut self, order: Order) {
        match order {
            Order::Cell { cell, reply } => {
                let queued = cell.asked.elapsed();
                let (code, client, cancel) = (cell.code.clone(), cell.client.clone(), cell.cancel.clone());
                let cell::Done { outcome, told } = self.run_cell(cell, queued).await;
                self.settle();
                let ended = outcome.measured();
                let went_well = matches!(outcome.ending, Ending::Finished);
                let recorded = Recorded::new(code, &outcome);
                // Told is what has gone to somebody who waits for it.
                if reply.send(outcome).is_ok() && !cancel.is_cancelled() {
                    self.life.told(&client, told);
                }
                if let Some(recorded) = recorded {
                    self.history.add(recorded);
                }
                counters::cell_ended(ended);
                self.around.spares.begin();
                if went_well {
                    self.keep_last().await;
                }
                self.plan_revival();
            }
            Order::State { carry, path, caller, reply } => {
                let carried = self.carry_for(carry, path, &caller).await;
                let changed = carry == Carry::Load && carried.is_ok();
                let _ = reply.send(carried);
                if changed {
                    self.keep_last().await;
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
            Order::Rest { why } => self.rest(why).await,
        }
    }

    /// Lets the worker go. Whoever has called meanwhile keeps it.
    async fn rest(&mut self, why: DeathReason) {
        if self.orders.is_empty() && self.worker.is_some() {
            // What it was is over: no later death brings it back.
            self.drop_copies();
            self.say_farewell().await;
            if let Some(death) = self.bury(why, None, None).await {
                self.note_loss(death);
            }
            // No death to recover from: whatever the policy, the next call simply gets a worker.
            self.begun = false;
        }
    }

    /// The phase after a cell: idle with a worker, dead without.
    fn settle(&mut self) {
        let phase = match (&self.worker, self.owed) {
            (Some(_), None) => Phase::Idle,
            (Some(_), Some(owed)) => owed.phase(),
            (None, _) => Phase::Dead,
        };
        self.shared.update(|status| {
            status.phase = phase;
            status.touch();
        });
    }

    fn kill(&self) {
        if let Some(worker) = &self.worker {
            worker.kill();
        }
    }

    /// The worker's socket closed: waits for its end, and brings it about if it does not come.
    async fn await_end(&self) {
        if let Some(worker) = &self.worker
            && tokio::time::timeout(FAREWELL, worker.pidfd.readable()).await.is_err()
        {
            worker.kill();
        }
    }

    /// Whether the worker, whose socket is closed, has ended by itself.
    async fn has_ended(&self) -> bool {
        match &self.worker {
            Some(worker) => tokio::time::timeout(FAREWELL, worker.pidfd.readable()).await.is_ok(),
            None => true,
        }
    }

    fn unexpected(&self, answer: FromWorker) -> SessionError {
        let reason = match answer {
            FromWorker::Failed { message } => message,
            _ => "the worker gave an answer of another kind".to_owned(),
        };
        SessionError::Worker { session: self.id.to_string(), reason }
    }

    /// True when the session is over.
    async fn intervene(&mut self, urgent: Urgent) -> bool {
        match urgent {
            Urgent::Delete { why, reply } => {
                self.end(why, Fate::Lost).await;
                let _ = reply.send(());
                true
            }
            Urgent::Restart { preserve, caller, reply } => {
                let restarted = self.restart(preserve, &caller).await;
                let _ = reply.send(restarted);
                self.plan_revival();
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

    /// Ends the worker, gracefully when it is idle, and answers those who still wait.
    async fn end(&mut self, reason: DeathReason, fate: Fate) {
        self.refuse_waiting(reason, fate);
        self.say_farewell().await;
        self.hear_last_words();
        self.bury(reason, None, None).await;
        self.file_report(None).await;
    }

    /// Keeps what the worker has written since its last cell for the next one.
    fn hear_last_words(&mut self) {
        if let Some(worker) = &mut self.worker {
            for output in [&mut worker.stdout, &mut worker.stderr] {
                if let Some(count) = output.read_now(&mut self.buffers[0]) {
                    keep_tail(&mut self.background, &self.buffers[0][..count]);
                }
            }
        }
    }

    async fn list(&mut self, caller: &Caller) -> Result<Vec<Variable>, SessionError> {
        let errand = next_number();
        let asked = (errand, ToWorker::ListVariables { errand });
        match self.ask(Errand::List, asked, &[], taken_back(caller)).await? {
            FromWorker::Variables(variables) => Ok(variables),
            other => Err(self.unexpected(other)),
        }
    }

    /// Carries variables for a client. What it counts on and is lost is not saved as if it had never been.
    async fn carry_for(
        &mut self,
        carry: Carry,
        path: String,
        caller: &Caller,
    ) -> Result<crate::protocol::StateReport, SessionError> {
        if carry == Carry::Save && self.life.news(&caller.client).fate() == Fate::Lost {
            return Err(SessionError::NothingToSave(self.id.to_string()));
        }
        self.carry(carry, path, caller).await
    }

    async fn say_farewell(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.requests.close();
            if self.owed.take().is_some() {
                // It does not read what it is told.
                return self.kill_with_evidence().await;
            }
            if tokio::time::timeout(FAREWELL, worker.pidfd.readable()).await.is_err() {
                self.kill_with_evidence().await;
            }
        }
    }

    /// Cells that waited while the session was restarted or deleted were never run, and are told so.
    fn refuse_waiting(&mut self, reason: DeathReason, fate: Fate) {
        let words = format!("session {:?} was ended by {} while this waited; it was not run", self.id, reason.word());
        while let Ok(order) = self.orders.try_recv() {
            question::turn_away(order, words.clone(), fate, &self.id, &self.shared);
        }
    }
}

fn keep_tail(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(bytes);
    let excess = buffer.len().saturating_sub(BACKGROUND_CAP);
    buffer.drain(..excess);
}

/// The outcome of a cell that was not run.
#[must_use]
pub fn refusal(reason: String, queued: Duration) -> CellOutcome {
    CellOutcome {
        cell: 0,
        ending: Ending::Refused { reason },
        stdout: CapturedText::default(),
        stderr: CapturedText::default(),
        background: String::new(),
        results: Vec::new(),
        displays: Vec::new(),
        error: None,
        new_files: NewFiles::default(),
        queued,
        ran: Duration::ZERO,
        fate: Fate::Kept,
        recovered: None,
        notices: Vec::new(),
        alerts: Vec::new(),
    }
}
