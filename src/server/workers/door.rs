//! The door of a confined process: its calls of `connect`, answered one after another. It reaches Unix sockets in the
//! workspace, in its own folder, and where `--allow-write` says; nothing else.
//!
//! Runs in: server, one task for each confined process that the zygote has forked, until that and all it started are gone;
//! a call is looked at on a blocking thread. What a checkpoint wakes has the door of its session. Owns the listener.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys::{descriptors, door};

/// Waits for the first word of a confined process, on a socket of its own, and opens its door where it has one. `allowed` are
/// paths below which it may connect.
///
/// # Errors
/// When it ended before that.
pub(crate) async fn open(stream: &StdStream, allowed: Vec<PathBuf>) -> io::Result<()> {
    let listener = receive(stream).await?;
    if let Some(listener) = listener {
        let listener = register(listener)?;
        tokio::spawn(serve(listener, Arc::from(allowed)));
    }
    Ok(())
}

#[expect(
    deprecated,
    reason = "the unsafe replacement asks for what holds here: the value owns or borrows its descriptor"
)]
fn register<T: AsRawFd>(readable: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(readable, Interest::READABLE)
}

async fn receive(stream: &StdStream) -> io::Result<Option<OwnedFd>> {
    let ready = register(stream.as_fd())?;
    drop(ready.readable().await?);
    let (mut byte, mut passed) = ([0; 1], Vec::new());
    // It is readable, so this does not wait.
    match descriptors::receive_with(stream, &mut byte, &mut passed)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(passed.pop()),
    }
}

async fn serve(listener: AsyncFd<OwnedFd>, allowed: Arc<[PathBuf]>) {
    let listener = Arc::new(listener);
    loop {
        let Ok(mut ready) = listener.readable().await else { return };
        match is_asked(&listener) {
            Asked::Gone => return,
            Asked::No => {
                ready.clear_ready();
                continue;
            }
            Asked::Yes => {}
        }
        let (listener, allowed) = (Arc::clone(&listener), Arc::clone(&allowed));
        let looked = tokio::task::spawn_blocking(move || {
            let listener = listener.get_ref().as_fd();
            if let Ok(knock) = door::take(listener) {
                door::answer(listener, &knock, door::connect_below(listener, &knock, &allowed));
            }
        });
        let _ = looked.await;
    }
}

enum Asked {
    Yes,
    No,
    /// No process has this filter any more.
    Gone,
}

fn is_asked(listener: &AsyncFd<OwnedFd>) -> Asked {
    let mut looked = [PollFd::new(listener.get_ref().as_fd(), PollFlags::POLLIN)];
    let found =
        poll(&mut looked, PollTimeout::ZERO).ok().and_then(|_| looked[0].revents()).unwrap_or(PollFlags::empty());
    if found.contains(PollFlags::POLLIN) {
        Asked::Yes
    } else if found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
        Asked::Gone
    } else {
        Asked::No
    }
}

/// Below which paths a process may connect.
#[must_use]
pub(crate) fn reached(workspace: &Path, room: &Path, write: &[PathBuf]) -> Vec<PathBuf> {
    // The temporary directory may be named by a link.
    let room = room.canonicalize().unwrap_or_else(|_| room.to_owned());
    [workspace.to_owned(), room].into_iter().chain(write.iter().cloned()).collect()
}
