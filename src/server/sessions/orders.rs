//! What a session is asked, what it answers, and why it does not.
//!
//! Runs in: server. Pure data: the handle sends it (`handle.rs`), the session's task serves it (`task`).

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    active::Client,
    checkpoints::{Checkpoint, StoreError},
    death::{DeathReason, Recovered},
    happened::{KeptByValue, Uncopied},
    images::{Image, about::About},
    outcome::OnError,
    quotas::{QuotaError, Share},
    returned::PackedTask,
    runs::Reply,
    status::Sleeping,
};
use crate::{
    protocol::{Answer, FrameError, NotebookCell, StateReport, Variable},
    server::{
        health::{errand::Errand, recovery::Step},
        output::{live::Live, peephole::Look},
        traces::Parent,
        workers::zygote::ZygoteError,
    },
    sys::parcel::Parcel,
};

/// Why a session did not take an order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// Too many wait already.
    #[error("session {session:?} has {waiting} calls waiting, which is the limit; wait for one to end and try again")]
    QueueFull { session: String, waiting: usize },
    /// The owner's own limit.
    #[error("the cell was not run: {0}")]
    Quota(#[from] QuotaError),
    /// It was deleted meanwhile.
    #[error("session {0:?} has been deleted")]
    Deleted(String),
    /// There is no worker and none can be made.
    #[error("session {session:?} has no worker: {source}")]
    NoWorker { session: String, source: NoWorker },
    /// A fork would lack threads.
    #[error(
        "session {session:?} cannot be copied: threads do not survive a fork, and it has {threads}. Let them end, or pass \
         force: true for a copy without them"
    )]
    Threads { session: String, threads: String },
    /// The table of checkpoints.
    #[error(transparent)]
    Checkpoint(StoreError),
    /// It was broken off, and nothing has changed.
    #[error("session {session:?}: {} was broken off: {why}. Its variables are as they were", errand.name())]
    BrokenOff { session: String, errand: Errand, why: BrokenOff },
    /// Its worker died of it, and it has gone on from a checkpoint.
    #[error("session {session:?}: {reason}; {}", recovered.describe())]
    Recovered {
        session: String,
        /// How its worker ended.
        reason: String,
        recovered: Recovered,
    },
    /// What the client would have saved is lost.
    #[error("session {0:?} has lost its variables since this client last used them, so nothing was saved")]
    NothingToSave(String),
    /// The variables are gone, so there is nothing to do it with.
    #[error("session {session:?}: {reason}, and its variables are lost")]
    Lost {
        session: String,
        /// How its worker ended.
        reason: String,
    },
    /// `restart_kernel` was to keep the variables and could not.
    #[error(
        "session {session:?} was not restarted, and its variables are as they were: they could not be saved ({reason}). \
         restart_kernel with preserve_state: false restarts it and loses them"
    )]
    NotPreserved { session: String, reason: String },
    /// It was not put to sleep, and is as it was.
    #[error(
        "session {session:?} was not put to sleep, and is as it was: {}{}",
        why.join("; "),
        if *has_worker { ". by_value: true lets it sleep with its variables alone, and names those that are lost" } else { "" }
    )]
    Awake {
        session: String,
        /// A sentence each.
        why: Vec<String>,
        has_worker: bool,
    },
    /// Its turn never came.
    #[error("{words}")]
    NotRun { words: String },
    /// The worker could not do it.
    #[error("session {session:?}: {reason}")]
    Worker { session: String, reason: String },
}

/// Why an errand was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokenOff {
    /// No caller waits for it.
    #[error("the call was cancelled")]
    Cancelled,
    /// It took too long.
    #[error("the worker did not come to an end with it within {} s", .0.as_secs())]
    Limit(Duration),
    /// Something else was wanted meanwhile.
    #[error("restart_kernel was called")]
    Called,
    /// No call asked for it, and one waits behind it.
    #[error("another call waits")]
    GivesWay,
    /// It is still at an earlier one.
    #[error("its worker is still at an errand that was broken off, and an interrupt does not reach it: it {}", .0.doing())]
    StillAt(Errand),
}

/// Who waits for an answer.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub client: Client,
    /// Cancelled when it takes its call back.
    pub cancel: CancellationToken,
}

/// What waits its turn.
#[derive(Debug)]
pub(super) enum Order {
    Cell {
        cell: CellOrder,
        /// Its number in the session.
        number: u64,
        reply: Reply,
        /// It counts for its owner.
        share: Option<Share>,
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
    /// Puts the session to sleep; without a caller only while no call waits.
    FallAsleep {
        asked: Option<(Caller, oneshot::Sender<Result<Slept, SessionError>>)>,
        /// With its variables alone, where it cannot sleep as it is.
        by_value: bool,
    },
    /// Writes an image of the session, which goes on, unless a call waits.
    WriteImage,
    /// Ends the worker of a session that is not used, unless a call waits behind this.
    Rest {
        why: DeathReason,
    },
    /// Workers that are made from now on have more: one that holds nothing yet gives way to such a one.
    Freshen,
    /// Has the session leave this server.
    Depart(Departure),
    /// A copy was made and turned out to be of no use: what can be is kept by value.
    KeepByValue {
        why: Uncopied,
    },
}

impl Order {
    /// Whether it is the session's own: no caller waits for it.
    pub(super) fn is_own(&self) -> bool {
        matches!(
            self,
            Self::Rest { .. }
                | Self::Freshen
                | Self::KeepByValue { .. }
                | Self::FallAsleep { asked: None, .. }
                | Self::WriteImage
                | Self::Depart(_)
        )
    }
}

impl Order {
    /// An order that was taken back before its turn is answered, and not begun. Cells are told how they end by their own.
    pub(super) fn unless_taken_back(self, session: &str) -> Option<Self> {
        let refuse =
            |errand| SessionError::BrokenOff { session: session.to_owned(), errand, why: BrokenOff::Cancelled };
        match self {
            Self::Variables { caller, reply } if caller.cancel.is_cancelled() => {
                let _ = reply.send(Err(refuse(Errand::List)));
            }
            Self::Checkpoint { caller, reply, .. } if caller.cancel.is_cancelled() => {
                let _ = reply.send(Err(refuse(Errand::Checkpoint)));
            }
            Self::FallAsleep { asked: Some((caller, reply)), .. } if caller.cancel.is_cancelled() => {
                let _ = reply.send(Err(refuse(Errand::Sleep)));
            }
            Self::Restore { caller, reply, .. } if caller.cancel.is_cancelled() => {
                let _ = reply.send(Err(refuse(Errand::GoBack)));
            }
            Self::Hold(Hold { caller, held, .. }) if caller.cancel.is_cancelled() => {
                let _ = held.send(Err(refuse(Errand::Branches)));
            }
            Self::State { carry, caller, reply, .. } if caller.cancel.is_cancelled() => {
                let errand = if carry == Carry::Save { Errand::Save } else { Errand::Load };
                let _ = reply.send(Err(refuse(errand)));
            }
            order => return Some(order),
        }
        None
    }
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
    /// The server ends: what can be left to the next one is.
    Leave {
        reply: oneshot::Sender<()>,
    },
    Heal(Step),
    /// The policy has changed.
    Reconsider,
    /// What the running cell has written beyond these bytes of its two streams; dropped when none runs.
    Look {
        from: [u64; 2],
        reply: oneshot::Sender<Look>,
    },
    /// What the task holds, with copies of the worker's descriptors. Dropped when that cannot be taken along now.
    Pack(Packing),
}

/// The server is about to become another program.
#[derive(Debug)]
pub(super) struct Packing {
    pub(super) parcel: Parcel,
    /// What was packed stands still until this is cancelled: it stays the program that it is.
    pub(super) thaw: CancellationToken,
    pub(super) reply: oneshot::Sender<(io::Result<PackedTask>, Parcel)>,
}

/// A cell to run.
#[derive(Debug)]
pub(crate) struct CellOrder {
    pub code: String,
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
    /// Who answers what it asks; without one it may not ask.
    pub questions: Option<mpsc::UnboundedSender<Question>>,
    /// It is a cell of a notebook, and runs where that is.
    pub notebook: Option<NotebookCell>,
    /// Bytes of each stream that are kept in memory, when it is not what replies hold.
    pub max_output: Option<usize>,
    /// What its spans hang on, where its call is traced.
    pub trace: Option<Parent>,
}

/// A line of input that a running cell waits for.
#[derive(Debug)]
pub(crate) struct Question {
    pub cell: u64,
    /// What the code says of it.
    pub prompt: String,
    /// The end of what the cell has written since its last question, both streams; the prompt is part of it.
    pub output: String,
    /// For the answer. Dropped without one, the client could not be asked.
    pub answer: oneshot::Sender<Answer>,
}

/// The session is to leave this server.
#[derive(Debug)]
pub(crate) struct Departure {
    /// Also while calls wait for it, and with its variables alone where it cannot go whole.
    pub(crate) insists: bool,
    /// What is to be put away. The session stands still then.
    pub(crate) ready: oneshot::Sender<Result<Departing, SessionError>>,
    /// Whether it is gone. Dropped, it stays.
    pub(crate) gone: oneshot::Receiver<()>,
}

/// What a session that leaves has.
#[derive(Debug)]
pub(crate) struct Departing {
    pub(crate) image: Arc<Image>,
    pub(crate) about: About,
}

/// How a session fell asleep.
#[derive(Debug)]
pub(crate) struct Slept {
    pub(crate) sleeping: Sleeping,
    /// With these variables alone, as was wished where it could not sleep as it is.
    pub(crate) by_value: Option<Arc<KeptByValue>>,
    /// Why it could not.
    pub(crate) why: Vec<String>,
}

/// What a restart came to.
#[derive(Debug, Default)]
pub(crate) struct Restarted {
    /// Names saved by the old worker.
    pub preserved: Vec<String>,
    /// Names found again by the new one.
    pub restored: Vec<String>,
    /// Names that were not carried over, with the reason.
    pub lost: BTreeMap<String, String>,
    /// What the caller must know.
    pub notice: Option<String>,
}

impl From<StoreError> for SessionError {
    fn from(error: StoreError) -> Self {
        Self::Checkpoint(error)
    }
}

/// Why a worker that was made does not count.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unproven {
    #[error("it has no worker")]
    NoWorker,
    #[error("it evaluates 1+1 to {0}")]
    Wrong(i64),
    #[error("its interpreter does not answer a ping")]
    Held,
    #[error("it does not answer a ping")]
    Silent,
    #[error("it answered an evaluation by something else")]
    OtherAnswer,
    #[error("it did not evaluate 1+1: {0}")]
    NoAnswer(#[source] Arc<FrameError>),
    #[error("it did not evaluate 1+1 within {} s", .0.as_secs())]
    Late(Duration),
    #[error("restart_kernel or delete_session was called")]
    CalledOff,
}

/// Why a session has no worker.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoWorker {
    /// None could be made.
    #[error(transparent)]
    Zygote(#[from] ZygoteError),
    /// One was made and did not prove itself.
    #[error("a new worker was made and did not prove itself: {0}")]
    Unverified(#[source] Unproven),
    /// It died, and policy `manual` leaves it so.
    #[error("{0}. Its recovery policy is \"manual\": restart_kernel brings a new worker")]
    Manual(String),
    /// It sleeps, and its image does not wake.
    #[error("it sleeps on disk and could not be woken: {why}. Its image is kept: the next call tries again. {}", way_on(instead.as_deref()))]
    Asleep {
        why: String,
        /// Variables that are kept by value for this case.
        instead: Option<Arc<KeptByValue>>,
    },
    /// Nothing more is tried.
    #[error("it is parked: {0}. restart_kernel tries again")]
    Parked(String),
}

/// What can be done about a session that does not wake.
fn way_on(instead: Option<&KeptByValue>) -> String {
    const NAMED: usize = 40;
    let some = |names: &[String]| match names.len() {
        0 => "none".to_owned(),
        count if count > NAMED => format!("{} and {} more", names[..NAMED].join(", "), count - NAMED),
        _ => names.join(", "),
    };
    let without = "begins anew, without its variables";
    let Some(KeptByValue { names, left_out, .. }) = instead else {
        return format!("restart_kernel with preserve_state: false gives the session up and {without}");
    };
    let others: Vec<String> = left_out.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    let others = if others.is_empty() { String::new() } else { format!("; not there would be {}", some(&others)) };
    format!(
        "restart_kernel gives the session as it was up: with preserve_state: true it begins anew with the variables that were \
         kept by value ({}{others}), with preserve_state: false it {without}",
        some(names)
    )
}

impl Urgent {
    /// Why a worker is ended for it.
    pub(super) fn reason(&self) -> DeathReason {
        match self {
            Self::Restart { .. } | Self::Heal(_) | Self::Reconsider | Self::Look { .. } | Self::Pack(_) => {
                DeathReason::Restart
            }
            Self::Delete { why, .. } => *why,
            Self::Leave { .. } => DeathReason::Delete,
        }
    }

    /// Whether the variables of the session go with it.
    pub(super) fn throws_away(&self) -> bool {
        matches!(self, Self::Restart { preserve: false, .. } | Self::Delete { .. })
    }
}

/// A checkpoint to make.
#[derive(Debug)]
pub(crate) struct CheckpointWish {
    /// Its name; made up when absent.
    pub name: Option<String>,
    /// Although there are threads that it will not have.
    pub force: bool,
    /// Kept in the table, or by the caller alone.
    pub kept: bool,
}

/// What a held session gives its holder, and how it is let go.
#[derive(Debug)]
pub(crate) struct Hold {
    /// Gets the session's state as it is now.
    pub held: oneshot::Sender<Result<Arc<Checkpoint>, SessionError>>,
    pub caller: Caller,
    /// Lets the session go, and on from another state if one is sent; the answer says whether that worked.
    pub release: oneshot::Receiver<Option<Chosen>>,
}

/// The state from which a session that was held goes on, and who hears whether it did.
pub(crate) type Chosen = (Arc<Checkpoint>, oneshot::Sender<Result<(), SessionError>>);
