//! Tools that tell how a session is. They never wait behind a cell, and a sick session is an answer, not an error.
//!
//! Runs in: server. Gathers the evidence; the verdict is `server/health.rs`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::future::join_all;
use rmcp::model::CallToolResult;

use super::{
    Call, ToolError,
    arguments::{self, CheckResponsiveness, Nothing, OfSession},
    now, reply, results,
};
use crate::{
    server::{
        Server,
        health::{Evidence, HUNG_AFTER, HealthStatus, State, Verdict, judge},
        render,
        session::Session,
        status::Status,
        worker_link::PingOutcome,
        zygote_client::Stage,
    },
    sys::processes,
};

/// A session whose worker is being made is waited for this long before its health is told.
const START_LIMIT: Duration = Duration::from_secs(5);
/// What a call for health gives an idle interpreter to answer; it needs some 20 µs.
const GLANCE: Duration = Duration::from_millis(50);

/// How often and how long the reaping of a worker that has just ended is waited for.
const REAP_LOOKS: u32 = 20;
const REAP_PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn get(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: OfSession = call.read("get_kernel_health")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    glance(server, &session).await;
    reply(&report(server, &session, &session.shared.get()))
}

pub(super) async fn report_all(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let Nothing {} = call.read("get_health_report")?;
    let all = server.registry.all();
    join_all(all.iter().map(|session| glance(server, session))).await;
    let sessions: BTreeMap<String, results::Health> =
        all.iter().map(|session| (session.id.to_string(), report(server, session, &session.shared.get()))).collect();
    let named = |wanted: &dyn Fn(&results::Health) -> bool| -> Vec<String> {
        sessions.iter().filter(|(_, health)| wanted(health)).map(|(name, _)| name.clone()).collect()
    };
    let unhealthy = named(&|health| health.status != HealthStatus::Healthy);
    reply(&results::HealthReport {
        healthy: (sessions.len() - unhealthy.len()) as u64,
        unhealthy,
        hung: named(&|health| health.state == State::Hung),
        total_memory: sessions.values().filter_map(|health| health.memory_usage).sum(),
        zygote: match server.around.zygote.stage() {
            Stage::Warm { .. } => "warm".to_owned(),
            Stage::Starting => "starting".to_owned(),
            Stage::Failed(reason) => reason,
        },
        sessions,
        timestamp: now(),
    })
}

/// Gives a session the chance to show that it answers, and to be past its start or its end.
async fn glance(server: &Server, session: &Session) {
    let status = session.shared.settled(START_LIMIT).await;
    if let Some(worker) = &status.worker
        && worker.control.unanswered().is_none()
    {
        let _ = worker.control.ping(GLANCE).await;
    }
    reap_under_way(server, session).await;
}

/// A worker that has just ended is reaped within a millisecond or two: it is not called a zombie for that.
async fn reap_under_way(server: &Server, session: &Session) {
    for _ in 0..REAP_LOOKS {
        match session.shared.get().ended {
            Some(pid) if is_corpse(server, pid) => tokio::time::sleep(REAP_PAUSE).await,
            _ => return,
        }
    }
}

pub(super) async fn check(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: CheckResponsiveness = call.read("check_kernel_responsiveness")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let limit = arguments::check_limit(asked.timeout)?;
    let began = Instant::now();
    let status = session.shared.settled(limit).await;
    let left = limit.saturating_sub(began.elapsed());
    let answer = match &status.worker {
        Some(worker) => tokio::select! {
            outcome = worker.control.ping(left) => Some(outcome),
            () = death(&session) => None,
        },
        None => None,
    };
    let Verdict { state, reason, .. } = verdict(server, &session.shared.get(), limit.min(HUNG_AFTER));
    let (responsive, response_time) = match answer {
        Some(PingOutcome::Pong { after, .. }) => (true, after),
        _ => (false, began.elapsed()),
    };
    reply(&results::Responsiveness {
        responsive,
        response_time: response_time.as_secs_f64(),
        test_result: match answer {
            Some(PingOutcome::Pong { value, .. }) => Some(format!("1+1 = {value}")),
            _ => None,
        },
        timeout: limit.as_secs_f64(),
        session_id: session.id.to_string(),
        state,
        reason,
    })
}

/// Comes back when the session has no worker any more: there is nobody left to answer.
async fn death(session: &Session) {
    while session.shared.get().worker.is_some() {
        tokio::time::sleep(GLANCE).await;
    }
}

/// The health of a session, as it is now.
pub(super) fn report(server: &Server, session: &Session, status: &Status) -> results::Health {
    let judged = verdict(server, status, HUNG_AFTER);
    let worker = status.worker.as_ref().filter(|_| judged.state != State::Zombie && judged.pid.is_some());
    let reading = worker.and_then(|worker| server.metrics.read(worker.pid));
    let (cell, running) = status.phase.cell().map(|(cell, since)| (cell, since.elapsed().as_secs_f64())).unzip();
    results::Health {
        status: judged.status,
        pid: judged.pid,
        memory_usage: reading.map(|reading| reading.memory),
        cpu_percent: worker
            .zip(reading)
            .map(|(worker, reading)| server.metrics.cpu_percent(worker.pid, &reading, worker.born)),
        num_threads: reading.map(|reading| reading.threads),
        uptime: worker.map(|worker| worker.born.elapsed().as_secs_f64()),
        session_id: session.id.to_string(),
        state: judged.state,
        reason: judged.reason,
        cell,
        cell_running_for: running,
        memory_peak: worker.and_then(|worker| processes::peak_memory(worker.pid)),
        restarts: status.restarts,
        last_exit: status.last_exit.as_ref().map(|(death, when)| render::exit(death, Some(when.to_string()))),
        trouble: status.trouble.clone(),
    }
}

/// What a session's state is, from a look at its process now.
pub(in crate::server) fn verdict(server: &Server, status: &Status, limit: Duration) -> Verdict {
    let worker = status.worker.as_ref();
    judge(&Evidence {
        phase: status.phase,
        process: worker.map(|worker| (worker.pid, server.metrics.read(worker.pid))),
        corpse: status.ended.filter(|pid| is_corpse(server, *pid)),
        unanswered: worker.and_then(|worker| worker.control.unanswered()),
        limit,
    })
}

/// Whether a worker that has ended still waits to be reaped, by the zygote or, when that has died, by us.
fn is_corpse(server: &Server, pid: i32) -> bool {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let zygote = match server.around.zygote.stage() {
        Stage::Warm { pid, .. } => pid,
        Stage::Starting | Stage::Failed(_) => own,
    };
    processes::look_up(pid)
        .is_some_and(|process| process.state == 'Z' && (process.parent == own || process.parent == zygote))
}
