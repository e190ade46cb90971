//! The one way to end a process of ours: its end is heard, its status learned, what it started is ended too, and its number
//! is let go last, so that no step can meet a stranger.
//!
//! Runs in: server. Knows neither what a process was for nor what its end means.

use std::{io, sync::Arc, time::Duration};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;

use super::{
    children::{Children, Ended},
    zygote::Exits,
};
use crate::{protocol::WorkerExit, sys::pidfd::PidFd};

/// How long the status of a process that has ended may take to arrive.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// How long after an end all processes of the machine are looked at, once for all that end until then.
const LOOK_BEHIND: Duration = Duration::from_millis(250);

/// What every ending needs: who knows how processes ended, and the register of those that are ours.
#[derive(Debug, Clone)]
pub(crate) struct Endings {
    exits: Arc<Exits>,
    children: Children,
    /// Those that ended since all processes were looked at.
    ended: Arc<Mutex<Vec<Ended>>>,
}

impl Endings {
    pub(in crate::server) fn new(exits: Arc<Exits>, children: Children) -> Self {
        Self { exits, children, ended: Arc::default() }
    }

    /// A process that ends by itself, or has been sent SIGKILL: waits for that, and clears up after it.
    pub(crate) async fn see_off(&self, pid: i32, pidfd: &AsyncFd<PidFd>) -> WorkerExit {
        let _ = pidfd.readable().await;
        let status = self.exits.of(pid, pidfd.get_ref());
        let exit = tokio::time::timeout(STATUS_LIMIT, status).await.unwrap_or(WorkerExit::Unknown);
        self.kill_family(pid).await;
        self.exits.reap(pid, pidfd.get_ref());
        self.children.remove(pid);
        self.look_behind(Ended::now(pid));
        exit
    }

    /// Ends a process and all it started.
    pub(crate) async fn end(&self, pid: i32, pidfd: &AsyncFd<PidFd>) -> WorkerExit {
        // It goes last, and so is there to end the rest should the server end meanwhile.
        self.kill_family(pid).await;
        let _ = pidfd.get_ref().signal(Signal::SIGKILL);
        self.see_off(pid, pidfd).await
    }

    async fn kill_family(&self, pid: i32) {
        let children = self.children.clone();
        let _ = tokio::task::spawn_blocking(move || children.kill_family(pid)).await;
    }

    /// What such an end may have left that was not found at once is ended a little later.
    fn look_behind(&self, one: Ended) {
        let mut ended = self.ended.lock();
        let is_first = ended.is_empty();
        ended.push(one);
        if !is_first {
            return;
        }
        let (children, ended) = (self.children.clone(), Arc::clone(&self.ended));
        tokio::spawn(async move {
            tokio::time::sleep(LOOK_BEHIND).await;
            let ended = std::mem::take(&mut *ended.lock());
            let _ = tokio::task::spawn_blocking(move || children.end_what_is_left(&ended)).await;
        });
    }
}

/// A process whose end wakes a task.
///
/// # Errors
/// When there is no such process, or no descriptor left.
pub(crate) fn watch(pid: i32) -> io::Result<AsyncFd<PidFd>> {
    watch_descriptor(PidFd::open(pid)?)
}

#[expect(
    deprecated,
    reason = "the unsafe replacement asks for what PidFd keeps by construction: it owns its descriptor"
)]
pub(super) fn watch_descriptor(pidfd: PidFd) -> io::Result<AsyncFd<PidFd>> {
    AsyncFd::new(pidfd)
}
