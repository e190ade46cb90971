//! A session's worker comes and goes: made, proven, buried, reported, replaced.
//!
//! Runs in: server, in the session's task. What is to be done next, and when to give up, is `health/recovery.rs`; here it
//! is done. A worker other than the session's first counts only when a ping and an evaluation have come back from it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    errands::{next_number, unless_called},
    rollback::CameBack,
    state::Task,
};
use crate::{
    protocol::{FromWorker, ToWorker},
    server::{
        counters,
        health::{
            RecoveryPolicy,
            errand::Errand,
            evidence::Phase,
            recovery::{Next, Step, Taken},
        },
        sessions::{
            checkpoints::newest,
            death::{Death, DeathReason, Fate, Recovered},
            happened::What,
            orders::{NoWorker, Unproven, Urgent},
        },
        workers::{control::PingOutcome, link::Worker, stacks, zygote::ZygoteError},
    },
    settings::policy::Automatic,
    sys::processes,
};

/// How long a new worker may take to prove itself.
const PROOF: Duration = Duration::from_secs(5);
impl Task {
    /// A worker for a call. One that replaces a dead one is a recovery: the policy is asked, and it must prove itself.
    pub(super) async fn ensure_worker(&mut self) -> Result<(), NoWorker> {
        if self.worker.is_some() {
            return Ok(());
        }
        if self.asleep.is_some() {
            return self.wake_up().await;
        }
        if !self.begun {
            return self.start_worker().await;
        }
        let policy = self.shared.record(|record| record.policy);
        if policy.recovery == RecoveryPolicy::Manual {
            let why = self.shared.get().last_exit.map_or_else(
                || "its worker could not be made".to_owned(),
                |(death, _)| format!("its worker {}", death.describe()),
            );
            return Err(NoWorker::Manual(why));
        }
        match self.shared.record(|record| record.ledger.next(Instant::now(), &policy, fastrand::f64())) {
            Next::Park(reason) => Err(NoWorker::Parked(reason)),
            Next::After(_) => self.revive().await,
        }
    }

    /// Makes a worker and takes it over.
    async fn start_worker(&mut self) -> Result<(), NoWorker> {
        self.shared.update(|status| status.phase = Phase::Starting);
        let limits = self.limits.kept_by_kernel();
        if let Some(worker) = self.around.spares.take(&self.id, limits, &self.place) {
            counters::worker_started(Duration::ZERO);
            self.worker = Some(worker);
            self.begin_empty().await;
            return Ok(());
        }
        let started = tokio::select! {
            biased;
            urgent = next_wish(&mut self.interventions) => {
                self.later.extend(urgent);
                Err(ZygoteError::Superseded)
            }
            started = Worker::start(&self.around.zygote, &self.id, limits, &self.place) => started,
        };
        match started {
            Ok(worker) => {
                counters::worker_started(worker.born.elapsed());
                self.worker = Some(worker);
                self.begin_empty().await;
                Ok(())
            }
            Err(error) => {
                if !matches!(error, ZygoteError::Superseded) {
                    counters::worker_failed();
                }
                self.trouble(error.to_string());
                self.begun |= !matches!(error, ZygoteError::Superseded);
                Err(error.into())
            }
        }
    }

    /// A worker that holds nothing gives way to one of the zygote that serves now, unless a call waits.
    pub(super) async fn freshen(&mut self) {
        if self.worker.is_none() || self.holds || self.owed.is_some() || !self.orders.is_empty() {
            return;
        }
        let limits = self.limits.kept_by_kernel();
        let started = Worker::start(&self.around.zygote, &self.id, limits, &self.place);
        match unless_called(&mut self.interventions, &mut self.later, started).await {
            Some(Ok(worker)) => {
                if let Some(before) = self.worker.replace(worker) {
                    before.retire(self.around.zygote.endings());
                }
                self.begin_empty().await;
            }
            Some(Err(error)) => tracing::debug!(session = %self.id, %error, "keeps the worker that it has"),
            None => {}
        }
    }

    /// A worker with nothing in its namespace.
    async fn begin_empty(&mut self) {
        (self.holds, self.tip, self.base, self.owed, self.loaded) = (false, 0, None, None, None);
        (self.common, self.at_rest) = (None, None);
        self.shared.update(|status| status.at_rest = None);
        self.take_over().await;
    }

    fn trouble(&self, words: String) {
        self.shared.update(|status| {
            status.phase = Phase::Dead;
            status.parting = None;
            status.trouble = Some(words);
        });
    }

    /// Makes a worker that counts only when it has proven itself.
    pub(super) async fn start_verified(&mut self) -> Result<(), NoWorker> {
        self.start_worker().await?;
        if let Err(reason) = self.verify().await {
            let called_off = !self.later.is_empty();
            if self.worker.is_some() {
                self.kill_with_evidence().await;
                let reason = if called_off { DeathReason::Restart } else { DeathReason::Unverified };
                self.bury(reason, None, None).await;
                self.file_report(None).await;
            }
            if called_off {
                return Err(ZygoteError::Superseded.into());
            }
            self.trouble(format!("a new worker did not prove itself: {reason}"));
            return Err(NoWorker::Unverified(reason));
        }
        Ok(())
    }

    /// A ping, which needs the interpreter's lock, and an evaluation by the thread that runs cells.
    pub(super) async fn verify(&mut self) -> Result<(), Unproven> {
        let Some(worker) = &mut self.worker else { return Err(Unproven::NoWorker) };
        let proven = unless_called(&mut self.interventions, &mut self.later, Self::prove(worker)).await;
        proven.unwrap_or(Err(Unproven::CalledOff))
    }

    pub(super) async fn prove(worker: &mut Worker) -> Result<(), Unproven> {
        match worker.control.ping(PROOF).await {
            PingOutcome::Pong { value: 2, .. } => {}
            PingOutcome::Pong { value, .. } => return Err(Unproven::Wrong(value)),
            PingOutcome::HeartbeatOnly { .. } => return Err(Unproven::Held),
            PingOutcome::Silent { .. } => return Err(Unproven::Silent),
        }
        let evaluation = async {
            worker.requests.write(&ToWorker::Probe).await?;
            worker.replies.read::<FromWorker>().await
        };
        match tokio::time::timeout(PROOF, evaluation).await {
            Ok(Ok(FromWorker::Probed { value: 2 })) => Ok(()),
            Ok(Ok(FromWorker::Probed { value })) => Err(Unproven::Wrong(value)),
            Ok(Ok(_)) => Err(Unproven::OtherAnswer),
            Ok(Err(error)) => Err(Unproven::NoAnswer(Arc::new(error))),
            Err(_) => Err(Unproven::Late(PROOF)),
        }
    }

    /// One restart, entered into the ledger whatever comes of it.
    pub(super) async fn revive(&mut self) -> Result<(), NoWorker> {
        let began = Instant::now();
        let rung = self.shared.record(|record| {
            record.revival = None;
            record.ledger.begin(began);
            if record.policy.recovery == RecoveryPolicy::Auto { record.ledger.rung() } else { Step::Restart }
        });
        if rung == Step::Recreate {
            self.recreate();
        }
        let made = self.start_verified().await;
        if matches!(made, Err(NoWorker::Zygote(ZygoteError::Superseded))) {
            return made;
        }
        let detail = match &made {
            Ok(()) => "a fresh worker answered a ping and an evaluation".to_owned(),
            Err(error) => error.to_string(),
        };
        self.enter(rung, made.is_ok(), detail, began);
        if made.is_ok() {
            self.shared.record(|record| record.ledger.proven(&record.policy));
        }
        made
    }

    /// The session as new, but for its name, its policy and what is remembered of its health.
    fn recreate(&mut self) {
        self.refuse_waiting(DeathReason::Restart, Fate::Lost);
        self.background.clear();
        self.last_cell = 0;
        self.runs.go_on_from(None);
        self.shared.update(|status| status.executed = 0);
    }

    pub(super) fn enter(&self, step: Step, verified: bool, detail: String, began: Instant) {
        let took = began.elapsed().as_secs_f64();
        let word = step.word();
        if verified {
            tracing::info!(session = %self.id, step = word, took, "recovery step verified: {detail}");
        } else {
            tracing::warn!(session = %self.id, step = word, took, "recovery step failed: {detail}");
        }
        let policy = self.shared.record(|record| record.policy.recovery);
        counters::recovered(policy.word(), word, verified);
        let taken = Taken { step, verified, detail, took, when: Timestamp::now().to_string() };
        self.shared.record(|record| record.ledger.enter(taken));
        self.announce();
    }

    pub(super) fn announce(&self) {
        self.around.changes.session(self.life.owner(), &self.id);
    }

    /// Under policy `auto`, a session without a worker gets the time of its next restart, or is parked.
    pub(super) fn plan_revival(&mut self) {
        let alive = self.worker.is_some() || self.asleep.is_some();
        let parked = self.shared.record(|record| {
            record.revival = None;
            if alive || record.policy.recovery != RecoveryPolicy::Auto {
                return None;
            }
            let was_parked = record.ledger.parked().is_some();
            let (now, policy) = (Instant::now(), record.policy);
            match record.ledger.next(now, &policy, fastrand::f64()) {
                Next::After(pause) => {
                    record.revival = Some(now + pause);
                    None
                }
                Next::Park(reason) => (!was_parked).then_some(reason),
            }
        });
        if let Some(reason) = parked {
            tracing::error!(session = %self.id, "parked: {reason}");
        }
    }

    /// The supervisor's wish, met while no cell runs.
    pub(super) async fn heal(&mut self, step: Step) {
        match step {
            Step::Collect => self.collect().await,
            Step::Interrupt => self.unhang().await,
            Step::Restart | Step::Recreate => {}
        }
    }

    async fn collect(&mut self) {
        let Some(pid) = self.worker.as_ref().map(|worker| worker.pid) else { return };
        let memory = |pid| processes::look_up(pid).map_or(0, |process| process.memory);
        let (began, before) = (Instant::now(), memory(pid));
        let errand = next_number();
        let asked = (errand, ToWorker::Collect { errand });
        let collected = match self.ask(Errand::Collect, asked, &[], std::future::pending()).await {
            Ok(FromWorker::Collected { objects }) => Ok(objects),
            Ok(other) => Err(self.unexpected(other).to_string()),
            Err(error) => Err(error.to_string()),
        };
        let proven = match &collected {
            Ok(_) => self.verify().await.map_err(|unproven| unproven.to_string()),
            Err(reason) => Err(reason.clone()),
        };
        let after = memory(pid);
        let detail = match (&collected, &proven) {
            (Ok(objects), Ok(())) => format!(
                "memory was above the clean-up threshold: {} MB before, {} MB after collecting {objects} unreachable objects",
                before >> 20,
                after >> 20
            ),
            (_, Err(reason)) | (Err(reason), _) => format!("garbage could not be collected: {reason}"),
        };
        self.shared.record(|record| record.tell(detail.clone()));
        self.enter(Step::Collect, proven.is_ok(), detail, began);
    }

    /// Hung without a cell: something else holds the interpreter. One more chance, then a new worker.
    async fn unhang(&mut self) {
        let Some(worker) = &self.worker else { return };
        let grace = self.around.settings.grace.max(Duration::from_millis(100));
        if matches!(worker.control.ping(grace).await, PingOutcome::Pong { .. }) {
            return;
        }
        self.kill_with_evidence().await;
        self.died_idle(DeathReason::Hung).await;
    }

    /// The worker has died, or is about to, while no cell ran.
    pub(super) async fn died_idle(&mut self, reason: DeathReason) {
        let errand = self.owed.map(|owed| owed.errand);
        let death = self.bury(reason, None, errand).await;
        self.file_report(None).await;
        match death {
            // Brought back unseen, it would never be seen dead, and a client that watches its health has a right to that.
            Some(death) if self.is_brought_back_when_used() => self.unsettled = Some(death),
            Some(death) => drop(self.mourn(death).await),
            None => {}
        }
        self.plan_revival();
    }

    /// Without a copy the variables are lost, and that is said at once.
    fn is_brought_back_when_used(&self) -> bool {
        let policy = self.shared.record(|record| record.policy);
        let has_copy = self.has_copy() || self.keeping.values.is_some();
        policy.checkpoints == Automatic::Auto && policy.recovery == RecoveryPolicy::OnDemand && has_copy
    }

    /// What the worker's death means for the session: it goes on from a checkpoint, or has lost its variables. Noted for
    /// all who have to learn it.
    pub(super) async fn mourn(&mut self, death: Death) -> Option<Recovered> {
        match self.recover_state().await {
            Some(CameBack { recovered, copy, then }) => {
                self.life.happened(What::Restored { death, recovered, copy }, None);
                then.into_iter().for_each(|what| self.life.happened(what, None));
                Some(recovered)
            }
            None => {
                self.note_loss(death);
                None
            }
        }
    }

    /// The variables are gone, if there were any.
    pub(super) fn note_loss(&mut self, death: Death) {
        if std::mem::take(&mut self.holds) {
            self.life.happened(What::Lost { death, newest: newest() }, None);
        }
    }

    /// A hung cell was interrupted and its worker lives: the step is proven and said.
    pub(super) async fn healed(&mut self, cell: u64, since: Instant) -> String {
        let proof = self.verify().await;
        let detail = match &proof {
            Ok(()) => format!("cell {cell} held the interpreter and was interrupted; its variables are kept"),
            Err(reason) => format!("cell {cell} was interrupted, and then {reason}"),
        };
        self.enter(Step::Interrupt, proof.is_ok(), detail.clone(), since);
        detail
    }

    /// Stacks first, then SIGKILL.
    pub(super) async fn kill_with_evidence(&mut self) {
        let Some(view) = self.worker.as_ref().map(Worker::view) else { return };
        self.evidence = Some(stacks::take(&view).await);
        self.kill().await;
    }
}

/// The next intervention that ends a start: the supervisor's wishes are not for a worker that is being made.
async fn next_wish(interventions: &mut mpsc::UnboundedReceiver<Urgent>) -> Option<Urgent> {
    loop {
        match interventions.recv().await {
            Some(Urgent::Heal(_) | Urgent::Reconsider | Urgent::Look { .. } | Urgent::Pack(_)) => {}
            Some(other) => return Some(other),
            None => return std::future::pending().await,
        }
    }
}
