//! Asking the session's worker for something other than a cell.
//!
//! Runs in: server, in the session's task. Nothing that a worker is asked for may hold its session beyond reach: an errand
//! listens to restarts and deletion (which kill), to its caller's cancellation and to a limit (which interrupt). A worker
//! that an interrupt does not reach is left at it, with all its variables: the answer is *owed* then, the next caller
//! waits for it, and listens in the same way.

use std::{
    future::Future,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::state::{FAREWELL, Owed, Task};
use crate::{
    protocol::{ERRAND, FrameError, FromWorker, ToWorker, Urgency, asynchronous::sleep_until},
    server::{
        health::{errand::Errand, recovery::Step},
        sessions::{
            death::DeathReason,
            orders::{BrokenOff, Caller, SessionError, Urgent},
        },
        workers::stacks,
    },
    sys::{fault, processes},
};

/// Interrupts sent before a worker is left at its errand.
const INTERRUPTS: u32 = 3;

/// How long the server's end waits for an errand: a copy that is just made is the session.
const LEAVING: Duration = Duration::from_secs(1);

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A number by which one errand is interrupted, and no cell.
pub(super) fn next_number() -> u64 {
    ERRAND | NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// What came of waiting for an answer.
enum Waited {
    Answer(FromWorker),
    /// It was broken off before; this came all the same.
    Late(BrokenOff, FromWorker),
    /// The worker is at it still.
    Left(BrokenOff),
    /// The worker is gone, or as good as gone.
    Ended(DeathReason),
}

/// Who may break an errand off, beside restarts and deletion.
pub(super) async fn taken_back(caller: &Caller) -> BrokenOff {
    caller.cancel.cancelled().await;
    BrokenOff::Cancelled
}

impl Task {
    /// Has the worker do something, with descriptors attached if it needs some. `number` is what it is interrupted by.
    pub(super) async fn ask(
        &mut self,
        errand: Errand,
        (number, request): (u64, ToWorker),
        passed: &[BorrowedFd<'_>],
        gone: impl Future<Output = BrokenOff>,
    ) -> Result<FromWorker, SessionError> {
        let mut gone = std::pin::pin!(gone);
        let session = self.id.to_string();
        self.settle_owed(errand, &mut gone).await?;
        self.ensure_worker().await.map_err(|source| SessionError::NoWorker { session: session.clone(), source })?;
        let Some(worker) = &mut self.worker else {
            return Err(SessionError::Worker { session, reason: "it has no worker".to_owned() });
        };
        let limit = fault::limit(errand.limit(to_carry(worker.pid, &request)));
        let sent = match passed {
            // A request is small and its socket is empty: a worker that does not take it is none.
            [] => {
                tokio::time::timeout(FAREWELL, worker.requests.write(&request)).await.unwrap_or(Err(FrameError::Closed))
            }
            passed => worker.requests.write_with(&request, passed),
        };
        let owed = Owed { errand, number, since: Instant::now() };
        self.shared.update(|status| status.phase = owed.phase());
        let waited = match sent {
            Ok(()) => self.wait(owed, Some(limit), &mut gone).await,
            Err(_) => Waited::Ended(self.end_of_worker().await),
        };
        let answered = self.take(errand, waited).await;
        self.settle();
        answered
    }

    /// Waits until the worker has done what it was left at.
    pub(super) async fn settle_owed(
        &mut self,
        errand: Errand,
        gone: &mut (impl Future<Output = BrokenOff> + Unpin),
    ) -> Result<(), SessionError> {
        while let Some(owed) = self.owed.take() {
            let waited = self.wait(owed, None, gone).await;
            match waited {
                Waited::Answer(_) | Waited::Late(..) => self.paid(owed),
                Waited::Left(why) => {
                    let why = if why == BrokenOff::Called { why } else { BrokenOff::StillAt(owed.errand) };
                    self.settle();
                    return Err(SessionError::BrokenOff { session: self.id.to_string(), errand, why });
                }
                Waited::Ended(reason) => return Err(self.worker_gone(reason, errand).await),
            }
            self.settle();
        }
        Ok(())
    }

    /// What was owed has come, and no call wants it: a checkpoint of which the other end is closed ends.
    pub(super) fn paid(&self, owed: Owed) {
        if matches!(owed.errand, Errand::Checkpoint | Errand::Keep) {
            let children = self.around.children.clone();
            tokio::task::spawn_blocking(move || children.end_strays());
        }
    }

    /// The answer, or why there is none.
    async fn take(&mut self, errand: Errand, waited: Waited) -> Result<FromWorker, SessionError> {
        let broken_off = |why| SessionError::BrokenOff { session: self.id.to_string(), errand, why };
        match waited {
            Waited::Answer(answer) => Ok(answer),
            // An interrupt ended it; or it was done before that came.
            Waited::Late(why, FromWorker::Failed { .. }) | Waited::Left(why) => Err(broken_off(why)),
            Waited::Late(_, answer) => Ok(answer),
            Waited::Ended(reason) => Err(self.worker_gone(reason, errand).await),
        }
    }

    /// The worker is gone: buried, mourned, and in words for the caller.
    async fn worker_gone(&mut self, reason: DeathReason, errand: Errand) -> SessionError {
        self.kill().await;
        let death = self.bury(reason, None, Some(errand)).await;
        self.file_report(None).await;
        let session = self.id.to_string();
        let Some(death) = death else {
            return SessionError::Worker { session, reason: "its worker ended".to_owned() };
        };
        let how = format!("its worker {}", death.describe());
        if reason.is_ordered() {
            // What becomes of its variables is decided by the order.
            return SessionError::Worker { session, reason: how };
        }
        match self.mourn(death).await {
            Some(recovered) => SessionError::Recovered { session, reason: how, recovered },
            None => SessionError::Lost { session, reason: how },
        }
    }

    /// Waits for the answer to an errand, and for whatever else ends it.
    #[expect(
        clippy::too_many_lines,
        reason = "one select over all that can happen meanwhile, in the order of its rank"
    )]
    async fn wait(
        &mut self,
        owed: Owed,
        limit: Option<Duration>,
        gone: &mut (impl Future<Output = BrokenOff> + Unpin),
    ) -> Waited {
        let Some(worker) = &mut self.worker else { return Waited::Ended(DeathReason::Itself) };
        let grace = self.around.settings.grace / INTERRUPTS;
        let now = tokio::time::Instant::now;
        let mut next_step = limit.map(|limit| now() + limit);
        let mut why = None;
        let mut hung = false;
        let mut leaves = None;
        let mut interrupts = 0;
        loop {
            tokio::select! {
                biased;
                urgent = self.interventions.recv() => match urgent {
                    Some(
                        Urgent::Reconsider
                        | Urgent::Look { .. }
                        | Urgent::Pack(_)
                        | Urgent::Heal(Step::Collect | Step::Restart | Step::Recreate),
                    ) => {}
                    Some(Urgent::Heal(Step::Interrupt)) => {
                        hung = true;
                        next_step = Some(now());
                    }
                    Some(urgent @ Urgent::Restart { preserve: true, .. }) => {
                        self.later.push_back(urgent);
                        why.get_or_insert(BrokenOff::Called);
                        next_step = Some(now());
                    }
                    Some(urgent @ Urgent::Leave { .. }) if leaves.is_none() => {
                        leaves = Some((now() + fault::limit(LEAVING), urgent.reason()));
                        self.later.push_back(urgent);
                    }
                    Some(urgent @ (Urgent::Restart { .. } | Urgent::Delete { .. } | Urgent::Leave { .. })) => {
                        let reason = urgent.reason();
                        if reason == DeathReason::Restart {
                            self.evidence = Some(stacks::take(&worker.view()).await);
                        }
                        self.later.push_back(urgent);
                        return Waited::Ended(reason);
                    }
                    None => return Waited::Ended(DeathReason::Delete),
                },
                reason = &mut *gone, if why.is_none() => {
                    why = Some(reason);
                    next_step = Some(now());
                }
                () = sleep_until(leaves.map(|(until, _)| until)) => {
                    return Waited::Ended(leaves.map_or(DeathReason::Delete, |(_, reason)| reason));
                }
                () = sleep_until(next_step) => {
                    if why.is_none() && !hung {
                        why = Some(BrokenOff::Limit(limit.unwrap_or_default()));
                    }
                    if interrupts >= INTERRUPTS {
                        if hung {
                            self.evidence = Some(stacks::take(&worker.view()).await);
                            return Waited::Ended(DeathReason::Hung);
                        }
                        self.owed = Some(owed);
                        return Waited::Left(why.unwrap_or(BrokenOff::Cancelled));
                    }
                    interrupts += 1;
                    worker.control.interrupt(owed.number, Urgency::First);
                    next_step = Some(now() + grace);
                }
                answer = worker.replies.read::<FromWorker>() => return match (answer, why) {
                    (Ok(answer), None) => Waited::Answer(answer),
                    (Ok(answer), Some(why)) => Waited::Late(why, answer),
                    (Err(FrameError::Closed | FrameError::Io(_)), _) => Waited::Ended(self.end_of_worker().await),
                    (Err(_), _) => Waited::Ended(DeathReason::ProtocolBroken),
                },
                _ = worker.pidfd.readable() => return Waited::Ended(DeathReason::Itself),
            }
        }
    }

    /// The worker's socket is closed: it has ended by itself, or its code has closed the socket under it.
    async fn end_of_worker(&self) -> DeathReason {
        if self.has_ended().await { DeathReason::Itself } else { DeathReason::ProtocolBroken }
    }
}

/// About how many bytes a request has the worker carry.
fn to_carry(worker: i32, request: &ToWorker) -> u64 {
    match request {
        ToWorker::SaveState { .. } => processes::look_up(worker).map_or(0, |process| process.memory),
        ToWorker::LoadState { path, .. } => std::fs::metadata(path).map_or(0, |file| file.len()),
        _ => 0,
    }
}

/// Does work that asks no worker anything and may take long. An order to restart or delete is noted and ends the waiting
/// for it (`None`); the work is then dropped.
pub(super) async fn unless_called<T>(
    interventions: &mut tokio::sync::mpsc::UnboundedReceiver<Urgent>,
    later: &mut std::collections::VecDeque<Urgent>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            urgent = interventions.recv() => match urgent {
                Some(Urgent::Heal(_) | Urgent::Reconsider | Urgent::Look { .. } | Urgent::Pack(_)) => {}
                Some(urgent) => {
                    later.push_back(urgent);
                    return None;
                }
                // The handle is gone; the loop will hear of it.
                None => return Some(work.await),
            },
            done = &mut work => return Some(done),
        }
    }
}
