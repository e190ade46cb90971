//! The health of sessions as clients read it, for tools and resources alike.
//!
//! Runs in: server. Gathers what the supervisor remembers and what can be seen now; a sick session is an answer, not an
//! error, and nothing here waits behind a cell.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;

use super::{examine, in_force::LimitsInForce};
use crate::{
    server::{
        health::{
            HealthPolicy, HealthStatus, Record, State, Verdict,
            alerts::{Alert, Kind},
            evidence::Phase,
            history::Deep,
        },
        owner::Owner,
        sessions::{
            context::Surroundings,
            crashes::{CrashReport, Crashes},
            handle::Session,
            registry::Registry,
            status::Status,
        },
        watch::{readings::Metrics, shapes},
        workers::zygote::Stage,
    },
    sys::processes,
};

/// A session whose worker is being made is waited for this long before its health is told.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(5);
/// What a look gives an idle interpreter to answer; it needs some 20 µs.
pub(crate) const GLANCE: Duration = Duration::from_millis(50);
/// How old the dearer readings may be.
const DEEP_FOR: Duration = Duration::from_secs(2);
/// How often and how long the reaping of a worker that has just ended is waited for.
const REAP_LOOKS: u32 = 100;
const REAP_PAUSE: Duration = Duration::from_millis(5);
/// Most alerts that are over in a report.
const PAST: usize = 20;

/// All sessions, to be looked at.
#[derive(Clone)]
pub(crate) struct Ward {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    around: Arc<Surroundings>,
}

impl Ward {
    #[must_use]
    pub(crate) fn new(registry: Arc<Registry>, metrics: Arc<Metrics>, around: Arc<Surroundings>) -> Self {
        Self { registry, metrics, around }
    }

    /// An owner's session by name.
    #[must_use]
    pub(crate) fn session(&self, owner: &Owner, id: &str) -> Option<Session> {
        self.registry.get(owner, id).ok()
    }

    /// The names of an owner's sessions.
    #[must_use]
    pub(crate) fn names(&self, owner: &Owner) -> Vec<String> {
        self.registry.of(owner).iter().map(|session| session.id.to_string()).collect()
    }

    /// The health of one session, freshly looked at.
    pub(crate) async fn look(&self, session: &Session) -> shapes::Health {
        self.glance(session).await;
        look_deeper(session).await;
        self.report(session, &session.shared.get())
    }

    /// All sessions of an owner at once.
    pub(crate) async fn look_at_all(&self, owner: &Owner) -> shapes::HealthReport {
        let all = self.registry.of(owner);
        join_all(all.iter().map(|session| self.glance(session))).await;
        let sessions: BTreeMap<String, shapes::Health> =
            all.iter().map(|session| (session.id.to_string(), self.report(session, &session.shared.get()))).collect();
        let named = |wanted: &dyn Fn(&shapes::Health) -> bool| -> Vec<String> {
            sessions.iter().filter(|(_, health)| wanted(health)).map(|(name, _)| name.clone()).collect()
        };
        let unhealthy = named(&|health| health.status != HealthStatus::Healthy);
        shapes::HealthReport {
            healthy: (sessions.len() - unhealthy.len()) as u64,
            unhealthy,
            hung: named(&|health| health.state == State::Hung),
            total_memory: sessions.values().filter_map(|health| health.memory_usage).sum(),
            zygote: match self.around.zygote.stage() {
                Stage::Warm { .. } => "warm".to_owned(),
                Stage::Starting => "starting".to_owned(),
                Stage::Failed(reason) => reason,
            },
            alerts: self.alerts(owner),
            past_alerts: self.past_alerts(owner, PAST),
            sessions,
            timestamp: jiff::Timestamp::now().to_string(),
        }
    }

    /// Where an owner's reports are; none where it can have no workspace.
    fn crashes(&self, owner: &Owner) -> Option<Crashes> {
        let place = self.around.places.of(owner).inspect_err(|error| tracing::warn!("{error}")).ok()?;
        Some(Crashes::new(&place.outputs))
    }

    /// Ids of crash reports, the newest first.
    pub(crate) async fn crash_ids(&self, owner: &Owner) -> Vec<String> {
        let Some(crashes) = self.crashes(owner) else { return Vec::new() };
        let owner = owner.clone();
        tokio::task::spawn_blocking(move || crashes.ids(&owner)).await.unwrap_or_default()
    }

    pub(crate) async fn crash(&self, owner: &Owner, id: String) -> Option<CrashReport> {
        let (crashes, owner) = (self.crashes(owner)?, owner.clone());
        tokio::task::spawn_blocking(move || crashes.find(&owner, &id)).await.ok().flatten()
    }

    /// Alerts that are up.
    #[must_use]
    pub(crate) fn alerts(&self, owner: &Owner) -> Vec<Alert> {
        self.around.alerts.active(owner)
    }

    /// Alerts that are over, the newest first.
    #[must_use]
    pub(crate) fn past_alerts(&self, owner: &Owner, most: usize) -> Vec<Alert> {
        let all = self.around.alerts.of(owner);
        all.into_iter().filter(|alert| alert.cleared_at.is_some()).rev().take(most).collect()
    }

    /// Gives a session the chance to show that it answers, and to be past its start or its end.
    pub(crate) async fn glance(&self, session: &Session) {
        let status = session.shared.settled(START_LIMIT).await;
        if let Some(worker) = &status.worker
            && worker.control.unanswered().is_none()
        {
            let _ = worker.control.ping(GLANCE).await;
        }
        self.reap_under_way(session).await;
    }

    /// A worker that has just ended is reaped within a millisecond or two: it is not called a zombie for that.
    async fn reap_under_way(&self, session: &Session) {
        for _ in 0..REAP_LOOKS {
            match session.shared.get().ended {
                Some(pid) if examine::is_corpse(&self.around.zygote, pid) => tokio::time::sleep(REAP_PAUSE).await,
                _ => return,
            }
        }
    }

    /// The health of a session, as it is now.
    #[must_use]
    pub(crate) fn report(&self, session: &Session, status: &Status) -> shapes::Health {
        let view = session.shared.record(|record| HealthView::of(record, status));
        let judged = self.verdict(session, status, view.policy.hung_after);
        let worker = status.worker.as_ref().filter(|_| judged.state != State::Zombie && judged.pid.is_some());
        let reading = worker.and_then(|worker| self.metrics.read(worker.pid));
        let asleep = judged.state == State::Asleep;
        let (cell, running) = status.phase.cell().map(|(cell, since)| (cell, since.elapsed().as_secs_f64())).unzip();
        shapes::Health {
            status: judged.status,
            pid: judged.pid,
            memory_usage: reading.map(|reading| reading.memory).or(asleep.then_some(0)),
            cpu_percent: worker
                .zip(reading)
                .map(|(worker, reading)| self.metrics.cpu_percent(worker.pid, &reading, worker.born))
                .or(asleep.then_some(0.0)),
            num_threads: reading.map(|reading| reading.threads).or(asleep.then_some(0)),
            uptime: worker
                .map(|worker| status.up_since.unwrap_or(worker.born))
                .or(status.up_since.filter(|_| asleep))
                .map(|since| since.elapsed().as_secs_f64()),
            session_id: session.id.to_string(),
            state: judged.state,
            reason: judged.reason,
            cell,
            cell_running_for: running,
            memory_peak: worker.and_then(|worker| processes::peak_memory(worker.pid)),
            restarts: status.restarts,
            last_exit: status.last_exit.as_ref().map(|(death, when)| shapes::exit(death, Some(when.to_string()))),
            trouble: status.trouble.clone(),
            stays_awake: status.stays_awake.clone().or(status.stays.as_ref().map(|(why, _)| why.clone())),
            proportional_memory: view.deep.map(|deep| deep.proportional),
            swapped_memory: view.deep.map(|deep| deep.swap),
            subprocesses: view.deep.map(|deep| deep.subprocesses),
            subprocess_memory: view.deep.map(|deep| deep.subprocess_memory),
            alerts: view.alerts,
            recovery: view.recovery,
            thresholds: thresholds(&view.policy),
            limits: LimitsInForce::of(session),
            checkpoints: self.checkpoints(session, status),
            history: None,
            stacks: None,
        }
    }

    fn checkpoints(&self, session: &Session, status: &Status) -> shapes::HeldCheckpoints {
        let held = self.around.checkpoints.of(&session.life);
        shapes::HeldCheckpoints {
            count: held.len() as u64,
            memory: held.iter().map(|checkpoint| checkpoint.memory()).sum(),
            last: held.iter().find(|checkpoint| checkpoint.is_automatic()).map(|checkpoint| checkpoint.cell),
            unkept: status.unkept.clone(),
            can: status.unkept.is_none(),
            why: status.unkept.clone(),
            by_value: status.by_value.is_some(),
            by_value_cell: status.by_value.as_ref().map(|kept| kept.cell),
            left_out: status.by_value.iter().flat_map(|kept| kept.left_out.clone()).collect(),
        }
    }

    /// Its state now; `limit` is how long a ping may go unanswered.
    #[must_use]
    pub(crate) fn verdict(&self, session: &Session, status: &Status, limit: Duration) -> Verdict {
        examine::verdict(&self.around.zygote, &self.metrics, session, status, limit)
    }
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

/// What the supervisor knows of a session, for a reply.
struct HealthView {
    policy: HealthPolicy,
    deep: Option<Deep>,
    alerts: Vec<Kind>,
    recovery: shapes::Recovery,
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
            recovery: shapes::Recovery {
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

/// A policy, for a reply.
#[must_use]
pub(crate) fn thresholds(policy: &HealthPolicy) -> shapes::Thresholds {
    shapes::Thresholds {
        memory_alert: policy.memory_alert,
        memory_cleanup: policy.memory_cleanup,
        cpu_alert: policy.cpu_alert,
        hung_after: policy.hung_after.as_secs_f64(),
        interval: policy.interval.as_secs_f64(),
        recovery: policy.recovery,
        restart_budget: policy.restart_budget,
        restart_window: policy.restart_window.as_secs_f64(),
        checkpoints: policy.checkpoints,
    }
}

/// What a session's state is, from a look at its process now.
/// The past of a session.
#[must_use]
pub(crate) fn series(session: &Session, span: Duration) -> shapes::Series {
    let (now, wall) = (Instant::now(), jiff::Timestamp::now());
    let (buckets, samples) = session.shared.record(|record| record.history.since(now, span));
    let time = |at: Instant| (wall - jiff::SignedDuration::try_from(now - at).unwrap_or_default()).to_string();
    shapes::Series {
        span: span.as_secs_f64(),
        samples: samples
            .iter()
            .map(|sample| shapes::SeriesSample {
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
            .map(|bucket| shapes::SeriesBucket {
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
