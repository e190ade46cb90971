//! A server that drains: its sessions go on, and it takes no new ones.
//!
//! Runs in: server. Owns whether it drains. Ends nothing: `server/run.rs` does, after the limit.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether this server drains.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    is_on: AtomicBool,
    asked: Notify,
}

impl Drain {
    /// It is to.
    pub(in crate::server) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until it is asked to.
    pub(in crate::server) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// From now on it does.
    pub(in crate::server) fn begin(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }
}
