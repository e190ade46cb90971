//! One session: a task that solely owns its worker, runs its cells one after the other and gives each exactly one ending.
//!
//! Runs in: server, one task a session. Everything outside talks to it by its handle (`session/handle.rs`): cells queue in
//! order, restart and deletion jump the queue. A cell is sent to a worker once; whatever happens after that, it is never
//! sent again.

mod cell;
mod cpu_budget;
mod question;
mod recover;
mod rollback;

use std::{
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use self::recover::Obituary;
pub use self::{
    recover::NoWorker,
    rollback::{CheckpointWish, Chosen, Hold},
};
use super::{
    checkpoints::{Checkpoint, Checkpoints},
    oom::OomCounter,
    outcome::{CellOutcome, Death, DeathReason, Ending, Fate, OnError, Recovered},
    status::Shared,
};
pub use crate::server::sessions::handle::{CellOrder, Question, Restarted, Session, SessionError};
use crate::{
    protocol::{Answer, FrameError, FromWorker, StateReport, ToWorker, WorkerExit},
    server::{
        counters,
        events::Changes,
        health::{
            HealthPolicy,
            alerts::Book,
            evidence::{Phase, Stacks},
        },
        output::captured::{CapturedText, Method},
        sessions::{
            crashes::Crashes,
            handle::{Order, Urgent},
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
/// How long saving or loading variables may take.
const STATE_LIMIT: Duration = Duration::from_secs(300);
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
    /// Why the variables of earlier cells are gone, until a reply has said so.
    pub(super) lost: Option<String>,
    /// What was recovered while nobody called, until a reply has said so.
    pub(super) recovered: Option<(String, Recovered)>,
    /// The newest automatic checkpoint, of which it is not known yet whether it is of use.
    pub(super) fresh: Option<Arc<Checkpoint>>,
    pub(super) background: Vec<u8>,
    /// Interventions that came in the middle of something and are still to be carried out.
    pub(super) later: Vec<Urgent>,
    pub(super) buffers: [Box<[u8]>; 2],
}

/// What woke an idle session.
enum Event {
    Order(Order),
    Urgent(Urgent),
    WorkerEnded,
    WorkerSpoke,
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
                    let _ = self.bury(DeathReason::Itself, None).await;
                    self.file_report(None).await;
                    self.recover_quietly().await;
                    self.plan_revival();
                }
                Event::WorkerSpoke => {
                    self.kill();
                    let _ = self.bury(DeathReason::ProtocolBroken, None).await;
                    self.file_report(None).await;
                    self.recover_quietly().await;
                    self.plan_revival();
                }
                Event::RevivalDue => {
                    let _ = self.revive().await;
                    self.plan_revival();
                }
                Event::Nothing => {}
                Event::NobodyLeft => {
                    self.end(DeathReason::Delete).await;
                    return;
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        if let Some(urgent) = self.later.pop() {
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
                let code = cell.code.clone();
                let outcome = self.run_cell(cell, queued).await;
                self.settle();
                let ended = outcome.measured();
                let went_well = matches!(outcome.ending, Ending::Finished);
                let recorded = Recorded::new(code, &outcome);
                let _ = reply.send(outcome);
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
            Order::State { request, reply } => {
                let loads = matches!(request, ToWorker::LoadState { .. });
                let carried = self.ask(request).await.and_then(|answer| match answer {
                    FromWorker::State(report) => Ok(report),
                    other => Err(self.unexpected(other)),
                });
                let changed = loads && carried.is_ok();
                let _ = reply.send(carried);
                if changed {
                    self.keep_last().await;
                }
            }
            order @ (Order::Checkpoint { .. } | Order::Restore { .. } | Order::Hold(_)) => {
                self.serve_checkpoints(order).await;
            }
            Order::Variables { reply } if reply.is_closed() => {}
            Order::Variables { reply } => {
                let found = self.ask(ToWorker::ListVariables).await.and_then(|answer| match answer {
                    FromWorker::Variables(variables) => Ok(variables),
                    other => Err(self.unexpected(other)),
                });
                let _ = reply.send(found);
            }
            Order::Rest { why } => self.rest(why).await,
        }
    }

    /// Lets the worker go. Whoever has called meanwhile keeps it.
    async fn rest(&mut self, why: DeathReason) {
        if self.orders.is_empty() && self.worker.is_some() {
            self.say_farewell().await;
            self.bury(why, None).await;
            // No death to recover from: whatever the policy, the next call simply gets a worker.
            self.begun = false;
        }
    }

    /// The phase after a cell: idle with a worker, dead without.
    fn settle(&mut self) {
        let phase = if self.worker.is_some() { Phase::Idle } else { Phase::Dead };
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

    /// Asks the worker something other than a cell.
    async fn ask(&mut self, request: ToWorker) -> Result<FromWorker, SessionError> {
        self.ask_with(request, &[]).await
    }

    /// The same with descriptors attached.
    async fn ask_with(&mut self, request: ToWorker, passed: &[BorrowedFd<'_>]) -> Result<FromWorker, SessionError> {
        let session = self.id.to_string();
        self.ensure_worker().await.map_err(|source| SessionError::NoWorker { session: session.clone(), source })?;
        let Some(worker) = &mut self.worker else {
            return Err(SessionError::Worker { session, reason: "it has no worker".to_owned() });
        };
        let exchange = async {
            match passed {
                [] => worker.requests.write(&request).await?,
                passed => worker.requests.write_with(&request, passed)?,
            }
            worker.replies.read::<FromWorker>().await
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(STATE_LIMIT, exchange) => Some(answered),
            _ = worker.pidfd.readable() => None,
        };
        match answered {
            Some(Ok(Ok(answer))) => Ok(answer),
            other => {
                if matches!(other, Some(Err(_))) {
                    self.kill_with_evidence().await;
                }
                let closed = matches!(other, Some(Ok(Err(FrameError::Closed | FrameError::Io(_)))));
                let reason = match &other {
                    None => DeathReason::Itself,
                    // The socket's end is heard before the process'.
                    Some(_) if closed && self.has_ended().await => DeathReason::Itself,
                    Some(Err(_)) => DeathReason::Unresponsive,
                    Some(Ok(_)) => DeathReason::ProtocolBroken,
                };
                self.kill();
                let death = self.bury(reason, None).await;
                self.file_report(None).await;
                let how = death.map_or_else(|| "ended".to_owned(), |death| death.describe());
                self.recover_quietly().await;
                let then = match self.recovered.take() {
                    Some((_, recovered)) => recovered.describe(),
                    None => "its variables are lost".to_owned(),
                };
                Err(SessionError::Worker { session, reason: format!("its worker {how}; {then}") })
            }
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
                self.end(why).await;
                let _ = reply.send(());
                true
            }
            Urgent::Restart { preserve, reply } => {
                let restarted = self.restart(preserve).await;
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
    async fn end(&mut self, reason: DeathReason) {
        self.refuse_waiting(reason);
        self.say_farewell().await;
        self.hear_last_words();
        self.bury(reason, None).await;
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

    async fn say_farewell(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.requests.close();
            if tokio::time::timeout(FAREWELL, worker.pidfd.readable()).await.is_err() {
                self.kill_with_evidence().await;
            }
        }
    }

    /// Cells that waited while the session was restarted or deleted were never run, and are told so.
    fn refuse_waiting(&mut self, reason: DeathReason) {
        let words = format!("session {:?} was ended by {} while this waited; it was not run", self.id, reason.word());
        while let Ok(order) = self.orders.try_recv() {
            question::turn_away(order, words.clone(), &self.id, &self.shared);
        }
    }

    async fn restart(&mut self, preserve: bool) -> Result<Restarted, SessionError> {
        let mut result = Restarted::default();
        let path = self.around.scratch.join(format!("{}.state", self.id));
        let file = path.to_string_lossy().into_owned();
        let mut saved = false;
        if preserve {
            match self.save(&file).await {
                Ok(report) => {
                    saved = true;
                    result.preserved = report.names;
                    result.lost = report.skipped.into_iter().collect();
                }
                Err(reason) => result.notice = Some(format!("no variable could be carried over: {reason}")),
            }
        }
        let kept = self.leave_behind().await;
        self.end(DeathReason::Restart).await;
        self.lost = None;
        self.recovered = None;
        self.shared.record(|record| record.ledger.succeed());
        if preserve
            && !saved
            && let Some(kept) = kept
            && self.go_on_from(&kept, false).await.is_ok()
        {
            self.tell_restored(&mut result, kept.cell).await;
            self.keep_last().await;
            return Ok(result);
        }
        let session = self.id.to_string();
        self.start_verified().await.map_err(|source| SessionError::NoWorker { session, source })?;
        if saved {
            match self.ask(ToWorker::LoadState { path: file }).await {
                Ok(FromWorker::State(StateReport { names, skipped, .. })) => {
                    result.restored = names;
                    result.lost.extend(skipped);
                }
                Ok(other) => result.notice = Some(self.unexpected(other).to_string()),
                Err(error) => result.notice = Some(error.to_string()),
            }
        }
        let _ = std::fs::remove_file(&path);
        self.settle();
        if saved {
            self.keep_last().await;
        }
        Ok(result)
    }

    /// The worker could not save anything, but a checkpoint had all of it.
    async fn tell_restored(&mut self, result: &mut Restarted, cell: u64) {
        if let Ok(FromWorker::Variables(variables)) = self.ask(ToWorker::ListVariables).await {
            result.restored = variables.into_iter().map(|variable| variable.name).collect();
            result.preserved.clone_from(&result.restored);
        }
        let after = if cell == 0 { "at its beginning".to_owned() } else { format!("after cell {cell}") };
        result.notice = Some(format!(
            "The worker could not save its variables; the session is as it was {after}, from the checkpoint of policy \
             \"last\"."
        ));
        self.settle();
    }

    /// Goes on from the last checkpoint when the worker died under no cell; the next reply says so.
    async fn recover_quietly(&mut self) {
        let how = self.shared.get().last_exit.map_or_else(String::new, |(death, _)| death.describe());
        if let Some(recovered) = self.recover_state().await {
            self.recovered = Some((how, recovered));
        }
    }

    async fn save(&mut self, file: &str) -> Result<StateReport, String> {
        if self.worker.is_none() {
            return Err("the session had no living worker".to_owned());
        }
        match self.ask(ToWorker::SaveState { path: file.to_owned() }).await {
            Ok(FromWorker::State(report)) => Ok(report),
            Ok(other) => Err(self.unexpected(other).to_string()),
            Err(error) => Err(error.to_string()),
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
        notice: None,
        alerts: Vec::new(),
    }
}
