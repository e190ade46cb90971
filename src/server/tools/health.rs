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
    arguments::{self, CheckResponsiveness, ConfigureHealth, GetKernelHealth, ListCrashes, Nothing, OfSession},
    now, reply, reply_with_text, results,
};
use crate::{
    server::{
        Server,
        health::{
            HealthPolicy, HealthStatus, Record, State, Verdict, alerts::Kind, crashes::CrashReport, examine,
            history::Deep, policy::PolicyChange, stacks,
        },
        render,
        session::Session,
        status::{Phase, Status},
        worker_link::PingOutcome,
        zygote_client::Stage,
    },
    sys::processes,
};

/// A session whose worker is being made is waited for this long before its health is told.
const START_LIMIT: Duration = Duration::from_secs(5);
/// What a call for health gives an idle interpreter to answer; it needs some 20 µs.
const GLANCE: Duration = Duration::from_millis(50);

/// Longest past that a series may be asked for: what is remembered.
const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);
/// How old the dearer readings may be.
const DEEP_FOR: Duration = Duration::from_secs(2);

/// How often and how long the reaping of a worker that has just ended is waited for.
const REAP_LOOKS: u32 = 20;
const REAP_PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn get(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: GetKernelHealth = call.read("get_kernel_health")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let span = asked.history.as_deref().map(span).transpose()?;
    glance(server, &session).await;
    look_deeper(&session).await;
    let mut health = report(server, &session, &session.shared.get());
    health.history = span.map(|span| series(&session, span));
    reply(&health)
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
        alerts: server.around.alerts.active(),
        past_alerts: server
            .around
            .alerts
            .all()
            .into_iter()
            .filter(|alert| alert.cleared_at.is_some())
            .rev()
            .take(20)
            .collect(),
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

/// The dearer readings, unless the supervisor has some that are young enough.
async fn look_deeper(session: &Session) {
    let Some(pid) = session.shared.get().worker.map(|worker| worker.pid) else { return };
    let known = session.shared.record(|record| record.history.last_deep(pid).or(record.glimpse));
    if known.is_some_and(|(when, _)| when.elapsed() < DEEP_FOR) {
        return;
    }
    let read = tokio::task::spawn_blocking(move || examine::deep(&[pid]).remove(&pid)).await;
    if let Ok(Some(deep)) = read {
        session.shared.record(|record| record.glimpse = Some((Instant::now(), deep)));
    }
}

/// A worker that has just ended is reaped within a millisecond or two: it is not called a zombie for that.
async fn reap_under_way(server: &Server, session: &Session) {
    for _ in 0..REAP_LOOKS {
        match session.shared.get().ended {
            Some(pid) if examine::is_corpse(&server.around.zygote, pid) => tokio::time::sleep(REAP_PAUSE).await,
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
    let hung_after = session.shared.record(|record| record.policy.hung_after);
    let Verdict { state, reason, .. } = verdict(server, &session, &session.shared.get(), limit.min(hung_after));
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
    let view = session.shared.record(|record| HealthView::of(record, status));
    let judged = verdict(server, session, status, view.policy.hung_after);
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
        proportional_memory: view.deep.map(|deep| deep.proportional),
        swapped_memory: view.deep.map(|deep| deep.swap),
        subprocesses: view.deep.map(|deep| deep.subprocesses),
        subprocess_memory: view.deep.map(|deep| deep.subprocess_memory),
        alerts: view.alerts,
        recovery: view.recovery,
        thresholds: thresholds(&view.policy),
        history: None,
    }
}

/// What the supervisor knows of a session, for a reply.
struct HealthView {
    policy: HealthPolicy,
    deep: Option<Deep>,
    alerts: Vec<Kind>,
    recovery: results::Recovery,
}

impl HealthView {
    fn of(record: &Record, status: &Status) -> Self {
        let worker = status.worker.as_ref();
        let state = match (record.ledger.parked(), record.revival, worker) {
            (Some(_), _, None) => "parked",
            (None, Some(_), None) => "waiting",
            _ if status.phase == Phase::Starting && status.restarts > 0 => "recovering",
            _ => "none",
        };
        Self {
            policy: record.policy,
            deep: worker.and_then(|worker| newest(record.history.last_deep(worker.pid), record.glimpse)),
            alerts: record.alarms.raised(),
            recovery: results::Recovery {
                policy: record.policy.recovery,
                state,
                restarts_counted: record.ledger.used(),
                restart_budget: record.policy.restart_budget,
                next_restart_in: record.revival.map(|due| due.saturating_duration_since(Instant::now()).as_secs_f64()),
                parked: record.ledger.parked().map(str::to_owned),
                steps: record.ledger.steps(),
            },
        }
    }
}

/// The later of two deep looks.
fn newest(one: Option<(Instant, Deep)>, other: Option<(Instant, Deep)>) -> Option<Deep> {
    one.into_iter().chain(other).max_by_key(|(when, _)| *when).map(|(_, deep)| deep)
}

fn thresholds(policy: &HealthPolicy) -> results::Thresholds {
    results::Thresholds {
        memory_alert: policy.memory_alert,
        memory_cleanup: policy.memory_cleanup,
        cpu_alert: policy.cpu_alert,
        hung_after: policy.hung_after.as_secs_f64(),
        interval: policy.interval.as_secs_f64(),
        recovery: policy.recovery,
        restart_budget: policy.restart_budget,
        restart_window: policy.restart_window.as_secs_f64(),
    }
}

/// What a session's state is, from a look at its process now.
fn verdict(server: &Server, session: &Session, status: &Status, limit: Duration) -> Verdict {
    examine::verdict(&server.around.zygote, &server.metrics, session, status, limit)
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

fn series(session: &Session, span: Duration) -> results::Series {
    let (now, wall) = (Instant::now(), jiff::Timestamp::now());
    let (buckets, samples) = session.shared.record(|record| record.history.since(now, span));
    let time = |at: Instant| (wall - jiff::SignedDuration::try_from(now - at).unwrap_or_default()).to_string();
    results::Series {
        span: span.as_secs_f64(),
        samples: samples
            .iter()
            .map(|sample| results::SeriesSample {
                time: time(sample.at),
                state: sample.state,
                pid: sample.pid,
                memory_usage: sample.memory,
                cpu_percent: sample.cpu_percent,
                num_threads: sample.threads,
                proportional_memory: sample.deep.map(|deep| deep.proportional),
                subprocesses: sample.deep.map(|deep| deep.subprocesses),
            })
            .collect(),
        buckets: buckets
            .iter()
            .map(|bucket| results::SeriesBucket {
                from: time(bucket.from),
                to: time(bucket.to),
                samples: bucket.samples,
                memory_mean: bucket.memory_mean,
                memory_max: bucket.memory_max,
                cpu_mean: bucket.cpu_mean,
                cpu_max: bucket.cpu_max,
            })
            .collect(),
    }
}

pub(super) async fn dump_stacks(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: OfSession = call.read("dump_stacks")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let status = session.shared.settled(START_LIMIT).await;
    let stacks = match &status.worker {
        Some(worker) => Some(stacks::take(worker).await),
        None => None,
    };
    let health = report(server, &session, &session.shared.get());
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

pub(super) async fn list_crashes(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
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

pub(super) fn configure(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ConfigureHealth = call.read("configure_health")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let change = PolicyChange {
        memory_alert: asked.memory_alert,
        memory_cleanup: asked.memory_cleanup,
        cpu_alert: asked.cpu_alert,
        hung_after: asked.hung_after,
        recovery: asked.recovery,
    };
    let policy = session
        .shared
        .record(|record| record.policy.changed(&change).inspect(|changed| record.policy = *changed))
        .map_err(ToolError::Argument)?;
    session.reconsider();
    reply(&results::ConfiguredHealth { session_id: session.id.to_string(), thresholds: thresholds(&policy) })
}
