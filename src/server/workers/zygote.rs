//! The server's end of the zygote: starts it by running our own binary again, asks it for workers, hears of their ends,
//! starts another one when it dies.
//!
//! Runs in: server. One task owns the socket; everybody else holds a [`Zygote`] handle. The task that is not the owner
//! never sees a frame.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
};

use super::{black_box::BlackBox, children::Children};
use crate::{
    protocol::{
        FrameError, FromZygote, MAX_ZYGOTE, PROTOCOL_VERSION, Purpose, Script, ToZygote, WorkerExit, WorkerLimits,
        ZygoteSettings, asynchronous::FrameReader, frame,
    },
    server::counters,
    settings::resolve::HIDDEN,
    sys::{
        descriptors,
        lifeline::Lifeline,
        pidfd::{Ended, PidFd},
    },
};

/// How long a warm zygote may take for one fork before it is taken for stuck.
const FORK_LIMIT: Duration = Duration::from_secs(15);
/// Pause before another start after one that failed.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Failed starts in a row after which no other is tried until somebody asks for a worker.
const MAX_FAILED_STARTS: u32 = 3;

/// Why there is no worker.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ZygoteError {
    /// Python did not start.
    #[error("Python could not be started: {0}")]
    NotStarted(String),
    /// The zygote refused or failed to fork.
    #[error("failed to fork a worker: {0}")]
    Fork(String),
    /// No answer.
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

impl From<io::Error> for ZygoteError {
    fn from(error: io::Error) -> Self {
        Self::Fork(error.to_string())
    }
}

/// What the zygote is doing, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Environment or interpreter still being prepared.
    Starting,
    /// Forks are welcome.
    Warm {
        /// Process id.
        pid: i32,
        /// Python's version.
        python: String,
        /// `sys.executable` of sessions.
        executable: String,
    },
    /// It cannot start, and why.
    Failed(String),
}

/// A worker that somebody must take over: dropped before [`Lease::take`], it is ended and reaped. Whoever waits for a
/// worker may be called away (a restart, a deletion) at any await between the fork and the worker's hello.
#[derive(Debug)]
pub struct Lease {
    pid: i32,
    owner: Option<mpsc::WeakUnboundedSender<Request>>,
}

impl Lease {
    /// The process id; from here on the caller sees to the worker's end.
    #[must_use]
    pub fn take(mut self) -> i32 {
        self.owner = None;
        self.pid
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
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
pub struct NewWorker {
    /// Process id, and the duty to see to its end.
    pub lease: Lease,
    /// The process, by descriptor.
    pub pidfd: AsyncFd<PidFd>,
    /// Cell socket.
    pub cell: StdStream,
    /// Control socket.
    pub control: StdStream,
    /// Read end of its descriptor 1.
    pub stdout: OwnedFd,
    /// Read end of its descriptor 2.
    pub stderr: OwnedFd,
    /// What it writes its stacks to.
    pub black_box: BlackBox,
}

/// Our ends of a worker's channels, before there is a worker.
#[derive(Debug)]
pub struct Ends {
    cell: StdStream,
    control: StdStream,
    stdout: OwnedFd,
    stderr: OwnedFd,
    black_box: BlackBox,
}

impl Ends {
    /// Ours, and the worker's in the order in which they are passed.
    ///
    /// # Errors
    /// When the server is out of descriptors.
    pub fn new() -> io::Result<(Self, Vec<OwnedFd>)> {
        let (cell, cell_worker) = StdStream::pair()?;
        let (control, control_worker) = StdStream::pair()?;
        let (stdout, stdout_worker) = descriptors::pipe()?;
        let (stderr, stderr_worker) = descriptors::pipe()?;
        let (black_box, black_box_worker) = BlackBox::new()?;
        let passed = vec![cell_worker.into(), control_worker.into(), stdout_worker, stderr_worker, black_box_worker];
        Ok((Self { cell, control, stdout, stderr, black_box }, passed))
    }

    /// With the process at the other end.
    #[must_use]
    pub fn with(self, lease: Lease, pidfd: AsyncFd<PidFd>) -> NewWorker {
        let Self { cell, control, stdout, stderr, black_box } = self;
        NewWorker { lease, pidfd, cell, control, stdout, stderr, black_box }
    }
}

/// A script's process just forked.
#[derive(Debug)]
pub struct NewScript {
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
}

/// Handle for asking.
#[derive(Debug, Clone)]
pub struct Zygote {
    requests: mpsc::UnboundedSender<Request>,
    stage: watch::Receiver<Stage>,
    exits: Arc<Exits>,
}

/// Ends of workers as the zygote reported them, until somebody fetches them.
#[derive(Debug)]
struct Exits {
    known: Mutex<BTreeMap<i32, WorkerExit>>,
    /// Counts changes: a report, or a zygote's end.
    changed: watch::Sender<u64>,
}

/// What the owner task is asked.
#[derive(Debug)]
pub enum Request {
    /// A worker for a session, or a script's process.
    Fork {
        /// Which.
        purpose: Purpose,
        /// What it is kept to.
        limits: WorkerLimits,
        /// The process' ends.
        descriptors: Vec<OwnedFd>,
        /// For the worker.
        reply: oneshot::Sender<Result<Lease, ZygoteError>>,
    },
    /// A worker's end has been seen.
    Reap {
        /// Which.
        pid: i32,
    },
    /// Packages have changed on the disk.
    Refresh,
    /// Nobody wants this worker: end it and reap it.
    Abandon {
        /// Which.
        pid: i32,
    },
}

impl Zygote {
    /// Starts the owner task; `settings` arrives when the environment is ready.
    #[must_use]
    pub fn launch(
        settings: oneshot::Receiver<Result<ZygoteSettings, String>>,
        children: Children,
        spawner: Spawner,
    ) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (stage_sender, stage) = watch::channel(Stage::Starting);
        let exits = Arc::new(Exits { known: Mutex::default(), changed: watch::channel(0).0 });
        let own_end = requests.downgrade();
        let owner = Owner {
            inbox,
            requests: own_end,
            stage: stage_sender,
            exits: Arc::clone(&exits),
            children,
            spawner,
            next: 1,
        };
        tokio::spawn(owner.run(settings));
        Self { requests, stage, exits }
    }

    /// What the zygote is doing now.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// Forks a worker for `session`. Waits for the zygote to be warm first.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub async fn fork(&self, session: &str, limits: WorkerLimits) -> Result<NewWorker, ZygoteError> {
        let (ends, passed) = Ends::new()?;
        let (lease, pidfd) = self.ask(Purpose::Session { name: session.to_owned() }, limits, passed).await?;
        Ok(ends.with(lease, pidfd))
    }

    /// The duty to see to the end of a worker that a checkpoint woke, and that is our own child.
    #[must_use]
    pub fn lease_of_own(&self, pid: i32) -> Lease {
        Lease { pid, owner: Some(self.requests.downgrade()) }
    }

    /// Forks a process that runs a script and ends. Waits for the zygote to be warm first.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub async fn fork_script(
        &self,
        script: Script,
        limits: WorkerLimits,
        source: OwnedFd,
    ) -> Result<NewScript, ZygoteError> {
        let (lifeline, theirs) = StdStream::pair()?;
        let (stdout, stdout_theirs) = descriptors::pipe()?;
        let (stderr, stderr_theirs) = descriptors::pipe()?;
        let passed = vec![source, theirs.into(), stdout_theirs, stderr_theirs];
        let (lease, pidfd) = self.ask(Purpose::Script(script), limits, passed).await?;
        Ok(NewScript { lease, pidfd, lifeline, stdout, stderr })
    }

    async fn ask(
        &self,
        purpose: Purpose,
        limits: WorkerLimits,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Lease, AsyncFd<PidFd>), ZygoteError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Fork { purpose, limits, descriptors, reply };
        self.requests.send(request).map_err(|_| ZygoteError::ShuttingDown)?;
        let lease = answer.await.map_err(|_| ZygoteError::ShuttingDown)??;
        // The zygote keeps a dead child as a zombie until we say `Reap`, so this number cannot be a stranger's.
        let pidfd = watch(lease.pid())?;
        Ok((lease, pidfd))
    }

    /// How a worker whose pidfd has become readable ended: from the zygote, or, when that has died and the worker is
    /// the server's own child now, from the kernel.
    pub async fn exit_of(&self, pid: i32, pidfd: &PidFd) -> WorkerExit {
        let mut changed = self.exits.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(exit) = self.exits.known.lock().remove(&pid) {
                return exit;
            }
            if let Ended::With(status) = pidfd.ended(true) {
                return WorkerExit::of(status);
            }
            if changed.changed().await.is_err() {
                return WorkerExit::Unknown;
            }
        }
    }

    /// Waits until the zygote is no longer starting. Cancel-safe.
    pub async fn settled(&self) {
        let mut stage = self.stage.clone();
        let _ = stage.wait_for(|stage| *stage != Stage::Starting).await;
    }

    /// Lets the zygote forget what it cached of the session environment.
    pub fn refresh(&self) {
        let _ = self.requests.send(Request::Refresh);
    }

    /// Lets the zygote reap a worker whose end has been seen.
    pub fn reap(&self, pid: i32) {
        let _ = self.requests.send(Request::Reap { pid });
    }
}

/// A thread that lives as long as the server and starts zygotes: the kernel's parent-death signal is tied to the thread
/// that made a process, so a thread of a pool would not do.
#[derive(Debug, Clone)]
pub struct Spawner {
    orders: std::sync::mpsc::Sender<SpawnOrder>,
    /// Its end, that of the server, starts those of a zygote's that are stopped.
    lifeline: Arc<Lifeline>,
}

type SpawnOrder = (StdStream, oneshot::Sender<io::Result<i32>>);

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(children: Children) -> io::Result<Self> {
        let (sender, orders) = std::sync::mpsc::channel::<SpawnOrder>();
        std::thread::Builder::new().name("zygote-spawner".into()).stack_size(256 << 10).spawn(move || {
            for (socket, reply) in orders {
                let _ = reply.send(spawn_zygote(&socket, &children));
            }
        })?;
        Ok(Self { orders: sender, lifeline: Arc::new(Lifeline::new()?) })
    }

    async fn spawn(&self, socket: StdStream) -> io::Result<i32> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread has ended");
        self.orders.send((socket, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Runs our own binary in the zygote role. Its stdout is not ours: that one carries MCP.
fn spawn_zygote(socket: &StdStream, children: &Children) -> io::Result<i32> {
    descriptors::close_on_exec(socket.as_fd(), false)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("__zygote")
        .arg(format!("--socket={}", socket.as_raw_fd()))
        .arg(format!("--server={}", std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    for name in HIDDEN {
        command.env_remove(name);
    }
    children.spawn(&mut command)
}

/// One living zygote.
struct Process {
    pid: i32,
    pidfd: AsyncFd<PidFd>,
    reader: FrameReader,
    /// For writing with descriptors attached; the reader's half never writes.
    socket: StdStream,
    /// Forks asked for and not answered, in order.
    pending: VecDeque<(u64, oneshot::Sender<Result<Lease, ZygoteError>>)>,
    /// Since when the oldest of them waits.
    oldest: Option<tokio::time::Instant>,
}

/// How a start went.
enum Started {
    Warm(Process),
    /// A module of `--preload` has spoilt it.
    Spoilt {
        module: String,
        reason: String,
    },
}

struct Owner {
    inbox: mpsc::UnboundedReceiver<Request>,
    /// The other end, for leases; weak, so that the task ends with the last handle.
    requests: mpsc::WeakUnboundedSender<Request>,
    stage: watch::Sender<Stage>,
    exits: Arc<Exits>,
    children: Children,
    spawner: Spawner,
    next: u64,
}

impl Owner {
    async fn run(mut self, settings: oneshot::Receiver<Result<ZygoteSettings, String>>) {
        let mut settings = match settings.await {
            Ok(Ok(settings)) => settings,
            Ok(Err(reason)) => return self.refuse_all(reason).await,
            Err(_) => return,
        };
        let mut failures = 0;
        loop {
            match self.start_without(&mut settings).await {
                Ok(mut process) => {
                    failures = 0;
                    let alive = self.serve(&mut process).await;
                    self.bury(process).await;
                    if !alive {
                        return;
                    }
                    tracing::error!("the zygote ended; living sessions go on, a new zygote is being started");
                    self.stage.send_replace(Stage::Starting);
                }
                Err(error) => {
                    failures += 1;
                    tracing::error!(%error, "zygote did not start");
                    if failures >= MAX_FAILED_STARTS {
                        self.stage.send_replace(Stage::Failed(error.to_string()));
                        let Some(()) = self.refuse_one(&error).await else { return };
                        self.stage.send_replace(Stage::Starting);
                    }
                    tokio::time::sleep(RESTART_PAUSE).await;
                }
            }
        }
    }

    /// The environment is unusable: every request gets the reason.
    async fn refuse_all(mut self, reason: String) {
        tracing::error!(%reason, "no session can run");
        self.stage.send_replace(Stage::Failed(reason.clone()));
        while self.refuse_one(&ZygoteError::NotStarted(reason.clone())).await.is_some() {}
    }

    async fn refuse_one(&mut self, error: &ZygoteError) -> Option<()> {
        match self.inbox.recv().await? {
            Request::Fork { reply, .. } => drop(reply.send(Err(error.clone()))),
            Request::Reap { .. } | Request::Abandon { .. } | Request::Refresh => {}
        }
        Some(())
    }

    /// Starts one that can fork: a module of `--preload` that stands in its way is left out, from now on.
    async fn start_without(&mut self, settings: &mut ZygoteSettings) -> Result<Process, ZygoteError> {
        loop {
            match self.start(settings).await? {
                Started::Warm(process) => return Ok(process),
                Started::Spoilt { module, reason } => {
                    tracing::warn!(module, reason, "left out of --preload: sessions import it themselves");
                    settings.preload.retain(|name| *name != module);
                }
            }
        }
    }

    async fn start(&mut self, settings: &ZygoteSettings) -> Result<Started, ZygoteError> {
        let not_started = |error: &dyn std::fmt::Display| ZygoteError::NotStarted(error.to_string());
        let (ours, theirs) = StdStream::pair()?;
        let pid = self.spawner.spawn(theirs).await?;
        let pidfd = watch(pid)?;
        let mut reader = FrameReader::alone(ours.try_clone()?, MAX_ZYGOTE)?;
        let start = ToZygote::Start { version: PROTOCOL_VERSION, settings: settings.clone() };
        send(&ours, &start, &[self.spawner.lifeline.as_fd()]).map_err(|error| not_started(&error))?;
        let mut importing = None;
        let report = loop {
            match reader.read().await {
                Ok(FromZygote::Preloading { module }) => importing = Some(module),
                report => break report,
            }
        };
        let process = Process { pid, pidfd, reader, socket: ours, pending: VecDeque::new(), oldest: None };
        let fault = match report {
            Ok(FromZygote::Warm { version: PROTOCOL_VERSION, python, executable, took_ms, rejected }) => {
                for (module, reason) in rejected {
                    tracing::warn!(module, reason, "could not preload");
                }
                counters::zygote_started();
                tracing::info!(pid, python, executable, took_ms, "zygote is warm");
                self.stage.send_replace(Stage::Warm { pid, python, executable });
                return Ok(Started::Warm(process));
            }
            Ok(FromZygote::Unforkable { module, threads }) => {
                let reason = format!("it starts threads that do not survive a fork ({})", threads.join(", "));
                Ok(Started::Spoilt { module, reason })
            }
            Ok(FromZygote::Failed { message }) => Err(not_started(&message)),
            Ok(_) => Err(not_started(&"the zygote did not begin with `Warm` of our version")),
            Err(error) => match importing {
                Some(module) => {
                    let reason = "the process ended while it was imported".to_owned();
                    Ok(Started::Spoilt { module, reason })
                }
                None => Err(not_started(&error)),
            },
        };
        self.bury(process).await;
        fault
    }

    /// Serves until the zygote ends (true) or nobody asks any more (false).
    async fn serve(&mut self, process: &mut Process) -> bool {
        loop {
            let overdue = process.oldest.map(|since| since + FORK_LIMIT);
            tokio::select! {
                message = process.reader.read::<FromZygote>() => match message {
                    Ok(message) => self.hear(process, message),
                    Err(error) => {
                        tracing::debug!(%error, "zygote socket");
                        return true;
                    }
                },
                request = self.inbox.recv() => match request {
                    Some(request) => self.ask(process, request),
                    None => return false,
                },
                _ = process.pidfd.readable() => return true,
                () = sleep_until(overdue) => {
                    tracing::error!(pid = process.pid, "zygote does not answer; it is being replaced");
                    for (_, reply) in process.pending.drain(..) {
                        let _ = reply.send(Err(ZygoteError::NoAnswer));
                    }
                    return true;
                }
            }
        }
    }

    fn hear(&self, process: &mut Process, message: FromZygote) {
        match message {
            FromZygote::Forked { worker, pid } => {
                counters::forked(true);
                self.children.add(pid);
                answer(process, worker, Ok(Lease { pid, owner: Some(self.requests.clone()) }));
            }
            FromZygote::ForkFailed { worker, message } => {
                counters::forked(false);
                answer(process, worker, Err(ZygoteError::Fork(message)));
            }
            FromZygote::Exited { pid, exit } => {
                self.exits.known.lock().insert(pid, exit);
                self.exits.changed.send_modify(|count| *count += 1);
            }
            FromZygote::Warm { .. }
            | FromZygote::Preloading { .. }
            | FromZygote::Unforkable { .. }
            | FromZygote::Failed { .. } => {
                tracing::warn!("zygote sent a start-up report twice");
            }
        }
    }

    /// Ends a process that nobody wants any more; it may have started others by now.
    fn abandon(&self, pid: i32) {
        let pidfd = PidFd::open(pid);
        let (children, requests) = (self.children.clone(), self.requests.clone());
        tokio::spawn(async move {
            let family = children.clone();
            let _ = tokio::task::spawn_blocking(move || family.kill_family(pid)).await;
            if let Ok(pidfd) = pidfd.and_then(watch_descriptor) {
                let _ = pidfd.readable().await;
                // One that a checkpoint woke is our own to reap; of the others the zygote is asked.
                let _ = pidfd.get_ref().ended(true);
            }
            children.remove(pid);
            if let Some(requests) = requests.upgrade() {
                let _ = requests.send(Request::Reap { pid });
            }
        });
    }

    fn ask(&mut self, process: &mut Process, request: Request) {
        match request {
            Request::Abandon { pid } => self.abandon(pid),
            Request::Refresh => {
                let _ = send(&process.socket, &ToZygote::Refresh, &[]);
            }
            Request::Reap { pid } => {
                let _ = send(&process.socket, &ToZygote::Reap { pid }, &[]);
            }
            Request::Fork { purpose, limits, descriptors, reply } => {
                let worker = self.next;
                self.next += 1;
                let passed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                match send(&process.socket, &ToZygote::Fork { worker, purpose, limits }, &passed) {
                    Ok(()) => {
                        process.pending.push_back((worker, reply));
                        process.oldest.get_or_insert_with(tokio::time::Instant::now);
                    }
                    Err(error) => drop(reply.send(Err(ZygoteError::Fork(error.to_string())))),
                }
            }
        }
    }

    /// Ends a zygote for good and reaps it. Its workers, if any, become the server's children.
    async fn bury(&self, mut process: Process) {
        for (_, reply) in process.pending.drain(..) {
            let _ = reply.send(Err(ZygoteError::Died));
        }
        let _ = process.pidfd.get_ref().signal(Signal::SIGKILL);
        let _ = process.pidfd.readable().await;
        let _ = process.pidfd.get_ref().ended(true);
        self.children.remove(process.pid);
        self.exits.changed.send_modify(|count| *count += 1);
    }
}

/// Gives the answer to whoever asked; a lease that nobody waits for any more sees to its worker itself.
fn answer(process: &mut Process, worker: u64, result: Result<Lease, ZygoteError>) {
    if let Some(place) = process.pending.iter().position(|(asked, _)| *asked == worker)
        && let Some((_, reply)) = process.pending.remove(place)
    {
        let _ = reply.send(result);
    }
    process.oldest = if process.pending.is_empty() { None } else { Some(tokio::time::Instant::now()) };
}

/// Writes one frame with descriptors. Never blocks: when a zygote is stopped and hundreds of forks wait, the next one is
/// refused.
fn send(socket: &StdStream, message: &ToZygote, passed: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
    let bytes = frame::encode(message, MAX_ZYGOTE)?;
    descriptors::send_with(socket, &bytes, passed).map_err(FrameError::Io)
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A process whose end wakes a task.
///
/// # Errors
/// When there is no such process, or no descriptor left.
pub fn watch(pid: i32) -> io::Result<AsyncFd<PidFd>> {
    watch_descriptor(PidFd::open(pid)?)
}

#[expect(
    deprecated,
    reason = "the unsafe replacement asks for what PidFd keeps by construction: it owns its descriptor"
)]
fn watch_descriptor(pidfd: PidFd) -> io::Result<AsyncFd<PidFd>> {
    AsyncFd::new(pidfd)
}
