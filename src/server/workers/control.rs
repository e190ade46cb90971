//! The control socket of one worker: pings, interrupts, stacks, questions beside a cell.
//!
//! Runs in: server. Shared by the session's task and by callers that ask for health, so that a ping never waits behind a cell.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::RawFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::{
    protocol::{
        DumpRoute, FromControl, MAX_CONTROL, Question, ToControl, Urgency,
        asynchronous::{FrameWriter, framed},
    },
    server::{counters, health::evidence::Unanswered},
    sys::parcel::Parcel,
};

/// How soon the interpreter of a worker that has a question answers a ping.
const AT_IT: Duration = Duration::from_secs(1);
/// What a fatal signal's handler reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crash {
    pub signal: i32,
    /// Whether the stack's end was hit.
    pub stack_overflow: bool,
}

/// The control socket of one worker.
#[derive(Debug)]
pub(crate) struct Control {
    writer: AsyncMutex<FrameWriter>,
    /// What has been asked and is not answered, by its number: oldest first.
    open: Mutex<BTreeMap<u64, Pending>>,
    crash: Mutex<Option<Crash>>,
    next: AtomicU64,
}

/// A request under way. Dropped without an answer, the waiting caller hears that the worker is gone.
#[derive(Debug)]
enum Pending {
    /// It stays until it is answered, also when the caller has stopped waiting: how long the oldest has waited is what
    /// tells a hung worker from a busy one.
    Ping {
        asked: Instant,
        heard: bool,
        pong: oneshot::Sender<i64>,
    },
    Refresh(oneshot::Sender<Vec<String>>),
    Dump(oneshot::Sender<()>),
    Question(oneshot::Sender<Result<String, String>>),
}

/// Bytes of names in one frame; a worker reads control frames of up to 4 KiB.
const MAX_NAMES: usize = 3000;
/// Most pings under way to one worker; who asks beyond that waits for the ones before.
const MAX_PINGS: usize = 16;

/// What came of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PingOutcome {
    /// The interpreter evaluated `1+1` to this.
    Pong {
        /// 2.
        value: i64,
        /// Time to the answer.
        after: Duration,
    },
    /// The process is scheduled, but no thread of ours could take the GIL within the limit.
    HeartbeatOnly { after: Duration },
    /// Not even the control thread answered: stopped, swapped out or gone.
    Silent { after: Duration },
}

impl Control {
    pub(super) fn listen(stream: UnixStream) -> io::Result<Arc<Self>> {
        let (mut reader, writer) = framed(stream, MAX_CONTROL, MAX_CONTROL)?;
        let control = Arc::new(Self {
            writer: AsyncMutex::new(writer),
            open: Mutex::default(),
            crash: Mutex::default(),
            next: AtomicU64::new(1),
        });
        let hearing = Arc::clone(&control);
        tokio::spawn(async move {
            while let Ok(message) = reader.read().await {
                hearing.hear(message);
            }
            hearing.open.lock().clear();
        });
        Ok(control)
    }

    /// The same for a socket that was held before an exec; numbers go on behind those that were used.
    pub(super) fn listen_on(stream: UnixStream, next: u64) -> io::Result<Arc<Self>> {
        let control = Self::listen(stream)?;
        control.next.store(next, Ordering::Relaxed);
        Ok(control)
    }

    /// Takes the socket along, when no message is being written: its number, and that of the next request.
    pub(super) fn pack(&self, parcel: &mut Parcel) -> io::Result<(RawFd, u64)> {
        let writer = self.writer.try_lock().map_err(|_| io::ErrorKind::WouldBlock)?;
        Ok((parcel.add(writer.descriptor())?, self.next.load(Ordering::Relaxed)))
    }

    fn hear(&self, message: FromControl) {
        let mut open = self.open.lock();
        match message {
            FromControl::Crashing { signal, stack_overflow } => {
                *self.crash.lock() = Some(Crash { signal, stack_overflow });
            }
            FromControl::Heartbeat { nonce } => {
                if let Some(Pending::Ping { heard, .. }) = open.get_mut(&nonce) {
                    *heard = true;
                }
            }
            FromControl::Pong { nonce, value } => {
                if let Some(Pending::Ping { asked, pong, .. }) = open.remove(&nonce) {
                    counters::ping(asked.elapsed());
                    let _ = pong.send(value);
                }
            }
            FromControl::StacksDumped { nonce } => {
                if let Some(Pending::Dump(done)) = open.remove(&nonce) {
                    let _ = done.send(());
                }
            }
            FromControl::Refreshed { nonce, imported } => {
                if let Some(Pending::Refresh(asked)) = open.remove(&nonce) {
                    let _ = asked.send(imported);
                }
            }
            FromControl::Answered { nonce, answer } => {
                if let Some(Pending::Question(asked)) = open.remove(&nonce) {
                    let _ = asked.send(answer);
                }
            }
        }
    }

    /// A request is under way from now on, by this number.
    fn begin(&self, pending: Pending) -> u64 {
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(nonce, pending);
        nonce
    }

    /// Its answer is of no use any more.
    fn give_up(&self, nonce: u64) {
        self.open.lock().remove(&nonce);
    }

    /// Writes in a task of its own: the caller may stop waiting, and half a frame would be the end of the channel.
    fn write_apart(self: &Arc<Self>, message: ToControl) {
        let control = Arc::clone(self);
        tokio::spawn(async move {
            let _ = control.writer.lock().await.write(&message).await;
        });
    }

    /// Packages have changed: lets the interpreter forget what it cached of the disk, beside a cell that runs. Which of
    /// these modules are imported; `None` when it did not answer within `limit`, and it then does so later.
    pub(crate) async fn refresh(self: &Arc<Self>, modules: &[String], limit: Duration) -> Option<Vec<String>> {
        let mut imported = Vec::new();
        let deadline = tokio::time::Instant::now() + limit;
        for modules in parts(modules) {
            let (sender, answered) = oneshot::channel();
            let nonce = self.begin(Pending::Refresh(sender));
            self.write_apart(ToControl::Refresh { nonce, modules: modules.to_vec() });
            let answer = tokio::time::timeout_at(deadline, answered).await;
            self.give_up(nonce);
            imported.extend(answer.ok()?.ok()?);
        }
        Some(imported)
    }

    /// Asks a question that the worker answers beside its cell, and waits up to `limit`; `None` when nothing comes. Where
    /// pings are answered then, the worker is at it (the first question imports jedi), and it is waited for up to `most`.
    pub(crate) async fn question(
        self: &Arc<Self>,
        question: Question,
        limit: Duration,
        most: Duration,
    ) -> Option<Result<String, String>> {
        let (answer, mut answered) = oneshot::channel();
        let nonce = self.begin(Pending::Question(answer));
        self.write_apart(ToControl::Ask { nonce, question });
        let began = Instant::now();
        let heard = loop {
            if let Ok(heard) = tokio::time::timeout(limit, &mut answered).await {
                break heard.ok();
            }
            let at_it = matches!(self.ping(AT_IT).await, PingOutcome::Pong { .. });
            if !at_it || began.elapsed() > most {
                break None;
            }
        };
        self.give_up(nonce);
        heard
    }

    /// What the crash handler said, if it did.
    #[must_use]
    pub(crate) fn crash(&self) -> Option<Crash> {
        *self.crash.lock()
    }

    /// Asks for the interruption of a cell, and waits for nothing: a stopped worker must not stop us.
    pub(crate) fn interrupt(self: &Arc<Self>, cell: u64, urgency: Urgency) {
        self.write_apart(ToControl::Interrupt { cell, urgency });
    }

    /// Has the worker write its stacks to the black box; false when it did not within `limit`.
    pub(crate) async fn dump_stacks(&self, route: DumpRoute, limit: Duration) -> bool {
        let (done, written) = oneshot::channel();
        let nonce = self.begin(Pending::Dump(done));
        let asked = async {
            self.writer.lock().await.write(&ToControl::DumpStacks { nonce, route }).await.ok()?;
            written.await.ok()
        };
        let answered = tokio::time::timeout(limit, asked).await;
        self.give_up(nonce);
        matches!(answered, Ok(Some(())))
    }

    /// Pings and waits up to `limit`.
    pub(crate) async fn ping(&self, limit: Duration) -> PingOutcome {
        let started = Instant::now();
        let (nonce, answered) = self.ask();
        let asked = async {
            self.send(nonce).await?;
            answered.await.ok()
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(Some(value)) => PingOutcome::Pong { value, after: started.elapsed() },
            _ => {
                let after = started.elapsed();
                let heard = matches!(self.open.lock().get(&nonce), Some(Pending::Ping { heard: true, .. }));
                if heard { PingOutcome::HeartbeatOnly { after } } else { PingOutcome::Silent { after } }
            }
        }
    }

    /// Sends a ping that no call waits for, unless one is under way already.
    pub(crate) fn probe(self: &Arc<Self>) {
        if self.unanswered().is_some() {
            return;
        }
        let (nonce, _) = self.ask();
        let control = Arc::clone(self);
        tokio::spawn(async move { control.send(nonce).await });
    }

    /// The oldest ping that has no answer yet, if there is one.
    #[must_use]
    pub(crate) fn unanswered(&self) -> Option<Unanswered> {
        self.open.lock().values().find_map(|pending| match pending {
            Pending::Ping { asked, heard, .. } => Some(Unanswered { waited: asked.elapsed(), heartbeat: *heard }),
            Pending::Refresh(_) | Pending::Dump(_) | Pending::Question(_) => None,
        })
    }

    fn ask(&self) -> (u64, oneshot::Receiver<i64>) {
        let (pong, answered) = oneshot::channel();
        let mut open = self.open.lock();
        let pings: Vec<u64> = open
            .iter()
            .filter(|(_, pending)| matches!(pending, Pending::Ping { .. }))
            .map(|(nonce, _)| *nonce)
            .collect();
        if pings.len() >= MAX_PINGS {
            // The oldest stays: it is the one that tells since when there was no answer.
            open.remove(&pings[1]);
        }
        drop(open);
        (self.begin(Pending::Ping { asked: Instant::now(), heard: false, pong }), answered)
    }

    async fn send(&self, nonce: u64) -> Option<()> {
        self.writer.lock().await.write(&ToControl::Ping { nonce }).await.ok()
    }
}

/// Names in parts that fit the frames that workers read; one part at least.
fn parts(names: &[String]) -> Vec<&[String]> {
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut size = 0;
    for (index, name) in names.iter().enumerate() {
        size += name.len() + 8;
        if size > MAX_NAMES && index > begin {
            parts.push(&names[begin..index]);
            (begin, size) = (index, name.len() + 8);
        }
    }
    parts.push(&names[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_go_in_parts_and_none_is_lost() {
        let names: Vec<String> = (0..2000).map(|number| format!("module_{number}")).collect();
        let parts = parts(&names);
        assert!(parts.len() > 5 && parts.concat() == names);
        assert!(parts.iter().all(|part| part.iter().map(String::len).sum::<usize>() < MAX_NAMES));
        assert_eq!(super::parts(&[]), [&[] as &[String]]);
    }
}
