//! The server becomes another program, by exec: what it takes along, and when it may.
//!
//! Runs in: server, before the exec and after it. Nothing is given away before the exec: whatever is refused, or fails, the server
//! goes on as it was. Sessions are taken along with their workers, checkpoints, images, histories and kept replies, and with the cells
//! that run and wait in them: workers run on, and what they write waits in its pipes. Work of the server's own tools (scripts,
//! notebooks, installs) cannot be taken along. The process keeps its number: its workers, and a process that waits for its end,
//! notice nothing.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{sys::wait::waitpid, unistd::Pid};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    health::{
        alerts::{Book, PackedBook},
        evidence::Phase,
    },
    owner::Owner,
    sessions::{
        active::{ActiveSessions, Client},
        context::Surroundings,
        handle::Session,
        images::{Images, packed::PackedImages},
        occurrences::{Occurrences, PackedOccurrences},
        packed::{Edge, PackedSession},
        registry::Registry,
    },
    traces,
    workers::children::Children,
};
use crate::{
    protocol::{Confinement, PROTOCOL_VERSION},
    settings::{policy::SleepBounds, resolve::hand_on_token},
    sys::{
        descriptors, lifeline,
        parcel::{self, Parcel},
        programs,
        scratch::Scratch,
        signals::Deaf,
    },
};

/// Version of what is taken along ([`Packed`], and all that it is made of).
const STATE_VERSION: u32 = 2;
/// How long the other program may take to say what it understands.
const PROBE: Duration = Duration::from_secs(20);
/// How long the traces of this program may take to be sent, while all stands still.
const LAST_TRACES: Duration = Duration::from_millis(300);
/// How often a session that is just at something short is looked at again, and for how long.
const LOOK: Duration = Duration::from_millis(20);
const PASSES: Duration = Duration::from_secs(10);

/// What a program must say to be understood: it reads this state, and its workers speak this protocol.
#[must_use]
pub(crate) fn understood() -> String {
    format!("forkpy state {STATE_VERSION}, protocol {PROTOCOL_VERSION}")
}

/// How a program begins that understands the state, and could not be this server all the same.
const CANNOT: &str = "forkpy cannot: ";

/// What a program says that could not be a server with that command line.
#[must_use]
pub(crate) fn cannot(why: &dyn std::fmt::Display) -> String {
    format!("{CANNOT}{why:#}")
}

/// Why the server stays the program that it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{} cannot be run: {source}", program.display())]
    Program { program: PathBuf, source: io::Error },
    #[error(
        "{} does not understand this server's state: it says {says:?}, and would have to say {:?}. Nothing was touched. \
         forkpy stop, and the next client, start it, without these sessions", program.display(), understood()
    )]
    Stranger { program: PathBuf, says: String },
    #[error(
        "{} cannot be started with this server's settings: {why}. Nothing was touched. Put that right, and restart then",
        program.display()
    )]
    Settings { program: PathBuf, why: String },
    #[error(
        "session {session:?} cannot be taken along now: {what}. Nothing was touched. Wait for it (wait_for_cell) or end it \
         (interrupt_cell), and restart then"
    )]
    Busy {
        session: String,
        what: String,
        /// It will be over in a moment.
        passes: bool,
    },
    #[error(
        "session {0:?} is confined (--sandbox): the kernel asks this very process what it may connect to, and no other program \
         can go on with that. Nothing was touched. Save what is needed (save_session), and end the server (forkpy stop, or \
         SIGTERM over HTTP); the next one is the new program"
    )]
    Confined(String),
    #[error("{0}. Nothing was touched. Wait for it (wait_for_cell) or end it (interrupt_cell), and restart then")]
    AtWork(&'static str),
    #[error(
        "{0} clients are of an older forkpy, which cannot wait for a restart. Nothing was touched. Close them, and restart then"
    )]
    Stiff(usize),
    #[error("{count} clients did not come to rest within {} s; they go on with this server", limit.as_secs())]
    Clients { count: usize, limit: Duration },
    #[error("the state could not be packed: {0}; nothing was touched")]
    Pack(#[source] io::Error),
    #[error("{} could not be started in this one's place: {source}. The server goes on", program.display())]
    Exec { program: PathBuf, source: io::Error },
}

/// A program that understands this one's state.
#[derive(Debug)]
pub(crate) struct Program(PathBuf);

impl Program {
    /// Asks a program whether it can go on as this server, with that command line; this one's own file, which may be a newer one by
    /// now, when none is named.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) async fn checked(
        named: Option<PathBuf>,
        args: Vec<OsString>,
        children: &Children,
    ) -> Result<Self, Refused> {
        let program = match named {
            Some(program) => program,
            None => own_file().map_err(|source| Refused::Program { program: "/proc/self/exe".into(), source })?,
        };
        let (children, asked) = (children.clone(), program.clone());
        let said = tokio::task::spawn_blocking(move || ask(&asked, args, &children)).await;
        match said.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(says) if says == understood() => Ok(Self(program)),
            Ok(says) => match says.strip_prefix(CANNOT) {
                Some(why) => Err(Refused::Settings { program, why: why.to_owned() }),
                None => Err(Refused::Stranger { program, says }),
            },
            Err(source) => Err(Refused::Program { program, source }),
        }
    }
}

/// Where this program was started from, whatever is there now.
fn own_file() -> io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// What a program says that it understands. Blocking.
fn ask(program: &Path, args: Vec<OsString>, children: &Children) -> io::Result<String> {
    let (ours, theirs) = descriptors::pipe()?;
    let mut command = Command::new(program);
    command.arg("__state").arg("--").args(args).stdin(Stdio::null()).stdout(theirs).stderr(Stdio::null());
    hand_on_token(&mut command);
    programs::lead_and_die_with_us(&mut command);
    let pid = children.spawn(&mut command)?;
    drop(command);
    let said = read_all(ours);
    if said.is_err() {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = waitpid(Pid::from_raw(pid), None);
    children.remove(pid);
    said
}

fn read_all(ours: OwnedFd) -> io::Result<String> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let limit = PollTimeout::try_from(PROBE).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(ours.as_fd(), PollFlags::POLLIN)], limit)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut text = String::new();
    std::fs::File::from(ours).take(4096).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// What a server takes along.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Packed {
    scratch: (PathBuf, RawFd),
    /// Where the kernel counts the memory of sessions.
    lifelines: Vec<RawFd>,
    images: Option<PackedImages>,
    sessions: Vec<PackedSession>,
    active: Vec<(Client, (String, u64))>,
    /// What owners have taken: on which day, and how many seconds.
    quotas: Vec<((u8, String), i64, f64)>,
    alerts: PackedBook,
    occurrences: PackedOccurrences,
    /// It takes no new sessions.
    drains: bool,
    /// Calls that have become tasks, as the tools have packed them.
    pub(crate) tasks: String,
    door: Door,
}

/// Where clients come to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Door {
    Fronts(Fronts),
    Http(Http),
}

/// What is taken along of a server that is reached over HTTP.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Http {
    pub(crate) listener: RawFd,
    /// How clients of earlier protocols have opened their sessions.
    pub(crate) clients: Vec<(String, String)>,
    /// What they listen to.
    pub(crate) wishes: Vec<(String, Vec<String>)>,
}

/// What is taken along of the room that fronts come to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fronts {
    pub(crate) listener: RawFd,
    /// The number of the next front.
    pub(crate) next: usize,
    /// Since when there is a server (RFC 3339).
    pub(crate) since: String,
    /// How often it has become another program.
    pub(crate) restarts: u64,
}

/// Waits until all sessions can be taken along: what is short may end first.
///
/// # Errors
/// [`Refused`] names the first that cannot.
pub(crate) async fn ready(registry: &Registry) -> Result<(), Refused> {
    let began = Instant::now();
    loop {
        match registry.all_and_branches().iter().try_for_each(can_go) {
            Err(Refused::Busy { passes: true, .. }) if began.elapsed() < PASSES => tokio::time::sleep(LOOK).await,
            other => return other,
        }
    }
}

fn can_go(session: &Session) -> Result<(), Refused> {
    let status = session.shared.get();
    let name = session.id.to_string();
    if session.limits.confinement != Confinement::Off {
        return Err(Refused::Confined(name));
    }
    let (what, passes) = match status.phase {
        _ if session.runs.has_work() => ("a script, a notebook, an install or branches go on".to_owned(), false),
        Phase::Busy { .. } => return Ok(()),
        Phase::WaitingInput { cell, .. } => (format!("cell {cell} waits for input"), false),
        Phase::Starting => ("Python is starting".to_owned(), true),
        Phase::Serving { errand, .. } => (format!("it {}", errand.doing()), true),
        Phase::Idle | Phase::Dead | Phase::Asleep if status.waiting > 0 => ("calls wait for it".to_owned(), true),
        Phase::Idle | Phase::Dead | Phase::Asleep => return Ok(()),
    };
    Err(Refused::Busy { session: name, what, passes })
}

/// Packs all sessions. One that has just begun something short is waited for.
async fn pack_sessions(
    (registry, around): (&Registry, &Surroundings),
    (parcel, thaw): (&mut Parcel, &CancellationToken),
    edge: Edge,
) -> Result<Vec<PackedSession>, Refused> {
    let (mut packed, began) = (Vec::new(), Instant::now());
    for session in registry.all_and_branches() {
        loop {
            match PackedSession::of(&session, &around.checkpoints, (&mut *parcel, thaw), edge).await {
                Ok(one) => break packed.push(one),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    can_go(&session).or_else(|refused| match refused {
                        Refused::Busy { passes: true, .. } => Ok(()),
                        refused => Err(refused),
                    })?;
                    if began.elapsed() > PASSES {
                        let (session, what) = (session.id.to_string(), "it did not come to rest".to_owned());
                        return Err(Refused::Busy { session, what, passes: false });
                    }
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return Err(Refused::Pack(error)),
            }
        }
    }
    Ok(packed)
}

/// Packs all there is, and becomes the program. Comes back only when that fails; everything goes on then.
pub(crate) async fn become_program(
    Program(program): Program,
    args: impl Fn(RawFd) -> Vec<OsString>,
    (listener, mut door): (impl AsFd, Door),
    (registry, around, active): (&Registry, &Arc<Surroundings>, &ActiveSessions),
    (scratch, edge, tasks): (&Scratch, Edge, String),
) -> Refused {
    let (mut parcel, thaw) = (Parcel::default(), CancellationToken::new());
    // Whatever stands still goes on when this is left.
    let _thawed = thaw.clone().drop_guard();
    let sessions = match pack_sessions((registry, around), (&mut parcel, &thaw), edge).await {
        Ok(sessions) => sessions,
        Err(refused) => return refused,
    };
    // It may hold the descriptors of workers that are being made.
    around.spares.renew();
    around.zygote.end(&thaw).await;
    let count = sessions.len();
    traces::flush(LAST_TRACES);
    let packed = || {
        let listener = parcel.add(&listener)?;
        match &mut door {
            Door::Fronts(fronts) => fronts.listener = listener,
            Door::Http(http) => http.listener = listener,
        }
        let packed = Packed {
            scratch: scratch.pack(&mut parcel)?,
            lifelines: lifeline::pack(&mut parcel)?,
            images: Some(around.images.pack(&mut parcel)?),
            sessions,
            active: active.pack(),
            quotas: around.quotas.pack(),
            alerts: around.alerts.pack(),
            occurrences: around.occurrences.pack(),
            drains: around.drain.is_on(),
            tasks,
            door,
        };
        let text = postcard::to_stdvec(&packed).map_err(io::Error::other)?;
        Ok::<_, io::Error>((parcel.close(&text)?, listener))
    };
    let (text, listener) = match packed() {
        Ok(numbers) => numbers,
        Err(source) => return Refused::Pack(source),
    };
    // From here on to the exec no task has its turn: what one began now would be answered to a program that knows nothing of it.
    if registry.all_and_branches().len() != count {
        parcel.reopen();
        let (session, what) = ("(new)".to_owned(), "a session was made or ended just now".to_owned());
        return Refused::Busy { session, what, passes: false };
    }
    let mut command = Command::new(&program);
    command.arg0("forkpy").args(args(listener)).arg(format!("--adopt={text}"));
    hand_on_token(&mut command);
    let deaf = Deaf::begin();
    let source = command.exec();
    drop(deaf);
    parcel.reopen();
    Refused::Exec { program, source }
}

impl Packed {
    /// What the program before this one has packed.
    ///
    /// # Safety
    /// The number must be that with which this process was started, and taken once.
    pub(crate) unsafe fn open(number: RawFd) -> io::Result<Self> {
        // SAFETY: as the caller says.
        let text = unsafe { parcel::open(number) }?;
        postcard::from_bytes(&text).map_err(io::Error::other)
    }

    /// The directory for files of an hour, and the lifelines.
    pub(crate) fn scratch(&mut self) -> io::Result<Scratch> {
        let ends: io::Result<Vec<OwnedFd>> = std::mem::take(&mut self.lifelines)
            .into_iter()
            // SAFETY: the numbers come from the parcel, and are taken here only.
            .map(|number| unsafe { parcel::take(number) })
            .collect();
        lifeline::hold_on(ends?);
        // SAFETY: as above.
        let lock = unsafe { parcel::take(self.scratch.1) }?;
        Ok(Scratch::going_on(self.scratch.0.clone(), lock))
    }

    /// Where sessions sleep.
    pub(crate) fn images(&mut self, bounds: &SleepBounds, workspace: &Path) -> Option<io::Result<Images>> {
        // SAFETY: the numbers come from the parcel, and are taken here only.
        self.images.take().map(|packed| unsafe { Images::unpack(packed, bounds, workspace) })
    }

    /// Sessions go on. Those that do not are named.
    pub(crate) fn go_on(
        &mut self,
        registry: &Registry,
        around: &Arc<Surroundings>,
        edge: Edge,
    ) -> Vec<(Owner, String)> {
        let mut lost = Vec::new();
        for packed in std::mem::take(&mut self.sessions) {
            let (owner, id) = (packed.owner(), packed.id.clone());
            // SAFETY: the numbers come from the parcel, and each session has its own.
            match unsafe { packed.unpack(around, edge) } {
                Ok(session) => registry.go_on(session),
                Err(error) => {
                    tracing::error!(session = id, %error, "a session could not be taken along");
                    lost.push((owner, id));
                }
            }
        }
        around.images.all_are_back();
        lost
    }

    /// The alerts of its sessions.
    pub(crate) fn alerts(&mut self) -> Book {
        Book::unpack(std::mem::take(&mut self.alerts))
    }

    /// What has happened to them.
    pub(crate) fn occurrences(&mut self) -> Occurrences {
        Occurrences::unpack(std::mem::take(&mut self.occurrences))
    }

    /// Whether it drained.
    pub(crate) fn drains(&self) -> bool {
        self.drains
    }

    /// What owners have taken today.
    pub(crate) fn quotas(&mut self) -> Vec<((u8, String), i64, f64)> {
        std::mem::take(&mut self.quotas)
    }

    /// The room that fronts come to.
    pub(crate) fn fronts(self) -> Option<Fronts> {
        match self.door {
            Door::Fronts(fronts) => Some(fronts),
            Door::Http(_) => None,
        }
    }

    /// The clients over HTTP, and the listening socket.
    pub(crate) fn http(self) -> Option<(Http, OwnedFd)> {
        let Door::Http(http) = self.door else { return None };
        // SAFETY: the number comes from the parcel, and is taken here only.
        let listener = unsafe { parcel::take(http.listener) }.ok()?;
        Some((http, listener))
    }

    /// Clients go on in the sessions that they have chosen.
    pub(crate) fn choose(&mut self, active: &ActiveSessions) {
        active.go_on(std::mem::take(&mut self.active));
    }
}
