//! Tools that tell how a session is. They never wait behind a cell, and a sick session is an answer, not an error.
//!
//! Runs in: server. Thin: what is told is `server/watch/report.rs`, what it means `server/health/verdict.rs`.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    server::{
        health::{RecoveryPolicy, Verdict},
        sessions::{
            crashes::{CrashReport, Crashes},
            handle::Session,
        },
        tools::call::{
            arguments::{Nothing, OfSession, seconds},
            error::{ToolError, refuse},
            reply::{Reply, now},
            request::Call,
            server::Server,
        },
        watch::{
            report::{GLANCE, START_LIMIT, series, thresholds},
            shapes::{ConfiguredHealth, CrashEntry, CrashList, DumpedStacks, Health, HealthReport, Responsiveness},
        },
        workers::{control::PingOutcome, stacks},
    },
    settings::policy::{Automatic, PolicyChange},
};

/// Longest past that a series may be asked for: what is remembered.
const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);

/// Longest limit of a responsiveness check, seconds.
const MAX_CHECK: f64 = 300.0;

/// `get_kernel_health`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct GetKernelHealth {
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Also the past: `90s`, `5m`, up to `24h`.
    pub(crate) history: Option<String>,
    /// Also where each thread is: the stacks.
    pub(crate) stacks: Option<bool>,
}

/// `list_crashes`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListCrashes {
    /// Only those of this session; it need not exist any more.
    pub(crate) session_id: Option<String>,
    /// Most reports, the newest first. Default 20.
    pub(crate) limit: Option<u64>,
    /// One report, whole.
    pub(crate) id: Option<String>,
}

/// `configure_health`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ConfigureHealth {
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// MB of resident memory from which an alert is raised; 0 is never.
    pub(crate) memory_alert: Option<f64>,
    /// MB of resident memory from which garbage is collected and freed memory returned to the system; 0 is never.
    pub(crate) memory_cleanup: Option<f64>,
    /// Percent of one processor, as a mean over the interval, from which an alert is raised; 0 is never.
    pub(crate) cpu_alert: Option<f64>,
    /// Seconds that a ping may go unanswered before the interpreter counts as hung.
    pub(crate) hung_after: Option<f64>,
    /// `manual`: a dead session stays dead until restart_kernel. `on-demand`: the next cell gets a fresh worker.
    /// `auto`: a fresh worker at once, and hung sessions are interrupted, then restarted.
    pub(crate) recovery: Option<RecoveryPolicy>,
    /// `last`: after each cell that ended well a checkpoint replaces the one before, and when the worker dies the session
    /// goes on from it, with its variables. `off`: no checkpoint is made without being asked for.
    pub(crate) checkpoints: Option<Automatic>,
}

/// `check_kernel_responsiveness`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CheckResponsiveness {
    /// Seconds. Default 5.
    pub(crate) timeout: Option<f64>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

pub(crate) async fn get(server: &Server, call: &Call, asked: GetKernelHealth) -> Result<Reply<Health>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let span = asked.history.as_deref().map(span).transpose()?;
    let mut health = server.health.look(&session).await;
    health.history = span.map(|span| series(&session, span));
    if asked.stacks != Some(true) {
        return Ok(Reply::of(health));
    }
    let dumped = stacks_of(server, &session).await;
    let text = format!("{}\n{}", serde_json::to_string(&health)?, dumped.text());
    health.stacks = dumped.stacks;
    Ok(Reply::of(health).text(text))
}

pub(crate) async fn report_all(server: &Server, call: &Call, _: Nothing) -> Result<Reply<HealthReport>, ToolError> {
    Ok(Reply::of(server.health.look_at_all(call.owner()).await))
}

pub(crate) async fn check(
    server: &Server,
    call: &Call,
    asked: CheckResponsiveness,
) -> Result<Reply<Responsiveness>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let limit = check_limit(asked.timeout)?;
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
    Ok(Reply::of(Responsiveness {
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
    }))
}

/// Comes back when the session has no worker any more: there is no process left to answer.
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

pub(crate) async fn dump_stacks(
    server: &Server,
    call: &Call,
    asked: OfSession,
) -> Result<Reply<DumpedStacks>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let dumped = stacks_of(server, &session).await;
    let text = dumped.text();
    Ok(Reply::of(dumped).text(text))
}

async fn stacks_of(server: &Server, session: &Session) -> DumpedStacks {
    let status = session.shared.settled(START_LIMIT).await;
    let stacks = match &status.worker {
        Some(worker) => Some(stacks::take(worker).await),
        None => None,
    };
    let health = server.health.report(session, &session.shared.get());
    DumpedStacks {
        session_id: session.id.to_string(),
        status: health.status,
        state: health.state,
        reason: health.reason,
        pid: health.pid,
        cell: health.cell,
        stacks,
        timestamp: now(),
    }
}

pub(crate) async fn list_crashes(
    server: &Server,
    call: &Call,
    asked: ListCrashes,
) -> Result<Reply<CrashList>, ToolError> {
    let (crashes, owner) = (Crashes::new(&server.place(call.owner())?.outputs), call.owner().clone());
    let limit = usize::try_from(asked.limit.unwrap_or(20)).unwrap_or(usize::MAX);
    if limit == 0 {
        return refuse("`limit` is 0 and must be at least 1");
    }
    if let Some(id) = asked.id {
        let name = id.clone();
        let found = tokio::task::spawn_blocking(move || crashes.find(&owner, &name)).await.ok().flatten();
        let words = || format!("there is no crash report {id:?}; list_crashes without id names those that are kept");
        let report = found.ok_or_else(|| ToolError::Argument(words()))?;
        return Ok(Reply::of(CrashList { crashes: vec![CrashEntry::of(&report)], report: Some(report) }));
    }
    let session = asked.session_id;
    let wanted = move |report: &CrashReport| session.as_ref().is_none_or(|session| *session == report.session_id);
    let found = tokio::task::spawn_blocking(move || crashes.list(&owner, wanted, limit)).await.unwrap_or_default();
    Ok(Reply::of(CrashList { crashes: found.iter().map(CrashEntry::of).collect(), report: None }))
}

pub(crate) async fn configure(
    server: &Server,
    call: &Call,
    asked: ConfigureHealth,
) -> Result<Reply<ConfiguredHealth>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
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
        .map_err(|error| ToolError::Argument(error.to_string()))?;
    session.reconsider();
    Ok(Reply::of(ConfiguredHealth { session_id: session.id.to_string(), thresholds: thresholds(&policy) }))
}

/// The limit of a responsiveness check.
///
/// # Errors
/// When it is no sensible time.
fn check_limit(value: Option<f64>) -> Result<Duration, ToolError> {
    Ok(seconds(value, MAX_CHECK)?.unwrap_or(Duration::from_secs(5)))
}
