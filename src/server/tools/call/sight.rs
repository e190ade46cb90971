//! What can be seen of long work while it goes on: whether it was accepted, what it is doing, and what it has written.
//!
//! Runs in: server. The tool that does the work fills it in; the calls that follow the work look (`cells/jobs.rs`).

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::server::{
    output::{
        live::Live,
        peephole::{Audience, Look, peephole},
    },
    sessions::handle::Session,
};

/// What work is doing, in words that can be continued: `script "a.py": 5 s`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doing {
    pub(crate) words: String,
    /// It waits for its turn.
    pub(crate) waits: bool,
}

impl Doing {
    pub(crate) fn works(words: String) -> Self {
        Self { words, waits: false }
    }

    pub(crate) fn waits(words: String) -> Self {
        Self { words, waits: true }
    }
}

type Tell = Arc<dyn Fn() -> Doing + Send + Sync>;
type Show = Arc<dyn Fn([u64; 2]) -> BoxFuture<'static, Option<Look>> + Send + Sync>;

/// The view of one work.
#[derive(Default)]
pub(crate) struct Sight {
    /// Cancelled when the work has been accepted: what was wrong with its arguments would have been said.
    accepted: CancellationToken,
    tell: Mutex<Option<Tell>>,
    show: Mutex<Option<Show>>,
    session: Mutex<Option<Session>>,
    /// Where output goes at once, when the client asked for progress.
    live: Option<Arc<Live>>,
}

impl fmt::Debug for Sight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sight").finish_non_exhaustive()
    }
}

impl Sight {
    pub(crate) fn new(live: Option<Arc<Live>>) -> Self {
        Self { live, ..Self::default() }
    }

    /// The arguments are right, and this is what is being done from now on.
    pub(crate) fn accepted(&self, doing: impl Fn() -> Doing + Send + Sync + 'static) {
        *self.tell.lock() = Some(Arc::new(doing));
        self.accepted.cancel();
    }

    /// The work is in this session.
    pub(crate) fn is_in(&self, session: &Session) {
        *self.session.lock() = Some(session.clone());
    }

    /// What has been written can be looked at, beyond so many bytes of each stream.
    pub(crate) fn shows(&self, show: impl Fn([u64; 2]) -> BoxFuture<'static, Option<Look>> + Send + Sync + 'static) {
        *self.show.lock() = Some(Arc::new(show));
    }

    /// The audience of a process whose output is to be seen.
    pub(crate) fn audience(&self) -> Audience {
        let (hole, looks) = peephole();
        self.shows(move |from| {
            let hole = hole.clone();
            Box::pin(async move { hole.look(from).await })
        });
        Audience { live: self.live.clone(), looks: Some(looks) }
    }

    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.live.clone()
    }

    /// The work has ended: nothing is held for it any more.
    pub(crate) fn close(&self) {
        (*self.tell.lock(), *self.show.lock(), *self.session.lock()) = (None, None, None);
    }

    pub(crate) async fn is_accepted(&self) {
        self.accepted.cancelled().await;
    }

    pub(crate) fn session(&self) -> Option<Session> {
        self.session.lock().clone()
    }

    pub(crate) fn doing(&self) -> Doing {
        let tell = self.tell.lock().clone();
        tell.map_or_else(Doing::default, |tell| tell())
    }

    pub(crate) async fn look(&self, from: [u64; 2]) -> Option<Look> {
        let show = self.show.lock().clone()?;
        show(from).await
    }
}
