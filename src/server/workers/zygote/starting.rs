//! One start of a zygote, to the word that it is warm: with what it is to import, and without what stands in its way.
//!
//! Runs in: server, in the owner task or beside it: the next generation is made while the one before serves.

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::UnixStream as StdStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{io::unix::AsyncFd, sync::oneshot};

use super::{
    births::{Lease, ZygoteError},
    exits::Exits,
    image::{Begun, Found, Name, Store},
    spawner::{Environment, Spawner},
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
        workers::{children::Children, process::watch as watch_process},
    },
    sys::{descriptors, pidfd::PidFd},
};

/// How long the imports of one that no session waits for may take.
const LONGEST: Duration = Duration::from_secs(120);

pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) pidfd: AsyncFd<PidFd>,
    pub(super) reader: FrameReader,
    /// For writing with descriptors attached; the reader's half never writes.
    pub(super) socket: StdStream,
    /// Forks asked for and not answered, in order.
    pub(super) pending: VecDeque<(u64, oneshot::Sender<Result<Lease, ZygoteError>>)>,
    /// Since when the oldest of them waits.
    pub(super) oldest: Option<tokio::time::Instant>,
    /// The image that it was woken from, until it has forked.
    pub(super) unproven: Option<Name>,
}

/// How a start went.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Started {
    Warm(Process, Stage),
    /// A module has spoilt it.
    Spoilt {
        module: String,
        reason: String,
    },
}

/// One that is ready to serve.
pub(super) struct Ready {
    pub(super) process: Process,
    /// What those who wait for it are told.
    pub(super) stage: Stage,
    /// What it imports of its own accord, as far as it could.
    pub(super) modules: Vec<String>,
    /// What it could not, with reasons.
    pub(super) left_out: Vec<(String, String)>,
}

/// Starts zygotes.
#[derive(Clone)]
pub(super) struct Starter {
    pub(super) spawner: Spawner,
    pub(super) children: Children,
    pub(super) exits: Arc<Exits>,
    /// Where images of zygotes are, when they are wanted.
    pub(super) store: Option<Arc<dyn Store>>,
}

impl Starter {
    /// Starts one that can fork: a module of `--preload` that stands in its way is left out, from now on.
    pub(super) async fn first(&self, settings: &mut ZygoteSettings) -> Result<Ready, ZygoteError> {
        loop {
            match self.start(settings, &[], None, self.store.is_some()).await? {
                (Started::Warm(process, stage), _) => {
                    return Ok(Ready { process, stage, modules: Vec::new(), left_out: Vec::new() });
                }
                (Started::Spoilt { module, reason }, _) => {
                    tracing::warn!(module, reason, "left out of --preload: sessions import it themselves");
                    settings.preload.retain(|name| *name != module);
                }
            }
        }
    }

    /// Starts one that imports these modules too, without those that stand in its way.
    pub(super) async fn next(self, settings: ZygoteSettings, modules: Vec<String>) -> Result<Ready, ZygoteError> {
        let (mut modules, mut left_out) = (modules, Vec::new());
        loop {
            let limit = tokio::time::Instant::now() + LONGEST;
            let (started, rejected) = self.start(&settings, &modules, Some(limit), false).await?;
            modules.retain(|name| rejected.iter().all(|(rejected, _)| rejected != name));
            left_out.extend(rejected);
            match started {
                Started::Warm(process, stage) => return Ok(Ready { process, stage, modules, left_out }),
                Started::Spoilt { module, reason } if modules.contains(&module) => {
                    modules.retain(|name| *name != module);
                    left_out.push((module, reason));
                }
                Started::Spoilt { module, reason } => {
                    return Err(ZygoteError::NotStarted(format!("{module}: {reason}")));
                }
            }
        }
    }

    /// Starts a process in that role, with the number of its socket there.
    pub(super) async fn spawn(&self, environment: Option<Environment>) -> Result<(Process, RawFd), ZygoteError> {
        let (socket, theirs) = StdStream::pair()?;
        let number = theirs.as_raw_fd();
        let pid = self.spawner.spawn(theirs, environment).await?;
        let (pidfd, reader) = (watch_process(pid)?, FrameReader::alone(socket.try_clone()?, MAX_ZYGOTE)?);
        let process = Process { pid, pidfd, reader, socket, pending: VecDeque::new(), oldest: None, unproven: None };
        Ok((process, number))
    }

    /// Starts one; with the modules that could not be imported. From an image, if there is one that is of use.
    async fn start(
        &self,
        settings: &ZygoteSettings,
        more: &[String],
        limit: Option<tokio::time::Instant>,
        by_image: bool,
    ) -> Result<(Started, Vec<(String, String)>), ZygoteError> {
        let began = Instant::now();
        let (spawned, found) = tokio::join!(self.spawn(None), self.look(settings, by_image));
        let (mut process, number) = spawned?;
        let why = match found {
            Found::None(why) => why,
            Found::Files(name, files) => match self.wake(&mut process, &files, settings, number).await {
                Ok((python, executable)) => {
                    process.unproven = Some(name);
                    let begun = Begun { from_image: true, took: began.elapsed(), why: None };
                    let stage = warm(process.pid, (python, executable), Vec::new(), begun);
                    return Ok((Started::Warm(process, stage), Vec::new()));
                }
                Err(why) => {
                    self.bury(process).await;
                    self.give_up(name).await;
                    tracing::warn!("the zygote's image is given up: {why}");
                    (process, _) = self.spawn(None).await?;
                    Some(why)
                }
            },
        };
        self.start_ordinarily(process, (settings, more), limit, (began, why)).await
    }

    /// Has a new process start Python.
    async fn start_ordinarily(
        &self,
        mut process: Process,
        (settings, more): (&ZygoteSettings, &[String]),
        limit: Option<tokio::time::Instant>,
        (began, why): (Instant, Option<String>),
    ) -> Result<(Started, Vec<(String, String)>), ZygoteError> {
        let not_started = |error: &dyn std::fmt::Display| ZygoteError::NotStarted(error.to_string());
        let mut settings = settings.clone();
        settings.preload.extend_from_slice(more);
        let start = ToZygote::Start { version: PROTOCOL_VERSION, settings };
        send(&process.socket, &start, &[self.spawner.lifeline.as_fd()]).map_err(|error| not_started(&error))?;
        let mut importing = None;
        let report = tokio::select! {
            report = hear(&mut process.reader, &mut importing) => report,
            () = sleep_until(limit) => {
                self.bury(process).await;
                let module = importing.ok_or_else(|| not_started(&"it took too long"))?;
                let reason = format!("its import took longer than {} s", LONGEST.as_secs());
                return Ok((Started::Spoilt { module, reason }, Vec::new()));
            }
        };
        let fault = match report {
            Ok(FromZygote::Warm { version: PROTOCOL_VERSION, python, executable, rejected, .. }) => {
                for (module, reason) in &rejected {
                    tracing::warn!(module, reason, "could not preload");
                }
                let modules = more.iter().filter(|name| rejected.iter().all(|(rejected, _)| rejected != *name));
                let begun = Begun { from_image: false, took: began.elapsed(), why };
                let stage = warm(process.pid, (python, executable), modules.cloned().collect(), begun);
                return Ok((Started::Warm(process, stage), rejected));
            }
            Ok(FromZygote::Unforkable { module, threads }) => {
                let reason = format!("it starts threads that do not survive a fork ({})", threads.join(", "));
                Ok((Started::Spoilt { module, reason }, Vec::new()))
            }
            Ok(FromZygote::Failed { message }) => Err(not_started(&message)),
            Ok(_) => Err(not_started(&"the zygote did not begin with `Warm` of our version")),
            Err(error) => match importing {
                Some(module) => {
                    let reason = "the process ended while it was imported".to_owned();
                    Ok((Started::Spoilt { module, reason }, Vec::new()))
                }
                None => Err(not_started(&error)),
            },
        };
        self.bury(process).await;
        fault
    }

    /// An image is of no use.
    pub(super) async fn give_up(&self, name: Name) {
        if let Some(store) = self.store.clone() {
            let _ = tokio::task::spawn_blocking(move || store.discard(&name)).await;
        }
    }

    /// Ends a zygote for good and reaps it. Its workers, if any, become the server's children.
    pub(super) async fn bury(&self, mut process: Process) {
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

/// It serves.
fn warm(pid: i32, (python, executable): (String, String), modules: Vec<String>, begun: Begun) -> Stage {
    counters::zygote_started();
    let (from, why) = (if begun.from_image { "image" } else { "start" }, begun.why.as_deref().unwrap_or_default());
    tracing::info!(pid, python, executable, took_ms = begun.took.as_millis(), from, why, "zygote is warm");
    Stage::Warm { pid, python, executable, modules, begun }
}

/// Its first report that is more than the name of what it imports.
async fn hear(reader: &mut FrameReader, importing: &mut Option<String>) -> Result<FromZygote, FrameError> {
    loop {
        match reader.read().await {
            Ok(FromZygote::Preloading { module }) => *importing = Some(module),
            report => return report,
        }
    }
}

/// Writes one frame with descriptors. Never blocks: when a zygote is stopped and hundreds of forks wait, the next one is
/// refused.
pub(super) fn send(socket: &StdStream, message: &ToZygote, passed: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
    let bytes = frame::encode(message, MAX_ZYGOTE)?;
    descriptors::send_with(socket, &bytes, passed).map_err(FrameError::Io)
}
