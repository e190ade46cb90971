//! The task that owns the zygote's socket: starts it, hands on requests in order, hears of ends, replaces it when it dies.
//!
//! Runs in: server, one task. No other code sees a frame.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use nix::sys::signal::Signal;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    births::{FORK_LIMIT, Lease, Renewed, Request, ZygoteError},
    exits::Exits,
    stage::Stage,
    starting::{Process, Ready, Starter, send},
};
use crate::{
    protocol::{FromZygote, ToZygote, ZygoteSettings, asynchronous::sleep_until},
    server::{
        counters,
        workers::process::{Endings, watch as watch_process},
    },
};

/// Pause before another start after one that failed.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Failed starts in a row after which no other is tried until a session needs a worker.
const MAX_FAILED_STARTS: u32 = 3;

pub(super) struct Owner {
    pub(super) inbox: mpsc::UnboundedReceiver<Request>,
    /// The other end, for leases; weak, so that the task ends with the last handle.
    pub(super) requests: mpsc::WeakUnboundedSender<Request>,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) exits: Arc<Exits>,
    pub(super) endings: Endings,
    pub(super) starter: Starter,
    /// Number of the next fork.
    pub(super) next: u64,
    /// What every zygote is given.
    pub(super) settings: Option<ZygoteSettings>,
    /// The next generation, which is being made.
    pub(super) coming: Option<Coming>,
    /// An image that is being made for the next start.
    pub(super) making: Option<(CancellationToken, JoinHandle<()>)>,
}

/// Why a zygote serves no more.
enum End {
    Ended,
    /// It is of no use.
    Unwanted,
    NobodyLeft,
}

/// A zygote that is being made while another serves.
pub(super) struct Coming {
    making: BoxFuture<'static, Result<Ready, ZygoteError>>,
    /// Who asked for it.
    reply: oneshot::Sender<Result<Renewed, ZygoteError>>,
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
            match self.starter.first(&mut settings).await {
                Ok(Ready { mut process, stage, .. }) => {
                    failures = 0;
                    self.settings = Some(settings.clone());
                    if matches!(&stage, Stage::Warm { begun, .. } if !begun.from_image) {
                        self.begin_image(&settings).await;
                    }
                    self.stage.send_replace(stage);
                    let end = self.serve(&mut process).await;
                    // It has ended before it was of any use.
                    if let Some(name) = process.unproven.filter(|_| matches!(end, End::Ended)) {
                        self.starter.give_up(name).await;
                        tracing::warn!("the zygote's image is given up: what was woken from it ended before it forked");
                    }
                    self.starter.bury(process).await;
                    match end {
                        End::NobodyLeft => return,
                        End::Unwanted => {}
                        End::Ended => {
                            tracing::error!("the zygote ended; living sessions go on, a new zygote is being started");
                        }
                    }
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

    /// Makes an image for the next start, behind.
    async fn begin_image(&mut self, settings: &ZygoteSettings) {
        self.end_image().await;
        let stop = CancellationToken::new();
        let making = tokio::spawn(self.starter.clone().make_image(settings.clone(), stop.clone()));
        self.making = Some((stop, making));
    }

    /// Ends the process that is written, if there is one.
    async fn end_image(&mut self) {
        if let Some((stop, making)) = self.making.take() {
            stop.cancel();
            let _ = making.await;
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
            Request::End { done, .. } => drop(done.send(())),
            Request::Renew { reply, .. } => drop(reply.send(Err(error.clone()))),
            Request::Reap { .. } | Request::Abandon { .. } | Request::Refresh | Request::GoBack => {}
        }
        Some(())
    }

    async fn serve(&mut self, process: &mut Process) -> End {
        loop {
            let overdue = process.oldest.map(|since| since + FORK_LIMIT);
            tokio::select! {
                message = process.reader.read::<FromZygote>() => match message {
                    Ok(message) => self.hear(process, message),
                    Err(error) => {
                        tracing::debug!(%error, "zygote socket");
                        return End::Ended;
                    }
                },
                request = self.inbox.recv() => match request {
                    Some(Request::GoBack) => return End::Unwanted,
                    Some(Request::End { thaw, done }) => {
                        self.end(process).await;
                        let _ = done.send(());
                        // It is the last that happens here, or the server stays the program that it is.
                        thaw.cancelled().await;
                        return End::Unwanted;
                    }
                    Some(request) => self.ask(process, request),
                    None => return End::NobodyLeft,
                },
                // Forks that the one before was asked for are answered by it.
                made = made(&mut self.coming), if process.pending.is_empty() => self.succeed(process, made).await,
                _ = process.pidfd.readable() => return End::Ended,
                () = sleep_until(overdue) => {
                    tracing::error!(pid = process.pid, "zygote does not answer; it is being replaced");
                    for (_, reply) in process.pending.drain(..) {
                        let _ = reply.send(Err(ZygoteError::NoAnswer));
                    }
                    return End::Ended;
                }
            }
        }
    }

    fn hear(&self, process: &mut Process, message: FromZygote) {
        match message {
            FromZygote::Forked { worker, pid } => {
                counters::forked(true);
                process.unproven = None;
                self.starter.children.add(pid);
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
            | FromZygote::Woken
            | FromZygote::Written { .. }
            | FromZygote::Failed { .. } => {
                tracing::warn!("zygote sent a start-up report twice");
            }
        }
    }

    /// The next generation takes the place of the one that serves, whose workers are the server's children from now on.
    async fn succeed(&mut self, process: &mut Process, made: Result<Ready, ZygoteError>) {
        let Some(Coming { reply, .. }) = self.coming.take() else { return };
        match made {
            // It would be as the one that serves.
            Ok(Ready { process: next, modules, left_out, .. }) if modules.is_empty() => {
                self.starter.bury(next).await;
                let _ = reply.send(Ok(Renewed { modules, left_out }));
            }
            Ok(Ready { process: next, stage, modules, left_out }) => {
                let before = std::mem::replace(process, next);
                self.stage.send_replace(stage);
                self.starter.bury(before).await;
                let _ = reply.send(Ok(Renewed { modules, left_out }));
            }
            Err(error) => drop(reply.send(Err(error))),
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
            Request::Renew { modules, reply } => {
                if let Some(settings) = self.settings.clone() {
                    let making = self.starter.clone().next(settings, modules).boxed();
                    self.coming = Some(Coming { making, reply });
                }
            }
            Request::GoBack => {}
            Request::End { .. } => {}
            Request::Refresh => {
                let _ = send(&process.socket, &ToZygote::Refresh, &[]);
            }
            Request::Reap { pid } => {
                let _ = send(&process.socket, &ToZygote::Reap { pid }, &[]);
            }
            Request::Fork { purpose, limits, room, ground, descriptors, reply } => {
                let worker = self.next;
                self.next += 1;
                let passed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                let fork = ToZygote::Fork { worker, purpose, limits, room, ground };
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
}

/// The next generation, when it is made.
async fn made(coming: &mut Option<Coming>) -> Result<Ready, ZygoteError> {
    match coming {
        Some(coming) => (&mut coming.making).await,
        None => std::future::pending().await,
    }
}

impl Owner {
    /// Ends it, and one that is being made, and waits for that.
    async fn end(&mut self, process: &Process) {
        self.end_image().await;
        if let Some(Coming { making, reply }) = self.coming.take() {
            drop(making);
            let _ = reply.send(Err(ZygoteError::ShuttingDown));
        }
        let _ = process.pidfd.get_ref().signal(Signal::SIGKILL);
        let _ = process.pidfd.readable().await;
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
