//! Running one cell on the session's worker: from the frame that starts it to its one ending.
//!
//! Runs in: server, in the session's task. Listens at once to the reply, both output pipes, the clock, the client's
//! cancellation, the worker's life and interventions; whichever decides, the cell ends once.

use super::{
    Arc, CellOrder, CellOutcome, CheckpointWish, Death, DeathReason, Duration, Ending, Fate, FromWorker, Instant,
    Method, OnError, Phase, Task, ToWorker, Urgent,
    cpu_budget::{CpuBudget, used_up},
    question::{Asked, Pending, answer_to, waiting},
    refusal,
};
use crate::{
    protocol::{CellReport, CellStatus, FrameError, Urgency},
    server::{
        counters,
        health::{Record, recovery::Step},
        output::{capture::Capture, live::Stream, marks, screen},
        workers::{link::Worker, stacks},
    },
};

/// Most that is read after a reply: what a pipe can hold, with room for a writer that goes on.
const MAX_DRAIN: usize = 1 << 20;
/// Bytes of output that go along with a question.
const MAX_RECENT: usize = 2 << 10;
/// Interrupts sent to one cell before it is killed.
const INTERRUPTS: u32 = 3;
/// How long a dead worker's last frame may take to be read.
const LAST_WORD: Duration = Duration::from_millis(20);
/// How long a process may take from closing its socket to its end.
const CLOSING: Duration = Duration::from_millis(500);

/// Both streams of a running cell.
pub(super) struct Running {
    stdout: Capture,
    stderr: Capture,
    /// The session's two read buffers, lent for the time of the cell.
    buffers: [Box<[u8]>; 2],
    /// The end of what was written, for who is asked something; kept if somebody can be.
    recent: Option<Vec<u8>>,
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
    /// `restart_kernel(preserve_state)` needs the variables, so the cell is interrupted rather than killed.
    Yield,
    /// The supervisor found the interpreter hung.
    Heal,
    /// It has used its processor time.
    CpuUsedUp,
}

/// How following a cell ended, and what must be done after it.
struct Followed {
    verdict: Verdict,
    wish: Wish,
    later: Vec<Urgent>,
}

impl Running {
    fn drain(&mut self, worker: &mut Worker) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let output = if stream == Stream::Stdout { &mut worker.stdout } else { &mut worker.stderr };
            let mut drained = 0;
            while drained < MAX_DRAIN
                && let Some(count) = output.read_now(&mut self.buffers[stream as usize])
            {
                let bytes = &self.buffers[stream as usize][..count];
                match stream {
                    Stream::Stdout => self.stdout.push(bytes),
                    Stream::Stderr => self.stderr.push(bytes),
                }
                self.recall(stream, count);
                drained += count;
            }
        }
    }

    /// Keeps the end of what lies in the stream's buffer, if somebody can be asked.
    fn recall(&mut self, stream: Stream, count: usize) {
        if let Some(recent) = &mut self.recent {
            let bytes = &self.buffers[stream as usize][..count];
            recent.extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_RECENT)..]);
            let excess = recent.len().saturating_sub(MAX_RECENT);
            recent.drain(..excess);
        }
    }

    fn recent(&mut self) -> String {
        let recent = self.recent.as_mut().map(std::mem::take).unwrap_or_default();
        String::from_utf8_lossy(&screen::settled(&marks::stripped(&recent))).trim_start_matches('\u{fffd}').to_owned()
    }
}

impl Task {
    pub(super) async fn run_cell(&mut self, order: CellOrder, queued: Duration) -> CellOutcome {
        if order.cancel.is_cancelled() {
            return not_started(queued);
        }
        if let Err(error) = self.ensure_worker().await {
            let reason = format!("session {:?} has no worker: {error}", self.id);
            self.plan_revival();
            return refusal(reason, queued);
        }
        if order.cancel.is_cancelled() {
            return not_started(queued);
        }
        let anchor = match order.on_error {
            OnError::Keep => None,
            OnError::RollBack => {
                match self.make_checkpoint(CheckpointWish { name: None, force: false, kept: false }).await {
                    Ok(anchor) => Some(anchor),
                    Err(error) => {
                        return refusal(format!("{error}. on_error: \"rollback\" needs one; it was not run"), queued);
                    }
                }
            }
        };
        self.last_cell += 1;
        let cell = self.last_cell;
        let since = Instant::now();
        self.shared.update(|status| {
            status.phase = Phase::Busy { cell, since };
            status.executed += 1;
        });
        let lost_before = self.lost.take();
        let recovered_before = self.recovered.take();
        let background = std::mem::take(&mut self.background);
        let mark = self.around.files.mark();
        let mut running = self.captures(cell, order.max_output);
        running.recent = order.questions.as_ref().map(|_| Vec::new());
        if let Some(live) = &order.live {
            running.stdout.tell(Arc::clone(live), Stream::Stdout);
            running.stderr.tell(Arc::clone(live), Stream::Stderr);
        }
        let Followed { verdict, wish, later } = self.follow(cell, &order, &mut running).await;
        let ran = since.elapsed();
        let (mut ending, report) = self.conclude(cell, verdict, wish, order.timeout).await;
        self.later.extend(later);
        let Running { stdout, stderr, buffers, .. } = running;
        self.buffers = buffers;
        let (stdout, stderr) = (stdout.finish().await, stderr.finish().await);
        let crash = self.file_report(Some((&order.code, ran, &stdout, &stderr))).await;
        if let Ending::Died(death) = &mut ending {
            death.report.clone_from(&crash);
        }
        let going_back = anchor.filter(|_| !matches!(ending, Ending::Finished));
        let recovered = match &going_back {
            Some(_) => None,
            None => self.recover_state().await,
        };
        // Said now, and once more with the first cell of the new worker: who runs that one may not have seen this reply.
        let lost_now = self.lost.clone();
        let mut fate = match &recovered {
            _ if lost_before.is_some() || lost_now.is_some() => Fate::Lost,
            Some(_) => Fate::Restored,
            None => Fate::Kept,
        };
        let mut notice = notice(lost_before.as_deref(), lost_now.as_deref(), &self.id, self.what_next());
        for (how, recovered) in recovered_before
            .iter()
            .map(|(how, recovered)| (how.clone(), recovered))
            .chain(recovered.iter().map(|recovered| (how_it_ended(&ending), recovered)))
        {
            let words = format!("Session {:?}: its worker {how}; {}.", self.id, recovered.describe());
            notice = Some(notice.map_or_else(|| words.clone(), |notice| format!("{notice} {words}")));
        }
        if let Some(anchor) = going_back {
            match self.go_on_from(&anchor, true).await {
                Ok(()) => {
                    fate = Fate::RolledBack;
                    notice = Some(format!(
                        "Session {:?} is as before cell {cell} (on_error: \"rollback\"); files and the outside world are \
                         not rolled back.",
                        self.id
                    ));
                }
                Err(error) => {
                    let words = format!("It could not be rolled back: {error}.");
                    notice = Some(notice.map_or_else(|| words.clone(), |notice| format!("{notice} {words}")));
                }
            }
        }
        for words in self.around.checkpoints.take_dropped(&self.id) {
            notice = Some(notice.map_or_else(|| words.clone(), |notice| format!("{notice} {words}")));
        }
        if wish == Wish::Yield && notice.is_none() {
            notice = Some(format!("Session {:?}: restart_kernel was called while this cell ran.", self.id));
        }
        if wish == Wish::Heal && notice.is_none() {
            notice = Some(self.healed(cell, since).await);
        }
        if self.worker.is_some() {
            self.shared.record(|record| record.ledger.succeed());
        }
        let alerts = self.shared.record(Record::take_unsaid);
        let (results, displays, told, error) = report
            .map_or_else(Default::default, |report| (report.results, report.displays, report.notice, report.error));
        let notice = match (notice, told) {
            (Some(ours), Some(theirs)) => Some(format!("{ours} {theirs}")),
            (ours, theirs) => ours.or(theirs),
        };
        let shown = displays.iter().flat_map(|display| &display.data).map(|data| data.file.as_deref());
        let own: Vec<_> =
            [stdout.file.as_deref(), stderr.file.as_deref(), crash.as_deref()].into_iter().chain(shown).collect();
        let new_files = self.around.files.since(&mark, |path| own.contains(&Some(path)));
        CellOutcome {
            cell,
            ending,
            stdout,
            stderr,
            background: String::from_utf8_lossy(&screen::settled(&marks::stripped(&background))).into_owned(),
            results,
            displays,
            error,
            new_files,
            queued,
            ran,
            fate,
            recovered: recovered.or(recovered_before.map(|(_, recovered)| recovered)),
            notice,
            alerts,
        }
    }

    fn captures(&mut self, cell: u64, max_output: Option<usize>) -> Running {
        let settings = &self.around.settings;
        let capture = |stream: &str| {
            let name = format!("{}-cell-{cell}-{stream}.txt", self.id);
            Capture::new(max_output.unwrap_or(settings.max_output), &self.around.outputs, name)
        };
        Running {
            stdout: capture("stdout"),
            stderr: capture("stderr"),
            buffers: std::mem::take(&mut self.buffers),
            recent: None,
        }
    }

    /// Sends the cell and waits for whatever ends it.
    async fn follow(&mut self, cell: u64, order: &CellOrder, running: &mut Running) -> Followed {
        let mut followed = Followed { verdict: Verdict::WorkerEnded, wish: Wish::None, later: Vec::new() };
        let Some(worker) = &mut self.worker else { return followed };
        let deadline = order.timeout.map(|limit| tokio::time::Instant::now() + limit);
        if let Some((verdict, wish)) = submit(worker, cell, order, deadline).await {
            followed.verdict = verdict;
            followed.wish = wish;
            return followed;
        }
        let grace = self.around.settings.grace;
        let mut next_step = deadline;
        let mut interrupts = 0;
        let mut pending: Option<Pending> = None;
        let input_timeout = self.around.settings.input_timeout;
        let mut budget = self.limits.cpu.map(|limit| CpuBudget::begin(worker.pid, limit));
        // What decides stands before what flows: a cell that never stops printing must still meet its time-out.
        followed.verdict = loop {
            let [first, second] = &mut running.buffers;
            let tell_at = Pending::tell_at(pending.as_ref());
            let turns_away = pending.as_ref().is_some_and(|pending| pending.turns_away);
            tokio::select! {
                biased;
                urgent = self.interventions.recv() => {
                    if matches!(urgent, Some(Urgent::Reconsider)) {
                        continue;
                    }
                    if let Some(Urgent::Heal(step)) = urgent {
                        // Collecting waits for an idle session; the supervisor asks again.
                        if step == Step::Interrupt && followed.wish == Wish::None {
                            followed.wish = Wish::Heal;
                            next_step = Some(tokio::time::Instant::now());
                        }
                        continue;
                    }
                    let preserving = matches!(urgent, Some(Urgent::Restart { preserve: true, .. }));
                    let reason = match &urgent {
                        Some(Urgent::Restart { .. }) => DeathReason::Restart,
                        Some(Urgent::Delete { why, .. }) => *why,
                        _ => DeathReason::Delete,
                    };
                    followed.later.extend(urgent);
                    if preserving && followed.wish == Wish::None {
                        followed.wish = Wish::Yield;
                        next_step = Some(tokio::time::Instant::now());
                    } else {
                        if reason == DeathReason::Restart {
                            self.evidence = Some(stacks::take(&worker.view()).await);
                        }
                        worker.kill();
                        break Verdict::Killed(reason);
                    }
                }
                () = order.cancel.cancelled(), if followed.wish == Wish::None => {
                    followed.wish = Wish::Cancel;
                    next_step = Some(tokio::time::Instant::now());
                }
                () = used_up(&mut budget), if followed.wish == Wish::None => {
                    counters::limit_hit("cpu_limit");
                    followed.wish = Wish::CpuUsedUp;
                    next_step = Some(tokio::time::Instant::now());
                }
                () = sleep_until(next_step) => {
                    if followed.wish == Wish::None {
                        followed.wish = Wish::TimeOut;
                    }
                    if interrupts >= INTERRUPTS {
                        self.evidence = Some(stacks::take(&worker.view()).await);
                        worker.kill();
                        break Verdict::Killed(match (followed.wish, self.limits.cpu) {
                            (Wish::CpuUsedUp, Some(limit)) => DeathReason::CpuLimit { limit },
                            _ => DeathReason::Unresponsive,
                        });
                    }
                    interrupts += 1;
                    worker.control.interrupt(cell, urgency(interrupts));
                    next_step = Some(tokio::time::Instant::now() + grace / INTERRUPTS);
                }
                reply = worker.replies.read::<FromWorker>() => match reply {
                    Ok(FromWorker::InputWanted { cell: of, question, prompt }) if of == cell => {
                        running.drain(worker);
                        let asked = Asked { cell, question, prompt };
                        let output = (followed.wish == Wish::None).then(|| running.recent());
                        pending = Some(Pending::pose(asked, order, output, input_timeout));
                        self.shared.update(|status| status.phase = waiting(status.phase, true));
                    }
                    reply => break judge(worker, cell, reply).await,
                },
                (question, answer) = answer_to(&mut pending) => {
                    pending = None;
                    self.shared.update(|status| status.phase = waiting(status.phase, false));
                    let input = ToWorker::Input { question, answer };
                    if worker.requests.write(&input).await.is_err() {
                        break end_of_channel(worker).await;
                    }
                }
                () = sleep_until(tell_at) => {
                    if let Some(pending) = &mut pending {
                        pending.turns_away = true;
                    }
                }
                Some(behind) = self.orders.recv(), if turns_away => {
                    if let Some(pending) = &pending {
                        pending.turn_away(behind, &self.id, &self.shared);
                    }
                }
                _ = worker.pidfd.readable() => {
                    // It may have answered before it died: what it wrote is in the socket.
                    let last = tokio::time::timeout(LAST_WORD, worker.replies.read::<FromWorker>()).await;
                    break match last {
                        Ok(Ok(reply)) if !matches!(reply, FromWorker::InputWanted { .. }) => judge(worker, cell, Ok(reply)).await,
                        _ => Verdict::WorkerEnded,
                    };
                }
                Ok(count) = running.stdout.read(&mut worker.stdout, first) => running.recall(Stream::Stdout, count),
                Ok(count) = running.stderr.read(&mut worker.stderr, second) => running.recall(Stream::Stderr, count),
            }
            running.stdout.pause().await;
            running.stderr.pause().await;
        };
        running.drain(worker);
        followed
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
                // Code may catch an interrupt, or make another exception of it: the cell was ended all the same.
                let method = match report.status {
                    CellStatus::Interrupted => Some(Method::Interrupt),
                    _ => report.interrupted.then_some(Method::Caught),
                };
                let ending = match (method, wish, report.status) {
                    (Some(method), Wish::TimeOut, _) => Ending::TimedOut { limit, method },
                    (Some(method), Wish::Cancel | Wish::Yield, _) => Ending::Cancelled { method },
                    (Some(method), Wish::CpuUsedUp, _) => {
                        Ending::CpuUsedUp { limit: self.limits.cpu.unwrap_or_default(), method }
                    }
                    (Some(_), Wish::Heal, _) | (_, _, CellStatus::Interrupted) => Ending::Interrupted,
                    (_, _, CellStatus::Ok) => Ending::Finished,
                    (_, _, CellStatus::Error) => Ending::Raised,
                    (_, _, CellStatus::Exited(code)) => Ending::Exited(code),
                };
                (ending, Some(report))
            }
            Verdict::WorkerEnded => (self.died(DeathReason::Itself, cell).await, None),
            Verdict::Killed(why @ DeathReason::CpuLimit { limit }) => {
                self.bury(why, Some(cell)).await;
                (Ending::CpuUsedUp { limit, method: Method::Kill }, None)
            }
            Verdict::Killed(DeathReason::Unresponsive) if wish == Wish::Heal => {
                (self.died(DeathReason::Hung, cell).await, None)
            }
            Verdict::Killed(DeathReason::Unresponsive) => {
                self.bury(DeathReason::Unresponsive, Some(cell)).await;
                let method = Method::Kill;
                let ending = match wish {
                    Wish::Cancel | Wish::Yield => Ending::Cancelled { method },
                    Wish::None | Wish::Heal | Wish::TimeOut | Wish::CpuUsedUp => Ending::TimedOut { limit, method },
                };
                (ending, None)
            }
            Verdict::Killed(reason) => (self.died(reason, cell).await, None),
        }
    }

    async fn died(&mut self, reason: DeathReason, cell: u64) -> Ending {
        let unknown = Death { reason, exit: crate::protocol::WorkerExit::Unknown, cell: Some(cell), report: None };
        Ending::Died(self.bury(reason, Some(cell)).await.unwrap_or(unknown))
    }
}

/// Sends the cell. What ended it already, if something did: a worker that reads nothing must not hold the caller.
async fn submit(
    worker: &mut Worker,
    cell: u64,
    order: &CellOrder,
    deadline: Option<tokio::time::Instant>,
) -> Option<(Verdict, Wish)> {
    let request = ToWorker::RunCell {
        cell,
        code: order.code.clone(),
        may_ask: order.questions.is_some(),
        notebook: order.notebook.clone(),
    };
    tokio::select! {
        sent = worker.requests.write(&request) => match sent {
            Ok(()) => None,
            Err(_) => Some((end_of_channel(worker).await, Wish::None)),
        },
        _ = worker.pidfd.readable() => Some((Verdict::WorkerEnded, Wish::None)),
        () = sleep_until(deadline) => {
            worker.kill();
            Some((Verdict::Killed(DeathReason::Unresponsive), Wish::TimeOut))
        }
    }
}

/// What a reply, or its absence, means for the cell.
async fn judge(worker: &Worker, cell: u64, reply: Result<FromWorker, FrameError>) -> Verdict {
    match reply {
        Ok(FromWorker::CellDone { cell: done, report }) if done == cell => Verdict::Reported(report),
        Err(FrameError::Closed | FrameError::Io(_)) => end_of_channel(worker).await,
        _ => {
            worker.kill();
            Verdict::Killed(DeathReason::ProtocolBroken)
        }
    }
}

/// The socket closed: the process is ending, or its code closed the socket under it.
async fn end_of_channel(worker: &Worker) -> Verdict {
    if tokio::time::timeout(CLOSING, worker.pidfd.readable()).await.is_ok() {
        return Verdict::WorkerEnded;
    }
    worker.kill();
    Verdict::Killed(DeathReason::ProtocolBroken)
}

fn not_started(queued: Duration) -> CellOutcome {
    let mut outcome = refusal(String::new(), queued);
    outcome.ending = Ending::Cancelled { method: Method::NotStarted };
    outcome
}

/// How the worker came to its end, for a session that has gone on from a checkpoint.
fn how_it_ended(ending: &Ending) -> String {
    match ending {
        Ending::Died(death) => death.describe(),
        Ending::CpuUsedUp { .. } => "was killed for its cell's processor time".to_owned(),
        _ => "was killed because an interrupt did not reach it".to_owned(),
    }
}

/// What the caller must know of the session's variables.
fn notice(before: Option<&str>, now: Option<&str>, session: &str, next: &str) -> Option<String> {
    match (before, now) {
        (None, None) => None,
        (Some(before), None) => Some(format!(
            "Session {session:?}: {before}, so its variables were lost; this cell ran in a new worker with an empty namespace."
        )),
        (_, Some(now)) => Some(format!(
            "Session {session:?}: {}; its variables are lost. {next}",
            now.replace("the previous worker", "its worker")
        )),
    }
}

/// How much the `number`th interrupt of a cell insists.
fn urgency(number: u32) -> Urgency {
    match number {
        1 => Urgency::First,
        INTERRUPTS => Urgency::Last,
        _ => Urgency::Second,
    }
}

pub(super) async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
