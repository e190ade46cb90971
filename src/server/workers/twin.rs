//! The twin of a worker that a checkpoint has woken: another one, woken ahead. Who goes back once goes back again, and a
//! fork with all that comes after it is most of what that takes.
//!
//! Runs in: server. A twin is made behind, and is of use for a minute: it holds memory of its own. It ends with its checkpoint, and
//! is no session's until it is taken.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{link::Worker, zygote::Zygote};
use crate::sys::pidfd::Ended;

/// What was woken first has its first cell before its twin takes the processor.
pub(super) const BEHIND: Duration = Duration::from_millis(10);
/// How long it may take to answer a ping.
const PING: Duration = Duration::from_secs(5);
/// Who has not gone back again by then does not do so over and over.
pub(super) const KEPT: Duration = Duration::from_secs(60);

/// A place for one.
#[derive(Debug, Default)]
pub(super) struct Twin(Mutex<Option<Ready>>);

/// Ready to be a session's. Dropped, it is ended.
#[derive(Debug)]
struct Ready {
    worker: Option<Worker>,
    zygote: Zygote,
    session: String,
    keep_random: bool,
    since: Instant,
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.retire(self.zygote.endings());
        }
    }
}

impl Twin {
    /// The one that is there, if it is what is wanted and lives.
    pub(super) fn take(&self, session: &str, keep_random: bool) -> Option<Worker> {
        let mut ready = self.0.lock().take()?;
        if ready.session != session || ready.keep_random != keep_random {
            return None;
        }
        let lives = |worker: &Worker| matches!(worker.pidfd.get_ref().ended(false), Ended::Running);
        let worker = ready.worker.take_if(|worker| lives(worker))?;
        Some(Worker { born: Instant::now(), ..worker })
    }

    /// Ends the one that is there.
    pub(super) fn end(&self) {
        drop(self.0.lock().take());
    }

    /// Keeps one that has just been woken, in the place of another.
    pub(super) async fn keep(&self, worker: Worker, zygote: &Zygote, session: String, keep_random: bool) {
        let (zygote, since) = (zygote.clone(), Instant::now());
        let ready = Ready { worker: Some(worker), zygote, session, keep_random, since };
        // Its first ping starts a thread. It proves itself once more when it is taken.
        if let Some(worker) = &ready.worker {
            let _ = worker.control.ping(PING).await;
        }
        drop(self.0.lock().replace(ready));
    }

    /// The session has not gone back again.
    pub(super) fn end_if_old(&self) {
        let mut place = self.0.lock();
        drop(place.take_if(|ready| ready.since.elapsed() >= KEPT));
    }
}
