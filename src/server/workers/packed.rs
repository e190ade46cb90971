//! Workers and checkpoints on their way to the program that this server process becomes (`forkpy restart`).
//!
//! Runs in: server, before the exec and after it. The processes notice nothing: their sockets stay open. Only what is at
//! rest is packed; half a message would be lost.

use std::{
    io,
    os::{
        fd::{AsFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{black_box::BlackBox, children::Children, control::Control, link::Worker, process::watch_descriptor};
use crate::{
    protocol::{MAX_FROM_WORKER, MAX_TO_WORKER, asynchronous::framed},
    server::output::pipe::Output,
    sys::{
        parcel::{self, Parcel},
        pidfd::PidFd,
    },
};

/// A worker that is idle.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedWorker {
    pid: i32,
    pidfd: RawFd,
    cell: RawFd,
    control: RawFd,
    /// Number of the next request to its control thread.
    next: u64,
    stdout: RawFd,
    stderr: RawFd,
    black_box: RawFd,
    age: Duration,
}

impl Worker {
    /// Takes it along.
    ///
    /// # Errors
    /// When it is in the middle of a message, or confined: its door cannot be taken along.
    pub(crate) fn pack(&self, parcel: &mut Parcel) -> io::Result<PackedWorker> {
        if self.replies.is_in_a_message() || self.room.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (control, next) = self.control.pack(parcel)?;
        Ok(PackedWorker {
            pid: self.pid,
            pidfd: parcel.add(self.pidfd.get_ref().as_fd())?,
            cell: parcel.add(self.requests.descriptor())?,
            control,
            next,
            stdout: parcel.add(self.stdout.descriptor())?,
            stderr: parcel.add(self.stderr.descriptor())?,
            black_box: parcel.add(self.black_box.descriptor())?,
            age: self.born.elapsed(),
        })
    }

    /// Goes on with it.
    ///
    /// # Safety
    /// The numbers must come from a parcel, and be used once.
    pub(crate) unsafe fn unpack(packed: &PackedWorker, children: &Children) -> io::Result<Self> {
        // SAFETY: as the caller says.
        let take = |number| unsafe { parcel::take(number) };
        children.add(packed.pid);
        let (replies, requests) = framed(UnixStream::from(take(packed.cell)?), MAX_FROM_WORKER, MAX_TO_WORKER)?;
        Ok(Self {
            pid: packed.pid,
            pidfd: watch_descriptor(PidFd::held(take(packed.pidfd)?))?,
            replies,
            requests,
            stdout: Output::new(take(packed.stdout)?)?,
            stderr: Output::new(take(packed.stderr)?)?,
            control: Control::listen_on(UnixStream::from(take(packed.control)?), packed.next)?,
            black_box: Arc::new(BlackBox::held(take(packed.black_box)?)),
            born: Instant::now().checked_sub(packed.age).unwrap_or_else(Instant::now),
            room: None,
        })
    }
}
