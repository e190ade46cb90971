//! The server's ends of one worker: cell socket, control socket, output pipes, process. Pings live here.
//!
//! Runs in: server. Owned by the session's task; the [`Control`] part is shared with whoever asks for health, so that a
//! ping never waits behind a cell.

use crate::server::{output::pipe::Output, workers::view::WorkerView};

use crate::server::health::evidence::Unanswered;

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::{io::unix::AsyncFd, sync::Mutex as AsyncMutex, sync::oneshot};

use super::{black_box::BlackBox, children::Children};
use crate::{
    protocol::{
        DumpRoute, FromControl, FromWorker, MAX_CONTROL, MAX_FROM_WORKER, MAX_TO_WORKER, PROTOCOL_VERSION, Question,
        ToControl, Urgency, WorkerLimits,
        asynchronous::{FrameReader, FrameWriter, framed},
    },
    server::{
        counters,
        workers::zygote::{NewWorker, Zygote, ZygoteError},
    },
    sys::pidfd::PidFd,
};

/// How soon the interpreter of a worker that has a question answers a ping.
const AT_IT: Duration = Duration::from_secs(1);
/// How long a new worker may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(15);

/// A living worker.
#[derive(Debug)]
pub struct Worker {
    /// Process id.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: AsyncFd<PidFd>,
    /// Replies.
    pub replies: FrameReader,
    /// Requests.
    pub requests: FrameWriter,
    /// Its descriptor 1.
    pub stdout: Output,
    /// Its descriptor 2.
    pub stderr: Output,
    /// Control socket, shared.
    pub control: Arc<Control>,
    /// Where it writes its stacks, shared.
    pub black_box: Arc<BlackBox>,
    /// When it was forked.
    pub born: Instant,
}

/// What a fatal signal's handler reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Its number.
    pub signal: i32,
    /// Whether the stack's end was hit.
    pub stack_overflow: bool,
}

/// The control socket of one worker.
#[derive(Debug)]
pub struct Control {
    writer: AsyncMutex<FrameWriter>,
    waiting: Mutex<Vec<Waiting>>,
    refreshing: Mutex<Vec<(u64, oneshot::Sender<Vec<String>>)>>,
    crash: Mutex<Option<Crash>>,
    dumps: Mutex<Vec<(u64, oneshot::Sender<()>)>>,
    questions: Mutex<HashMap<u64, oneshot::Sender<Result<String, String>>>>,
    next: AtomicU64,
}

/// A ping under way. It stays until it is answered, also when whoever asked has stopped waiting: how long the oldest
/// has waited is what tells a hung worker from a busy one.
#[derive(Debug)]
struct Waiting {
    nonce: u64,
    asked: Instant,
    heard: bool,
    pong: oneshot::Sender<i64>,
}

/// Bytes of names in one frame; a worker reads control frames of up to 4 KiB.
const MAX_NAMES: usize = 3000;
/// Most pings under way to one worker; who asks beyond that waits for the ones before.
const MAX_PINGS: usize = 16;

/// What came of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingOutcome {
    /// The interpreter evaluated `1+1` to this.
    Pong {
        /// 2.
        value: i64,
        /// Time to the answer.
        after: Duration,
    },
    /// The process is scheduled, but nobody could take the GIL within the limit.
    HeartbeatOnly {
        /// The limit.
        after: Duration,
    },
    /// Not even the control thread answered: stopped, swapped out or gone.
    Silent {
        /// The limit.
        after: Duration,
    },
}

impl Worker {
    /// Forks a worker for `session` and waits until it is ready.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub async fn start(zygote: &Zygote, session: &str, limits: WorkerLimits) -> Result<Self, ZygoteError> {
        let born = Instant::now();
        let new = zygote.fork(session, limits).await?;
        Self::greet(new, born).await.map_err(ZygoteError::Fork)
    }

    /// Waits until a process just forked is ready, and takes it over.
    ///
    /// # Errors
    /// In words, when it does not come up; it is ended then.
    pub async fn greet(new: NewWorker, born: Instant) -> Result<Self, String> {
        let words = |error: io::Error| error.to_string();
        let (mut replies, requests) = framed(new.cell, MAX_FROM_WORKER, MAX_TO_WORKER).map_err(words)?;
        match tokio::time::timeout(HELLO_LIMIT, replies.read()).await {
            Err(_) => return Err(format!("the new worker was not ready within {} s", HELLO_LIMIT.as_secs())),
            Ok(Err(error)) => return Err(format!("the new worker did not come up: {error}")),
            Ok(Ok(FromWorker::Hello { version: PROTOCOL_VERSION, .. })) => {}
            Ok(Ok(_)) => return Err("the new worker did not say hello in our protocol version".to_owned()),
        }
        let control = Control::listen(new.control).map_err(words)?;
        let (stdout, stderr) = (Output::new(new.stdout).map_err(words)?, Output::new(new.stderr).map_err(words)?);
        Ok(Self {
            pid: new.lease.take(),
            pidfd: new.pidfd,
            replies,
            requests,
            stdout,
            stderr,
            control,
            black_box: Arc::new(new.black_box),
            born,
        })
    }

    /// What others may see of it.
    #[must_use]
    pub fn view(&self) -> WorkerView {
        WorkerView {
            pid: self.pid,
            born: self.born,
            control: Arc::clone(&self.control),
            black_box: Arc::clone(&self.black_box),
        }
    }

    /// Ends it, and all it started, behind: it is nobody's any more.
    pub fn retire(self, zygote: &Zygote, children: &Children) {
        let (zygote, children) = (zygote.clone(), children.clone());
        tokio::spawn(async move {
            let pid = self.pid;
            // It goes last, and so is there to end the rest should the server end meanwhile.
            let family = children.clone();
            let _ = tokio::task::spawn_blocking(move || family.kill_family(pid)).await;
            self.kill();
            let _ = self.pidfd.readable().await;
            let _ = zygote.exit_of(pid, self.pidfd.get_ref()).await;
            let family = children.clone();
            let _ = tokio::task::spawn_blocking(move || family.kill_family(pid)).await;
            zygote.reap(pid);
            children.remove(pid);
        });
    }

    /// Kills the process; its end is then heard as any other.
    pub fn kill(&self) {
        let _ = self.pidfd.get_ref().signal(Signal::SIGKILL);
    }
}

impl Control {
    fn listen(stream: UnixStream) -> io::Result<Arc<Self>> {
        let (mut reader, writer) = framed(stream, MAX_CONTROL, MAX_CONTROL)?;
        let control = Arc::new(Self {
            writer: AsyncMutex::new(writer),
            waiting: Mutex::default(),
            refreshing: Mutex::default(),
            crash: Mutex::default(),
            dumps: Mutex::default(),
            questions: Mutex::default(),
            next: AtomicU64::new(1),
        });
        let hearing = Arc::clone(&control);
        tokio::spawn(async move {
            while let Ok(message) = reader.read().await {
                match message {
                    FromControl::Answered { nonce, answer } => hearing.hear_answer(nonce, answer),
                    other => hearing.hear(other),
                }
            }
            hearing.waiting.lock().clear();
            hearing.dumps.lock().clear();
            hearing.refreshing.lock().clear();
            hearing.questions.lock().clear();
        });
        Ok(control)
    }

    fn hear(&self, message: FromControl) {
        let mut waiting = self.waiting.lock();
        match message {
            FromControl::Crashing { signal, stack_overflow } => {
                *self.crash.lock() = Some(Crash { signal, stack_overflow });
            }
            FromControl::StacksDumped { nonce } => {
                let mut dumps = self.dumps.lock();
                if let Some(place) = dumps.iter().position(|dump| dump.0 == nonce) {
                    let _ = dumps.remove(place).1.send(());
                }
            }
            FromControl::Heartbeat { nonce } => {
                if let Some(found) = waiting.iter_mut().find(|ping| ping.nonce == nonce) {
                    found.heard = true;
                }
            }
            FromControl::Refreshed { nonce, imported } => {
                let mut refreshing = self.refreshing.lock();
                if let Some(place) = refreshing.iter().position(|(asked, _)| *asked == nonce) {
                    let _ = refreshing.swap_remove(place).1.send(imported);
                }
            }
            FromControl::Answered { .. } => {}
            FromControl::Pong { nonce, value } => {
                if let Some(place) = waiting.iter().position(|ping| ping.nonce == nonce) {
                    let ping = waiting.remove(place);
                    counters::ping(ping.asked.elapsed());
                    let _ = ping.pong.send(value);
                }
            }
        }
    }

    /// Packages have changed: lets the interpreter forget what it cached of the disk, beside a cell that runs. Which of
    /// these modules are imported; `None` when it did not answer within `limit`, and it then does so later.
    pub async fn refresh(self: &Arc<Self>, modules: &[String], limit: Duration) -> Option<Vec<String>> {
        let mut imported = Vec::new();
        let deadline = tokio::time::Instant::now() + limit;
        for modules in parts(modules) {
            let nonce = self.next.fetch_add(1, Ordering::Relaxed);
            let (sender, answered) = oneshot::channel();
            self.refreshing.lock().push((nonce, sender));
            let (control, modules) = (Arc::clone(self), modules.to_vec());
            tokio::spawn(async move {
                let _ = control.writer.lock().await.write(&ToControl::Refresh { nonce, modules }).await;
            });
            let answer = tokio::time::timeout_at(deadline, answered).await;
            self.refreshing.lock().retain(|(asked, _)| *asked != nonce);
            imported.extend(answer.ok()?.ok()?);
        }
        Some(imported)
    }

    fn hear_answer(&self, nonce: u64, answer: Result<String, String>) {
        if let Some(asked) = self.questions.lock().remove(&nonce) {
            let _ = asked.send(answer);
        }
    }

    /// Asks a question that the worker answers beside its cell, and waits up to `limit`; `None` when nothing comes. Where
    /// pings are answered then, the worker is at it (the first question imports jedi), and it is waited for up to `most`.
    pub async fn question(
        self: &Arc<Self>,
        question: Question,
        limit: Duration,
        most: Duration,
    ) -> Option<Result<String, String>> {
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, mut answered) = oneshot::channel();
        self.questions.lock().insert(nonce, answer);
        // In a task of its own, as an interrupt: half a frame would be the end of the channel.
        let control = Arc::clone(self);
        tokio::spawn(async move { control.writer.lock().await.write(&ToControl::Ask { nonce, question }).await });
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
        self.questions.lock().remove(&nonce);
        heard
    }

    /// What the crash handler said, if it did.
    #[must_use]
    pub fn crash(&self) -> Option<Crash> {
        *self.crash.lock()
    }

    /// Asks for the interruption of a cell. The write is awaited in a task of its own: a stopped worker must not stop us.
    pub fn interrupt(self: &Arc<Self>, cell: u64, urgency: Urgency) {
        let control = Arc::clone(self);
        tokio::spawn(async move {
            let _ = control.writer.lock().await.write(&ToControl::Interrupt { cell, urgency }).await;
        });
    }

    /// Has the worker write its stacks to the black box; false when it did not within `limit`.
    pub async fn dump_stacks(&self, route: DumpRoute, limit: Duration) -> bool {
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, written) = oneshot::channel();
        self.dumps.lock().push((nonce, done));
        let asked = async {
            self.writer.lock().await.write(&ToControl::DumpStacks { nonce, route }).await.ok()?;
            written.await.ok()
        };
        let answered = tokio::time::timeout(limit, asked).await;
        self.dumps.lock().retain(|dump| dump.0 != nonce);
        matches!(answered, Ok(Some(())))
    }

    /// Pings and waits up to `limit`.
    pub async fn ping(&self, limit: Duration) -> PingOutcome {
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
                let heard = self.waiting.lock().iter().any(|ping| ping.nonce == nonce && ping.heard);
                if heard { PingOutcome::HeartbeatOnly { after } } else { PingOutcome::Silent { after } }
            }
        }
    }

    /// Sends a ping that nobody waits for, unless one is under way already.
    pub fn probe(self: &Arc<Self>) {
        if !self.waiting.lock().is_empty() {
            return;
        }
        let (nonce, _) = self.ask();
        let control = Arc::clone(self);
        tokio::spawn(async move { control.send(nonce).await });
    }

    /// The oldest ping that has no answer yet, if there is one.
    #[must_use]
    pub fn unanswered(&self) -> Option<Unanswered> {
        let waiting = self.waiting.lock();
        waiting.first().map(|ping| Unanswered { waited: ping.asked.elapsed(), heartbeat: ping.heard })
    }

    fn ask(&self) -> (u64, oneshot::Receiver<i64>) {
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        let (pong, answered) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_PINGS {
            // The oldest stays: it is the one that tells how long nobody has answered.
            waiting.remove(1);
        }
        waiting.push(Waiting { nonce, asked: Instant::now(), heard: false, pong });
        (nonce, answered)
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
