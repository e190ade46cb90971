//! `GET /metrics`: what `telemetry.rs` counts and what can be seen now, as Prometheus and its like read it.
//!
//! Runs in: server. Behind the token, when there is one: unlike the probes it tells how much is done here, and every
//! scraper can send one. Answers in OpenMetrics text to whoever asks for that, else in Prometheus' own (0.0.4).
//!
//! A look at a session costs some tens of microseconds; between two of them others have their turn.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::encoding::{prometheus_text, text};

use crate::{
    server::{
        Server,
        counters::{self, Snapshot},
        health::State as SessionState,
        watch::examine,
        workers::zygote::Stage,
    },
    sys::{processes, usage},
};

const OPENMETRICS: &str = "application/openmetrics-text";
const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `/metrics` needs.
pub struct Exposition {
    server: Arc<Server>,
    began: Instant,
}

impl Exposition {
    /// The server's age is counted from here.
    #[must_use]
    pub fn new(server: Arc<Server>) -> Self {
        Self { server, began: Instant::now() }
    }

    async fn look(&self) -> Snapshot {
        let own = usage::own();
        let stage = self.server.around.zygote.stage();
        let mut seen = Snapshot {
            sessions: SessionState::ALL.iter().map(|state| (state.word(), 0)).collect(),
            server_memory: whole(own.resident),
            virtual_memory: whole(own.address_space),
            open_files: whole(own.open_files),
            max_files: whole(own.max_files),
            cpu: own.cpu,
            uptime: self.began.elapsed(),
            zygote_up: matches!(stage, Stage::Warm { .. }),
            ..Snapshot::default()
        };
        if let Stage::Warm { pid, .. } = stage {
            seen.zygote_memory = whole(processes::look_up(pid).map_or(0, |process| process.memory));
        }
        for session in self.server.registry.all() {
            let status = session.shared.get();
            let limit = session.shared.record(|record| record.policy.hung_after);
            let around = &self.server.around;
            let state = examine::verdict(&around.zygote, &self.server.metrics, &session, &status, limit).state;
            match seen.sessions.iter_mut().find(|(word, _)| *word == state.word()) {
                Some((_, count)) => *count += 1,
                None => seen.sessions.push((state.word(), 1)),
            }
            seen.waiting += i64::try_from(status.waiting).unwrap_or(i64::MAX);
            let worker = status.worker.and_then(|worker| processes::look_up(worker.pid)).map(|process| process.memory);
            seen.workers_memory += whole(worker.unwrap_or(0));
            tokio::task::yield_now().await;
        }
        seen
    }
}

/// Answers a scrape.
pub async fn metrics(State(exposition): State<Arc<Exposition>>, headers: HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = accepts.into_iter().any(|value| value.contains(OPENMETRICS));
    let seen = exposition.look().await;
    let mut body = String::with_capacity(16 << 10);
    let written = counters::expose(&seen, |registry| {
        if open { text::encode(&mut body, registry) } else { prometheus_text::encode(&mut body, registry) }
    });
    match written {
        Ok(()) => ([(header::CONTENT_TYPE, if open { OPENMETRICS_TYPE } else { prometheus_text::CONTENT_TYPE })], body)
            .into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to write the metrics: {error}\n")).into_response()
        }
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
