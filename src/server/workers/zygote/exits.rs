//! How workers ended, as the zygote reports it, and the word that lets it reap one.
//!
//! Runs in: server. The owner task writes; the code that ends a process (`workers/process.rs`) reads.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::births::Request;
use crate::{
    protocol::WorkerExit,
    sys::pidfd::{Ended, PidFd},
};

/// Ends that have been reported, until they are fetched.
#[derive(Debug)]
pub(in crate::server) struct Exits {
    known: Mutex<BTreeMap<i32, WorkerExit>>,
    /// Counts changes: a report, or a zygote's end.
    changed: watch::Sender<u64>,
    requests: mpsc::WeakUnboundedSender<Request>,
}

impl Exits {
    pub(super) fn new(requests: mpsc::WeakUnboundedSender<Request>) -> Self {
        Self { known: Mutex::default(), changed: watch::channel(0).0, requests }
    }

    /// The zygote has reported an end.
    pub(super) fn report(&self, pid: i32, exit: WorkerExit) {
        self.known.lock().insert(pid, exit);
        self.zygote_changed();
    }

    /// A zygote has ended: what it has not reported is to be asked of the kernel now.
    pub(super) fn zygote_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// How a process whose pidfd has become readable ended: from the zygote, or, when that has died and the process is
    /// the server's own child now, from the kernel. Its number stays taken until [`Exits::reap`].
    pub(in crate::server) async fn of(&self, pid: i32, pidfd: &PidFd) -> WorkerExit {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(exit) = self.known.lock().remove(&pid) {
                return exit;
            }
            if let Ended::With(status) = pidfd.ended(false) {
                return WorkerExit::of(status);
            }
            if changed.changed().await.is_err() {
                return WorkerExit::Unknown;
            }
        }
    }

    /// The number may be given to others from now on.
    pub(in crate::server) fn reap(&self, pid: i32, pidfd: &PidFd) {
        if pidfd.ended(true) == Ended::NotOurs
            && let Some(requests) = self.requests.upgrade()
        {
            let _ = requests.send(Request::Reap { pid });
        }
    }
}
