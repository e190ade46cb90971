//! Running one cell on the session's worker: from the frame that starts it to its one ending.
//!
//! Runs in: server, in the session's task. Listens at once to the reply, both output pipes, the clock, the client's
//! cancellation, the worker's life and interventions; whichever decides, the cell ends once.

use super::{
    CellOrder, CellOutcome, Death, DeathReason, Duration, Ending, Fate, FromWorker, Instant, Method, Phase, Task,
    ToWorker, Urgent, refusal,
};
use crate::{
    protocol::{CellReport, CellStatus},
    server::{capture::Capture, worker_link::Worker},
};

const CHUNK: usize = 64 << 10;
/// Most that is read after a reply: what a pipe can hold, with room for a writer that goes on.
const MAX_DRAIN: usize = 1 << 20;
/// Interrupts sent to one cell before it is killed.
const INTERRUPTS: u32 = 3;

/// Both streams of a running cell.
pub(super) struct Running {
    stdout: Capture,
    stderr: Capture,
    buffers: [Box<[u8]>; 2],
}

/// Why the cell's worker stopped serving it.
enum Verdict {
    Reported(CellReport),
    WorkerEnded,
    Killed(DeathReason),
}

/// What the server wants of a cell that runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    TimeOut,
    Cancel,
}

impl Running {
    fn drain(&mut self, worker: &mut Worker) {
        for (output, capture) in [(&mut worker.stdout, &mut self.stdout), (&mut worker.stderr, &mut self.stderr)] {
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

impl Task {
    pub(super) async fn run_cell(&mut self, order: CellOrder, queued: Duration) -> CellOutcome {
        if order.cancel.is_cancelled() {
            let mut outcome = refusal(String::new(), queued);
            outcome.ending = Ending::Cancelled { method: Method::NotStarted };
            return outcome;
        }
        if let Err(error) = self.ensure_worker().await {
            let reason = format!("session {:?} has no worker: {error}", self.id);
            return refusal(reason, queued);
        }
        self.last_cell += 1;
        let cell = self.last_cell;
        let since = Instant::now();
        self.shared.update(|status| {
            status.phase = Phase::Busy { cell, since };
            status.executed += 1;
        });
        let lost_before = self.lost.take();
        let background = std::mem::take(&mut self.background);
        let mut running = self.captures(cell);
        let (verdict, wish, interventions) = self.follow(cell, &order, &mut running).await;
        let ran = since.elapsed();
        let (ending, report) = self.conclude(cell, verdict, wish, order.timeout).await;
        for urgent in interventions {
            self.later.push(urgent);
        }
        let lost_now = self.lost.take();
        let fate = if lost_before.is_some() || lost_now.is_some() { Fate::Lost } else { Fate::Kept };
        let notice = notice(lost_before.as_deref(), lost_now.as_deref(), &self.id);
        let (results, error) = report.map_or((Vec::new(), None), |report| (report.results, report.error));
        CellOutcome {
            cell,
            ending,
            stdout: running.stdout.finish(),
            stderr: running.stderr.finish(),
            background: String::from_utf8_lossy(&background).into_owned(),
            results,
            error,
            new_files: Vec::new(),
            queued,
            ran,
            fate,
            notice,
        }
    }

    fn captures(&self, cell: u64) -> Running {
        let settings = &self.around.settings;
        let capture = |stream: &str| {
            let name = format!("{}-cell-{cell}-{stream}.txt", self.id);
            Capture::new(settings.max_output, &self.around.outputs, name)
        };
        let buffer = || vec![0; CHUNK].into_boxed_slice();
        Running { stdout: capture("stdout"), stderr: capture("stderr"), buffers: [buffer(), buffer()] }
    }

    /// Sends the cell and waits for whatever ends it.
    async fn follow(&mut self, cell: u64, order: &CellOrder, running: &mut Running) -> (Verdict, Wish, Vec<Urgent>) {
        let mut pending = Vec::new();
        let grace = self.around.settings.grace;
        let Some(worker) = &mut self.worker else { return (Verdict::WorkerEnded, Wish::None, pending) };
        let deadline = order.timeout.map(|limit| tokio::time::Instant::now() + limit);
        let request = ToWorker::RunCell { cell, code: order.code.clone() };
        let sent = tokio::select! {
            sent = worker.requests.write(&request) => sent.is_ok(),
            _ = worker.pidfd.readable() => return (Verdict::WorkerEnded, Wish::None, pending),
            () = sleep_until(deadline) => {
                worker.kill();
                return (Verdict::Killed(DeathReason::Unresponsive), Wish::TimeOut, pending);
            }
        };
        if !sent {
            worker.kill();
            return (Verdict::Killed(DeathReason::ProtocolBroken), Wish::None, pending);
        }
        let mut wish = Wish::None;
        let mut next_step = deadline;
        let mut interrupts = 0;
        let verdict = loop {
            let [first, second] = &mut running.buffers;
            tokio::select! {
                biased;
                reply = worker.replies.read::<FromWorker>() => match reply {
                    Ok(FromWorker::CellDone { cell: done, report }) if done == cell => {
                        running.drain(worker);
                        break Verdict::Reported(report);
                    }
                    Err(crate::protocol::FrameError::Closed) => {
                        let _ = tokio::time::timeout(Duration::from_millis(200), worker.pidfd.readable()).await;
                        worker.kill();
                        break Verdict::WorkerEnded;
                    }
                    _ => {
                        worker.kill();
                        break Verdict::Killed(DeathReason::ProtocolBroken);
                    }
                },
                Ok(count) = worker.stdout.read(first) => running.stdout.push(&first[..count]),
                Ok(count) = worker.stderr.read(second) => running.stderr.push(&second[..count]),
                urgent = self.interventions.recv() => {
                    let reason = match &urgent {
                        Some(Urgent::Restart { .. }) => DeathReason::Restart,
                        _ => DeathReason::Delete,
                    };
                    pending.extend(urgent);
                    worker.kill();
                    break Verdict::Killed(reason);
                }
                _ = worker.pidfd.readable() => {
                    running.drain(worker);
                    break Verdict::WorkerEnded;
                }
                () = order.cancel.cancelled(), if wish == Wish::None => {
                    wish = Wish::Cancel;
                    next_step = Some(tokio::time::Instant::now());
                }
                () = sleep_until(next_step) => {
                    if wish == Wish::None {
                        wish = Wish::TimeOut;
                    }
                    if interrupts >= INTERRUPTS {
                        worker.kill();
                        break Verdict::Killed(DeathReason::Unresponsive);
                    }
                    interrupts += 1;
                    worker.control.interrupt(cell);
                    next_step = Some(tokio::time::Instant::now() + grace / INTERRUPTS);
                }
            }
        };
        if matches!(verdict, Verdict::Killed(_))
            && let Some(worker) = &mut self.worker
        {
            running.drain(worker);
        }
        (verdict, wish, pending)
    }

    /// Makes the one ending out of what happened and what was wanted; buries the worker if it is gone.
    async fn conclude(
        &mut self,
        cell: u64,
        verdict: Verdict,
        wish: Wish,
        timeout: Option<Duration>,
    ) -> (Ending, Option<CellReport>) {
        let limit = timeout.unwrap_or_default();
        match verdict {
            Verdict::Reported(report) => {
                let ending = match (report.status, wish) {
                    (CellStatus::Interrupted, Wish::TimeOut) => Ending::TimedOut { limit, method: Method::Interrupt },
                    (CellStatus::Interrupted, Wish::Cancel) => Ending::Cancelled { method: Method::Interrupt },
                    (CellStatus::Interrupted, Wish::None) => Ending::Interrupted,
                    (CellStatus::Ok, _) => Ending::Finished,
                    (CellStatus::Error, _) => Ending::Raised,
                    (CellStatus::Exited(code), _) => Ending::Exited(code),
                };
                (ending, Some(report))
            }
            Verdict::WorkerEnded => (self.died(DeathReason::Itself, cell).await, None),
            Verdict::Killed(DeathReason::Unresponsive) => {
                self.bury(DeathReason::Unresponsive, Some(cell)).await;
                let method = Method::Kill;
                let ending = if wish == Wish::Cancel {
                    Ending::Cancelled { method }
                } else {
                    Ending::TimedOut { limit, method }
                };
                (ending, None)
            }
            Verdict::Killed(reason) => (self.died(reason, cell).await, None),
        }
    }

    async fn died(&mut self, reason: DeathReason, cell: u64) -> Ending {
        let unknown = Death { reason, exit: crate::protocol::WorkerExit::Unknown, cell: Some(cell) };
        Ending::Died(self.bury(reason, Some(cell)).await.unwrap_or(unknown))
    }
}

/// What the caller must know of the session's variables.
fn notice(before: Option<&str>, now: Option<&str>, session: &str) -> Option<String> {
    match (before, now) {
        (None, None) => None,
        (Some(before), None) => Some(format!(
            "Session {session:?}: {before}, so its variables were lost; this cell ran in a new worker with an empty namespace."
        )),
        (_, Some(now)) => Some(format!(
            "Session {session:?}: {}; its variables are lost. The next cell gets a new worker.",
            now.replace("the previous worker", "its worker")
        )),
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
