//! Following one cell on the session's worker: from the frame that starts it to what decides how it ends.
//!
//! Runs in: server, in the session's task. Listens at once to the reply, both output pipes, the clock, the client's
//! cancellation, the worker's life and interventions; whichever decides, the cell ends once.

use std::{collections::VecDeque, io, path::Path, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    cpu_budget::{CpuBudget, used_up},
    question::{Asked, Pending, answer_to, waiting},
    state::Task,
    underway::Underway,
};
use crate::{
    protocol::{Answer, CellReport, FrameError, FromWorker, ToWorker, Urgency, asynchronous::sleep_until},
    server::{
        counters,
        health::recovery::Step,
        output::{
            capture::{Capture, PackedCapture},
            live::Stream,
            marks,
            peephole::Look,
            screen,
        },
        sessions::{
            death::DeathReason,
            orders::{CellOrder, Order, Packing, SessionError, Urgent},
            returned::PackedTask,
        },
        workers::{link::Worker, stacks},
    },
};

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
    pub(super) stdout: Capture,
    pub(super) stderr: Capture,
    /// The end of what was written, for the client when it is asked something.
    recent: Option<Vec<u8>>,
}

/// Why the cell's worker stopped serving it.
pub(super) enum Verdict {
    Reported(CellReport),
    WorkerEnded,
    Killed(DeathReason),
}

/// What the server wants of a cell that runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
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

/// How following a cell ended.
pub(super) struct Followed {
    pub(super) verdict: Verdict,
    pub(super) wish: Wish,
}

/// A cell under way.
struct Course<'a> {
    cell: u64,
    order: &'a CellOrder,
    under: &'a Underway,
    deadline: Option<tokio::time::Instant>,
    /// Time for the next interrupt, or for more than that.
    next_step: Option<tokio::time::Instant>,
    grace: Duration,
    interrupts: u32,
    wish: Wish,
    pending: Option<Pending>,
    input_timeout: Option<Duration>,
    budget: Option<CpuBudget>,
}

/// What was heard of it.
enum Heard {
    Urgent(Option<Urgent>),
    TakenBack,
    UsedUp,
    StepDue,
    Reply(Result<FromWorker, FrameError>),
    Answered(u64, Answer),
    /// Those who wait behind a question are to be told.
    BehindDue,
    Behind(Order),
    WorkerEnded,
    Output(Stream),
}

impl Running {
    /// Takes along what was written, when as much of it is on the disk as is to be there.
    pub(super) async fn pack(&mut self) -> io::Result<[PackedCapture; 2]> {
        Ok([self.stdout.pack().await?, self.stderr.pack().await?])
    }

    /// Goes on with it.
    pub(super) fn unpack(streams: [PackedCapture; 2], outputs: &Path) -> Self {
        let [stdout, stderr] = streams.map(|packed| Capture::unpack(packed, outputs));
        Self { stdout, stderr, recent: None }
    }

    /// Reads what lies in the pipes; with `known` only where the reactor knows of something.
    fn drain(&mut self, worker: &mut Worker, known: bool) {
        let Self { stdout, stderr, recent } = self;
        stdout.drain(&mut worker.stdout, known, |bytes| recall(recent, bytes));
        stderr.drain(&mut worker.stderr, known, |bytes| recall(recent, bytes));
    }

    /// Reads some of what lies in one of them.
    fn take(&mut self, stream: Stream, worker: &mut Worker) {
        let Self { stdout, stderr, recent } = self;
        match stream {
            Stream::Stdout => stdout.take(&mut worker.stdout, |bytes| recall(recent, bytes)),
            Stream::Stderr => stderr.take(&mut worker.stderr, |bytes| recall(recent, bytes)),
        }
    }

    /// What was written beyond these places.
    fn look(&self, [out, err]: [u64; 2]) -> Look {
        let ((stdout, out), (stderr, err)) = (self.stdout.since(out), self.stderr.since(err));
        Look { stdout, stderr, up_to: [out, err] }
    }

    fn recent(&mut self) -> String {
        let recent = self.recent.as_mut().map(std::mem::take).unwrap_or_default();
        String::from_utf8_lossy(&screen::settled(&marks::stripped(&recent))).trim_start_matches('\u{fffd}').to_owned()
    }
}

fn recall(recent: &mut Option<Vec<u8>>, bytes: &[u8]) {
    if let Some(recent) = recent {
        recent.extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_RECENT)..]);
        let excess = recent.len().saturating_sub(MAX_RECENT);
        recent.drain(..excess);
    }
}

impl Task {
    pub(super) fn captures(&mut self, cell: u64, order: &CellOrder) -> Running {
        let settings = &self.around.settings;
        let capture = |stream: Stream, word: &str| {
            let name = format!("{}-cell-{cell}-{word}.txt", self.id);
            let mut capture = Capture::new(order.max_output.unwrap_or(settings.max_output), &self.place.outputs, name);
            if let Some(live) = &order.live {
                capture.tell(Arc::clone(live), stream);
            }
            capture
        };
        Running {
            stdout: capture(Stream::Stdout, "stdout"),
            stderr: capture(Stream::Stderr, "stderr"),
            recent: order.questions.as_ref().map(|_| Vec::new()),
        }
    }

    /// Sends the cell and waits for whatever ends it.
    pub(super) async fn follow(&mut self, under: &Underway, running: &mut Running) -> Followed {
        let Some(worker) = &mut self.worker else {
            return Followed { verdict: Verdict::WorkerEnded, wish: Wish::None };
        };
        if let Some(followed) = submit(worker, under.cell, &under.order, under.deadline()).await {
            return followed;
        }
        let budget = self.limits.cpu.map(|limit| CpuBudget::begin(worker.pid, limit));
        self.follow_on(under, running, budget).await
    }

    /// Waits for whatever ends a cell that was sent.
    pub(super) async fn follow_on(
        &mut self,
        under: &Underway,
        running: &mut Running,
        budget: Option<CpuBudget>,
    ) -> Followed {
        let mut course = Course {
            cell: under.cell,
            order: &under.order,
            under,
            deadline: under.deadline(),
            next_step: under.deadline(),
            grace: self.around.settings.grace,
            interrupts: 0,
            wish: Wish::None,
            pending: None,
            input_timeout: self.around.settings.input_timeout,
            budget,
        };
        let verdict = self.accompany(&mut course, running).await;
        if let Some(worker) = &mut self.worker {
            // A cell's output is written before its report, and the reactor tells of things in their order.
            let known = matches!(verdict, Verdict::Reported(_)) && !worker.replies.was_ahead();
            running.drain(worker, known);
        }
        Followed { verdict, wish: course.wish }
    }

    #[expect(clippy::too_many_lines, reason = "one match over all that can be heard of a running cell")]
    async fn accompany(&mut self, course: &mut Course<'_>, running: &mut Running) -> Verdict {
        loop {
            let Some(worker) = &mut self.worker else { return Verdict::WorkerEnded };
            let heard = course.listen(worker, (&mut self.interventions, &mut self.orders), running).await;
            let decided = match heard {
                Heard::Output(stream) => {
                    running.take(stream, worker);
                    running.stdout.pause().await;
                    running.stderr.pause().await;
                    None
                }
                Heard::Urgent(Some(Urgent::Look { from, reply })) => {
                    running.drain(worker, false);
                    let _ = reply.send(running.look(from));
                    None
                }
                Heard::Urgent(Some(Urgent::Pack(packing))) => {
                    self.pack_with(course, running, packing).await;
                    None
                }
                Heard::Urgent(urgent) => course.heed(urgent, &mut self.later).map(Verdict::Killed),
                Heard::TakenBack => course.want(Wish::Cancel),
                Heard::UsedUp => {
                    counters::limit_hit("cpu_limit");
                    course.want(Wish::CpuUsedUp)
                }
                Heard::StepDue => self.step(course).map(Verdict::Killed),
                Heard::Reply(Ok(FromWorker::InputWanted { cell, question, prompt })) if cell == course.cell => {
                    running.drain(worker, false);
                    let asked = Asked { cell, question, prompt };
                    let output = (course.wish == Wish::None).then(|| running.recent());
                    course.pending = Some(Pending::pose(asked, course.order, output, course.input_timeout));
                    self.shared.update(|status| status.phase = waiting(status.phase, true));
                    None
                }
                Heard::Reply(reply) => Some(judge(worker, course.cell, reply).await),
                Heard::Answered(question, answer) => {
                    course.pending = None;
                    self.shared.update(|status| status.phase = waiting(status.phase, false));
                    match worker.requests.write(&ToWorker::Input { question, answer }).await {
                        Ok(()) => None,
                        Err(_) => Some(end_of_channel(worker).await),
                    }
                }
                Heard::BehindDue => {
                    if let Some(pending) = &mut course.pending {
                        pending.turns_away = true;
                    }
                    None
                }
                Heard::Behind(order) => {
                    if let Some(pending) = &course.pending {
                        pending.turn_away(order, &self.id, &self.shared);
                    }
                    None
                }
                Heard::WorkerEnded => Some(last_word(worker, course.cell).await),
            };
            match decided {
                None => {}
                Some(Verdict::Killed(reason)) => return self.kill_under(reason).await,
                Some(verdict) => return verdict,
            }
        }
    }

    /// Takes the session along in the middle of a cell that is to run on.
    async fn pack_with(&mut self, course: &mut Course<'_>, running: &mut Running, packing: Packing) {
        let Packing { mut parcel, thaw, reply } = packing;
        let runs_on = course.wish == Wish::None && course.pending.is_none();
        let packed = match self.pack(&mut parcel) {
            Ok(packed) if runs_on => {
                let used = course.budget.as_ref().and_then(CpuBudget::before);
                let cell = self.pack_underway(course.under, running, used, &mut parcel).await;
                cell.map(|cell| PackedTask { cell: Some(Box::new(cell)), ..packed })
            }
            Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        };
        let stands_still = packed.is_ok();
        let _ = reply.send((packed, parcel));
        if stands_still {
            thaw.cancelled().await;
        }
    }

    /// Kills the worker under its cell; its stacks are taken first, unless no report will show them.
    async fn kill_under(&mut self, reason: DeathReason) -> Verdict {
        self.parts(reason);
        if let Some(worker) = &self.worker {
            let untold = matches!(reason, DeathReason::Delete | DeathReason::Elsewhere | DeathReason::ProtocolBroken);
            if !untold && !reason.is_rest() {
                self.evidence = Some(stacks::take(&worker.view()).await);
            }
            worker.kill().await;
        }
        Verdict::Killed(reason)
    }

    /// It is time for an interrupt; after several, the worker is to be killed.
    fn step(&mut self, course: &mut Course<'_>) -> Option<DeathReason> {
        if course.wish == Wish::None {
            course.wish = Wish::TimeOut;
        }
        if course.interrupts < INTERRUPTS {
            course.interrupts += 1;
            course.next_step = Some(tokio::time::Instant::now() + course.grace / INTERRUPTS);
            self.worker.as_ref()?.control.interrupt(course.cell, urgency(course.interrupts));
            return None;
        }
        if course.wish == Wish::Yield && !self.has_copy() {
            // No order said that the variables may go.
            self.refuse_preserving(course.cell);
            course.wish = Wish::None;
            course.interrupts = 0;
            course.next_step = course.deadline;
            return None;
        }
        Some(match (course.wish, self.limits.cpu) {
            (Wish::CpuUsedUp, Some(limit)) => DeathReason::CpuLimit { limit },
            _ => DeathReason::Unresponsive,
        })
    }

    /// Answers those who want a restart that keeps the variables: it cannot be had.
    fn refuse_preserving(&mut self, cell: u64) {
        for urgent in std::mem::take(&mut self.later) {
            match urgent {
                Urgent::Restart { preserve: true, reply, .. } => {
                    let reason = format!("cell {cell} holds the interpreter, and an interrupt does not reach it");
                    let _ = reply.send(Err(SessionError::NotPreserved { session: self.id.to_string(), reason }));
                }
                other => self.later.push_back(other),
            }
        }
    }
}

impl Course<'_> {
    /// What decides stands before what flows: a cell that never stops printing must still meet its time-out.
    async fn listen(
        &mut self,
        worker: &mut Worker,
        (interventions, orders): (&mut mpsc::UnboundedReceiver<Urgent>, &mut mpsc::Receiver<Order>),
        running: &mut Running,
    ) -> Heard {
        let idle = self.wish == Wish::None;
        let tell_at = Pending::tell_at(self.pending.as_ref());
        let turns_away = self.pending.as_ref().is_some_and(|pending| pending.turns_away);
        tokio::select! {
            biased;
            urgent = interventions.recv() => Heard::Urgent(urgent),
            () = self.order.cancel.cancelled(), if idle => Heard::TakenBack,
            () = used_up(&mut self.budget), if idle => Heard::UsedUp,
            () = sleep_until(self.next_step) => Heard::StepDue,
            reply = worker.replies.read::<FromWorker>() => Heard::Reply(reply),
            (question, answer) = answer_to(&mut self.pending) => Heard::Answered(question, answer),
            () = sleep_until(tell_at) => Heard::BehindDue,
            Some(behind) = orders.recv(), if turns_away => Heard::Behind(behind),
            _ = worker.pidfd.readable() => Heard::WorkerEnded,
            Ok(()) = running.stdout.ready(&worker.stdout) => Heard::Output(Stream::Stdout),
            Ok(()) = running.stderr.ready(&worker.stderr) => Heard::Output(Stream::Stderr),
        }
    }

    /// From now on the cell is to end, for this reason if there was none.
    fn want(&mut self, wish: Wish) -> Option<Verdict> {
        if self.wish == Wish::None {
            self.wish = wish;
            self.next_step = Some(tokio::time::Instant::now());
        }
        None
    }

    /// An intervention comes in the middle of the cell; why the worker is to be killed for it, if it is.
    fn heed(&mut self, urgent: Option<Urgent>, later: &mut VecDeque<Urgent>) -> Option<DeathReason> {
        let Some(urgent) = urgent else { return Some(DeathReason::Delete) };
        match urgent {
            Urgent::Reconsider | Urgent::Look { .. } | Urgent::Pack(_) => None,
            // Collecting waits for an idle session; the supervisor asks again.
            Urgent::Heal(step) => {
                if step == Step::Interrupt {
                    self.want(Wish::Heal);
                }
                None
            }
            Urgent::Restart { preserve: true, .. } if self.wish == Wish::None => {
                later.push_back(urgent);
                self.want(Wish::Yield);
                None
            }
            Urgent::Restart { .. } | Urgent::Delete { .. } | Urgent::Leave { .. } => {
                let reason = urgent.reason();
                later.push_back(urgent);
                Some(reason)
            }
        }
    }
}

/// Sends the cell. What ended it already, if something did: a worker that reads nothing must not hold the caller.
async fn submit(
    worker: &mut Worker,
    cell: u64,
    order: &CellOrder,
    deadline: Option<tokio::time::Instant>,
) -> Option<Followed> {
    let request = ToWorker::RunCell {
        cell,
        code: order.code.clone(),
        may_ask: order.questions.is_some(),
        notebook: order.notebook.clone(),
    };
    let (verdict, wish) = tokio::select! {
        sent = worker.requests.write(&request) => match sent {
            Ok(()) => return None,
            Err(_) => (end_of_channel(worker).await, Wish::None),
        },
        _ = worker.pidfd.readable() => (Verdict::WorkerEnded, Wish::None),
        () = sleep_until(deadline) => {
            worker.kill().await;
            (Verdict::Killed(DeathReason::Unresponsive), Wish::TimeOut)
        }
    };
    Some(Followed { verdict, wish })
}

/// How much the `number`th interrupt of a cell insists.
fn urgency(number: u32) -> Urgency {
    match number {
        1 => Urgency::First,
        INTERRUPTS => Urgency::Last,
        _ => Urgency::Second,
    }
}

/// What a reply, or its absence, means for the cell.
async fn judge(worker: &Worker, cell: u64, reply: Result<FromWorker, FrameError>) -> Verdict {
    match reply {
        Ok(FromWorker::CellDone { cell: done, report }) if done == cell => Verdict::Reported(report),
        Err(FrameError::Closed | FrameError::Io(_)) => end_of_channel(worker).await,
        _ => Verdict::Killed(DeathReason::ProtocolBroken),
    }
}

/// The worker has ended. It may have answered before: what it wrote is in the socket.
async fn last_word(worker: &mut Worker, cell: u64) -> Verdict {
    match tokio::time::timeout(LAST_WORD, worker.replies.read::<FromWorker>()).await {
        Ok(Ok(reply)) if !matches!(reply, FromWorker::InputWanted { .. }) => judge(worker, cell, Ok(reply)).await,
        _ => Verdict::WorkerEnded,
    }
}

/// The socket closed: the process is ending, or its code closed the socket under it.
async fn end_of_channel(worker: &Worker) -> Verdict {
    if tokio::time::timeout(CLOSING, worker.pidfd.readable()).await.is_ok() {
        return Verdict::WorkerEnded;
    }
    worker.kill().await;
    Verdict::Killed(DeathReason::ProtocolBroken)
}
