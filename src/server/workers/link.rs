//! The server's ends of one worker: cell socket, control socket, output pipes, process.
//!
//! Runs in: server. Owned by the session's task; what others may have of it is its view.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{io::unix::AsyncFd, task::JoinHandle};

use super::{
    black_box::BlackBox,
    control::Control,
    door,
    process::Endings,
    view::WorkerView,
    zygote::{GreetError, NewWorker, Zygote, ZygoteError},
};
use crate::{
    protocol::{
        FromWorker, MAX_FROM_WORKER, MAX_TO_WORKER, PROTOCOL_VERSION, WorkerLimits,
        asynchronous::{FrameReader, FrameWriter, framed},
    },
    server::{output::pipe::Output, workspace::workplace::Workplace},
    sys::{fault, pidfd::PidFd, processes, room::Room},
};

/// How long a new worker may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Worker {
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: AsyncFd<PidFd>,
    pub replies: FrameReader,
    pub requests: FrameWriter,
    /// Its descriptor 1.
    pub stdout: Output,
    /// Its descriptor 2.
    pub stderr: Output,
    pub control: Arc<Control>,
    /// Where it writes its stacks, shared.
    pub black_box: Arc<BlackBox>,
    /// When it was forked.
    pub born: Instant,
    /// Its own folder, when it is confined.
    pub room: Option<Arc<Room>>,
}

impl Worker {
    /// Forks a worker for `session` and waits until it is ready.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub(crate) async fn start(
        zygote: &Zygote,
        session: &str,
        limits: WorkerLimits,
        place: &Workplace,
    ) -> Result<Self, ZygoteError> {
        let born = Instant::now();
        let new = zygote.fork(session, limits, place).await?;
        Self::greet(new, born).await.map_err(|error| ZygoteError::NotReady(Arc::new(error)))
    }

    /// Waits until a process just forked is ready, and takes it over.
    ///
    /// # Errors
    /// When it does not come up; it is ended then.
    pub(crate) async fn greet(mut new: NewWorker, born: Instant) -> Result<Self, GreetError> {
        if let Some(reached) = new.reached.take() {
            new.cell.set_nonblocking(true)?;
            match tokio::time::timeout(HELLO_LIMIT, door::open(&new.cell, reached)).await {
                Err(_) => return Err(GreetError::Late(HELLO_LIMIT)),
                Ok(opened) => {
                    let layers = opened.map_err(GreetError::Open)?;
                    if let Some(room) = &new.room {
                        let _ = room.layers.set(layers);
                    }
                }
            }
        }
        let (mut replies, requests) = framed(new.cell, MAX_FROM_WORKER, MAX_TO_WORKER)?;
        match tokio::time::timeout(HELLO_LIMIT, replies.read()).await {
            Err(_) => return Err(GreetError::Late(HELLO_LIMIT)),
            Ok(Err(error)) => return Err(GreetError::NoHello(error)),
            Ok(Ok(FromWorker::Hello { version: PROTOCOL_VERSION, .. })) => {}
            Ok(Ok(_)) => return Err(GreetError::Version),
        }
        let control = Control::listen(new.control)?;
        let (stdout, stderr) = (Output::new(new.stdout)?, Output::new(new.stderr)?);
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
            room: new.room,
        })
    }

    /// What others may see of it.
    #[must_use]
    pub(crate) fn view(&self) -> WorkerView {
        WorkerView {
            pid: self.pid,
            born: self.born,
            control: Arc::clone(&self.control),
            black_box: Arc::clone(&self.black_box),
            room: self.room.clone(),
        }
    }

    /// Ends it, and all it started, behind: no session owns it any more. A caller that waits for that may stop waiting.
    pub(crate) fn retire(self, endings: &Endings) -> JoinHandle<()> {
        let endings = endings.clone();
        tokio::spawn(async move {
            endings.end(self.pid, &self.pidfd).await;
        })
    }

    /// Kills the process, after all that it started; its end is then heard as any other.
    pub(crate) async fn kill(&self) {
        // A server that is killed between the two leaves a worker that hears of it, and not a family without one.
        let pid = self.pid;
        let _ = tokio::task::spawn_blocking(move || processes::kill_family(pid)).await;
        let _ = self.pidfd.get_ref().signal(Signal::SIGKILL);
        let _ = fault::at("server.killed", 0);
    }
}
