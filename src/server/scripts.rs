//! Scripts: one process each, forked from the zygote, followed from its fork to its end and that of all it started.
//!
//! Runs in: server, one task a script. Owns the limit on how many run at a time and those that wait. Touches no session:
//! a script starts while every session is busy. The caller may go away at any await; the script then ends.

use std::{
    io::{self, Seek, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::{Confinement, Installing, Script, WorkerExit, WorkerLimits},
    server::{
        output::{
            captured::CapturedText,
            peephole::Audience,
            streams::{Bounds, Course, Followed, Keeping, Method},
        },
        sessions::context::Surroundings,
        turns::{Line, Turn},
        workers::zygote::{NewScript, ZygoteError},
        workspace::{script::OpenScript, watch::NewFiles, workplace::Workplace},
    },
    sys::room::Room,
};

/// How long lines of our own may run.
const ERRAND_LIMIT: Duration = Duration::from_secs(30);
/// What tracebacks call them.
const ERRAND: &str = "<forkpy>";

/// Why a script was not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    #[error(
        "{running} scripts run, which is the limit (--max-scripts), and {waiting} wait; wait for one to end and try again"
    )]
    Full { running: usize, waiting: usize },
    #[error("script {path:?} was not run: {source}")]
    NoProcess { path: String, source: ZygoteError },
    /// A few lines of our own.
    #[error("failed to look at the session environment: {0}")]
    Errand(String),
    #[error("script {0:?} was not run to its end: the server is shutting down")]
    ShuttingDown(String),
}

/// A script to run.
#[derive(Debug)]
pub(crate) struct ScriptOrder {
    pub script: OpenScript,
    /// What follows its name in `sys.argv`.
    pub args: Vec<String>,
    /// How long it may run.
    pub limit: Duration,
    /// Cancelled when the client takes it back.
    pub cancel: CancellationToken,
    /// Who hears of its output.
    pub audience: Audience,
    /// Its place among those that wait.
    pub turn: Arc<Turn>,
    /// How it is confined at least.
    pub sandbox: Confinement,
    /// Where it works.
    pub place: Arc<Workplace>,
}

/// What it came to.
#[derive(Debug)]
pub(crate) struct ScriptOutcome {
    /// Whose doing its end was.
    pub course: Course,
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
    pub ran: Duration,
    pub queued: Duration,
}

#[derive(Debug)]
pub(crate) struct Scripts {
    around: Arc<Surroundings>,
    places: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
    line: Arc<Line>,
    started: AtomicU64,
    stop: CancellationToken,
}

/// What is a script's until its end: letting go of the lifeline would end it, letting go of the folder would empty it.
#[derive(Debug)]
pub(crate) struct Held {
    _lifeline: UnixStream,
    _room: Option<Arc<Room>>,
}

impl Scripts {
    /// None yet; at most `most` at a time.
    #[must_use]
    pub(crate) fn new(around: Arc<Surroundings>, most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most));
        let (waiting, started) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { around, places, most, waiting, line: Arc::default(), started, stop: CancellationToken::new() }
    }

    /// A place among those that wait.
    pub(crate) fn turn(&self) -> Arc<Turn> {
        self.line.join()
    }

    /// Whether as many run as may.
    pub(crate) fn are_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// How many may run at a time.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Runs a script when there is a place, and waits for its end. Dropping this future ends the script.
    ///
    /// # Errors
    /// [`ScriptError`] when it was not run; one that was started always gets an outcome.
    pub(crate) async fn run(self: &Arc<Self>, mut order: ScriptOrder) -> Result<ScriptOutcome, ScriptError> {
        order.cancel = order.cancel.child_token();
        let _ends_with_us = order.cancel.clone().drop_guard();
        let path = order.script.path.clone();
        let life = tokio::spawn(Arc::clone(self).live(order));
        life.await.unwrap_or(Err(ScriptError::ShuttingDown(path)))
    }

    /// Whether one runs or waits.
    pub(crate) fn is_at_work(&self) -> bool {
        self.places.available_permits() < self.most
    }

    /// Ends all of them, and waits for that.
    pub(crate) async fn shut_down(&self) {
        self.stop.cancel();
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }

    async fn live(self: Arc<Self>, order: ScriptOrder) -> Result<ScriptOutcome, ScriptError> {
        let asked = Instant::now();
        let Some(_place) = self.place(&order).await? else { return Ok(not_started(asked.elapsed())) };
        order.turn.comes();
        let queued = asked.elapsed();
        let path = order.script.path.clone();
        let mark = order.place.watcher.mark();
        let began = Instant::now();
        let ScriptOrder { script, args, limit, cancel, audience, turn: _turn, sandbox, place } = order;
        // The last chance not to run it: what is forked runs, whatever we know of it yet.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(ScriptError::ShuttingDown(path)),
            () = cancel.cancelled() => return Ok(not_started(queued)),
            () = self.around.zygote.settled() => {}
        }
        let limits = self.around.settings.limits.confined(sandbox).kept_by_kernel();
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".py");
        let name = format!("script-{number}-{name}");
        let forked = self.fork(script, args, (limits, None), (name, audience), &place).await;
        // The lifeline is held until the end: letting go of it would end the script.
        let (mut process, _held) = forked.map_err(|source| ScriptError::NoProcess { path: path.clone(), source })?;
        let bounds = Bounds { limit, grace: self.around.settings.grace, cancel, stop: self.stop.clone() };
        let course = process.follow(&bounds).await;
        let ran = began.elapsed();
        let exit = self.bury(&mut process).await;
        let out_of_memory = exit == WorkerExit::Signal(9) && course == Course::Itself && self.around.oom.rose();
        let [stdout, stderr] = process.finish().await;
        let own = [stdout.file.as_deref(), stderr.file.as_deref()];
        let new_files = place.watcher.since(&mark, |path| own.contains(&Some(path)));
        Ok(ScriptOutcome { course, exit: Some(exit), out_of_memory, stdout, stderr, new_files, ran, queued })
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

    /// Runs a few lines of forkpy's own in such a process, at once.
    ///
    /// # Errors
    /// [`ScriptError`]; also when the lines did not run to their end.
    pub(crate) async fn errand(&self, lines: &str, args: Vec<String>) -> Result<(), ScriptError> {
        let fail = |source| ScriptError::NoProcess { path: ERRAND.to_owned(), source };
        let script = self.own(lines).map_err(|error| fail(error.into()))?;
        // Our own lines, and the environment's, which no session can change: nothing to be confined.
        let limits = WorkerLimits { confinement: Confinement::Off, ..self.around.settings.limits.kept_by_kernel() };
        let named = (ERRAND.to_owned(), Audience::default());
        let (mut process, _held) =
            self.fork(script, args, (limits, None), named, self.around.places.common()).await.map_err(fail)?;
        let (cancel, stop) = (CancellationToken::new(), self.stop.clone());
        process.follow(&Bounds { limit: ERRAND_LIMIT, grace: Duration::ZERO, cancel, stop }).await;
        let exit = self.bury(&mut process).await;
        let [_, stderr] = process.finish().await;
        match exit {
            WorkerExit::Code(0) => Ok(()),
            _ => Err(ScriptError::Errand(stderr.text.lines().next_back().unwrap_or("it was ended").to_owned())),
        }
    }

    /// Runs lines of forkpy's own that install packages, confined for that; until what is held is dropped.
    ///
    /// # Errors
    /// [`ZygoteError`] when there is no process.
    pub(crate) async fn install(
        &self,
        lines: &str,
        args: Vec<String>,
        confined: (Arc<Room>, Installing),
        (audience, place): (Audience, &Workplace),
    ) -> Result<(Followed, Held), ZygoteError> {
        let limits = WorkerLimits { confinement: Confinement::Workspace, ..WorkerLimits::default() };
        let named = ("install".to_owned(), audience);
        self.fork(self.own(lines)?, args, (limits, Some(confined)), named, place).await
    }

    /// Lines of our own, as a script.
    fn own(&self, lines: &str) -> io::Result<OpenScript> {
        let mut file = tempfile::tempfile()?;
        file.write_all(lines.as_bytes()).and_then(|()| file.rewind())?;
        let (path, full_path) = (ERRAND.to_owned(), PathBuf::from(ERRAND));
        Ok(OpenScript { file, path, full_path, directory: self.around.scratch.clone() })
    }

    async fn fork(
        &self,
        script: OpenScript,
        args: Vec<String>,
        (limits, confined): (WorkerLimits, Option<(Arc<Room>, Installing)>),
        (name, audience): (String, Audience),
        place: &Workplace,
    ) -> Result<(Followed, Held), ZygoteError> {
        let words = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let OpenScript { file, path, full_path, directory } = script;
        let argv = std::iter::once(path).chain(args).collect();
        let (room, installing) = confined.map(|(room, installing)| (room, Box::new(installing))).unzip();
        let wanted = Script { file: words(&full_path), directory: words(&directory), argv, installing };
        let NewScript { lease, pidfd, lifeline, stdout, stderr, room } =
            self.around.zygote.fork_script(wanted, limits, (file.into(), room), place).await?;
        let cap = self.around.settings.max_output;
        let keeping = Keeping { cap, outputs: &place.outputs, name, audience };
        let process = Followed::new(lease.pid(), pidfd, [stdout, stderr], keeping)?;
        let _ = lease.take();
        Ok((process, Held { _lifeline: lifeline, _room: room }))
    }

    /// The process has ended: learns how, ends what it started, reads what is left, lets it be reaped.
    async fn bury(&self, process: &mut Followed) -> WorkerExit {
        let pid = process.pid;
        let exit = self.around.zygote.endings().see_off(pid, &process.pidfd).await;
        process.drain();
        tracing::debug!(pid, ?exit, "script ended");
        exit
    }
}

fn not_started(queued: Duration) -> ScriptOutcome {
    ScriptOutcome {
        course: Course::Cancelled { method: Method::NotStarted },
        exit: None,
        out_of_memory: false,
        stdout: CapturedText::default(),
        stderr: CapturedText::default(),
        new_files: NewFiles::default(),
        ran: Duration::ZERO,
        queued,
    }
}
