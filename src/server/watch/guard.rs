//! Keeps the limits that no single process can be given: memory and number of all processes of a session together.
//!
//! Runs in: server, one task, which does nothing but sleep as long as no session has such a limit. The process table is
//! read on a blocking thread: some two times a second while a session with a limit is at work, rarer when that takes long.
//!
//! A worker's own allocations fail before this is needed (`worker/rlimits.rs`); here ends what gets around that: children,
//! shared memory, memory of files. Where a session has a cgroup (`sys/groups`) the kernel counts. Elsewhere the
//! processes are counted: what they have resident, files in memory that they have open, or had at an earlier look and that
//! are still there, segments of System V, buffers of sockets and pipes. A file in `/dev/shm` that was written and closed
//! between two looks is not seen then.
//!
//! A session with too many processes is ended at once where the kernel would let it have ever more. In a cgroup it starts no
//! others: then it is told, and ended when it stays beyond its limit. The alert comes first (`watch/supervisor.rs` raises it).
//!
//! Stacks are taken first; then what the worker started is ended, and the worker last. It cannot be another process
//! meanwhile: a dead worker stays a zombie until its session's task has buried it. The reason is left in the status, where the
//! task finds it.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use nix::sys::signal::Signal;
use parking_lot::Mutex;

use crate::{
    server::{
        counters,
        health::alerts::Kind,
        sessions::{checkpoints::Checkpoints, handle::Session, outcome::DeathReason, registry::Registry},
        workers::stacks,
    },
    settings::limits::Limits,
    sys::{
        groups::{self, Group},
        pidfd::PidFd,
        processes::{self, Process},
        shared_memory::{self, File, Held},
    },
};

/// Between two looks while a limited session works.
const AT_WORK: Duration = Duration::from_millis(400);
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
    group: Option<Arc<Group>>,
}

/// Files in memory that sessions have had open, which stay when they are closed: whose each is (the number of its life), and where.
pub(super) type Left = HashMap<File, (u64, PathBuf)>;

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
struct Seen {
    left: Left,
    /// Since when sessions have had more processes than they may.
    beyond: HashMap<u64, Instant>,
}

/// So long a session that can start no more processes may have too many, and so long also when no alert has been raised:
/// one that was cleared is not raised again at once.
const GRACE: Duration = Duration::from_secs(3);
const UNTOLD: Duration = Duration::from_secs(9);

/// Runs until the task is dropped.
pub(crate) async fn watch(registry: Arc<Registry>, checkpoints: Checkpoints) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    loop {
        let watched = limited(&registry, &checkpoints);
        let busy = watched.iter().any(|watched| watched.session.shared.get().phase.cell().is_some());
        let began = Instant::now();
        if !watched.is_empty()
            && let Ok(condemned) = tokio::task::spawn_blocking({
                let seen = Arc::clone(&seen);
                move || judge_all(watched, &mut seen.lock())
            })
            .await
        {
            let ended = condemned.iter().map(|(watched, reason)| end(&watched.session, watched.worker, *reason));
            join_all(ended).await;
        }
        let pause = if busy { AT_WORK } else { AT_REST };
        let took = began.elapsed();
        tokio::time::sleep(pause.max(took * SHARE)).await;
    }
}

/// Sees where the code is, which is over in some milliseconds or given up after 0.4 s, and ends it.
pub(super) async fn end(session: &Session, worker: i32, reason: DeathReason) {
    let view = session.shared.get().worker.filter(|view| view.pid == worker);
    if let Some(view) = view {
        let seen = stacks::take(&view).await;
        session.shared.record(|record| record.last_sight = Some((worker, seen)));
    }
    carry_out(session, worker, reason).await;
}

fn limited(registry: &Registry, checkpoints: &Checkpoints) -> Vec<Watched> {
    let sessions = registry.all_and_branches().into_iter().filter(|session| session.limits.need_a_guard());
    sessions
        .filter_map(|session| {
            let status = session.shared.get();
            let (worker, group) = (status.worker?.pid, status.group);
            let limits = session.limits;
            let frozen = checkpoints.memory_of(&session.life);
            Some(Watched { session, worker, frozen, limits, group })
        })
        .collect()
}

fn judge_all(watched: Vec<Watched>, seen: &mut Seen) -> Vec<(Watched, DeathReason)> {
    let table = processes::table();
    let Seen { left, beyond } = seen;
    let lives: HashSet<u64> = watched.iter().map(|watched| watched.session.life.number()).collect();
    beyond.retain(|life, _| lives.contains(life));
    let judged: Vec<_> = watched
        .into_iter()
        .filter_map(|watched| {
            let family = processes::closure(&table, |process| process.pid == watched.worker);
            let count = others(&table, &family, watched.worker);
            let reason = stays_beyond(count, &watched, beyond).or_else(|| too_much(&table, &family, &watched, left))?;
            Some((watched, reason))
        })
        .collect();
    // What a session has left behind is not its next worker's.
    left.retain(|_, (session, _)| !judged.iter().any(|(watched, _)| watched.session.life.number() == *session));
    groups::sweep();
    judged
}

/// Living processes beside the worker.
fn others(table: &[Process], family: &HashSet<i32>, worker: i32) -> u32 {
    let living = |process: &&Process| !matches!(process.state, 'Z' | 'X');
    let others = table.iter().filter(|process| family.contains(&process.pid) && process.pid != worker);
    u32::try_from(others.filter(living).count()).unwrap_or(u32::MAX)
}

/// A session has more processes than it may, and they do not become fewer.
fn stays_beyond(count: u32, watched: &Watched, beyond: &mut HashMap<u64, Instant>) -> Option<DeathReason> {
    let (most, life) = (watched.limits.processes?, watched.session.life.number());
    watched.session.shared.record(|record| record.processes = Some((count, most)));
    let is_bounded = watched.group.as_ref().is_some_and(|group| group.bound_processes(count, most));
    let Some(reason) = too_many(count, &watched.limits) else {
        beyond.remove(&life);
        return None;
    };
    let since = *beyond.entry(life).or_insert_with(Instant::now);
    let told = watched.session.shared.record(|record| record.alarms.is_raised(Kind::ProcessLimit));
    let limit = if told { GRACE } else { UNTOLD };
    (!is_bounded || since.elapsed() >= limit).then_some(reason)
}

fn too_many(count: u32, limits: &Limits) -> Option<DeathReason> {
    let limit = limits.processes?;
    (count > limit).then_some(DeathReason::ProcessLimit { count, limit })
}

fn too_much(table: &[Process], family: &HashSet<i32>, watched: &Watched, left: &mut Left) -> Option<DeathReason> {
    let (limit, most) = (watched.limits.memory?, watched.limits.most_memory()?);
    let (used, told) = match watched.group.as_ref().and_then(|group| group.used()) {
        // Checkpoints are forks of the worker, and so are counted there.
        Some(used) => (used, limit),
        // What it has from the zygote is in this figure.
        None => (memory_of(table, family, most, watched.session.life.number(), left) + watched.frozen, most),
    };
    watched.session.shared.record(|record| record.bytes = Some((used, told)));
    (used > most).then_some(DeathReason::MemoryLimit { used, limit })
}

/// Memory of a family: resident, which is quick and counts shared pages for each; when that is too much, proportional.
pub(super) fn memory_of(table: &[Process], family: &HashSet<i32>, most: u64, session: u64, left: &mut Left) -> u64 {
    let resident: u64 =
        table.iter().filter(|process| family.contains(&process.pid)).map(|process| process.memory).sum();
    let held = shared_memory::held(family);
    let named = held.files.iter().filter_map(|(file, (_, path))| Some((*file, path.clone()?)));
    left.extend(named.map(|(file, path)| (file, (session, path))));
    let besides =
        held.in_files() + held.buffers + shared_memory::detached_segments(family) + left_by(session, &held, left);
    if resident + besides <= most {
        return resident + besides;
    }
    let mapped = |pid: &i32| {
        if held.files.is_empty() {
            processes::proportional_memory(*pid).map(|(memory, _)| memory)
        } else {
            shared_memory::proportional_without(*pid, &held.files)
        }
    };
    family.iter().filter_map(mapped).sum::<u64>() + besides
}

/// Bytes of files that the session had open and has no more; those that are gone are forgotten.
fn left_by(session: u64, held: &Held, left: &mut Left) -> u64 {
    let mut bytes = 0;
    left.retain(|file, (whose, path)| {
        let size = shared_memory::size_of(path, *file);
        if *whose == session && !held.files.contains_key(file) {
            bytes += size.unwrap_or(0);
        }
        size.is_some()
    });
    bytes
}

async fn carry_out(session: &Session, worker: i32, reason: DeathReason) {
    let condemned = session.shared.update(|status| {
        let lives = status.worker.as_ref().is_some_and(|view| view.pid == worker);
        // As long as it is in the status its number is its own.
        let pidfd = lives.then(|| PidFd::open(worker).ok()).flatten();
        if pidfd.is_some() {
            status.condemned = Some((worker, reason));
        }
        pidfd
    });
    if let Some(pidfd) = condemned {
        let _ = tokio::task::spawn_blocking(move || processes::kill_family(worker)).await;
        let _ = pidfd.signal(Signal::SIGKILL);
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
        let judge = |worker, limits| {
            let family = processes::closure(&table, |process| process.pid == worker);
            too_many(others(&table, &family, worker), &limits)
        };
        assert_eq!(judge(10, limits(2)), None);
        assert_eq!(judge(10, limits(1)), Some(DeathReason::ProcessLimit { count: 2, limit: 1 }));
        assert_eq!(judge(20, limits(0)), None);
    }
}
