//! Role 2, the zygote: starts CPython once, forks a worker on request, reports every worker's end, reaps when told.
//!
//! Runs in: zygote, one thread, GIL held from warm-up to the end. Uses pyo3 and `sys`; never tokio, never a second thread
//! at the moment of a fork. Its life: read `Start` → warm up → `Warm` → poll for requests and SIGCHLD until the server's
//! end of the socket closes, then kill whatever is left and exit.

pub(crate) mod embed;
mod error;
mod fork;
mod image;
mod interpreter;
mod link;
mod preload;
pub(crate) mod pythons;
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

use self::{
    error::ZygoteError,
    link::{First, Link},
    preload::Preloaded,
};
use crate::{
    protocol::{
        Confinement, FrameError, FromZygote, Ground, PROTOCOL_VERSION, Purpose, Script, ToZygote, WorkerExit,
        WorkerLimits, ZygoteSettings,
    },
    sys::{fault, forks::Bystanders, guarded, memory, processes, sibling, signals},
    worker::{
        self,
        confinement::{Cages, Entry},
    },
};

/// Idle time after which the second stage of warming up begins.
const SECOND_STAGE_AFTER_MS: u16 = 5;

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
    let mut link = Link::new(stream);
    let (settings, is_seed) = match link.await_start() {
        Ok(First::Start(settings)) => (settings, false),
        Ok(First::Seed(settings)) => (settings, true),
        Ok(First::Wake(faults)) => image::become_zygote(link, &faults),
        // The server ended before it had a use for this process.
        Err(ZygoteError::Channel(FrameError::Closed)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if !is_seed {
        guarded::close_to_others();
    }
    // A zygote that is woken from this one has failures of its own.
    if !is_seed || settings.faults.contains("zygote.image") {
        fault::arm(&settings.faults);
    }
    let mut bystanders = Bystanders::of_emulator();
    let warmed = match warm(&link, &settings, &mut bystanders, huge_pages) {
        Ok(Some(warmed)) => warmed,
        Ok(None) => return Ok(()),
        Err(error) => {
            let _ = link.send(&FromZygote::Failed { message: error.to_string() });
            return Err(error);
        }
    };
    let Warmed { functions, rejected } = warmed;
    let mut settings = settings;
    if is_seed {
        match Python::attach(|py| image::write(py, &mut link, &mut bystanders, huge_pages))? {
            image::Side::Done => return Ok(()),
            image::Side::Woken(told) => settings = *told,
        }
    }
    let described = Python::attach(interpreter::describe);
    let (python, executable) = described.map_err(|error| ZygoteError::Interpreter(error.to_string()))?;
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
        is_to_read: is_seed,
    };
    Python::attach(|py| zygote.serve(py))
}

/// What a warm interpreter is used by.
struct Warmed {
    functions: worker::Functions,
    /// Modules that could not be preloaded, with reasons.
    rejected: Vec<(String, String)>,
}

/// Starts the interpreter. None where what it was to import has made it one that cannot be forked, which the server knows then.
fn warm(
    link: &Link,
    settings: &ZygoteSettings,
    bystanders: &mut Bystanders,
    huge_pages: bool,
) -> Result<Option<Warmed>, ZygoteError> {
    interpreter::start(settings, huge_pages)?;
    let warmed = Python::attach(|py| {
        let functions = worker::Functions::load(py)?;
        let announce = |module: &str| drop(link.send(&FromZygote::Preloading { module: module.to_owned() }));
        Ok((functions, preload::stage_one(py, &settings.preload, bystanders, announce)?))
    });
    match warmed.map_err(|error: pyo3::PyErr| ZygoteError::Interpreter(error.to_string()))? {
        (functions, Preloaded::Without(rejected)) => Ok(Some(Warmed { functions, rejected })),
        (_, Preloaded::Unforkable { module, threads }) => {
            link.send(&FromZygote::Unforkable { module, threads })?;
            Ok(None)
        }
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
    /// All that is imported already: what is done behind the last of it is not yet.
    is_to_read: bool,
}

impl Zygote {
    fn serve(mut self, py: Python<'_>) -> Result<(), ZygoteError> {
        if !self.is_to_read {
            self.unwarmed = preload::second_stage(py).unwrap_or_default();
        }
        memory::leave_room();
        loop {
            let is_done = self.unwarmed.is_empty() && !self.is_to_read;
            let timeout = if is_done { PollTimeout::NONE } else { PollTimeout::from(SECOND_STAGE_AFTER_MS) };
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
        let Some(module) = self.unwarmed.pop_front() else {
            if std::mem::take(&mut self.is_to_read) {
                self.begin_reader(py);
            }
            return false;
        };
        let last = self.unwarmed.is_empty();
        preload::import_behind(py, &module, last);
        memory::leave_room();
        if last {
            self.begin_reader(py);
        }
        true
    }

    /// It runs code of the environment, which is for confined processes where there are those.
    fn begin_reader(&mut self, py: Python<'_>) {
        if self.settings.confinement.mode == Confinement::Off {
            let reader = readers::begin(py, &mut self.bystanders);
            self.children.extend(reader.map(|pid| (pid, Child::Unwanted)));
        }
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
            ToZygote::Start { .. } | ToZygote::Seed { .. } | ToZygote::Wake { .. } | ToZygote::GoOn { .. } => {
                Err(ZygoteError::Version { theirs: None })
            }
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
                Ok(fork::Side::Child) => {
                    let _ = fault::at("zygote.born", self.forks);
                    birth.live(py, &self.functions, settings, entry)
                }
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
        self.reap_strangers();
        Ok(())
    }

    /// What code of a session has made a child of this process is no other's to reap. What Python's imports have started here
    /// they may wait for themselves.
    fn reap_strangers(&self) {
        let own = processes::look_up(std::process::id().cast_signed());
        let children = processes::children(std::process::id().cast_signed()).unwrap_or_default();
        let strangers =
            children.into_iter().filter(|pid| !self.children.contains_key(pid)).filter_map(processes::look_up);
        for stranger in strangers.filter(|child| own.is_some_and(|own| own.session != child.session)) {
            let _ = waitid(Id::Pid(Pid::from_raw(stranger.pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        }
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
