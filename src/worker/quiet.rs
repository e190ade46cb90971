//! The moment in which our own threads are out of Python.
//!
//! Runs in: worker. A thread that is in Python holds locks of its own (an import's, pyo3's), and in a fork they would be
//! held for ever. So each thread that enters Python beside the main thread holds one of these, and a checkpoint takes both.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use pyo3::Python;

/// Answers take milliseconds, and seconds at most.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// The locks, shared by the threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quiet {
    pinging: Arc<Mutex<()>>,
    answering: Arc<Mutex<()>>,
}

impl Quiet {
    /// Held by the pinger for one job.
    pub(crate) fn pinging(&self) -> MutexGuard<'_, ()> {
        self.pinging.lock()
    }

    /// Held by the thread that computes an answer: one at a time.
    pub(crate) fn answering(&self) -> &Mutex<()> {
        &self.answering
    }

    /// Waits until no thread of ours is in Python, letting the GIL go meanwhile, and keeps it so.
    pub(crate) fn lock_all(&self, py: Python<'_>) -> [MutexGuard<'_, ()>; 2] {
        loop {
            if let (Some(answering), Some(pinging)) = (self.answering.try_lock(), self.pinging.try_lock()) {
                return [answering, pinging];
            }
            py.detach(|| thread::sleep(LOOK_AGAIN));
        }
    }
}
