//! One checkpoint: a process that stands still, and the socket by which it is asked for workers.
//!
//! Runs in: server. The process is the server's own child (`sys/sibling.rs`), so that it outlives the worker it is of and
//! the zygote that one came from. It is registered among our children before it can be taken for a stray.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::{
        FrameError, FromCheckpoint, MAX_ZYGOTE, Missed, PROTOCOL_VERSION, ToCheckpoint,
        asynchronous::{FrameReader, FrameWriter, framed},
    },
    server::workers::{
        children::{Children, Expected},
        incarnation::Incarnation,
        link::Worker,
        process::watch,
        twin::{self, Twin},
        zygote::{Ends, GreetError, Zygote},
    },
    sys::{
        fault,
        parcel::{self, Parcel},
        pidfd::PidFd,
        room::Room,
    },
};

/// How long a checkpoint may take for what a fork has to do in its child, and for a fork.
const LIMIT: Duration = Duration::from_secs(30);

static NUMBERS: AtomicU64 = AtomicU64::new(1);
/// Number of the newest checkpoint of all, 0 when there was none.
#[must_use]
pub(crate) fn newest() -> u64 {
    NUMBERS.load(Ordering::Relaxed) - 1
}

/// A checkpoint cannot be used to start a worker.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {name:?} cannot be used: {why}")]
pub(crate) struct CheckpointError {
    pub(crate) name: String,
    #[source]
    pub(crate) why: Useless,
}

/// Why.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Useless {
    #[error("its session has been deleted")]
    Over,
    #[error("its process has ended")]
    Ended,
    #[error("its process did not answer within {} s", LIMIT.as_secs())]
    Silent,
    #[error("it did not speak our protocol version")]
    Version,
    #[error("it spoke out of turn")]
    OutOfTurn,
    #[error("{0}")]
    Frame(Arc<FrameError>),
    /// It stands as before, and may be asked again.
    #[error("no worker could be forked of it: {0}")]
    NotForked(String),
    #[error("it could not be woken: {0}")]
    NotWoken(String),
    #[error("{0}")]
    NotReady(Arc<GreetError>),
    #[error("the server is out of descriptors: {0}")]
    Io(Arc<io::Error>),
    #[error("the server failed: {0}")]
    Panic(Arc<tokio::task::JoinError>),
}

impl From<io::Error> for Useless {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<FrameError> for Useless {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed | FrameError::Io(_) => Self::Ended,
            other => Self::Frame(Arc::new(other)),
        }
    }
}

/// A checkpoint has not written itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotWritten {
    /// What would be lost, a sentence each; it stands as before.
    #[error("{}", .0.join("; "))]
    Lost(Vec<String>),
    #[error("{0}")]
    Useless(#[source] Useless),
}

/// Has the zygote write what it has in memory to a file: the base of images.
///
/// # Errors
/// When the zygote cannot fork, the server is out of descriptors, or what there is could not be written.
pub(crate) async fn write_base(zygote: &Zygote, file: OwnedFd) -> Result<(), NotWritten> {
    let (link, theirs) = UnixStream::pair().map_err(|error| NotWritten::Useless(error.into()))?;
    let forked = zygote.write_base(file, theirs).await;
    // Dropped, what it is of is ended.
    let _lease = forked.map_err(|error| NotWritten::Useless(Useless::NotForked(error.to_string())))?;
    let (reader, writer) = framed(link, MAX_ZYGOTE, MAX_ZYGOTE).map_err(|error| NotWritten::Useless(error.into()))?;
    let mut link = Link { reader, writer, state: State::Settling };
    match link.read().await {
        Ok(FromCheckpoint::Asleep { .. }) => Ok(()),
        Ok(FromCheckpoint::NotAsleep { why }) => Err(NotWritten::Lost(why)),
        Ok(_) => Err(NotWritten::Useless(Useless::OutOfTurn)),
        Err(reason) => Err(NotWritten::Useless(reason)),
    }
}

/// Wakes the checkpoint that an image is of, with its base. It is of use when it has said what it does not hold ([`Checkpoint::hazards`]).
///
/// # Errors
/// When the zygote cannot fork, or the server is out of descriptors.
pub(crate) async fn of_image(
    zygote: &Zygote,
    children: &Children,
    files: (OwnedFd, OwnedFd),
    of: Birth<'_>,
) -> Result<Arc<Checkpoint>, Useless> {
    let (making, theirs) = Making::begin(children)?;
    let forked = zygote.wake_image(files, theirs).await;
    let lease = forked.map_err(|error| Useless::NotForked(error.to_string()))?;
    // From here on it ends with its socket.
    Ok(making.born(of, lease.take(), Vec::new())?)
}

/// A checkpoint that is being made: its number, and our end of its socket.
#[derive(Debug)]
pub(crate) struct Making {
    /// Its number within the server.
    pub number: u64,
    link: UnixStream,
    expected: Expected,
    children: Children,
}

impl Making {
    /// Begins: the other end goes to the worker.
    ///
    /// # Errors
    /// When the server is out of descriptors.
    pub(crate) fn begin(children: &Children) -> io::Result<(Self, UnixStream)> {
        let (link, theirs) = UnixStream::pair()?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let making = Self { number, link, expected: children.expect(), children: children.clone() };
        Ok((making, theirs))
    }

    /// The worker has died or refused: a checkpoint that exists all the same ends, for its socket is closed.
    pub(crate) fn give_up(self) {
        let Self { children, link, expected, .. } = self;
        drop((link, expected));
        tokio::task::spawn_blocking(move || children.end_strays());
    }

    /// The worker has forked it, and goes on.
    ///
    /// # Errors
    /// When its process is not there, or the server is out of descriptors.
    pub(crate) fn born(self, of: Birth<'_>, pid: i32, missing: Vec<Missed>) -> io::Result<Arc<Checkpoint>> {
        let (killer, alive) = watched(pid, &self.children)?;
        let (reader, mut writer) = framed(self.link, MAX_ZYGOTE, MAX_ZYGOTE)?;
        // It has read nothing yet, so this goes through; an error shows when it is used.
        let _ = writer.write_with(&ToCheckpoint::Settle, &[]);
        Ok(Arc::new(Checkpoint {
            number: self.number,
            name: Arc::from(of.name),
            of: of.of.clone(),
            cell: of.cell,
            room: of.room,
            quiet: of.quiet,
            made: Timestamp::now(),
            made_at: Instant::now(),
            pid,
            missing,
            children: self.children.clone(),
            link: Mutex::new(Link { reader, writer, state: State::Settling }),
            killer,
            alive,
            memory: AtomicU64::new(0),
            revoked: AtomicBool::new(false),
            twin: Twin::default(),
        }))
    }
}

/// Registers the process of a checkpoint: by what it is ended, and whether it lives.
fn watched(pid: i32, children: &Children) -> io::Result<(PidFd, Arc<AtomicBool>)> {
    children.add(pid);
    let killer = PidFd::open(pid).inspect_err(|_| children.remove(pid))?;
    let ended = watch(pid)?;
    let alive = Arc::new(AtomicBool::new(true));
    let (children, lives) = (children.clone(), Arc::clone(&alive));
    tokio::spawn(async move {
        let _ = ended.readable().await;
        lives.store(false, Ordering::Release);
        let _ = ended.get_ref().ended(true);
        children.remove(pid);
    });
    Ok((killer, alive))
}

/// A checkpoint on its way to the program that this server process becomes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedCheckpoint {
    number: u64,
    quiet: bool,
    name: String,
    cell: u64,
    /// When it was made (RFC 3339).
    made: String,
    age: Duration,
    pid: i32,
    missing: Vec<Missed>,
    link: RawFd,
    /// What it had to say of itself, if it has.
    frozen: Option<(Vec<String>, Vec<String>)>,
    memory: u64,
}

impl Checkpoint {
    /// Takes it along; nothing when it is of no use any more, or is being asked something.
    pub(crate) fn pack(&self, parcel: &mut Parcel) -> Option<PackedCheckpoint> {
        let link = self.link.try_lock().ok()?;
        let frozen = match &link.state {
            State::Settling => None,
            State::Frozen { hazards, binding } => Some((hazards.clone(), binding.clone())),
            State::Broken(_) => return None,
        };
        if !self.is_alive() || !self.is_valid() || self.room.is_some() || link.reader.is_in_a_message() {
            return None;
        }
        self.twin.end();
        Some(PackedCheckpoint {
            number: self.number,
            quiet: self.quiet,
            name: self.name.to_string(),
            cell: self.cell,
            made: self.made.to_string(),
            age: self.made_at.elapsed(),
            pid: self.pid,
            missing: self.missing.clone(),
            link: parcel.add(link.writer.descriptor()).ok()?,
            frozen,
            memory: self.memory(),
        })
    }

    /// Goes on with it.
    ///
    /// # Safety
    /// The number of its socket must come from a parcel, and be used once.
    pub(crate) unsafe fn unpack(
        packed: PackedCheckpoint,
        of: &Incarnation,
        children: &Children,
    ) -> io::Result<Arc<Self>> {
        // SAFETY: as the caller says.
        let link = UnixStream::from(unsafe { parcel::take(packed.link) }?);
        NUMBERS.fetch_max(packed.number + 1, Ordering::Relaxed);
        let (killer, alive) = watched(packed.pid, children)?;
        let (reader, writer) = framed(link, MAX_ZYGOTE, MAX_ZYGOTE)?;
        let state = match packed.frozen {
            Some((hazards, binding)) => State::Frozen { hazards, binding },
            None => State::Settling,
        };
        Ok(Arc::new(Self {
            number: packed.number,
            name: Arc::from(packed.name),
            of: of.clone(),
            cell: packed.cell,
            room: None,
            quiet: packed.quiet,
            made: packed.made.parse().unwrap_or_else(|_| Timestamp::now()),
            made_at: Instant::now().checked_sub(packed.age).unwrap_or_else(Instant::now),
            pid: packed.pid,
            missing: packed.missing,
            children: children.clone(),
            link: Mutex::new(Link { reader, writer, state }),
            killer,
            alive,
            memory: AtomicU64::new(packed.memory),
            revoked: AtomicBool::new(false),
            twin: Twin::default(),
        }))
    }
}

/// What a checkpoint is of.
#[derive(Debug)]
pub(crate) struct Birth<'a> {
    pub name: &'a str,
    pub of: &'a Incarnation,
    /// The last cell that had run.
    pub cell: u64,
    /// No call asked for it, so no client is told when it gives way.
    pub quiet: bool,
    /// The worker's own folder, when it is confined: what is woken has it too.
    pub room: Option<Arc<Room>>,
}

/// A frozen copy of a session. Dropped, its process ends.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Number within the server: older ones have lower ones.
    pub number: u64,
    /// See [`Birth::quiet`].
    pub quiet: bool,
    /// Its name within the session.
    pub name: Arc<str>,
    /// Whose it is: of this session, and of no other that will bear its name.
    pub of: Incarnation,
    /// The last cell that had run.
    pub cell: u64,
    /// When it was made.
    pub made: Timestamp,
    /// When it was made, for measuring.
    pub made_at: Instant,
    pub pid: i32,
    /// Threads that it has not.
    pub missing: Vec<Missed>,
    children: Children,
    link: Mutex<Link>,
    room: Option<Arc<Room>>,
    killer: PidFd,
    alive: Arc<AtomicBool>,
    memory: AtomicU64,
    revoked: AtomicBool,
    twin: Twin,
}

#[derive(Debug)]
struct Link {
    reader: FrameReader,
    writer: FrameWriter,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Settling,
    /// Ready; what it does not hold, in words.
    Frozen {
        hazards: Vec<String>,
        binding: Vec<String>,
    },
    Broken(Useless),
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // Its task hears of the end and reaps it.
        let _ = self.killer.signal(Signal::SIGKILL);
    }
}

impl Checkpoint {
    /// Whether policy `last` made it.
    #[must_use]
    pub(crate) fn is_automatic(&self) -> bool {
        *self.name == *LAST
    }

    /// It is of a state that the session has left: it is not to be kept.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    /// Whether it may be kept, and used.
    #[must_use]
    pub(crate) fn is_valid(&self) -> bool {
        !self.revoked.load(Ordering::Acquire) && !self.of.is_over()
    }

    /// Whether its process lives.
    #[must_use]
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Bytes that it held alone when that was last looked at.
    #[must_use]
    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Notes what it holds alone.
    pub(crate) fn note_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// What it does not hold, in words; waits until it has looked.
    ///
    /// # Errors
    /// [`CheckpointError`] when its process did not come that far.
    pub(crate) async fn hazards(&self) -> Result<Vec<String>, CheckpointError> {
        let settled = async {
            let mut link = self.link.lock().await;
            link.settled().await
        };
        // Who waits here holds the process: it is not to outlive its session for that.
        let settled = tokio::select! {
            biased;
            () = self.of.ended() => Err(Useless::Over),
            settled = settled => settled,
        };
        settled.map_err(|reason| self.cannot(reason))
    }

    /// What it keeps from others as long as it is there ([`FromCheckpoint::Frozen`]); known once it has looked.
    pub(crate) async fn binding(&self) -> Vec<String> {
        match &self.link.lock().await.state {
            State::Frozen { binding, .. } => binding.clone(),
            State::Settling | State::Broken(_) => Vec::new(),
        }
    }

    /// Gives a worker for `session`: the twin of the one before, or one that it forks now.
    pub(crate) async fn wake(
        self: &Arc<Self>,
        zygote: &Zygote,
        session: &str,
        keep_random: bool,
    ) -> Result<Worker, CheckpointError> {
        match self.twin.take(session, keep_random) {
            Some(worker) => Ok(worker),
            None => self.wake_another(zygote, session, keep_random).await,
        }
    }

    /// It was gone back to: wakes a twin behind.
    pub(crate) fn wake_ahead(self: &Arc<Self>, zygote: &Zygote, session: &str, keep_random: bool) {
        let (of, zygote, session) = (Arc::downgrade(self), zygote.clone(), session.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(twin::BEHIND).await;
            let Some(own) = of.upgrade().filter(|own| own.is_valid() && own.is_alive()) else { return };
            // That there is none costs the next one some milliseconds, and nothing else.
            let Ok(worker) = own.wake_another(&zygote, &session, keep_random).await else { return };
            own.twin.keep(worker, &zygote, session, keep_random).await;
            drop(own);
            tokio::time::sleep(twin::KEPT).await;
            if let Some(own) = of.upgrade() {
                own.twin.end_if_old();
            }
        });
    }

    /// Has it fork a worker for `session`. Not broken off when the caller stops waiting: the worker is then ended.
    async fn wake_another(
        self: &Arc<Self>,
        zygote: &Zygote,
        session: &str,
        keep_random: bool,
    ) -> Result<Worker, CheckpointError> {
        let (own, zygote, session) = (Arc::clone(self), zygote.clone(), session.to_owned());
        let wanted = CancellationToken::new();
        let _while_awaited = wanted.clone().drop_guard();
        let woken = tokio::spawn(async move {
            let mut fork = std::pin::pin!(own.fork_worker(&zygote, session, keep_random));
            let woken = tokio::select! {
                biased;
                () = own.useless(&wanted) => {
                    let _ = own.killer.signal(Signal::SIGKILL);
                    if let Ok(unwanted) = fork.await {
                        unwanted.retire(zygote.endings());
                    }
                    let children = own.children.clone();
                    tokio::task::spawn_blocking(move || children.end_strays());
                    Err(Useless::Over)
                }
                woken = &mut fork => woken,
            };
            Ok(Untaken { worker: Some(woken?), zygote: zygote.clone() })
        });
        let woken = woken.await.unwrap_or_else(|panic| Err(Useless::Panic(Arc::new(panic))));
        woken.and_then(Untaken::take).map_err(|why| self.cannot(why))
    }

    /// Its session is over; or no caller waits for what it wakes any more, and it has no other holder.
    async fn useless(self: &Arc<Self>, wanted: &CancellationToken) {
        const LOOK: Duration = Duration::from_millis(50);
        let let_go = async {
            wanted.cancelled().await;
            while Arc::strong_count(self) > 1 {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = self.of.ended() => {}
            () = let_go => {}
        }
    }

    /// Has it write all of itself to a file, but for what it has in common with a base. Gives the pages of memory in it, or why
    /// it is of no use.
    pub(crate) async fn write_image(&self, file: BorrowedFd<'_>, base: BorrowedFd<'_>) -> Result<u64, NotWritten> {
        let mut link = self.link.lock().await;
        link.settled().await.map_err(NotWritten::Useless)?;
        link.writer
            .write_with(&ToCheckpoint::Sleep, &[file, base])
            .map_err(|error| NotWritten::Useless(error.into()))?;
        match link.read().await {
            Ok(FromCheckpoint::Asleep { pages, .. }) => Ok(pages),
            Ok(FromCheckpoint::NotAsleep { why }) => Err(NotWritten::Lost(why)),
            Ok(_) => Err(NotWritten::Useless(Useless::OutOfTurn)),
            Err(reason) => Err(NotWritten::Useless(reason)),
        }
    }

    fn cannot(&self, why: Useless) -> CheckpointError {
        CheckpointError { name: self.name.to_string(), why }
    }

    async fn fork_worker(&self, zygote: &Zygote, session: String, keep_random: bool) -> Result<Worker, Useless> {
        let born = Instant::now();
        let mut link = self.link.lock().await;
        link.settled().await?;
        let (ends, theirs) = Ends::new(self.room.clone())?;
        let expected = self.children.expect();
        let passed: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let pid = link.wake(ToCheckpoint::Wake { session, keep_random }, &passed).await?;
        drop((passed, link));
        drop(theirs);
        let lease = zygote.lease_of_own(pid);
        self.children.add(pid);
        drop(expected);
        let pidfd = watch(pid)?;
        Worker::greet(ends.with(lease, pidfd), born).await.map_err(|error| Useless::NotReady(Arc::new(error)))
    }
}

/// A worker on its way to who asked for it. Dropped on the way, it is ended.
struct Untaken {
    worker: Option<Worker>,
    zygote: Zygote,
}

impl Untaken {
    fn take(mut self) -> Result<Worker, Useless> {
        self.worker.take().ok_or(Useless::OutOfTurn)
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.retire(self.zygote.endings());
        }
    }
}

impl Link {
    async fn settled(&mut self) -> Result<Vec<String>, Useless> {
        if matches!(self.state, State::Settling) {
            self.state = match self.read().await {
                Ok(FromCheckpoint::Frozen { version: PROTOCOL_VERSION, hazards, binding }) => {
                    State::Frozen { hazards, binding }
                }
                Ok(FromCheckpoint::WakeFailed { message }) => State::Broken(Useless::NotWoken(message)),
                Ok(_) => State::Broken(Useless::Version),
                Err(reason) => State::Broken(reason),
            };
        }
        match &self.state {
            State::Frozen { hazards, .. } => Ok(hazards.clone()),
            State::Broken(reason) => Err(reason.clone()),
            State::Settling => Err(Useless::OutOfTurn),
        }
    }

    async fn wake(&mut self, wish: ToCheckpoint, passed: &[std::os::fd::BorrowedFd<'_>]) -> Result<i32, Useless> {
        let sent = self.writer.write_with(&wish, passed).map_err(Useless::from);
        let answer = match sent {
            Ok(()) => self.read().await,
            Err(reason) => Err(reason),
        };
        match answer {
            Ok(FromCheckpoint::Woken { pid }) => Ok(pid),
            // It stands as before, and may be asked again.
            Ok(FromCheckpoint::WakeFailed { message }) => Err(Useless::NotForked(message)),
            Ok(FromCheckpoint::Frozen { .. } | FromCheckpoint::Asleep { .. } | FromCheckpoint::NotAsleep { .. }) => {
                self.give_up(Useless::OutOfTurn)
            }
            Err(reason) => self.give_up(reason),
        }
    }

    fn give_up(&mut self, reason: Useless) -> Result<i32, Useless> {
        self.state = State::Broken(reason.clone());
        Err(reason)
    }

    async fn read(&mut self) -> Result<FromCheckpoint, Useless> {
        match tokio::time::timeout(fault::limit(LIMIT), self.reader.read()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Useless::Silent),
        }
    }
}

/// Name of the one that policy `last` keeps.
pub(crate) const LAST: &str = "last";
