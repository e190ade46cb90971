//! Tools that tell how a session is. They never wait behind a cell, and a sick session is an answer, not an error.
//!
//! Runs in: server. Thin: what is told is `server/watch/report.rs`, what it means `server/health/verdict.rs`.

use std::time::{Duration, Instant};

use rmcp::model::CallToolResult;

use crate::{
    server::{
        health::Verdict,
        sessions::{crashes::CrashReport, handle::Session},
        tools::{
            Call, ToolError,
            arguments::{self, CheckResponsiveness, ConfigureHealth, GetKernelHealth, ListCrashes, Nothing, OfSession},
            call::server::Server,
            now, reply, reply_with_text, results,
        },
        watch::report::{GLANCE, START_LIMIT, series, thresholds},
        workers::{control::PingOutcome, stacks},
    },
    settings::policy::PolicyChange,
};

/// Longest past that a series may be asked for: what is remembered.
const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);

pub(in crate::server) async fn get(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: GetKernelHealth = call.read("get_kernel_health")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let span = asked.history.as_deref().map(span).transpose()?;
    let mut health = server.health.look(&session).await;
    health.history = span.map(|span| series(&session, span));
    reply(&health)
}

pub(in crate::server) async fn report_all(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let Nothing {} = call.read("get_health_report")?;
    reply(&server.health.look_at_all().await)
}

pub(in crate::server) async fn check(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
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
    let hung_after = session.shared.record(|record| record.policy.hung_after);
    let Verdict { state, reason, .. } = server.health.verdict(&session, &session.shared.get(), limit.min(hung_after));
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

/// `5m`, `90s`, `1h 30m`: the past that a series is asked for.
fn span(text: &str) -> Result<Duration, ToolError> {
    let wrong = || {
        let words = format!("history must be a span of time like \"90s\", \"5m\" or \"24h\", up to 24h; not {text:?}");
        ToolError::Argument(words)
    };
    let span: jiff::SignedDuration = text.trim().parse().map_err(|_| wrong())?;
    let span = Duration::try_from(span).map_err(|_| wrong())?;
    if span.is_zero() || span > MAX_SPAN { Err(wrong()) } else { Ok(span) }
}

pub(in crate::server) async fn dump_stacks(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: OfSession = call.read("dump_stacks")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let status = session.shared.settled(START_LIMIT).await;
    let stacks = match &status.worker {
        Some(worker) => Some(stacks::take(worker).await),
        None => None,
    };
    let health = server.health.report(&session, &session.shared.get());
    let dumped = results::DumpedStacks {
        session_id: session.id.to_string(),
        status: health.status,
        state: health.state,
        reason: health.reason,
        pid: health.pid,
        cell: health.cell,
        stacks,
        timestamp: now(),
    };
    let text = dumped.text();
    reply_with_text(&dumped, text, false)
}

pub(in crate::server) async fn list_crashes(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ListCrashes = call.read("list_crashes")?;
    let crashes = server.around.crashes.clone();
    let limit = usize::try_from(asked.limit.unwrap_or(20)).unwrap_or(usize::MAX);
    if let Some(id) = asked.id {
        let name = id.clone();
        let found = tokio::task::spawn_blocking(move || crashes.find(&name)).await.ok().flatten();
        let words = || format!("there is no crash report {id:?}; list_crashes without id names those that are kept");
        let report = found.ok_or_else(|| ToolError::Argument(words()))?;
        return reply(&results::CrashList { crashes: vec![results::CrashEntry::of(&report)], report: Some(report) });
    }
    let session = asked.session_id;
    let wanted = move |report: &CrashReport| session.as_ref().is_none_or(|session| *session == report.session_id);
    let found = tokio::task::spawn_blocking(move || crashes.list(wanted, limit)).await.unwrap_or_default();
    reply(&results::CrashList { crashes: found.iter().map(results::CrashEntry::of).collect(), report: None })
}

pub(in crate::server) fn configure(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ConfigureHealth = call.read("configure_health")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let change = PolicyChange {
        memory_alert: asked.memory_alert,
        memory_cleanup: asked.memory_cleanup,
        cpu_alert: asked.cpu_alert,
        hung_after: asked.hung_after,
        recovery: asked.recovery,
        checkpoints: asked.checkpoints,
    };
    let policy = session
        .shared
        .record(|record| record.policy.changed(&change).inspect(|changed| record.policy = *changed))
        .map_err(ToolError::Argument)?;
    session.reconsider();
    reply(&results::ConfiguredHealth { session_id: session.id.to_string(), thresholds: thresholds(&policy) })
}
