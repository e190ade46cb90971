//! A process that the zygote has just forked: our ends of its channels, and the duty to see to its end.
//!
//! Runs in: server. Pure data, but for the lease, which asks the owner task to end what was not taken.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::{FrameError, Ground, Purpose, WorkerLimits},
    server::workers::{black_box::BlackBox, door::Reached},
    sys::{descriptors, pidfd::PidFd, room::Room},
};

/// How long a warm zygote may take for one fork before it is taken for stuck.
pub(super) const FORK_LIMIT: Duration = Duration::from_secs(15);

/// Why there is no worker.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ZygoteError {
    /// Python did not start.
    #[error("Python could not be started: {0}")]
    NotStarted(String),
    /// The zygote refused or failed to fork.
    #[error("failed to fork a worker: {0}")]
    Fork(String),
    /// It forked one that did not come up.
    #[error("failed to fork a worker: {0}")]
    NotReady(Arc<GreetError>),
    #[error("the zygote did not answer within {} s; it is being replaced, try again", FORK_LIMIT.as_secs())]
    NoAnswer,
    /// The zygote died over this request.
    #[error("the zygote ended while a worker was being forked; a new one is being started, try again")]
    Died,
    /// A restart or a deletion came in between.
    #[error("the session was restarted or deleted while its worker was being made")]
    Superseded,
    /// The server is ending.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a process just forked is not taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error("the new worker was not ready within {} s", .0.as_secs())]
    Late(Duration),
    #[error("the new worker did not come up: {0}")]
    NoHello(#[source] FrameError),
    #[error("the new worker could not be confined: {0}")]
    Open(#[source] io::Error),
    #[error("the new worker did not say hello in our protocol version")]
    Version,
    #[error("the new worker's channels could not be opened: {0}")]
    Io(#[from] io::Error),
}

impl From<io::Error> for ZygoteError {
    fn from(error: io::Error) -> Self {
        Self::Fork(error.to_string())
    }
}

/// A worker that a session must take over: dropped before [`Lease::take`], it is ended and reaped. A task that waits for a
/// worker may be called away (a restart, a deletion) at any await between the fork and the worker's hello.
#[derive(Debug)]
pub(crate) struct Lease {
    pid: i32,
    owner: Option<mpsc::WeakUnboundedSender<Request>>,
}

impl Lease {
    /// The lease of a process that the owner task ends if it is not taken.
    pub(super) fn new(pid: i32, owner: mpsc::WeakUnboundedSender<Request>) -> Self {
        Self { pid, owner: Some(owner) }
    }

    /// The process id; from here on the caller sees to the worker's end.
    #[must_use]
    pub(crate) fn take(mut self) -> i32 {
        self.owner = None;
        self.pid
    }

    #[must_use]
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(requests) = self.owner.take().and_then(|owner| owner.upgrade()) {
            let _ = requests.send(Request::Abandon { pid: self.pid });
        }
    }
}

/// A worker just forked: its process, and our ends of its channels.
#[derive(Debug)]
pub(crate) struct NewWorker {
    /// Process id, and the duty to see to its end.
    pub lease: Lease,
    /// The process, by descriptor.
    pub pidfd: AsyncFd<PidFd>,
    pub cell: StdStream,
    pub control: StdStream,
    /// Read end of its descriptor 1.
    pub stdout: OwnedFd,
    /// Read end of its descriptor 2.
    pub stderr: OwnedFd,
    /// What it writes its stacks to.
    pub black_box: BlackBox,
    /// Its own folder, when it is confined.
    pub room: Option<Arc<Room>>,
    /// What it may connect to, when its first word is that it is confined.
    pub reached: Option<Reached>,
}

/// Our ends of a worker's channels, before there is a worker.
#[derive(Debug)]
pub(crate) struct Ends {
    cell: StdStream,
    control: StdStream,
    stdout: OwnedFd,
    stderr: OwnedFd,
    black_box: BlackBox,
    room: Option<Arc<Room>>,
}

impl Ends {
    /// Ours, and the worker's in the order in which they are passed.
    ///
    /// # Errors
    /// When the server is out of descriptors.
    pub(crate) fn new(room: Option<Arc<Room>>) -> io::Result<(Self, Vec<OwnedFd>)> {
        let (cell, cell_worker) = StdStream::pair()?;
        let (control, control_worker) = StdStream::pair()?;
        let (stdout, stdout_worker) = descriptors::pipe()?;
        let (stderr, stderr_worker) = descriptors::pipe()?;
        let (black_box, black_box_worker) = BlackBox::new()?;
        let passed = vec![cell_worker.into(), control_worker.into(), stdout_worker, stderr_worker, black_box_worker];
        Ok((Self { cell, control, stdout, stderr, black_box, room }, passed))
    }

    /// With the process at the other end.
    #[must_use]
    pub(crate) fn with(self, lease: Lease, pidfd: AsyncFd<PidFd>) -> NewWorker {
        let Self { cell, control, stdout, stderr, black_box, room } = self;
        NewWorker { lease, pidfd, cell, control, stdout, stderr, black_box, room, reached: None }
    }
}

/// A script's process just forked.
#[derive(Debug)]
pub(crate) struct NewScript {
    /// Process id, and the duty to see to its end.
    pub lease: Lease,
    /// The process, by descriptor.
    pub pidfd: AsyncFd<PidFd>,
    /// Closing it, or our end, ends the script and all it started.
    pub lifeline: StdStream,
    /// Read end of its descriptor 1.
    pub stdout: OwnedFd,
    /// Read end of its descriptor 2.
    pub stderr: OwnedFd,
    /// Its own folder, when it is confined.
    pub room: Option<Arc<Room>>,
}

/// A zygote of the next generation serves.
#[derive(Debug)]
pub(crate) struct Renewed {
    /// What it has imported, beside what `--preload` names.
    pub modules: Vec<String>,
    /// What it could not, with reasons.
    pub left_out: Vec<(String, String)>,
}

/// What the owner task is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// A worker for a session, or a script's process.
    Fork {
        purpose: Purpose,
        /// What it is kept to.
        limits: WorkerLimits,
        /// Its own folder, when it is confined.
        room: Option<String>,
        /// Where it works, if not where all do.
        ground: Option<Box<Ground>>,
        descriptors: Vec<OwnedFd>,
        reply: oneshot::Sender<Result<Lease, ZygoteError>>,
    },
    /// A worker's end has been seen.
    Reap { pid: i32 },
    /// Packages have changed on the disk.
    Refresh,
    /// This worker is not wanted: end it and reap it.
    Abandon { pid: i32 },
    /// A zygote that has imported these too, in the place of the one that serves.
    Renew { modules: Vec<String>, reply: oneshot::Sender<Result<Renewed, ZygoteError>> },
    /// The zygote is of no use: one as at the start in its place.
    GoBack,
    /// The server is about to become another program, which has a zygote of its own: end this one, and start none until
    /// `thaw` is cancelled. Its workers are the server's children then.
    End { thaw: CancellationToken, done: oneshot::Sender<()> },
}
