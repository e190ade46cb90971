//! Looks at every session, remembers what it saw, raises alerts, and asks the session's task to act where the policy says.
//!
//! Runs in: server, one task; `/proc` is read on a blocking thread. It never touches a worker: a death is heard by the
//! session's own task, and so is a wish of the supervisor's.
//!
//! What costs: a busy session is read and pinged every second. An idle one is left asleep but for one look and one ping in
//! each interval, unless a client used it meanwhile. The deep look (proportional memory, subprocesses) walks the whole
//! process table once for all sessions whose turn it is, every five seconds at most.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    server::{
        counters,
        health::{
            HealthPolicy, Record, State, Verdict,
            alerts::{Change, Kind, Measure},
            evidence::{Phase, Reading},
            history::{Deep, Sample},
            recovery::{Step, plan},
        },
        sessions::{context::Surroundings, handle::Session, occurrences::Occurred, registry::Registry, status::Status},
        watch::{examine, giving_back::GivingBack, readings::Metrics},
    },
    settings::policy::MB,
    sys::memory,
};

/// Longest pause between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Shortest pause between two walks over the process table.
const DEEP_ROUND: Duration = Duration::from_secs(5);
/// A wish that has had no effect is made again after the grace time and this.
const PATIENCE: Duration = Duration::from_secs(5);

/// One session in one round.
struct Look {
    session: Session,
    pid: i32,
    born: Instant,
    deep: bool,
}

struct Supervisor {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    around: Arc<Surroundings>,
    walked: Instant,
    giving_back: GivingBack,
}

/// Runs until the task is dropped.
pub(crate) async fn watch(registry: Arc<Registry>, metrics: Arc<Metrics>, around: Arc<Surroundings>) {
    let mut ticks = tokio::time::interval(around.health.interval.min(ROUND));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let now = Instant::now();
    let mut supervisor = Supervisor { registry, metrics, around, walked: now, giving_back: GivingBack::new(now) };
    loop {
        ticks.tick().await;
        supervisor.round().await;
    }
}

impl Supervisor {
    async fn round(&mut self) {
        let (looks, unread) = self.whose_turn();
        let (readings, deep) = self.read(&looks).await;
        for look in looks {
            let seen = readings.get(&look.pid).map(|reading| self.seen(&look, reading, deep.get(&look.pid).copied()));
            self.judge(&look.session, seen);
            tokio::task::yield_now().await;
        }
        unread.iter().for_each(|session| self.judge(session, None));
        self.around.oom.look();
    }

    /// Sessions to be read now, and those to be judged without: they have no worker to read, or have been seen by others to
    /// come near a limit, or away from it.
    fn whose_turn(&mut self) -> (Vec<Look>, Vec<Session>) {
        let now = Instant::now();
        let walk = now.duration_since(self.walked) >= DEEP_ROUND.min(self.around.health.interval);
        let (mut looks, mut unread, mut living) = (Vec::new(), Vec::new(), Vec::new());
        let all = self.registry.all();
        if self.giving_back.is_due(all.len(), now) {
            tokio::task::spawn_blocking(memory::return_freed);
        }
        for session in all {
            let status = session.shared.get();
            let Some(worker) = &status.worker else {
                unread.push(session);
                continue;
            };
            living.push(worker.pid);
            let busy = status.phase != Phase::Idle || worker.control.unanswered().is_some();
            let (pid, born) = (worker.pid, worker.born);
            let (due, deep, moved) = session.shared.record(|record| {
                let examined = record.examined.unwrap_or(status.created_at);
                let over = now.duration_since(examined) >= record.policy.interval;
                let deep = walk && (busy || over);
                let used = record.history.last().is_none_or(|sample| sample.pid == pid && sample.at < status.used_at);
                if deep {
                    record.examined = Some(now);
                }
                (busy || used || deep, deep, of_limits(record, &status).iter().any(|of| of.is_news(&record.alarms)))
            });
            if matches!(status.phase, Phase::Busy { since, .. } if now.duration_since(since) >= ROUND) || deep {
                worker.control.probe();
            }
            if due {
                looks.push(Look { session, pid, born, deep });
            } else if moved {
                unread.push(session);
            }
        }
        if walk {
            self.walked = now;
        }
        self.metrics.retain(&living);
        (looks, unread)
    }

    async fn read(&self, looks: &[Look]) -> (HashMap<i32, Reading>, HashMap<i32, Deep>) {
        if looks.is_empty() {
            return (HashMap::new(), HashMap::new());
        }
        let all: Vec<i32> = looks.iter().map(|look| look.pid).collect();
        let deep: Vec<i32> = looks.iter().filter(|look| look.deep).map(|look| look.pid).collect();
        let metrics = Arc::clone(&self.metrics);
        let read = move || {
            let readings = all.into_iter().filter_map(|pid| Some((pid, metrics.read(pid)?))).collect();
            (readings, if deep.is_empty() { HashMap::new() } else { examine::deep(&deep) })
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// What is remembered of a look; its state is to be judged yet.
    fn seen(&self, look: &Look, reading: &Reading, deep: Option<Deep>) -> Sample {
        let cpu_percent = self.metrics.cpu_percent(look.pid, reading, look.born);
        Sample {
            at: Instant::now(),
            pid: look.pid,
            state: State::Idle,
            memory: reading.memory,
            cpu: reading.cpu,
            cpu_percent,
            threads: reading.threads,
            deep,
        }
    }

    /// One verdict on a session as it is now: remembered with what was seen, and what follows from it, alerts and wishes.
    fn judge(&self, session: &Session, seen: Option<Sample>) {
        // It was deleted while its worker was looked at: that this ends is no news, and an alert would stay for ever.
        if session.life.is_over() {
            return;
        }
        let status = session.shared.get();
        let policy = session.shared.record(|record| record.policy);
        let verdict = examine::verdict(&self.around.zygote, &self.metrics, session, &status, policy.hung_after);
        let waited = status.worker.as_ref().and_then(|worker| worker.control.unanswered());
        let waited = waited.map_or(Duration::ZERO, |ping| ping.waited);
        let now = Instant::now();
        let (changes, wish) = session.shared.record(|record| {
            if let Some(sample) = seen {
                record.history.push(Sample { state: verdict.state, ..sample });
            }
            let measures = measures(record, &verdict, &status, waited);
            let changes = record.alarms.take(measures, now, policy.interval);
            (changes, self.wish(record, verdict.state, waited, now))
        });
        for change in changes {
            self.tell(session, change);
        }
        if let Some(step) = wish {
            tracing::info!(session = %session.id, step = step.word(), "{}", verdict.reason);
            session.heal(step);
        }
    }

    fn wish(&self, record: &mut Record, state: State, waited: Duration, now: Instant) -> Option<Step> {
        let crossed = record.alarms.is_raised(Kind::MemoryCleanup);
        record.collected &= crossed;
        let step = plan(&record.policy, state, waited, crossed && !record.collected)?;
        if step == Step::Collect {
            record.collected = true;
        } else if record.wished.is_some_and(|then| now.duration_since(then) < self.around.settings.grace + PATIENCE) {
            return None;
        } else {
            record.wished = Some(now);
        }
        Some(step)
    }

    fn tell(&self, session: &Session, change: Change) {
        let when = Timestamp::now().to_string();
        let (owner, life) = (session.life.owner(), session.life.number());
        self.around.changes.alert(owner, &session.id);
        match change {
            Change::Raised(measure) => {
                counters::alert_raised(measure.kind.word());
                self.around.occurrences.note(owner, &session.id, || Occurred::Raised {
                    alert: measure.kind.word().to_owned(),
                    words: measure.words.clone(),
                });
                let alert = self.around.alerts.raise((owner, life), &session.id, &measure, when);
                tracing::warn!(session = %session.id, alert = alert.id, kind = measure.kind.word(), "{}", measure.words);
                // Each death is told by the reply of the call that met it, else by the next one's: with what became of the
                // variables, and when another worker may serve already.
                if measure.kind != Kind::Unhealthy {
                    session.shared.record(|record| record.tell(measure.words));
                }
            }
            Change::Cleared(kind) => {
                self.around.alerts.clear(life, kind, &when);
                let alert = || Occurred::Cleared { alert: kind.word().to_owned() };
                self.around.occurrences.note(owner, &session.id, alert);
                tracing::info!(session = %session.id, kind = kind.word(), "alert is over");
            }
        }
    }
}

/// From this part of a limit on, a session is told of it.
const NEAR: f64 = 0.8;

/// The values of a session that have thresholds.
fn measures(record: &Record, verdict: &Verdict, status: &Status, waited: Duration) -> Vec<Measure> {
    let HealthPolicy { memory_alert, memory_cleanup, cpu_alert, hung_after, interval, .. } = record.policy;
    let memory = status.worker.as_ref().and_then(|worker| {
        let sample = record.history.last().filter(|sample| sample.pid == worker.pid)?;
        let started = record.history.last_deep(worker.pid).map_or(0, |(_, deep)| deep.subprocess_memory);
        Some(sample.memory + started)
    });
    let memory = as_f64(memory.unwrap_or(0));
    let mut measures = vec![
        above(Kind::Memory, memory, as_f64(memory_alert), |value, limit| {
            format!("memory: {:.0} MB, above the alert threshold of {:.0} MB", value / MB, limit / MB)
        }),
        above(Kind::MemoryCleanup, memory, as_f64(memory_cleanup), |value, limit| {
            format!("memory: {:.0} MB, above the clean-up threshold of {:.0} MB", value / MB, limit / MB)
        }),
        so(
            Kind::Unhealthy,
            matches!(verdict.state, State::Dead | State::Zombie) && !was_ordered(status),
            &verdict.reason,
        ),
        so(Kind::Stopped, verdict.state == State::Stopped, &verdict.reason),
        so(Kind::Parked, record.ledger.parked().is_some(), record.ledger.parked().unwrap_or_default()),
    ];
    measures.extend(of_limits(record, status));
    let hung = if verdict.state == State::Hung { waited.as_secs_f64() } else { 0.0 };
    measures.push(above(Kind::Unresponsive, hung, hung_after.as_secs_f64(), |_, _| verdict.reason.clone()));
    // Not known, not judged: an alert that is up stays up until the mean is known again.
    if let Some(cpu) = record.history.mean_cpu(interval).or_else(|| status.worker.is_none().then_some(0.0)) {
        measures.push(above(Kind::Cpu, cpu, cpu_alert, |value, limit| {
            let seconds = interval.as_secs_f64();
            format!("processor: {value:.0} % over {seconds} s, above the threshold of {limit:.0} %")
        }));
    }
    measures
}

/// Those of its limits that it is told of before they end it.
fn of_limits(record: &Record, status: &Status) -> Vec<Measure> {
    let mut measures = Vec::new();
    if let Some((count, limit)) = record.processes {
        measures.push(above(Kind::ProcessLimit, f64::from(count), f64::from(limit) * NEAR, |count, _| {
            format!("processes: {count}; with more than {limit} the session is ended")
        }));
    }
    if let Some((used, limit)) = record.bytes {
        // What its last worker had is gone.
        let used = if status.worker.is_some() { used } else { 0 };
        measures.push(above(Kind::MemoryLimit, as_f64(used), as_f64(limit) * NEAR, |used, _| {
            let limit = as_f64(limit) / MB;
            format!(
                "memory: {:.0} MB; with more than {limit:.0} MB allocations fail, and processes that have more together \
                 are ended",
                used / MB
            )
        }));
    }
    if let Some((used, limit)) = record.disk {
        measures.push(above(Kind::DiskLimit, as_f64(used), as_f64(limit) * NEAR, |used, _| {
            let limit = as_f64(limit) / MB;
            format!(
                "disk: {:.0} MB; with more than {limit:.0} MB a session that writes is ended; remove files",
                used / MB
            )
        }));
    }
    measures
}

/// Its worker ends, or has ended, because a client wished so or no client used it: no worker, and no illness.
fn was_ordered(status: &Status) -> bool {
    let last = status.worker.as_ref().map_or(status.ended, |worker| Some(worker.pid));
    last.is_some() && last == status.parting
}

fn above(kind: Kind, value: f64, threshold: f64, words: impl FnOnce(f64, f64) -> String) -> Measure {
    let words = if threshold > 0.0 && value >= threshold { words(value, threshold) } else { String::new() };
    Measure { kind, value, threshold, words }
}

fn so(kind: Kind, is_so: bool, words: &str) -> Measure {
    let words = if is_so { words.to_owned() } else { String::new() };
    Measure { kind, value: f64::from(u8::from(is_so)), threshold: 1.0, words }
}

#[expect(clippy::cast_precision_loss, reason = "byte counts need no more than 52 bits")]
fn as_f64(value: u64) -> f64 {
    value as f64
}
