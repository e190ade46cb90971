//! The messages, one enum per direction: requests are verbs, reports are past facts.
//!
//! Runs in: all three processes. Adding a variant at an end or changing a field means a new [`PROTOCOL_VERSION`]:
//! server, zygote and worker are one binary, so a mismatch can only be a broken deployment, and is refused as one.

use nix::sys::wait::WaitStatus;
use serde::{Deserialize, Serialize};

use super::confinement::{Confinement, ConfinementSettings};
use super::report::{CellReport, StateReport, Variable};

/// Version of the message enums, checked at each handshake.
pub const PROTOCOL_VERSION: u32 = 8;

/// What a zygote needs to start its interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteSettings {
    /// Python executable of the session environment; CPython finds its `site-packages` from it.
    pub python: String,
    /// The standard library, where `python` is of another installation than the linked one.
    pub library: Option<Library>,
    /// Directory of the virtual environment, if it is one: the `VIRTUAL_ENV` of sessions.
    pub virtual_env: Option<String>,
    /// Directories put before `site-packages` on `sys.path`.
    pub python_path: Vec<String>,
    /// Modules to import once, before any fork.
    pub preload: Vec<String>,
    /// Working directory of every session.
    pub workspace: String,
    /// Where files made on behalf of a session go.
    pub outputs: String,
    /// Tables and the like get a file with their HTML.
    pub keep_html: bool,
    /// What confined sessions may reach.
    pub confinement: ConfinementSettings,
    /// Failures that a test has armed; none of our variables comes to a session's process.
    pub faults: String,
}

/// A standard library, and packages of another installation's environment: see `server/environment/borrowed.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    pub base: String,
    pub prefix: String,
    pub standard: String,
    /// The environment's directories of packages.
    pub packages: Vec<String>,
}

#[expect(clippy::large_enum_variant, reason = "the large one is sent once in a zygote's life")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToZygote {
    /// First frame: who speaks, and what to warm up.
    Start {
        /// [`PROTOCOL_VERSION`] of the server.
        version: u32,
        /// How to start CPython.
        settings: ZygoteSettings,
    },
    /// Fork a process; descriptors come along, see [`Purpose`].
    Fork {
        /// The server's name for the process to be.
        worker: u64,
        /// What it is to be.
        purpose: Purpose,
        /// What the kernel is to keep it to.
        limits: WorkerLimits,
        /// Its own folder, when it is confined.
        room: Option<String>,
    },
    /// Packages have changed on the disk: forget what was cached of it.
    Refresh,
    /// The server has seen the end of this worker: reap it.
    Reap {
        /// Process id from [`FromZygote::Exited`].
        pid: i32,
    },
}

/// What a fork of the zygote is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A session's worker; descriptors: cell, control, stdout, stderr, black box.
    Session {
        /// Its name, for process titles and variables; empty for a spare worker, which is told later.
        name: String,
    },
    /// A process that runs one script and ends; descriptors: its source, the server's lifeline, stdout, stderr.
    Script(Script),
    /// The checkpoint of an image, a child of the server's; descriptors: the image, its base, the checkpoint's socket.
    Image,
    /// A process that writes what the zygote has in memory, and ends; descriptors: the file, a socket for one
    /// [`FromCheckpoint::Asleep`].
    Base,
}

impl Purpose {
    /// Descriptors that come along.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Session { .. } => 5,
            Self::Script(_) => 4,
            Self::Image => 3,
            Self::Base => 2,
        }
    }
}

/// A script to run. Its text comes by descriptor: the server has opened the file where it may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    pub file: String,
    /// `sys.path[0]`, absolute.
    pub directory: String,
    /// `sys.argv`, the script's own name first.
    pub argv: Vec<String>,
    /// It is forkpy's own and installs packages.
    pub installing: Option<Box<Installing>>,
}

/// What a process that installs may do beyond a session of the mode `workspace`: it changes the environment, and has these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installing {
    /// Files with the settings of the tool.
    pub read: Vec<String>,
    /// Where the environment's packages are.
    pub write: Vec<String>,
    /// The tool.
    pub run: Vec<String>,
    /// Where its proxy is.
    pub proxy: Option<String>,
}

/// Limits that a child of the zygote sets for itself before it runs code that is not forkpy's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerLimits {
    /// Bytes of memory beyond what it starts with.
    pub memory: Option<u64>,
    pub open_files: Option<u32>,
    pub confinement: Confinement,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromZygote {
    /// CPython runs and forks are welcome.
    Warm {
        /// [`PROTOCOL_VERSION`] of the zygote.
        version: u32,
        python: String,
        /// `sys.executable` as sessions will see it.
        executable: String,
        /// Time from exec to here, milliseconds.
        took_ms: u64,
        /// Modules that could not be preloaded, with the reason.
        rejected: Vec<(String, String)>,
    },
    /// A module of `--preload` is being imported; what ends the zygote now is that.
    Preloading {
        module: String,
    },
    /// A module of `--preload` has started threads that sessions would miss. The zygote cannot serve; it ends after this.
    Unforkable {
        module: String,
        /// Its threads, in words.
        threads: Vec<String>,
    },
    /// The zygote cannot serve; it ends after this.
    Failed {
        message: String,
    },
    Forked {
        worker: u64,
        pid: i32,
    },
    /// No worker could be made.
    ForkFailed {
        worker: u64,
        message: String,
    },
    /// A worker ended and waits, as a zombie, for [`ToZygote::Reap`].
    Exited {
        pid: i32,
        exit: WorkerExit,
    },
}

/// How a worker process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerExit {
    /// It called `exit` or `_exit`.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The status could not be read.
    Unknown,
}

impl WorkerExit {
    /// From what `waitid` says.
    #[must_use]
    pub fn of(status: WaitStatus) -> Self {
        match status {
            WaitStatus::Exited(_, code) => Self::Code(code),
            WaitStatus::Signaled(_, signal, _) => Self::Signal(signal as i32),
            _ => Self::Unknown,
        }
    }
}

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

/// How much an interrupt insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Urgency {
    /// SIGINT, as Ctrl-C sends it.
    First,
    /// That did not end the cell: SIGTERM to what the cell has started.
    Second,
    /// Nor did that: SIGKILL to what the cell has started. Next the worker is killed.
    Last,
}

/// Server → worker, control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    Ping {
        /// Comes back in both answers.
        nonce: u64,
    },
    /// Answer a question about the session's code and objects, also while a cell runs.
    Ask {
        /// Comes back in the answer.
        nonce: u64,
        question: Question,
    },
    /// Interrupt this cell and no other: one that has ended is left alone.
    Interrupt {
        cell: u64,
        /// How much is left to try.
        urgency: Urgency,
    },
    /// Packages have changed on the disk: forget what was cached of it, and say which of these modules are imported.
    Refresh { nonce: u64, modules: Vec<String> },
    /// Write the stacks of all Python threads to the black box.
    DumpStacks {
        /// Comes back in the answer.
        nonce: u64,
        /// How to get at them.
        route: DumpRoute,
    },
}

/// How stacks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DumpRoute {
    /// With the GIL: exact, and waits for it.
    Interpreter,
    /// Without, from a signal handler: works when native code holds the GIL, whose owner's frames then stand still.
    Signal,
}

/// A question that needs the interpreter and not the main thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// What could stand at the cursor?
    Complete {
        code: String,
        /// Characters before the cursor.
        cursor: u64,
    },
    /// What is at the cursor?
    Inspect {
        code: String,
        /// Characters before the cursor.
        cursor: u64,
        /// 0, or 1 for the source too.
        detail: u8,
    },
    /// Which variables are there, at this moment?
    Variables,
}

/// Worker → server, control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromControl {
    /// The process is scheduled; says nothing about the GIL.
    Heartbeat { nonce: u64 },
    /// The interpreter evaluated `1+1`.
    Pong {
        nonce: u64,
        /// What it came to: 2.
        value: i64,
    },
    Refreshed {
        nonce: u64,
        /// Those of its modules that are imported.
        imported: Vec<String>,
    },
    /// The black box has what [`ToControl::DumpStacks`] asked for.
    StacksDumped { nonce: u64 },
    /// The answer to [`ToControl::Ask`].
    Answered {
        nonce: u64,
        /// A JSON object, or the reason that there is none.
        answer: Result<String, String>,
    },
    /// A fatal signal is about to end the process; written by the signal handler.
    Crashing {
        signal: i32,
        /// The faulting address lies at the end of the main thread's stack.
        stack_overflow: bool,
    },
}
