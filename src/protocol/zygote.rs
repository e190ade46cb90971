//! The messages between server and zygote, and what a zygote needs to begin.
//!
//! Runs in: all three processes. As in `message.rs`, a change means a new `PROTOCOL_VERSION`.

use nix::sys::wait::WaitStatus;
use serde::{Deserialize, Serialize};

use super::confinement::{Confinement, ConfinementSettings};

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
    /// The virtual environment that is its owner's alone, where a process has such an owner.
    pub own: Option<String>,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToZygote {
    /// First frame: who speaks, and what to warm up.
    Start {
        /// [`PROTOCOL_VERSION`] of the server.
        version: u32,
        /// How to start CPython.
        settings: ZygoteSettings,
    },
    /// First frame, in place of `Start`, to one that is to write an image of itself and end: warm up all there is, and write.
    /// Descriptors, behind the lifeline: the image, its base.
    Seed { version: u32, settings: ZygoteSettings },
    /// First frame, in place of `Start`: become the zygote of an image. Descriptors, behind the lifeline: the image, its base.
    /// What is armed of a test's failures is told before.
    Wake { version: u32, faults: String },
    /// To one that was woken: what it is to be in all else.
    GoOn {
        settings: ZygoteSettings,
        /// Names and values; it has none of those that were there when its image was written.
        environment: Vec<(Vec<u8>, Vec<u8>)>,
        /// What its command line is to be.
        words: Vec<String>,
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
        /// Where it works, if not where all do.
        ground: Option<Box<Ground>>,
    },
    /// Packages have changed on the disk: forget what was cached of it.
    Refresh,
    /// The server has seen the end of this worker: reap it.
    Reap {
        /// Process id from [`FromZygote::Exited`].
        pid: i32,
    },
}

/// Where a process works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// Its working directory.
    pub workspace: String,
    /// Where files made on its behalf go.
    pub outputs: String,
    /// The virtual environment that is its owner's alone. The process makes it where it is not there.
    pub environment: String,
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
    /// It is the zygote of an image, and waits for [`ToZygote::GoOn`].
    Woken,
    /// Its image and the base lie in their files. It ends after this.
    Written {
        /// Bytes of both.
        bytes: u64,
        /// Files and folders of which what it has in memory was made, whether they are there or not.
        origins: Vec<String>,
        /// Code that it has run, and that may have looked at anything: an image that has it is of no use.
        foreign: Vec<String>,
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
