//! What the rest of the server holds of a session: its orders go into the task's queue, restarts and endings past it.
//!
//! Runs in: server, wherever a tool or a watcher has it; awaits the task's answers and decides nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::{Answer, NotebookCell, StateReport, Variable},
    server::{
        health::{HealthPolicy, errand::Errand, recovery::Step},
        output::live::Live,
        sessions::history::History,
        sessions::{
            active::Client,
            checkpoints::{Checkpoint, StoreError},
            life::Life,
            outcome::{CellOutcome, DeathReason, OnError, Recovered},
            status::Shared,
            task::{CHUNK, CheckpointWish, Hold, NoWorker, Surroundings, Task},
        },
        workers::link::Worker,
    },
    settings::limits::Limits,
    sys::memory_group::MemoryGroup,
};

/// Handle of a session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its name.
    pub id: Arc<str>,
    /// Which bearer of that name it is, and what has happened to it.
    pub life: Life,
    /// What can be seen of it.
    pub shared: Shared,
    /// What it may take.
    pub limits: Limits,
    /// What it has run.
    pub history: Arc<History>,
    cells: mpsc::Sender<Order>,
    urgent: mpsc::UnboundedSender<Urgent>,
}

/// Why a session did not take an order.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Too many wait already.
    #[error("session {session:?} has {waiting} calls waiting, which is the limit; wait for one to end and try again")]
    QueueFull {
        /// Which.
        session: String,
        /// How many.
        waiting: usize,
    },
    /// It was deleted meanwhile.
    #[error("session {0:?} has been deleted")]
    Deleted(String),
    /// There is no worker and none can be made.
    #[error("session {session:?} has no worker: {source}")]
    NoWorker {
        /// Which.
        session: String,
        /// Why.
        source: NoWorker,
    },
    /// A fork would lack threads.
    #[error(
        "session {session:?} cannot be copied: threads do not survive a fork, and it has {threads}. Let them end, or pass \
         force: true for a copy without them"
    )]
    Threads {
        /// Which.
        session: String,
        /// The threads.
        threads: String,
    },
    /// The table of checkpoints.
    #[error(transparent)]
    Checkpoint(StoreError),
    /// It was broken off, and nothing has changed.
    #[error("session {session:?}: {} was broken off: {why}. Its variables are as they were", errand.name())]
    BrokenOff {
        /// Which.
        session: String,
        /// What it did.
        errand: Errand,
        /// Why.
        why: BrokenOff,
    },
    /// Its worker died of it, and it has gone on from a checkpoint.
    #[error("session {session:?}: {reason}; {}", recovered.describe())]
    Recovered {
        /// Which.
        session: String,
        /// How its worker ended.
        reason: String,
        /// What is there.
        recovered: Recovered,
    },
    /// What the client would have saved is lost.
    #[error("session {0:?} has lost its variables since this client last used them, so nothing was saved")]
    NothingToSave(String),
    /// The variables are gone, so there is nothing to do it with.
    #[error("session {session:?}: {reason}, and its variables are lost")]
    Lost {
        /// Which.
        session: String,
        /// How its worker ended.
        reason: String,
    },
    /// `restart_kernel` was to keep the variables and could not.
    #[error(
        "session {session:?} was not restarted, and its variables are as they were: they could not be saved ({reason}). \
         restart_kernel with preserve_state: false restarts it and loses them"
    )]
    NotPreserved {
        /// Which.
        session: String,
        /// Why.
        reason: String,
    },
    /// The worker could not do it.
    #[error("session {session:?}: {reason}")]
    Worker {
        /// Which.
        session: String,
        /// Why.
        reason: String,
    },
}

/// Why an errand was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenOff {
    /// Nobody waits for it.
    #[error("the call was cancelled")]
    Cancelled,
    /// It took too long.
    #[error("the worker did not come to an end with it within {} s", .0.as_secs())]
    Limit(Duration),
    /// Something else was wanted meanwhile.
    #[error("restart_kernel was called")]
    Called,
    /// It is still at an earlier one.
    #[error("its worker is still at an errand that was broken off, and an interrupt does not reach it: it {}", .0.doing())]
    StillAt(Errand),
}

/// Who waits for an answer.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The client.
    pub client: Client,
    /// Cancelled when it takes its call back.
    pub cancel: CancellationToken,
}

/// What waits its turn.
#[derive(Debug)]
pub(super) enum Order {
    Cell {
        cell: CellOrder,
        reply: oneshot::Sender<CellOutcome>,
    },
    Variables {
        caller: Caller,
        reply: oneshot::Sender<Result<Vec<Variable>, SessionError>>,
    },
    Checkpoint {
        wish: CheckpointWish,
        caller: Caller,
        reply: oneshot::Sender<Result<Arc<Checkpoint>, SessionError>>,
    },
    Restore {
        from: Arc<Checkpoint>,
        keep_random: bool,
        caller: Caller,
        reply: oneshot::Sender<Result<(), SessionError>>,
    },
    Hold(Hold),
    /// Writes variables to a file, or reads them from one; the file is forkpy's own.
    State {
        carry: Carry,
        path: String,
        caller: Caller,
        reply: oneshot::Sender<Result<StateReport, SessionError>>,
    },
    /// Ends the worker of a session that is not used, unless somebody waits behind this.
    Rest {
        why: DeathReason,
    },
}

/// Which way variables go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carry {
    Save,
    Load,
}

/// What does not wait.
#[derive(Debug)]
pub(super) enum Urgent {
    Restart {
        preserve: bool,
        caller: Caller,
        reply: oneshot::Sender<Result<Restarted, SessionError>>,
    },
    Delete {
        why: DeathReason,
        reply: oneshot::Sender<()>,
    },
    /// The supervisor's wish.
    Heal(Step),
    /// The policy has changed.
    Reconsider,
}

/// A cell to run.
#[derive(Debug)]
pub struct CellOrder {
    /// The code.
    pub code: String,
    /// Who sent it.
    pub client: Client,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// Cancelled when the client takes it back.
    pub cancel: CancellationToken,
    /// When it was asked for.
    pub asked: Instant,
    /// Who hears of its output while it runs.
    pub live: Option<Arc<Live>>,
    /// What is to become of the session's state when it does not end well.
    pub on_error: OnError,
    /// Who answers what it asks; nobody, and then it may not ask.
    pub questions: Option<mpsc::UnboundedSender<Question>>,
    /// It is a cell of a notebook, and runs where that is.
    pub notebook: Option<NotebookCell>,
    /// Bytes of each stream that are kept in memory, when it is not what replies hold.
    pub max_output: Option<usize>,
}

/// A line of input that a running cell waits for.
#[derive(Debug)]
pub struct Question {
    /// The cell.
    pub cell: u64,
    /// What the code says of it.
    pub prompt: String,
    /// The end of what the cell has written since its last question, both streams; the prompt is part of it.
    pub output: String,
    /// For the answer. Dropped without one, nobody could be asked.
    pub answer: oneshot::Sender<Answer>,
}

/// What a restart came to.
#[derive(Debug, Default)]
pub struct Restarted {
    /// Names saved by the old worker.
    pub preserved: Vec<String>,
    /// Names found again by the new one.
    pub restored: Vec<String>,
    /// Names that were not carried over, with the reason.
    pub lost: BTreeMap<String, String>,
    /// What the caller must know.
    pub notice: Option<String>,
}

/// What a session begins with.
#[derive(Debug)]
pub struct Beginning {
    /// Its life, and with it its name.
    pub life: Life,
    /// What its maker says of it.
    pub description: String,
    /// Thresholds and recovery.
    pub policy: HealthPolicy,
    /// What it may take.
    pub limits: Limits,
    /// A worker that a checkpoint woke, and the number of the last cell that had run in it.
    pub first: Option<(Worker, u64)>,
}

impl Session {
    /// Makes the session and begins to make its worker, unless it has one.
    #[must_use]
    pub fn start(beginning: Beginning, around: Arc<Surroundings>) -> Self {
        let Beginning { life, description, policy, limits, first } = beginning;
        let id = Arc::clone(life.session());
        let shared = Shared::new(description, policy);
        shared.update(|status| status.memory_group = limits.most_memory().and_then(MemoryGroup::for_session));
        let (cells, orders) = mpsc::channel(around.settings.queue);
        let (urgent, interventions) = mpsc::unbounded_channel();
        let history = Arc::<History>::default();
        let (worker, last_cell) = first.map_or((None, 0), |(worker, cell)| (Some(worker), cell));
        let task = Task {
            id: Arc::clone(&id),
            life: life.clone(),
            holds: worker.is_some(),
            tip: last_cell,
            base: None,
            owed: None,
            history: Arc::clone(&history),
            shared: shared.clone(),
            limits,
            around,
            orders,
            interventions,
            worker,
            last_cell,
            begun: false,
            evidence: None,
            obituary: None,
            fresh: None,
            background: Vec::new(),
            later: VecDeque::new(),
            buffers: [vec![0; CHUNK].into(), vec![0; CHUNK].into()],
        };
        tokio::spawn(task.live());
        Self { id, life, shared, limits, history, cells, urgent }
    }

    /// Runs a cell when its turn comes. Its outcome fails to come only when the session is deleted.
    ///
    /// # Errors
    /// [`SessionError`] when it was not accepted.
    pub fn run(&self, cell: CellOrder) -> Result<oneshot::Receiver<CellOutcome>, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::Cell { cell, reply })?;
        Ok(answer)
    }

    /// Lists variables when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn variables(&self, caller: Caller) -> Result<Vec<Variable>, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::Variables { caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Makes a checkpoint when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn checkpoint(&self, wish: CheckpointWish, caller: Caller) -> Result<Arc<Checkpoint>, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::Checkpoint { wish, caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Goes on from a checkpoint when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`]; the session is as before then.
    pub async fn restore(&self, from: Arc<Checkpoint>, keep_random: bool, caller: Caller) -> Result<(), SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::Restore { from, keep_random, caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Writes variables to a file of our own when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn save_to(&self, path: String, caller: Caller) -> Result<StateReport, SessionError> {
        self.carry(Carry::Save, path, caller).await
    }

    /// Reads variables from a file of our own when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`]; no variable has changed then.
    pub async fn load_from(&self, path: String, caller: Caller) -> Result<StateReport, SessionError> {
        self.carry(Carry::Load, path, caller).await
    }

    async fn carry(&self, carry: Carry, path: String, caller: Caller) -> Result<StateReport, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::State { carry, path, caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Has the session stand still when its turn comes, see [`Hold`].
    ///
    /// # Errors
    /// [`SessionError`] when it was not accepted.
    pub fn hold(&self, hold: Hold) -> Result<(), SessionError> {
        self.put(Order::Hold(hold))
    }

    /// Replaces the worker at once, whatever it is doing.
    ///
    /// # Errors
    /// [`SessionError`] when no new worker could be made.
    pub async fn restart(&self, preserve: bool, caller: Caller) -> Result<Restarted, SessionError> {
        let (reply, answer) = oneshot::channel();
        let deleted = || SessionError::Deleted(self.id.to_string());
        self.urgent.send(Urgent::Restart { preserve, caller, reply }).map_err(|_| deleted())?;
        answer.await.map_err(|_| deleted())?
    }

    /// Has the session's task see to its worker; nothing happens when the session is over.
    pub fn heal(&self, step: Step) {
        let _ = self.urgent.send(Urgent::Heal(step));
    }

    /// Its policy has changed: what is planned for a session without a worker is planned anew.
    pub fn reconsider(&self) {
        let _ = self.urgent.send(Urgent::Reconsider);
    }

    /// Ends the session and all it started; returns when that is done.
    pub async fn delete(&self) {
        self.end(DeathReason::Delete).await;
    }

    /// The same, for a reason of the server's own.
    pub async fn end(&self, why: DeathReason) {
        let (reply, answer) = oneshot::channel();
        if self.urgent.send(Urgent::Delete { why, reply }).is_ok() {
            let _ = answer.await;
        }
    }

    /// Ends the worker when its turn comes, unless the session is in use then. False when that cannot be asked for now.
    #[must_use]
    pub fn rest(&self, why: DeathReason) -> bool {
        self.cells.try_send(Order::Rest { why }).is_ok()
    }

    fn put(&self, order: Order) -> Result<(), SessionError> {
        self.shared.update(|status| {
            status.touch();
            status.waiting += 1;
        });
        self.cells.try_send(order).map_err(|error| {
            let waiting = self.shared.update(|status| {
                status.waiting -= 1;
                status.waiting
            });
            match error {
                mpsc::error::TrySendError::Full(_) => SessionError::QueueFull { session: self.id.to_string(), waiting },
                mpsc::error::TrySendError::Closed(_) => SessionError::Deleted(self.id.to_string()),
            }
        })
    }
}
