//! What `counters.rs` counts and what can be seen now, as Prometheus and its like read it.
//!
//! Runs in: server. Writes OpenMetrics text, or Prometheus' own (0.0.4); `mcp/http/operators.rs` serves it.
//!
//! A look at a session costs some tens of microseconds; between two of them others have their turn.

use std::{fmt, sync::Arc, time::Instant};

use prometheus_client::encoding::{prometheus_text, text};

use crate::{
    server::{
        counters::{self, Snapshot},
        health::State as SessionState,
        sessions::registry::Registry,
        watch::{examine, readings::Metrics},
        workers::zygote::{Stage, Zygote},
    },
    sys::{processes, usage},
};

pub(crate) struct Exposition {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    zygote: Zygote,
    began: Instant,
}

impl Exposition {
    /// The server's age is counted from here.
    #[must_use]
    pub(crate) fn new(registry: Arc<Registry>, metrics: Arc<Metrics>, zygote: Zygote) -> Self {
        Self { registry, metrics, zygote, began: Instant::now() }
    }

    /// All of it as text: in OpenMetrics' format, or in Prometheus' own.
    ///
    /// # Errors
    /// When it cannot be written, which writing to a string does not.
    pub(crate) async fn text(&self, open: bool) -> Result<String, fmt::Error> {
        let seen = self.look().await;
        let mut text = String::with_capacity(16 << 10);
        counters::expose(&seen, |registry| {
            if open { text::encode(&mut text, registry) } else { prometheus_text::encode(&mut text, registry) }
        })?;
        Ok(text)
    }

    async fn look(&self) -> Snapshot {
        let own = usage::own();
        let stage = self.zygote.stage();
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
        for session in self.registry.all() {
            let status = session.shared.get();
            let limit = session.shared.record(|record| record.policy.hung_after);
            let state = examine::verdict(&self.zygote, &self.metrics, &session, &status, limit).state;
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

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
