//! That the server is about to become another program: calls that wait for what goes on are answered now.
//!
//! Runs in: server. Owns that one fact. What a call says then is that its cell runs, and how to wait for it: the cell runs on, and
//! the other program has its reply.

use tokio::sync::watch;

/// Whether it is about to.
#[derive(Debug)]
pub(crate) struct Turnover(watch::Sender<bool>);

/// Hears of it.
#[derive(Debug, Clone)]
pub(crate) struct Hurry(watch::Receiver<bool>);

impl Default for Turnover {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Turnover {
    pub(in crate::server) fn hurry(&self, now: bool) {
        self.0.send_replace(now);
    }

    pub(in crate::server) fn listen(&self) -> Hurry {
        Hurry(self.0.subscribe())
    }
}

impl Hurry {
    /// Comes back when it is about to. Cancel-safe.
    pub(in crate::server) async fn comes(&self) {
        if self.0.clone().wait_for(|now| *now).await.is_err() {
            std::future::pending().await
        }
    }
}
