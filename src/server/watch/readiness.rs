//! `/healthz` and `/readyz`, for the person who runs this server: is it up, and can it make a session.
//!
//! Runs in: server. Open to callers without the token: it tells nothing but yes or no, and why not. `/healthz` is open to
//! every Host and Origin too.
//!
//! Readiness is proven, not assumed: a worker is forked, says hello, and is ended again (some milliseconds). One proof at
//! a time, and one good for a second: a probe in a loop costs no more than a probe a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::{
    protocol::WorkerLimits,
    server::{
        sessions::context::Surroundings,
        workers::{
            link::Worker,
            zygote::{Stage, ZygoteError},
        },
    },
};

/// How long a fork may take to count as ready.
const LIMIT: Duration = Duration::from_secs(3);
/// How long an answer is good.
const GOOD_FOR: Duration = Duration::from_secs(1);

pub(crate) struct Readiness {
    around: Arc<Surroundings>,
    last: Arc<Mutex<Option<Proof>>>,
}

/// When an answer was found, and which.
type Proof = (Instant, Result<Duration, Unready>);

/// Why no worker could be made.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unready {
    /// New sessions are to go elsewhere.
    #[error("draining")]
    Draining,
    /// The zygote has answered: it is the system that refuses.
    #[error("{0}")]
    Refused(String),
    /// The zygote does not answer, or there is none.
    #[error("{0}")]
    Silent(String),
}

impl Readiness {
    #[must_use]
    pub(crate) fn new(around: Arc<Surroundings>) -> Self {
        Self { around, last: Arc::default() }
    }

    /// How long a worker took just now.
    ///
    /// # Errors
    /// The reason why there was none.
    pub(crate) async fn proof(&self) -> Result<Duration, Unready> {
        if self.around.drain.is_on() {
            return Err(Unready::Draining);
        }
        self.look(GOOD_FOR).await
    }

    /// Whether the server does its part now: the zygote answers, be it with the system's refusal.
    pub(crate) async fn works(&self) -> Result<(), Unready> {
        match self.look(Duration::ZERO).await {
            Ok(_) | Err(Unready::Refused(_) | Unready::Draining) => Ok(()),
            Err(unready) => Err(unready),
        }
    }

    /// Proves it, unless there is a proof no older than `good_for`.
    async fn look(&self, good_for: Duration) -> Result<Duration, Unready> {
        let silent = |reason: &str| Err(Unready::Silent(reason.to_owned()));
        match self.around.zygote.stage() {
            Stage::Warm { .. } => {}
            Stage::Starting => return silent("Python is starting"),
            Stage::Failed(reason) => return silent(&reason),
        }
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((when, answer)) = &*last
            && when.elapsed() < good_for
        {
            return answer.clone();
        }
        let around = Arc::clone(&self.around);
        // Finished and remembered also when who asked goes away: others would fork again at once.
        let proving = tokio::spawn(async move {
            let answer = prove(&around).await;
            *last = Some((Instant::now(), answer.clone()));
            answer
        });
        proving.await.unwrap_or_else(|error| silent(&error.to_string()))
    }
}

async fn prove(around: &Surroundings) -> Result<Duration, Unready> {
    let began = Instant::now();
    let worker = match tokio::time::timeout(
        LIMIT,
        Worker::start(&around.zygote, "probe", WorkerLimits::default(), around.places.common()),
    )
    .await
    {
        Ok(Ok(worker)) => worker,
        Ok(Err(error)) => {
            let answered = matches!(error, ZygoteError::Fork(_) | ZygoteError::NotReady(_));
            let reason = error.to_string();
            return Err(if answered { Unready::Refused(reason) } else { Unready::Silent(reason) });
        }
        Err(_) => {
            let reason = format!("no worker came up within {} s", LIMIT.as_secs());
            return Err(Unready::Silent(reason));
        }
    };
    let took = began.elapsed();
    // The caller waits for that too: a system in which processes do not end is not ready.
    let _ = tokio::time::timeout(LIMIT, worker.retire(around.zygote.endings())).await;
    Ok(took)
}
