//! Scripts: one process each, forked from the zygote, followed from its fork to its end and that of all it started.
//!
//! Runs in: server, one task a script. Owns the limit on how many run at a time and those that wait. Touches no session:
//! a script starts while every session is busy. Whoever asked may go away at any await; the script then ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{io::unix::AsyncFd, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    capture::Capture,
    files::OpenScript,
    live::{Live, Stream},
    new_files::NewFiles,
    outcome::CapturedText,
    session::Surroundings,
    worker_link::Output,
    zygote_client::{NewScript, ZygoteError},
};
use crate::{
    protocol::{Script, WorkerExit},
    sys::pidfd::PidFd,
};

pub use super::outcome::Method;

/// How long the exit status of a script that has ended may take to arrive.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// Most that is read of each stream after the end: what a pipe can hold, and some.
const MAX_DRAIN: usize = 1 << 20;
const CHUNK: usize = 64 << 10;

/// Why a script was not run.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// Too many wait.
    #[error(
        "{running} scripts run, which is the limit (--max-scripts), and {waiting} wait; wait for one to end and try again"
    )]
    Full {
        /// How many run.
        running: usize,
        /// How many wait.
        waiting: usize,
    },
    /// No process.
    #[error("script {path:?} was not run: {source}")]
    NoProcess {
        /// Which.
        path: String,
        /// Why.
        source: ZygoteError,
    },
    /// The server ends.
    #[error("script {0:?} was not run to its end: the server is shutting down")]
    ShuttingDown(String),
}

/// A script to run.
#[derive(Debug)]
pub struct ScriptOrder {
    /// Which.
    pub script: OpenScript,
    /// What follows its name in `sys.argv`.
    pub args: Vec<String>,
    /// How long it may run.
    pub limit: Duration,
    /// Cancelled when the client takes it back.
    pub cancel: CancellationToken,
    /// Who hears of its output at once.
    pub live: Option<Arc<Live>>,
}

/// What it came to.
#[derive(Debug)]
pub struct ScriptOutcome {
    /// Whose doing its end was.
    pub ending: ScriptEnding,
    /// Exit code or signal; `None` when it was not started.
    pub exit: Option<WorkerExit>,
    /// The kernel has killed for want of memory meanwhile.
    pub out_of_memory: bool,
    /// What it wrote to descriptor 1.
    pub stdout: CapturedText,
    /// What it wrote to descriptor 2.
    pub stderr: CapturedText,
    /// Files that appeared meanwhile.
    pub new_files: NewFiles,
    /// Time it ran.
    pub ran: Duration,
    /// Time it waited.
    pub queued: Duration,
}

/// Whose doing the end of a script was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptEnding {
    /// Its own.
    Itself,
    /// Its time was over.
    TimedOut {
        /// The limit.
        limit: Duration,
        /// How it was ended.
        method: Method,
    },
    /// The client took the call back, or went.
    Cancelled {
        /// How it was ended.
        method: Method,
    },
}

/// All of them.
#[derive(Debug)]
pub struct Scripts {
    around: Arc<Surroundings>,
    places: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
    started: AtomicU64,
    stop: CancellationToken,
}

/// One process and what it has written.
struct Running {
    pid: i32,
    pidfd: AsyncFd<PidFd>,
    outputs: [Output; 2],
    captures: [Capture; 2],
    buffers: [Box<[u8]>; 2],
    /// Dropped with this value, which would end what is left.
    _lifeline: std::os::unix::net::UnixStream,
}

impl Scripts {
    /// None yet; at most `most` at a time.
    #[must_use]
    pub fn new(around: Arc<Surroundings>, most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most));
        let (waiting, started) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { around, places, most, waiting, started, stop: CancellationToken::new() }
    }

    /// Runs a script when there is a place, and waits for its end. Dropping this future ends the script.
    ///
    /// # Errors
    /// [`ScriptError`] when it was not run; one that was started always gets an outcome.
    pub async fn run(self: &Arc<Self>, mut order: ScriptOrder) -> Result<ScriptOutcome, ScriptError> {
        order.cancel = order.cancel.child_token();
        let _ends_with_us = order.cancel.clone().drop_guard();
        let path = order.script.path.clone();
        let life = tokio::spawn(Arc::clone(self).live(order));
        life.await.unwrap_or(Err(ScriptError::ShuttingDown(path)))
    }

    /// Ends all of them, and waits for that.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }

    async fn live(self: Arc<Self>, order: ScriptOrder) -> Result<ScriptOutcome, ScriptError> {
        let asked = Instant::now();
        let Some(_place) = self.place(&order).await? else { return Ok(not_started(asked.elapsed())) };
        let queued = asked.elapsed();
        let path = order.script.path.clone();
        let mark = self.around.files.mark();
        let began = Instant::now();
        let ScriptOrder { script, args, limit, cancel, live } = order;
        let fork = self.fork(script, args, live);
        let forked = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(ScriptError::ShuttingDown(path)),
            () = cancel.cancelled() => return Ok(not_started(queued)),
            forked = fork => forked,
        };
        let mut running = forked.map_err(|source| ScriptError::NoProcess { path: path.clone(), source })?;
        let ending = self.follow(&mut running, limit, &cancel).await;
        let ran = began.elapsed();
        let exit = self.bury(&mut running).await;
        let out_of_memory = exit == WorkerExit::Signal(9) && ending == ScriptEnding::Itself && self.around.oom.rose();
        let [stdout, stderr] = running.captures.map(Capture::finish);
        let own = [stdout.file.as_deref(), stderr.file.as_deref()];
        let new_files = self.around.files.since(&mark, |path| own.contains(&Some(path)));
        Ok(ScriptOutcome { ending, exit: Some(exit), out_of_memory, stdout, stderr, new_files, ran, queued })
    }

    /// Waits for a place; `None` when the client takes the call back first.
    async fn place(&self, order: &ScriptOrder) -> Result<Option<tokio::sync::OwnedSemaphorePermit>, ScriptError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Some(place));
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = if waiting >= self.around.settings.queue {
            Err(ScriptError::Full { running: self.most, waiting })
        } else {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(ScriptError::ShuttingDown(order.script.path.clone())),
                () = order.cancel.cancelled() => Ok(None),
                place = Arc::clone(&self.places).acquire_owned() => Ok(place.ok()),
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        place
    }

    async fn fork(
        &self,
        script: OpenScript,
        args: Vec<String>,
        live: Option<Arc<Live>>,
    ) -> Result<Running, ZygoteError> {
        let words = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let OpenScript { file, path, full_path, directory } = script;
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".py").to_owned();
        let argv = std::iter::once(path).chain(args).collect();
        let wanted = Script { file: words(&full_path), directory: words(&directory), argv };
        let limits = self.around.settings.limits.kept_by_kernel();
        let NewScript { lease, pidfd, lifeline, stdout, stderr } =
            self.around.zygote.fork_script(wanted, limits, file.into()).await?;
        let outputs = [Output::new(stdout)?, Output::new(stderr)?];
        let capture = |stream, word: &str| {
            let file = format!("script-{number}-{name}-{word}.txt");
            let mut capture = Capture::new(self.around.settings.max_output, &self.around.outputs, file);
            if let Some(live) = &live {
                capture.tell(Arc::clone(live), stream);
            }
            capture
        };
        Ok(Running {
            pid: lease.take(),
            pidfd,
            outputs,
            captures: [capture(Stream::Stdout, "stdout"), capture(Stream::Stderr, "stderr")],
            buffers: [vec![0; CHUNK].into(), vec![0; CHUNK].into()],
            _lifeline: lifeline,
        })
    }

    /// Reads its output until it has ended, and sees to that when its time is over or nobody wants it any more.
    async fn follow(&self, running: &mut Running, limit: Duration, cancel: &CancellationToken) -> ScriptEnding {
        let mut next_step = tokio::time::Instant::now() + limit;
        let mut ending = ScriptEnding::Itself;
        let mut killed = false;
        loop {
            let [out, err] = &mut running.outputs;
            let [out_capture, err_capture] = &mut running.captures;
            let [out_buffer, err_buffer] = &mut running.buffers;
            // What decides stands before what flows: a script that never stops printing must still meet its time-out.
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !killed => {
                    ending = ScriptEnding::Cancelled { method: Method::Kill };
                    killed = true;
                    running.kill();
                }
                () = cancel.cancelled(), if ending == ScriptEnding::Itself => {
                    ending = ScriptEnding::Cancelled { method: Method::Interrupt };
                    running.interrupt();
                    next_step = tokio::time::Instant::now() + self.around.settings.grace;
                }
                () = tokio::time::sleep_until(next_step), if !killed => {
                    if ending == ScriptEnding::Itself {
                        ending = ScriptEnding::TimedOut { limit, method: Method::Interrupt };
                        running.interrupt();
                        next_step = tokio::time::Instant::now() + self.around.settings.grace;
                    } else {
                        ending = ending.by_kill();
                        killed = true;
                        running.kill();
                    }
                }
                _ = running.pidfd.readable() => return ending,
                Ok(count) = out.read(out_buffer) => out_capture.push(&out_buffer[..count]),
                Ok(count) = err.read(err_buffer) => err_capture.push(&err_buffer[..count]),
            }
        }
    }

    /// The process has ended: learns how, ends what it started, reads what is left, lets it be reaped.
    async fn bury(&self, running: &mut Running) -> WorkerExit {
        let pid = running.pid;
        let status = self.around.zygote.exit_of(pid, running.pidfd.get_ref());
        let exit = tokio::time::timeout(STATUS_LIMIT, status).await.unwrap_or(WorkerExit::Unknown);
        let children = self.around.children.clone();
        let _ = tokio::task::spawn_blocking(move || children.kill_family(pid)).await;
        running.drain();
        self.around.zygote.reap(pid);
        self.around.children.remove(pid);
        tracing::debug!(pid, ?exit, "script ended");
        exit
    }
}

impl Running {
    /// As Ctrl-C does: to the script and what runs with it.
    fn interrupt(&self) {
        // Its process group has its number as soon as it leads one, and the number is its own until it is reaped.
        if killpg(Pid::from_raw(self.pid), Signal::SIGINT).is_err() {
            let _ = self.pidfd.get_ref().signal(Signal::SIGINT);
        }
    }

    fn kill(&self) {
        let _ = self.pidfd.get_ref().signal(Signal::SIGKILL);
    }

    fn drain(&mut self) {
        for (output, capture) in self.outputs.iter_mut().zip(&mut self.captures) {
            let mut drained = 0;
            while drained < MAX_DRAIN
                && let Some(count) = output.read_now(&mut self.buffers[0])
            {
                capture.push(&self.buffers[0][..count]);
                drained += count;
            }
        }
    }
}

impl ScriptEnding {
    fn by_kill(self) -> Self {
        let method = Method::Kill;
        match self {
            Self::TimedOut { limit, .. } => Self::TimedOut { limit, method },
            Self::Itself | Self::Cancelled { .. } => Self::Cancelled { method },
        }
    }
}

fn not_started(queued: Duration) -> ScriptOutcome {
    ScriptOutcome {
        ending: ScriptEnding::Cancelled { method: Method::NotStarted },
        exit: None,
        out_of_memory: false,
        stdout: CapturedText::default(),
        stderr: CapturedText::default(),
        new_files: NewFiles::default(),
        ran: Duration::ZERO,
        queued,
    }
}
