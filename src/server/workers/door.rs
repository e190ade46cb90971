//! The door of a confined process: its calls of `connect` and `listen`, answered one after another. It reaches Unix sockets
//! in the workspace, in its own folder, and where `--allow-write` says; the proxy of `server/egress` where `--allow-net` says
//! something; nothing else.
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

use crate::{
    server::egress::callers::Caller,
    sys::{
        descriptors,
        door::{self, Allowed, Proxy},
        layers::Layers,
    },
};

/// What one confined process may connect to.
#[derive(Debug)]
pub(crate) struct Reached {
    /// Sockets of the file system below these paths.
    below: Vec<PathBuf>,
    proxy: Option<Caller>,
}

/// Waits for the first word of a confined process, on a socket of its own: what shuts it in. Opens its door where it has one.
///
/// # Errors
/// When it ended before that.
pub(crate) async fn open(stream: &StdStream, reached: Reached) -> io::Result<Layers> {
    let (layers, listener) = receive(stream).await?;
    if let Some(listener) = listener {
        let listener = register(listener)?;
        tokio::spawn(serve(listener, Arc::new(reached)));
    }
    Ok(layers)
}

#[expect(
    deprecated,
    reason = "the unsafe replacement asks for what holds here: the value owns or borrows its descriptor"
)]
fn register<T: AsRawFd>(readable: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(readable, Interest::READABLE)
}

async fn receive(stream: &StdStream) -> io::Result<(Layers, Option<OwnedFd>)> {
    let ready = register(stream.as_fd())?;
    drop(ready.readable().await?);
    let (mut word, mut passed) = ([0; 2], Vec::new());
    // It is readable, so this does not wait.
    if descriptors::receive_with(stream, &mut word, &mut passed)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let layers = Layers::read(word).ok_or(io::ErrorKind::InvalidData)?;
    Ok((layers, passed.pop()))
}

async fn serve(listener: AsyncFd<OwnedFd>, reached: Arc<Reached>) {
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
        let (listener, reached) = (Arc::clone(&listener), Arc::clone(&reached));
        let looked = tokio::task::spawn_blocking(move || {
            let listener = listener.get_ref().as_fd();
            if let Ok(knock) = door::take(listener) {
                let proxy = reached.proxy.as_ref().map(|proxy| proxy as &dyn Proxy);
                let allowed = Allowed { below: &reached.below, proxy };
                door::answer(listener, &knock, door::serve(listener, &knock, allowed));
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

impl Reached {
    /// What a process reaches whose own folder is `room`.
    #[must_use]
    pub(crate) fn of(workspace: &Path, room: &Path, write: &[PathBuf], proxy: Option<Caller>) -> Self {
        // The temporary directory may be named by a link.
        let room = room.canonicalize().unwrap_or_else(|_| room.to_owned());
        let below = [workspace.to_owned(), room].into_iter().chain(write.iter().cloned()).collect();
        Self { below, proxy }
    }
}
