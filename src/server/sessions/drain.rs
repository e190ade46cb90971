//! A server that drains: its sessions go on, and it takes no new ones.
//!
//! Runs in: server. Owns whether it drains. Ends nothing: `server/run.rs` does, after the limit.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this server drains.
#[derive(Debug, Default)]
pub(crate) struct Drain(AtomicBool);

impl Drain {
    /// From now on it does.
    pub(in crate::server) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
