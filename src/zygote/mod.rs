//! Role 2, the zygote: starts CPython once, forks a worker on request, reports every worker's end, reaps when told.
//!
//! Runs in: zygote, one thread, GIL held from warm-up to the end. Uses pyo3 and `sys`; never tokio, never a second thread
//! at the moment of a fork. Its life: read `Start` → warm up → `Warm` → poll for requests and SIGCHLD until the server's
//! end of the socket closes, then kill whatever is left and exit.

pub(crate) mod embed;
mod fork;
mod interpreter;
mod preload;
mod readers;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signalfd::SignalFd,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use pyo3::Python;

use self::preload::Preloaded;
use crate::{
    protocol::{
        Confinement, FrameError, FromZygote, Ground, MAX_ZYGOTE, PROTOCOL_VERSION, Purpose, Script, ToZygote,
        WorkerExit, WorkerLimits, ZygoteSettings, blocking, frame::Assembler,
    },
    sys::{descriptors, fault, forks::Bystanders, guarded, lifeline, memory, processes, sibling, signals},
    worker::{
        self,
        confinement::{Cages, Entry},
    },
};

/// Idle time after which the second stage of warming up begins.
const SECOND_STAGE_AFTER_MS: u16 = 5;

/// Why a zygote ends other than by its server's wish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZygoteError {
    /// The server's socket broke or spoke another language.
    #[error("server channel failed: {0}")]
    Channel(#[from] FrameError),
    /// The first frame was not a `Start` of our version.
    #[error("server speaks protocol {theirs:?}, this zygote speaks {PROTOCOL_VERSION}")]
    Version {
        /// Its version, if it sent `Start` at all.
        theirs: Option<u32>,
    },
    /// CPython did not start.
    #[error("failed to start Python: {0}")]
    Interpreter(String),
    /// A system call failed.
    #[error("system call failed: {0}")]
    System(#[from] std::io::Error),
}

impl From<Errno> for ZygoteError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// The zygote's whole life. `stream` is the server's socket, `server` its process id; with `huge_pages` glibc was told of them
/// for this process, and what sessions start is not to be told.
///
/// # Errors
/// [`ZygoteError`]; the server has been told before where that was possible.
pub(crate) fn run(stream: UnixStream, server: i32, huge_pages: bool) -> Result<(), ZygoteError> {
    let started = Instant::now();
    if !signals::die_with_parent(server) {
        return Ok(());
    }
    signals::set_title("forkpy:zygote");
    guarded::close_to_others();
    let mut link = Link::new(stream);
    let settings = match link.await_start() {
        // The server ended before it had a use for this process.
        Err(ZygoteError::Channel(FrameError::Closed)) => return Ok(()),
        settings => settings?,
    };
    fault::arm(&settings.faults);
    let mut bystanders = Bystanders::of_emulator();
    link.received.pop().into_iter().for_each(lifeline::adopt);
    let warmed = interpreter::start(&settings, huge_pages).and_then(|()| {
        Python::attach(|py| {
            let functions = worker::Functions::load(py)?;
            let announce = |module: &str| drop(link.send(&FromZygote::Preloading { module: module.to_owned() }));
            let preloaded = preload::stage_one(py, &settings.preload, &mut bystanders, announce)?;
            Ok((functions, preloaded, interpreter::describe(py)?))
        })
        .map_err(|error: pyo3::PyErr| ZygoteError::Interpreter(error.to_string()))
    });
    let (functions, rejected, (python, executable)) = match warmed {
        Ok((functions, Preloaded::Without(rejected), described)) => (functions, rejected, described),
        Ok((_, Preloaded::Unforkable { module, threads }, _)) => {
            return Ok(link.send(&FromZygote::Unforkable { module, threads })?);
        }
        Err(error) => {
            let _ = link.send(&FromZygote::Failed { message: error.to_string() });
            return Err(error);
        }
    };
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let events = signals::child_events()?;
    link.send(&FromZygote::Warm { version: PROTOCOL_VERSION, python, executable, took_ms, rejected })?;
    let children = BTreeMap::new();
    let zygote = Zygote {
        link,
        events,
        settings,
        functions,
        bystanders,
        cages: Cages::default(),
        children,
        forks: 0,
        woken: 0,
        unwarmed: VecDeque::new(),
    };
    Python::attach(|py| zygote.serve(py))
}

/// The socket to the server: frames in, with descriptors, and frames out.
struct Link {
    stream: UnixStream,
    assembler: Assembler,
    received: Vec<OwnedFd>,
}

impl Link {
    fn new(stream: UnixStream) -> Self {
        Self { stream, assembler: Assembler::new(MAX_ZYGOTE), received: Vec::new() }
    }

    fn send(&self, message: &FromZygote) -> Result<(), FrameError> {
        blocking::write(&self.stream, message, MAX_ZYGOTE)
    }

    fn await_start(&mut self) -> Result<ZygoteSettings, ZygoteError> {
        loop {
            match self.assembler.take()? {
                Some(ToZygote::Start { version: PROTOCOL_VERSION, settings }) => return Ok(settings),
                Some(ToZygote::Start { version, .. }) => return Err(ZygoteError::Version { theirs: Some(version) }),
                Some(_) => return Err(ZygoteError::Version { theirs: None }),
                None => {}
            }
            if !self.receive()? {
                return Err(FrameError::Closed.into());
            }
        }
    }

    /// Takes what has arrived; false at the end of the channel.
    fn receive(&mut self) -> Result<bool, ZygoteError> {
        let mut bytes = [0; 16 << 10];
        let count = descriptors::receive_with(&self.stream, &mut bytes, &mut self.received)?;
        self.assembler.push(&bytes[..count]);
        Ok(count > 0)
    }
}

/// A child, living or dead, that has not been reaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Child {
    Running,
    /// It has ended and the server knows.
    Reported,
    /// The server wants to hear no more of it: to be reaped when it ends.
    Unwanted,
}

struct Zygote {
    link: Link,
    events: SignalFd,
    settings: ZygoteSettings,
    functions: worker::Functions,
    /// Threads that libraries have started here.
    bystanders: Bystanders,
    /// What confined children are shut into.
    cages: Cages,
    children: BTreeMap<i32, Child>,
    /// Forks asked for so far.
    forks: u64,
    /// Images of which one was to be woken.
    woken: u64,
    /// What is imported while no request waits, and is not yet.
    unwarmed: VecDeque<String>,
}

impl Zygote {
    fn serve(mut self, py: Python<'_>) -> Result<(), ZygoteError> {
        self.unwarmed = preload::second_stage(py).unwrap_or_default();
        memory::leave_room();
        loop {
            let timeout =
                if self.unwarmed.is_empty() { PollTimeout::NONE } else { PollTimeout::from(SECOND_STAGE_AFTER_MS) };
            let (request, child) = self.wait(timeout)?;
            if child {
                while let Ok(Some(_)) = self.events.read_signal() {}
                self.report_exits()?;
            }
            if request {
                if !self.link.receive()? {
                    let _ = fault::at("zygote.ending", 0);
                    self.leave_them();
                    return Ok(());
                }
                while let Some(message) = self.link.assembler.take()? {
                    self.obey(py, message)?;
                }
            } else if !child {
                self.warm_more(py);
            }
        }
    }

    /// Imports one module of the second stage. False when all are there.
    fn warm_more(&mut self, py: Python<'_>) -> bool {
        let Some(module) = self.unwarmed.pop_front() else { return false };
        let last = self.unwarmed.is_empty();
        preload::import_behind(py, &module, last);
        memory::leave_room();
        // It runs code of the environment, which is for confined processes where there are those.
        if last && self.settings.confinement.mode == Confinement::Off {
            let reader = readers::begin(py, &mut self.bystanders);
            self.children.extend(reader.map(|pid| (pid, Child::Unwanted)));
        }
        true
    }

    fn wait(&self, timeout: PollTimeout) -> Result<(bool, bool), ZygoteError> {
        let mut waiting = [
            PollFd::new(self.link.stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok((waiting[0].any().unwrap_or(false), waiting[1].any().unwrap_or(false)))
    }

    fn obey(&mut self, py: Python<'_>, message: ToZygote) -> Result<(), ZygoteError> {
        match message {
            ToZygote::Start { .. } => Err(ZygoteError::Version { theirs: None }),
            ToZygote::Fork { worker, purpose, limits, room, ground } => {
                self.fork(py, worker, purpose, (limits, room, ground))
            }
            ToZygote::Refresh => {
                self.functions.refresh(py, &[]);
                Ok(())
            }
            ToZygote::Reap { pid } => {
                self.reap(pid);
                Ok(())
            }
        }
    }

    fn fork(
        &mut self,
        py: Python<'_>,
        worker: u64,
        purpose: Purpose,
        (limits, room, ground): (WorkerLimits, Option<String>, Option<Box<Ground>>),
    ) -> Result<(), ZygoteError> {
        let taken = self.link.received.len().min(purpose.descriptors());
        let passed: Vec<OwnedFd> = self.link.received.drain(..taken).collect();
        self.forks += 1;
        if fault::at("zygote.fork", self.forks) {
            let message = "a fault was injected".to_owned();
            return Ok(self.link.send(&FromZygote::ForkFailed { worker, message })?);
        }
        if purpose == Purpose::Image {
            let answer = self.wake_image(worker, passed);
            return Ok(self.link.send(&answer)?);
        }
        if purpose == Purpose::Base {
            // Forks of later share with it what is there now: one that is written too early makes all their images large.
            while self.warm_more(py) {}
            let answer = self.write_base(worker, passed);
            return Ok(self.link.send(&answer)?);
        }
        let elsewhere = ground.map(|ground| self.settings_at(*ground));
        let settings = elsewhere.as_ref().unwrap_or(&self.settings);
        let own;
        let cage = match &purpose {
            Purpose::Script(Script { installing: Some(installing), .. }) => {
                own = self.cages.for_installing(py, &self.functions, settings, installing);
                own.as_ref().map(Some).map_err(ToString::to_string)
            }
            _ if elsewhere.is_some() && limits.confinement != Confinement::Off => {
                own = self.cages.elsewhere(limits.confinement, (py, &self.functions), settings);
                own.as_ref().map(Some).map_err(ToString::to_string)
            }
            _ => {
                let made = self.cages.of(limits.confinement, py, &self.functions, &self.settings);
                made.map_err(|error| error.to_string())
            }
        };
        let cage = match cage {
            Ok(cage) => cage,
            Err(error) => {
                let message = format!("the sandbox could not be made ready: {error}");
                return Ok(self.link.send(&FromZygote::ForkFailed { worker, message })?);
            }
        };
        self.functions.remember(py);
        let room = room.unwrap_or_default();
        let entry = cage.map(|cage| Entry { cage, room: Path::new(&room) });
        let answer = match Birth::new(purpose, limits, passed) {
            None => FromZygote::ForkFailed { worker, message: "descriptors did not arrive".to_owned() },
            Some(birth) => match fork::fork(py, &mut self.bystanders) {
                Ok(fork::Side::Child) => birth.live(py, &self.functions, settings, entry),
                Ok(fork::Side::Parent { child }) => {
                    self.children.insert(child, Child::Running);
                    FromZygote::Forked { worker, pid: child }
                }
                Err(error) => FromZygote::ForkFailed { worker, message: error.to_string() },
            },
        };
        Ok(self.link.send(&answer)?)
    }

    /// The settings of a process that works elsewhere.
    fn settings_at(&self, ground: Ground) -> ZygoteSettings {
        let Ground { workspace, outputs, environment } = ground;
        ZygoteSettings { workspace, outputs, own: Some(environment), ..self.settings.clone() }
    }

    /// Forks a process that becomes the checkpoint of an image. It is the server's child, as checkpoints are.
    fn wake_image(&mut self, worker: u64, passed: Vec<OwnedFd>) -> FromZygote {
        let Ok([image, base, link]) = <[OwnedFd; 3]>::try_from(passed) else {
            return FromZygote::ForkFailed { worker, message: "descriptors did not arrive".to_owned() };
        };
        self.woken += 1;
        match fork::fork_sibling(&mut self.bystanders) {
            Ok(sibling::Side::Child) => {
                guarded::open_to_others();
                worker::asleep::become_checkpoint((image, base), link, self.woken)
            }
            Ok(sibling::Side::Parent { child }) => FromZygote::Forked { worker, pid: child },
            Err(error) => FromZygote::ForkFailed { worker, message: error.to_string() },
        }
    }

    /// Forks a process that writes what this one has in memory, runs no Python and ends.
    fn write_base(&mut self, worker: u64, passed: Vec<OwnedFd>) -> FromZygote {
        let Ok([file, link]) = <[OwnedFd; 2]>::try_from(passed) else {
            return FromZygote::ForkFailed { worker, message: "descriptors did not arrive".to_owned() };
        };
        match fork::fork_bare(&mut self.bystanders) {
            Ok(fork::Side::Child) => {
                guarded::open_to_others();
                worker::asleep::write_base(&file, link)
            }
            Ok(fork::Side::Parent { child }) => {
                self.children.insert(child, Child::Running);
                FromZygote::Forked { worker, pid: child }
            }
            Err(error) => FromZygote::ForkFailed { worker, message: error.to_string() },
        }
    }

    /// Tells the server of every child that has ended, leaving it a zombie until the server says `Reap`.
    fn report_exits(&mut self) -> Result<(), ZygoteError> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.reap_unwanted();
        for (pid, child) in self.children.iter_mut().filter(|(_, child)| **child == Child::Running) {
            let exit = match waitid(Id::Pid(Pid::from_raw(*pid)), flags) {
                Ok(WaitStatus::StillAlive) => continue,
                Ok(status) => WorkerExit::of(status),
                Err(_) => WorkerExit::Unknown,
            };
            *child = Child::Reported;
            self.link.send(&FromZygote::Exited { pid: *pid, exit })?;
        }
        Ok(())
    }

    fn reap(&mut self, pid: i32) {
        if let Some(child) = self.children.get_mut(&pid) {
            *child = Child::Unwanted;
            self.reap_unwanted();
        }
    }

    fn reap_unwanted(&mut self) {
        let lives = |pid: i32| {
            let waited = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
            matches!(waited, Ok(WaitStatus::StillAlive))
        };
        self.children.retain(|pid, child| *child != Child::Unwanted || lives(*pid));
    }

    /// The server is gone, and so are we; the kernel may end us at any moment for it. Workers and scripts hear of it
    /// themselves and end with all they started, which only they can be sure to know: none is killed over its own work.
    /// What else Python's imports have started here is ended.
    fn leave_them(&self) {
        let ours: HashSet<i32> = self.children.keys().copied().collect();
        processes::kill_children_but(&ours);
    }
}

/// What a child is to be, with all it needs.
enum Birth {
    Worker(worker::Assignment),
    Script(worker::script::Errand),
}

impl Birth {
    /// `None` when descriptors are missing.
    fn new(purpose: Purpose, limits: WorkerLimits, descriptors: Vec<OwnedFd>) -> Option<Self> {
        match purpose {
            Purpose::Session { name: session } => {
                let [cell, control, stdout, stderr, black_box] = descriptors.try_into().ok()?;
                Some(Self::Worker(worker::Assignment { session, limits, cell, control, stdout, stderr, black_box }))
            }
            Purpose::Script(script) => {
                let [source, lifeline, stdout, stderr] = descriptors.try_into().ok()?;
                Some(Self::Script(worker::script::Errand { script, limits, source, lifeline, stdout, stderr }))
            }
            Purpose::Image | Purpose::Base => None,
        }
    }

    /// In the child of the fork: its whole life.
    fn live(
        self,
        py: Python<'_>,
        functions: &worker::Functions,
        settings: &ZygoteSettings,
        entry: Option<Entry<'_>>,
    ) -> ! {
        guarded::open_to_others();
        match self {
            Self::Worker(assignment) => worker::run(py, assignment, functions, settings, entry),
            Self::Script(errand) => worker::script::run(py, errand, functions, settings, entry),
        }
    }
}
