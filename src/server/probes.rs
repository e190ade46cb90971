//! `/healthz` and `/readyz`, for whoever runs this server: is it up, and can it make a session.
//!
//! Runs in: server. Open to callers without the token: it tells nothing but yes or no, and why not.
//!
//! Readiness is proven, not assumed: a worker is forked, says hello, and is ended again (some milliseconds). One proof at
//! a time, and one good for a second: a probe in a loop costs no more than a probe a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tokio::sync::Mutex;

use super::{Server, worker_link::Worker, zygote_client::Stage};

/// How long a fork may take to count as ready.
const LIMIT: Duration = Duration::from_secs(3);
/// How long an answer is good.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// What `/readyz` needs.
pub struct Readiness {
    server: Arc<Server>,
    last: Mutex<Option<(Instant, Result<Duration, String>)>>,
}

impl Readiness {
    /// Nothing proven yet.
    #[must_use]
    pub fn new(server: Arc<Server>) -> Self {
        Self { server, last: Mutex::new(None) }
    }

    async fn proof(&self) -> Result<Duration, String> {
        let mut last = self.last.lock().await;
        if let Some((when, answer)) = &*last
            && when.elapsed() < GOOD_FOR
        {
            return answer.clone();
        }
        let answer = prove(&self.server).await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// `GET /healthz`: the server answers, so it is alive.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: 200 when a worker could be made just now, else 503 with the reason.
pub async fn readyz(State(readiness): State<Arc<Readiness>>) -> Response {
    match readiness.proof().await {
        Ok(took) => format!("ready: a worker was made in {:.1} ms\n", took.as_secs_f64() * 1e3).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn prove(server: &Server) -> Result<Duration, String> {
    let around = &server.around;
    match around.zygote.stage() {
        Stage::Warm { .. } => {}
        Stage::Starting => return Err("Python is starting".to_owned()),
        Stage::Failed(reason) => return Err(reason),
    }
    let began = Instant::now();
    let worker = match tokio::time::timeout(LIMIT, Worker::start(&around.zygote, "probe")).await {
        Ok(Ok(worker)) => worker,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no worker came up within {} s", LIMIT.as_secs())),
    };
    let took = began.elapsed();
    worker.kill();
    let _ = worker.pidfd.readable().await;
    let _ = tokio::time::timeout(LIMIT, around.zygote.exit_of(worker.pid, worker.pidfd.get_ref())).await;
    around.zygote.reap(worker.pid);
    around.children.remove(worker.pid);
    Ok(took)
}
