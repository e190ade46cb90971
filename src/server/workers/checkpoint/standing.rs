//! One checkpoint: a process that stands still, and what it is asked for.
//!
//! Runs in: server. The process is the server's own child (`sys/sibling.rs`), so that it outlives the worker it is of and
//! the zygote that one came from. It is registered among our children before it can be taken for a stray.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    errors::{CheckpointError, NotWritten, Useless},
    link::{Link, State},
};
use crate::{
    protocol::{FromCheckpoint, Missed, ToCheckpoint},
    server::workers::{
        children::Children,
        incarnation::Incarnation,
        link::Worker,
        process::watch,
        twin::{self, Twin},
        zygote::{Ends, Zygote},
    },
    sys::{pidfd::PidFd, room::Room},
};

/// Name of the one that policy `last` keeps.
pub(crate) const LAST: &str = "last";

pub(super) static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Number of the newest checkpoint of all, 0 when there was none.
#[must_use]
pub(crate) fn newest() -> u64 {
    NUMBERS.load(Ordering::Relaxed) - 1
}

/// Registers the process of a checkpoint: by what it is ended, and whether it lives.
pub(super) fn watched(pid: i32, children: &Children) -> io::Result<(PidFd, Arc<AtomicBool>)> {
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

/// A frozen copy of a session. Dropped, its process ends.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Number within the server: older ones have lower ones.
    pub number: u64,
    /// No call asked for it, so no client is told when it gives way.
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
    pub(super) children: Children,
    pub(super) link: Mutex<Link>,
    pub(super) room: Option<Arc<Room>>,
    pub(super) killer: PidFd,
    pub(super) alive: Arc<AtomicBool>,
    pub(super) memory: AtomicU64,
    pub(super) revoked: AtomicBool,
    pub(super) twin: Twin,
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
