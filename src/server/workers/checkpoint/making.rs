//! Checkpoints that are being made: of a worker, or of an image that is woken.
//!
//! Runs in: server. Has the other side fork; what comes of it is registered before anything is asked of it.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{
    errors::{NotWritten, Useless},
    link::{Link, State},
    standing::{Checkpoint, NUMBERS, watched},
};
use crate::{
    protocol::{FromCheckpoint, MAX_ZYGOTE, Missed, ToCheckpoint, asynchronous::framed},
    server::workers::{
        children::{Children, Expected},
        incarnation::Incarnation,
        twin::Twin,
        zygote::Zygote,
    },
    sys::room::Room,
};

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
