//! The task that owns the zygote's socket: starts it, hands on requests in order, hears of ends, replaces it when it dies.
//!
//! Runs in: server, one task. No other code sees a frame.

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream as StdStream,
    },
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
};

use super::{
    births::{FORK_LIMIT, Lease, Request, ZygoteError},
    exits::Exits,
    spawner::Spawner,
    stage::Stage,
};
use crate::{
    protocol::{
        FrameError, FromZygote, MAX_ZYGOTE, PROTOCOL_VERSION, ToZygote, ZygoteSettings,
        asynchronous::{FrameReader, sleep_until},
        frame,
    },
    server::{
        counters,
        workers::{
            children::Children,
            process::{Endings, watch as watch_process},
        },
    },
    sys::{descriptors, pidfd::PidFd},
};

/// Pause before another start after one that failed.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Failed starts in a row after which no other is tried until a session needs a worker.
const MAX_FAILED_STARTS: u32 = 3;

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

pub(super) struct Owner {
    pub(super) inbox: mpsc::UnboundedReceiver<Request>,
    /// The other end, for leases; weak, so that the task ends with the last handle.
    pub(super) requests: mpsc::WeakUnboundedSender<Request>,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) exits: Arc<Exits>,
    pub(super) endings: Endings,
    pub(super) children: Children,
    pub(super) spawner: Spawner,
    /// Number of the next fork.
    pub(super) next: u64,
}

impl Owner {
    pub(super) async fn run(mut self, settings: oneshot::Receiver<Result<ZygoteSettings, String>>) {
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
        let pidfd = watch_process(pid)?;
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

    /// Serves until the zygote ends (true) or no handle is left (false).
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
                answer(process, worker, Ok(Lease::new(pid, self.requests.clone())));
            }
            FromZygote::ForkFailed { worker, message } => {
                counters::forked(false);
                answer(process, worker, Err(ZygoteError::Fork(message)));
            }
            FromZygote::Exited { pid, exit } => {
                self.exits.report(pid, exit);
            }
            FromZygote::Warm { .. }
            | FromZygote::Preloading { .. }
            | FromZygote::Unforkable { .. }
            | FromZygote::Failed { .. } => {
                tracing::warn!("zygote sent a start-up report twice");
            }
        }
    }

    /// Ends a process that is not wanted any more; it may have started others by now.
    fn abandon(&self, pid: i32) {
        let endings = self.endings.clone();
        if let Ok(pidfd) = watch_process(pid) {
            tokio::spawn(async move { endings.end(pid, &pidfd).await });
        }
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
            Request::Fork { purpose, limits, room, descriptors, reply } => {
                let worker = self.next;
                self.next += 1;
                let passed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                let fork = ToZygote::Fork { worker, purpose, limits, room };
                match send(&process.socket, &fork, &passed) {
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
        self.exits.zygote_changed();
    }
}

/// Gives the answer to the caller; a lease whose caller is gone sees to its worker itself.
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
