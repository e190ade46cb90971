//! The messages of workers' main threads and of checkpoints, one enum per direction: requests are verbs, reports are past facts.
//! Those of zygotes are `zygote.rs`, those of the control socket `control.rs`.
//!
//! Runs in: all three processes. Adding a variant at an end or changing a field means a new [`PROTOCOL_VERSION`]:
//! server, zygote and worker are one binary, so a mismatch can only be a broken deployment, and is refused as one.

use serde::{Deserialize, Serialize};

use super::report::{CellReport, StateReport, Variable};

/// Version of the message enums, checked at each handshake.
pub const PROTOCOL_VERSION: u32 = 11;

/// A cell of a notebook runs where the notebook is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotebookCell {
    pub directory: String,
    /// It is the first of a run: the run begins in that directory. Later ones go on where the one before has ended.
    pub first: bool,
}
/// This bit tells the number of an errand from that of a cell, where both may be interrupted.
pub(crate) const ERRAND: u64 = 1 << 63;

/// Server → worker, cell socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Serve this session from now on; to a worker that was made for none, as its first request. There is no answer.
    Become { session: String },
    /// Run code in the session's namespace.
    RunCell {
        /// Number of the cell within its session, from 1.
        cell: u64,
        code: String,
        /// Whether it may ask for input: there is a client that can be asked.
        may_ask: bool,
        /// It is a cell of a notebook.
        notebook: Option<NotebookCell>,
    },
    /// Summarise the session's variables.
    ListVariables {
        /// Its number, by which it is interrupted.
        errand: u64,
    },
    /// Write what can be pickled to a file.
    SaveState {
        /// Its number, by which it is interrupted.
        errand: u64,
        path: String,
    },
    /// Read back what [`ToWorker::SaveState`] wrote.
    LoadState {
        /// Its number, by which it is interrupted.
        errand: u64,
        path: String,
    },
    /// Keep what can be pickled in a folder; a descriptor comes along, whose other end is closed when a call waits.
    KeepValues {
        /// Its number, by which it is interrupted.
        errand: u64,
        folder: String,
        /// Bytes that may be kept.
        limit: u64,
    },
    /// Bring back what [`ToWorker::KeepValues`] has kept.
    LoadKept {
        /// Its number, by which it is interrupted.
        errand: u64,
        folder: String,
    },
    /// Make a checkpoint; the far end of its socket comes along.
    Checkpoint {
        /// Its number as an errand, by which it is interrupted.
        errand: u64,
        /// Number of it within the server, from 1.
        number: u64,
        /// Although there are threads that it will not have.
        force: bool,
    },
    /// Evaluate `1+1` in the main thread: the proof that cells would run.
    Probe,
    /// Collect garbage and return freed memory to the system.
    Collect {
        /// Its number, by which it is interrupted.
        errand: u64,
    },
    /// The answer to [`FromWorker::InputWanted`]; one that comes too late is ignored.
    Input {
        question: u64,
        /// What came of it.
        answer: Answer,
    },
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A line, without its newline.
    Line(String),
    /// The person who was asked does not want to answer.
    Declined,
    /// The person who was asked closed the question without a choice.
    Cancelled,
    /// The question could not be asked, and why.
    Failed(String),
}

/// What a fork of a worker would not have, and calls for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Missed {
    /// A thread that `threading` knows.
    Thread { name: String },
    /// Threads that Python's code has started past `threading`.
    Unnamed { count: usize },
    /// Threads of a native library: calls into it would wait for them.
    Library { library: String, count: usize },
    /// A native thread of which nothing else is known.
    Native { name: String },
    /// A process that holds objects of the session's.
    Process { what: String },
}

impl std::fmt::Display for Missed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Thread { name } => write!(out, "Python thread {name:?}"),
            Self::Unnamed { count } => write!(out, "{count} started by Python's _thread"),
            Self::Library { library, count: 1 } => write!(out, "a thread of {library}"),
            Self::Library { library, count } => write!(out, "{count} threads of {library}"),
            Self::Native { name } => write!(out, "native thread {name:?}"),
            Self::Process { what } => out.write_str(what),
        }
    }
}

/// All of it, in a sentence's middle.
pub(crate) fn list_missed(missed: &[Missed]) -> String {
    missed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Worker → server, cell socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Ready for the first request.
    Hello {
        /// [`PROTOCOL_VERSION`] of the worker.
        version: u32,
        pid: i32,
    },
    /// The cell of [`ToWorker::RunCell`] ended.
    CellDone {
        cell: u64,
        report: CellReport,
    },
    /// The running cell waits for a line of input.
    InputWanted {
        cell: u64,
        /// Comes back in the answer.
        question: u64,
        /// What the code says of it; empty where it reads its standard input.
        prompt: String,
    },
    Variables(Vec<Variable>),
    /// Answer to [`ToWorker::SaveState`], [`ToWorker::LoadState`], [`ToWorker::KeepValues`] and [`ToWorker::LoadKept`].
    State(StateReport),
    /// Nothing new was kept by [`ToWorker::KeepValues`]: a call waits.
    GaveWay,
    /// A checkpoint exists and waits for [`ToCheckpoint::Settle`].
    Checkpointed {
        pid: i32,
        /// What this worker has and it has not.
        missing: Vec<Missed>,
    },
    /// No checkpoint was made, because of what would be missing in it.
    Threaded(Vec<Missed>),
    Probed {
        /// 2.
        value: i64,
    },
    Collected {
        objects: u64,
    },
    /// A request other than a cell failed inside the worker.
    Failed {
        /// The Python error, one line.
        message: String,
    },
}

/// Server → checkpoint, its own socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToCheckpoint {
    /// The worker has gone on: do now what a fork has to do in its child, and look around.
    Settle,
    /// Fork a worker that goes on from here; descriptors as for [`Purpose::Session`].
    Wake {
        /// The session it will serve.
        session: String,
        /// Whether `random` and `numpy.random` go on as they would have, or draw other numbers.
        keep_random: bool,
    },
    /// Write all of yourself to the file that comes along, but for what a second one has in common with you.
    Sleep,
}

/// Checkpoint → server, its own socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromCheckpoint {
    /// Answer to [`ToCheckpoint::Settle`], and first word of one that was woken from its image: it is ready to be woken.
    Frozen {
        /// [`PROTOCOL_VERSION`] of the checkpoint.
        version: u32,
        /// What it shares with the world and so does not hold, in words.
        hazards: Vec<String>,
        /// What it keeps open although the session may close it: others wait for that end.
        binding: Vec<String>,
    },
    /// Answer to [`ToCheckpoint::Wake`]: a worker exists.
    Woken { pid: i32 },
    /// No worker could be made of it; or, as its first word, it could not be woken from its image.
    WakeFailed { message: String },
    /// Answer to [`ToCheckpoint::Sleep`]: the file is complete.
    Asleep {
        /// Pages of memory in it.
        pages: u64,
        /// Pages that the base has.
        common: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// Answer to [`ToCheckpoint::Sleep`]: what is in the file is of no use, and why.
    NotAsleep { why: Vec<String> },
}
