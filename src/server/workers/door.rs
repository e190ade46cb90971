//! The door of a confined process: its calls of `connect` and `listen`, and those that mark files, answered one after another.
//! It reaches Unix sockets and marks files in the workspace, in its own folder, and where `--allow-write` says; it reaches the proxy
//! of `server/egress` where `--allow-net` says something; nothing else.
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

/// The next call of the same process is waited for so long, in milliseconds, before the thread is given back.
const SOON: u8 = 2;

/// What one confined process may connect to.
#[derive(Debug)]
pub(crate) struct Reached {
    /// Sockets of the file system below these paths; files below them may be marked.
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
        match is_asked(&listener, PollTimeout::ZERO) {
            Asked::Gone => return,
            Asked::No => {
                ready.clear_ready();
                continue;
            }
            Asked::Yes => {}
        }
        let (listener, reached) = (Arc::clone(&listener), Arc::clone(&reached));
        let looked = tokio::task::spawn_blocking(move || {
            let descriptor = listener.get_ref().as_fd();
            // What unpacks an archive knocks thousands of times.
            loop {
                if let Ok(knock) = door::take(descriptor) {
                    let proxy = reached.proxy.as_ref().map(|proxy| proxy as &dyn Proxy);
                    let allowed = Allowed { below: &reached.below, proxy };
                    door::answer(descriptor, &knock, door::serve(descriptor, &knock, allowed));
                }
                if !matches!(is_asked(&listener, SOON.into()), Asked::Yes) {
                    return;
                }
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

fn is_asked(listener: &AsyncFd<OwnedFd>, within: PollTimeout) -> Asked {
    let mut looked = [PollFd::new(listener.get_ref().as_fd(), PollFlags::POLLIN)];
    let found = poll(&mut looked, within).ok().and_then(|_| looked[0].revents()).unwrap_or(PollFlags::empty());
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
    pub(crate) fn of(
        workspace: &Path,
        room: &Path,
        write: impl Iterator<Item = PathBuf>,
        proxy: Option<Caller>,
    ) -> Self {
        // The temporary directory may be named by a link.
        let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
        let below = [workspace.to_owned(), room.to_owned()].into_iter().chain(write).map(real).collect();
        Self { below, proxy }
    }
}
