//! What systemd, or another program that speaks its notification protocol, hears from us: ready, status, watchdog, stopping.
//!
//! Runs in: server, one task; nothing of it runs without `NOTIFY_SOCKET`. Sessions do not see that variable
//! (`zygote_client.rs` takes it away): a cell must not speak for the server.
//!
//! - `READY=1` when the transport serves and a worker has been forked, has said hello and was ended again.
//! - `WATCHDOG=1` at half of the manager's time, by a task of the event loop, each time after another such proof. What the
//!   system refuses (no process left, no memory) is not the server's sickness and a restart, which would cost every
//!   session its variables, is no cure: the beat goes on when the zygote has answered. A zygote that does not answer is
//!   replaced within 15 s (`zygote_client.rs`); only when that fails too does the beat stay away long enough.
//! - `STATUS=` when it has changed, looked at every ten seconds at most.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{sync::oneshot, time::Instant};

use crate::server::{
    health::{errand::Errand, evidence::Phase},
    sessions::registry::Registry,
    watch::readiness::Readiness,
    workers::zygote::{Stage, Zygote},
};

/// Between two looks at readiness while starting, or after a proof that failed.
const RETRY: Duration = Duration::from_millis(500);
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// A manager that does not read must not hold up our end.
const SEND_LIMIT: Duration = Duration::from_millis(500);

#[must_use]
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// Runs until the task is dropped. `serving` is told when the transport takes calls.
pub(crate) async fn keep_informed(
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    zygote: Zygote,
    serving: oneshot::Receiver<()>,
) {
    if !is_there() || serving.await.is_err() {
        return;
    }
    until_ready(&readiness).await;
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut status = describe(&registry, &zygote);
    send(format!("{}\n{}", NotifyState::Ready, NotifyState::Status(&status))).await;
    tracing::info!(watchdog = watchdog.map(|time| time.as_secs_f64()), "the service manager knows that we are ready");
    let mut next_status = Instant::now() + STATUS_EVERY;
    let mut next_beat = watchdog.map(|time| Instant::now() + time);
    loop {
        tokio::time::sleep_until(next_beat.map_or(next_status, |beat| beat.min(next_status))).await;
        if let (Some(due), Some(time)) = (next_beat, watchdog)
            && due <= Instant::now()
        {
            let worked = readiness.works().await;
            next_beat = Some(Instant::now() + if worked.is_ok() { time } else { RETRY });
            match worked {
                Ok(()) => send(NotifyState::Watchdog.to_string()).await,
                Err(reason) => tracing::error!(%reason, "no watchdog message to the service manager"),
            }
        }
        if next_status <= Instant::now() {
            next_status = Instant::now() + STATUS_EVERY;
            let now = describe(&registry, &zygote);
            if now != status {
                send(NotifyState::Status(&now).to_string()).await;
                status = now;
            }
        }
    }
}

/// Says that the end has begun.
pub(crate) async fn stopping() {
    if is_there() {
        send(NotifyState::Stopping.to_string()).await;
    }
}

async fn until_ready(readiness: &Readiness) {
    let mut told = String::new();
    while let Err(unready) = readiness.proof().await {
        let reason = unready.to_string();
        if told != reason {
            send(NotifyState::Status(&reason.replace('\n', " ")).to_string()).await;
            told = reason;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Writes to the manager's socket, away from the event loop: a full one blocks.
async fn send(message: String) {
    let sent = tokio::task::spawn_blocking(move || sd_notify::notify(&[NotifyState::Custom(&message)]));
    match tokio::time::timeout(SEND_LIMIT, sent).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "failed to tell the service manager"),
        Ok(Err(_)) | Err(_) => tracing::warn!("the service manager does not read what it is told"),
    }
}

fn describe(registry: &Registry, zygote: &Zygote) -> String {
    let mut phases = BTreeMap::<&str, usize>::new();
    let all = registry.all();
    for session in &all {
        let word = match session.shared.get().phase {
            Phase::Starting => "starting",
            Phase::Idle | Phase::Serving { errand: Errand::Keep, .. } => "idle",
            Phase::Busy { .. } => "busy",
            Phase::WaitingInput { .. } => "waiting for input",
            Phase::Serving { .. } => "busy",
            Phase::Asleep => "asleep",
            Phase::Dead => "dead",
        };
        *phases.entry(word).or_default() += 1;
    }
    let phases: Vec<String> = phases.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let zygote = match zygote.stage() {
        Stage::Warm { .. } => "warm".to_owned(),
        Stage::Starting => "starting".to_owned(),
        Stage::Failed(reason) => reason.replace('\n', " "),
    };
    let phases = if phases.is_empty() { String::new() } else { format!(" ({})", phases.join(", ")) };
    format!("{} sessions{phases}, zygote {zygote}", all.len())
}
