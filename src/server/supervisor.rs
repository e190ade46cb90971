//! Looks at every session once a second, so that a single call for health finds a rate and an age already there.
//!
//! Runs in: server, one task. Samples processor time, pings workers that have been busy for a while, keeps the OOM
//! counter's baseline. It acts on nothing: a worker's death is heard by its session's own task.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{metrics::Metrics, registry::Registry, session::Surroundings};

const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until the task is dropped.
pub async fn watch(registry: Arc<Registry>, metrics: Arc<Metrics>, around: Arc<Surroundings>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut living = Vec::new();
        for session in registry.all() {
            let status = session.shared.get();
            let Some(worker) = status.worker else { continue };
            living.push(worker.pid);
            if let Some(reading) = metrics.read(worker.pid) {
                let _ = metrics.cpu_percent(worker.pid, &reading, worker.born);
            }
            // An idle interpreter that nobody asks about is left asleep.
            if status.phase.cell().is_some_and(|(_, since)| since < Instant::now() - INTERVAL) {
                worker.control.probe();
            }
            tokio::task::yield_now().await;
        }
        metrics.retain(&living);
        around.oom.look();
    }
}
