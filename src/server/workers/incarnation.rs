//! Which session a copy is of: one, and none that bears its name before or after it.
//!
//! Runs in: server. Pure data; who ends a session says so here, and all that is kept of it looks.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

/// One session, and none that bears its name before or after it. Cheap to copy.
#[derive(Debug, Clone)]
pub(crate) struct Incarnation {
    /// Its number within the server: two sessions never have the same.
    pub number: u64,
    pub session: Arc<str>,
    over: CancellationToken,
}

impl Incarnation {
    /// A session that begins.
    #[must_use]
    pub(crate) fn new(session: Arc<str>) -> Self {
        let number = INCARNATIONS.fetch_add(1, Ordering::Relaxed);
        Self { number, session, over: CancellationToken::new() }
    }

    /// A session that goes on, under its number.
    #[must_use]
    pub(crate) fn going_on(session: Arc<str>, number: u64) -> Self {
        INCARNATIONS.fetch_max(number + 1, Ordering::Relaxed);
        Self { number, session, over: CancellationToken::new() }
    }

    /// It is over: nothing of it is kept or used from now on.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    /// Waits until it is over.
    pub(crate) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Whether it is over.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }
}
