//! Looking at a session: the evidence is gathered here, for the supervisor and for callers, and judged.
//!
//! Runs in: server. Reads `/proc`; waits for nothing. The deep look walks page tables and the whole process table and is
//! for blocking threads.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    server::{
        health::{
            Activity, Evidence, Verdict,
            evidence::Phase,
            history::{Deep, History},
            judge,
        },
        sessions::{handle::Session, status::Status},
        watch::readings::Metrics,
        workers::zygote::{Stage, Zygote},
    },
    sys::{
        processes::{self, Process},
        threads,
    },
};

/// From how long on a rate says something about a cell.
const WATCHED: Duration = Duration::from_secs(1);
/// How old a sample may be to speak for now.
const FRESH: Duration = Duration::from_secs(3);
/// Percent of a processor above which something works.
const WORKS: f64 = 2.0;

/// The state of a session now. `limit` is how long a ping may go unanswered.
#[must_use]
pub(crate) fn verdict(
    zygote: &Zygote,
    metrics: &Metrics,
    session: &Session,
    status: &Status,
    limit: Duration,
) -> Verdict {
    let worker = status.worker.as_ref();
    let process = worker.map(|worker| (worker.pid, metrics.read(worker.pid)));
    let activity = match (status.phase, worker) {
        (Phase::Busy { since, .. }, Some(worker)) => {
            session.shared.record(|record| activity(&record.history, worker.pid, since, Instant::now()))
        }
        _ => Activity::default(),
    };
    let unanswered = worker.and_then(|worker| worker.control.unanswered());
    let corpse = status.ended.filter(|pid| is_corpse(zygote, *pid));
    judge(&Evidence { phase: status.phase, process, corpse, unanswered, activity, limit })
}

/// What a worker has been doing since its cell began, from samples.
fn activity(history: &History, pid: i32, since: Instant, now: Instant) -> Activity {
    let last = history.last().filter(|sample| {
        sample.pid == pid && sample.at.saturating_duration_since(since) >= WATCHED && now - sample.at <= FRESH
    });
    let Some(last) = last else { return Activity::default() };
    let quiet = last.cpu_percent < WORKS;
    Activity {
        cpu_percent: Some(last.cpu_percent),
        subprocesses_work: quiet && history.subprocess_cpu(pid).is_some_and(|percent| percent >= WORKS),
        waits: if quiet { threads::wait_of_main(pid) } else { None },
    }
}

/// Whether a worker that has ended still waits to be reaped, by the zygote or, when that has died, by us.
#[must_use]
pub(crate) fn is_corpse(zygote: &Zygote, pid: i32) -> bool {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let zygote = match zygote.stage() {
        Stage::Warm { pid, .. } => pid,
        Stage::Starting | Stage::Failed(_) => own,
    };
    processes::look_up(pid)
        .is_some_and(|process| process.state == 'Z' && (process.parent == own || process.parent == zygote))
}

/// So many workers are looked at one by one: on a server with a thousand sessions the table takes twenty milliseconds.
const FEW: usize = 8;

/// The dearer readings of several workers at once: of many, one walk over the process table serves them all. Blocking.
#[must_use]
pub(crate) fn deep(pids: &[i32]) -> HashMap<i32, Deep> {
    let alone = |pid: &i32| Some((*pid, processes::descendants(*pid)?));
    let started: Option<Vec<_>> = if pids.len() <= FEW { pids.iter().map(alone).collect() } else { None };
    let started = started.unwrap_or_else(|| {
        let table = processes::table();
        pids.iter().map(|pid| (*pid, of_family(&table, *pid))).collect()
    });
    started.into_iter().filter_map(|(pid, started)| Some((pid, deep_one(pid, &started)?))).collect()
}

fn of_family(table: &[Process], pid: i32) -> Vec<Process> {
    let family = processes::closure(table, |process| process.parent == pid);
    table.iter().filter(|process| family.contains(&process.pid)).cloned().collect()
}

fn deep_one(pid: i32, started: &[Process]) -> Option<Deep> {
    let (proportional, swap) = processes::proportional_memory(pid)?;
    let started = started.iter().filter(|process| process.state != 'Z');
    let mut found = Deep { proportional, swap, subprocesses: 0, subprocess_memory: 0, subprocess_cpu: Duration::ZERO };
    for process in started {
        found.subprocesses += 1;
        found.subprocess_memory += process.memory;
        found.subprocess_cpu += process.cpu;
    }
    Some(found)
}
