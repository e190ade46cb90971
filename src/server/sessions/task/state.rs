//! What a session's task holds, and the small steps that all of its files take.
//!
//! Runs in: server, in the session's task. Each file beside this one adds what it is named after.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::question::turn_away;
use crate::{
    protocol::FromWorker,
    server::{
        health::{
            errand::Errand,
            evidence::{Phase, Stacks},
        },
        sessions::{
            beginning::Origin,
            checkpoints::Checkpoint,
            context::Surroundings,
            crashes::OutOfMemory,
            death::{Death, DeathReason, Fate},
            happened::KeptByValue,
            history::History,
            images::{Image, about::About, base::Base},
            life::Life,
            orders::{Order, SessionError, Urgent},
            returned::Returned,
            runs::Runs,
            status::Shared,
        },
        workers::link::Worker,
        workspace::workplace::Workplace,
    },
    settings::limits::Limits,
};

/// How long a worker may take to end by itself when asked to.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of output kept from between cells.
const BACKGROUND_CAP: usize = 8 << 10;

/// What a session's task begins with.
pub(in crate::server::sessions) struct Seat {
    pub(in crate::server::sessions) life: Life,
    pub(in crate::server::sessions) history: Arc<History>,
    pub(in crate::server::sessions) runs: Arc<Runs>,
    pub(in crate::server::sessions) shared: Shared,
    pub(in crate::server::sessions) limits: Limits,
    pub(in crate::server::sessions) around: Arc<Surroundings>,
    pub(in crate::server::sessions) place: Arc<Workplace>,
    pub(in crate::server::sessions) orders: mpsc::Receiver<Order>,
    /// Tells how many orders wait.
    pub(in crate::server::sessions) queue: mpsc::WeakSender<Order>,
    pub(in crate::server::sessions) interventions: mpsc::UnboundedReceiver<Urgent>,
    pub(in crate::server::sessions) origin: Origin,
}

pub(in crate::server::sessions) struct Task {
    pub(super) id: Arc<str>,
    pub(super) life: Life,
    pub(super) history: Arc<History>,
    pub(super) runs: Arc<Runs>,
    pub(super) shared: Shared,
    pub(super) limits: Limits,
    pub(super) around: Arc<Surroundings>,
    /// Where it works.
    pub(super) place: Arc<Workplace>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) queue: mpsc::WeakSender<Order>,
    pub(super) interventions: mpsc::UnboundedReceiver<Urgent>,
    pub(super) worker: Option<Worker>,
    /// What it goes on with after an exec, until it does.
    pub(super) returned: Option<Box<Returned>>,
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
    /// The death of an idle worker, when there is a copy: the session goes on from that when it is used next, and is dead for
    /// all who look until then.
    pub(super) unsettled: Option<Death>,
    /// The answer to an errand that was broken off and could not be interrupted.
    pub(super) owed: Option<Owed>,
    /// The newest automatic checkpoint, of which it is not known yet whether it is of use.
    pub(super) fresh: Weak<Checkpoint>,
    /// The one that the session has gone back to, until it has a copy of what came after.
    pub(super) gone_back: Weak<Checkpoint>,
    /// `load_session` has brought variables in, which checkpoints up to this number do not have.
    pub(super) loaded: Option<u64>,
    /// It sleeps, and has no worker.
    pub(super) asleep: Option<Arc<Image>>,
    /// It is from the server before this one, and has not been woken yet.
    pub(super) adopted: Option<About>,
    /// What its image has in common with others: of the zygote that its process came from, if that has been of use.
    pub(super) common: Option<Arc<Base>>,
    /// It is awake, and has this image of how it was when it was at rest.
    pub(super) at_rest: Option<Image>,
    /// Copies to come.
    pub(super) keeping: Keeping,
    pub(super) background: Vec<u8>,
    /// Interventions that came in the middle of something and are still to be carried out.
    pub(super) later: VecDeque<Urgent>,
}

/// What is known of the copies to come.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// When the session has been at rest long enough.
    pub(super) due: Option<Instant>,
    /// Attempts in a row that failed.
    pub(super) misses: u32,
    /// It was told that it has no copy.
    pub(super) told: Arc<AtomicBool>,
    /// Copies up to this number are of a past that was left behind; one that is still on its way is let go.
    pub(super) left_behind: Arc<AtomicU64>,
    /// It was given longer, for its last cell rewrote most of what it holds.
    pub(super) waited: bool,
    /// What is kept by value, where there can be no copy.
    pub(super) values: Option<Values>,
    /// Keeping by value took too long, and is not tried again.
    pub(super) too_slow: bool,
}

/// What is kept by value, and where.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) folder: Option<TempDir>,
    /// As of this cell; nothing yet where it is none.
    pub(super) kept: Option<Arc<KeptByValue>>,
    /// Checkpoints up to this number are older.
    pub(super) number: u64,
    /// `Task::loaded`, as it was then.
    pub(super) loaded: Option<u64>,
}

impl Values {
    /// Whether there is anything yet.
    pub(super) fn are_kept(&self) -> bool {
        self.kept.is_some()
    }

    pub(super) fn path(&self) -> String {
        self.folder.as_ref().map_or_else(String::new, |folder| folder.path().to_string_lossy().into_owned())
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let folder = self.folder.take();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(folder))),
            Err(_) => drop(folder),
        }
    }
}

/// An answer that the worker still owes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) errand: Errand,
    /// What it is interrupted by.
    pub(super) number: u64,
    pub(super) since: Instant,
}

impl Owed {
    pub(super) fn phase(self) -> Phase {
        Phase::Serving { errand: self.errand, since: self.since }
    }
}

/// What is known of a death until its report is written.
#[derive(Debug)]
pub(super) struct Obituary {
    pub(super) death: Death,
    pub(super) pid: i32,
    pub(super) uptime: Duration,
    pub(super) out_of_memory: OutOfMemory,
    pub(super) stacks: Option<Stacks>,
}

impl Task {
    pub(in crate::server::sessions) fn new(seat: Seat) -> Self {
        let Seat { life, history, runs, shared, limits, around, place, orders, queue, interventions, origin } = seat;
        let (mut worker, mut last_cell, mut left, mut returned) = (None, 0, None, None);
        match origin {
            Origin::Afresh => {}
            Origin::Copy { worker: woken, cell } => (worker, last_cell) = (Some(*woken), cell),
            Origin::Asleep(adopted) => left = Some(adopted),
            Origin::Returned(all) => returned = Some(all),
        }
        let (adopted, image) = left.map(|left| (left.about, Arc::new(left.image))).unzip();
        let last_cell = adopted.as_ref().map_or(last_cell, |about| about.last_cell);
        Self {
            id: Arc::clone(life.session()),
            life,
            history,
            runs,
            shared,
            limits,
            around,
            place,
            orders,
            queue,
            interventions,
            holds: worker.is_some() || image.is_some(),
            worker,
            returned,
            last_cell,
            begun: image.is_some(),
            evidence: None,
            obituary: None,
            tip: adopted.as_ref().map_or(last_cell, |about| about.cell),
            base: None,
            unsettled: None,
            owed: None,
            fresh: Weak::new(),
            gone_back: Weak::new(),
            loaded: None,
            common: image.as_ref().and_then(|image| image.base.clone()),
            asleep: image,
            adopted,
            at_rest: None,
            keeping: Keeping::default(),
            background: Vec::new(),
            later: VecDeque::new(),
        }
    }

    /// The phase after a cell: idle with a worker, dead without.
    pub(super) fn settle(&mut self) {
        let phase = match (&self.worker, self.owed) {
            (Some(_), None) => Phase::Idle,
            (Some(_), Some(owed)) => owed.phase(),
            (None, _) if self.asleep.is_some() => Phase::Asleep,
            (None, _) => Phase::Dead,
        };
        self.shared.update(|status| {
            status.phase = phase;
            status.touch();
        });
    }

    pub(super) async fn kill(&self) {
        if let Some(worker) = &self.worker {
            worker.kill().await;
        }
    }

    /// The worker's socket closed: waits for its end, and brings it about if it does not come.
    pub(super) async fn await_end(&self) {
        if let Some(worker) = &self.worker
            && tokio::time::timeout(FAREWELL, worker.pidfd.readable()).await.is_err()
        {
            worker.kill().await;
        }
    }

    /// Whether the worker, whose socket is closed, has ended by itself.
    pub(super) async fn has_ended(&self) -> bool {
        match &self.worker {
            Some(worker) => tokio::time::timeout(FAREWELL, worker.pidfd.readable()).await.is_ok(),
            None => true,
        }
    }

    pub(super) fn unexpected(&self, answer: FromWorker) -> SessionError {
        let reason = match answer {
            FromWorker::Failed { message } => message,
            _ => "the worker gave an answer of another kind".to_owned(),
        };
        SessionError::Worker { session: self.id.to_string(), reason }
    }

    /// Ends the worker, gracefully when it is idle, and answers those who still wait.
    pub(super) async fn end(&mut self, reason: DeathReason, fate: Fate) {
        self.refuse_waiting(reason, fate);
        self.parts(reason);
        self.say_farewell().await;
        self.hear_last_words();
        self.bury(reason, None, None).await;
        self.file_report(None).await;
    }

    /// The worker is to end now; where that was ordered, no alarm is raised about it.
    pub(super) fn parts(&self, reason: DeathReason) {
        if let Some(worker) = self.worker.as_ref().filter(|_| reason.is_ordered()) {
            self.shared.update(|status| status.parting = Some(worker.pid));
        }
    }

    /// Keeps what the worker has written since its last cell for the next one.
    pub(super) fn hear_last_words(&mut self) {
        if let Some(worker) = &mut self.worker {
            for output in [&mut worker.stdout, &mut worker.stderr] {
                output.take_now(|bytes| keep_tail(&mut self.background, bytes));
            }
        }
    }

    pub(super) async fn say_farewell(&mut self) {
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
    pub(super) fn refuse_waiting(&mut self, reason: DeathReason, fate: Fate) {
        let words = self.ended_meanwhile(reason);
        while let Ok(order) = self.orders.try_recv() {
            turn_away(order, words.clone(), fate, &self.shared);
        }
    }

    pub(super) fn ended_meanwhile(&self, reason: DeathReason) -> String {
        format!("session {:?} was ended by {} while this waited; it was not run", self.id, reason.word())
    }
}

/// Keeps the end of what was written.
pub(super) fn keep_tail(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(bytes);
    let excess = buffer.len().saturating_sub(BACKGROUND_CAP);
    buffer.drain(..excess);
}
