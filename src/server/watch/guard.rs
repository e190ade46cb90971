//! Keeps the limits that no single process can be given: memory and number of all processes of a session together.
//!
//! Runs in: server, one task, which does nothing but sleep as long as no session has such a limit. The process table is
//! read on a blocking thread: some two times a second while a session with a limit is at work, rarer when that takes long.
//!
//! A worker's own allocations fail before this is needed (`worker/rlimits.rs`); here ends what gets around that: children,
//! shared memory, memory of files. Stacks are taken first; the kill then is one step with a status just read: the pid cannot
//! have gone to somebody else meanwhile, for a dead worker stays a zombie until its session's task has buried it. The
//! reason is left in the status, where the task finds it.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    server::{
        counters,
        sessions::{checkpoints::Checkpoints, outcome::DeathReason, registry::Registry, task::Session},
        workers::stacks,
    },
    settings::limits::Limits,
    sys::processes::{self, Process},
};

/// Between two looks while a limited session works.
const AT_WORK: Duration = Duration::from_millis(400);
/// While none does.
const AT_REST: Duration = Duration::from_secs(1);
/// A look that took long is followed by a pause so many times as long.
const SHARE: u32 = 30;

/// A session to look at.
struct Watched {
    session: Session,
    worker: i32,
    /// Bytes that its checkpoints hold: they count as its own.
    frozen: u64,
    limits: Limits,
}

/// Runs until the task is dropped.
pub async fn watch(registry: Arc<Registry>, checkpoints: Checkpoints) {
    loop {
        let watched = limited(&registry, &checkpoints);
        let busy = watched.iter().any(|watched| watched.session.shared.get().phase.cell().is_some());
        let began = Instant::now();
        if !watched.is_empty()
            && let Ok(condemned) = tokio::task::spawn_blocking(move || judge_all(watched)).await
        {
            join_all(condemned.into_iter().map(|(watched, reason)| end(watched, reason))).await;
        }
        let pause = if busy { AT_WORK } else { AT_REST };
        let took = began.elapsed();
        tokio::time::sleep(pause.max(took * SHARE)).await;
    }
}

/// Sees where the code is, which is over in some milliseconds or given up after 0.4 s, and ends it.
async fn end(watched: Watched, reason: DeathReason) {
    let view = watched.session.shared.get().worker.filter(|view| view.pid == watched.worker);
    if let Some(view) = view {
        let seen = stacks::take(&view).await;
        watched.session.shared.record(|record| record.last_sight = Some((watched.worker, seen)));
    }
    carry_out(&watched, reason);
}

fn limited(registry: &Registry, checkpoints: &Checkpoints) -> Vec<Watched> {
    let sessions = registry.all_and_branches().into_iter().filter(|session| session.limits.need_a_guard());
    sessions
        .filter_map(|session| {
            let worker = session.shared.get().worker?.pid;
            let limits = session.limits;
            let frozen = checkpoints.memory_of(&session.id);
            Some(Watched { session, worker, frozen, limits })
        })
        .collect()
}

fn judge_all(watched: Vec<Watched>) -> Vec<(Watched, DeathReason)> {
    let table = processes::table();
    let judged = watched.into_iter().filter_map(|watched| {
        let reason = judge(&table, watched.worker, watched.frozen, &watched.limits)?;
        Some((watched, reason))
    });
    judged.collect()
}

fn judge(table: &[Process], worker: i32, frozen: u64, limits: &Limits) -> Option<DeathReason> {
    let family = processes::closure(table, |process| process.pid == worker);
    if let Some(limit) = limits.processes {
        let living = |process: &&Process| !matches!(process.state, 'Z' | 'X');
        let others = table.iter().filter(|process| family.contains(&process.pid) && process.pid != worker);
        let count = u32::try_from(others.filter(living).count()).unwrap_or(u32::MAX);
        if count > limit {
            return Some(DeathReason::ProcessLimit { count, limit });
        }
    }
    let limit = limits.memory?;
    // A worker alone meets its MemoryError first: what it has from the zygote, and a sixteenth, are let pass.
    let most = limit + limit / 16 + (32 << 20);
    let used = memory_of(table, &family, most) + frozen;
    (used > most).then_some(DeathReason::MemoryLimit { used, limit })
}

/// Memory of a family: resident, which is quick and counts shared pages for each; when that is too much, proportional.
fn memory_of(table: &[Process], family: &HashSet<i32>, most: u64) -> u64 {
    let resident: u64 =
        table.iter().filter(|process| family.contains(&process.pid)).map(|process| process.memory).sum();
    if resident <= most {
        return resident;
    }
    family.iter().filter_map(|pid| processes::proportional_memory(*pid)).map(|(memory, _)| memory).sum()
}

fn carry_out(watched: &Watched, reason: DeathReason) {
    let worker = watched.worker;
    let condemned = watched.session.shared.update(|status| {
        let lives = status.worker.as_ref().is_some_and(|view| view.pid == worker);
        if lives {
            status.condemned = Some((worker, reason));
        }
        lives
    });
    if condemned {
        let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
        counters::limit_hit(reason.word());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_without_the_worker_the_dead_and_the_strangers() {
        let process = |pid, parent, state| Process {
            pid,
            parent,
            group: 0,
            session: 0,
            state,
            threads: 1,
            cpu: Duration::ZERO,
            memory: 0,
            started: 0,
        };
        let table = [
            process(10, 1, 'S'),
            process(11, 10, 'S'),
            process(12, 11, 'R'),
            process(13, 10, 'Z'),
            process(20, 1, 'R'),
        ];
        let limits = |processes| Limits { processes: Some(processes), ..Limits::default() };
        assert_eq!(judge(&table, 10, 0, &limits(2)), None);
        assert_eq!(judge(&table, 10, 0, &limits(1)), Some(DeathReason::ProcessLimit { count: 2, limit: 1 }));
        assert_eq!(judge(&table, 20, 0, &limits(0)), None);
    }
}
