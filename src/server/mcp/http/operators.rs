//! What those who run the server ask: is it up, can it make a session, what has it counted.
//!
//! Runs in: server. The probes are open to callers without the token: they say yes or no, and why not. `/metrics` is behind
//! the token, when there is one: it tells how much is done here, and every scraper can send one.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::encoding::prometheus_text;

use crate::server::{
    oauth::issuer::Issuer,
    sessions::context::Surroundings,
    watch::{
        exposition::Exposition,
        readiness::{Readiness, Unready},
    },
};

const OPENMETRICS: &str = "application/openmetrics-text";
const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /healthz`: the server answers, so it is alive.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// What `/readyz` asks.
pub(super) struct Probed {
    readiness: Arc<Readiness>,
    /// Where only its tokens let anyone in.
    issuer: Option<Arc<Issuer>>,
}

impl Probed {
    pub(super) fn new(readiness: Arc<Readiness>, issuer: Option<Arc<Issuer>>, others_come_in: bool) -> Self {
        Self { readiness, issuer: issuer.filter(|_| !others_come_in) }
    }

    async fn proof(&self) -> Result<Duration, Unready> {
        let took = self.readiness.proof().await?;
        match &self.issuer {
            Some(issuer) => issuer.is_ready().await.map(|()| took).map_err(|why| {
                Unready::Refused(format!("no token can be checked, since the issuer's keys cannot be had: {why}"))
            }),
            None => Ok(took),
        }
    }
}

/// `GET /readyz`: 200 when a worker could be made just now, else 503 with the reason. HAProxy takes a server that answers 404
/// for one that keeps what it has and gets nothing new (`http-check disable-on-404`): such a probe says `?draining=404`.
pub(super) async fn readyz(State(probed): State<Arc<Probed>>, RawQuery(probe): RawQuery) -> Response {
    let gentle = probe.as_deref() == Some("draining=404");
    match probed.proof().await {
        Err(Unready::Draining) => {
            let status = if gentle { StatusCode::NOT_FOUND } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, "draining\n").into_response()
        }
        Ok(took) => format!("ready: a worker was made in {:.1} ms\n", took.as_secs_f64() * 1e3).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

/// `POST /admin/drain`: no new sessions from now on. The caller has a token of an administrator.
pub(super) async fn drain(State(around): State<Arc<Surroundings>>) -> (StatusCode, String) {
    around.drain.ask();
    let ends = match around.settings.drain_limit {
        Some(limit) => format!("it ends in {} s", limit.as_secs()),
        None => "it ends when it is told to".to_owned(),
    };
    (StatusCode::ACCEPTED, format!("draining: this server makes no new sessions, and {ends}\n"))
}

/// `GET /metrics`, in OpenMetrics text to a scraper that asks for that, else in Prometheus' own.
pub(super) async fn metrics(State(exposition): State<Arc<Exposition>>, headers: HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = accepts.into_iter().any(|value| value.contains(OPENMETRICS));
    match exposition.text(open).await {
        Ok(body) => {
            ([(header::CONTENT_TYPE, if open { OPENMETRICS_TYPE } else { prometheus_text::CONTENT_TYPE })], body)
                .into_response()
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to write the metrics: {error}\n")).into_response()
        }
    }
}
