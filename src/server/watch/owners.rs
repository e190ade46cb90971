//! Sees what owners hold together, where they have a quota of it: memory of their sessions, and what is in their workspace.
//!
//! Runs in: server, one task, which does nothing but sleep as long as no owner has such a quota. What it sees is told to
//! `sessions/quotas.rs`, which refuses new work. A session that goes on beyond its owner's memory is ended here, the largest of those at
//! work; one that goes on writing, in `disk.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    disk,
    guard::{self, Left},
};
use crate::{
    server::{
        owner::Owner,
        sessions::{context::Surroundings, handle::Session, outcome::DeathReason, quotas::Held, registry::Registry},
    },
    sys::processes,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// A look that took long is followed by a pause so many times as long.
const SHARE: u32 = 30;

/// An owner to look at.
struct Watched {
    owner: Owner,
    memory: Option<u64>,
    /// Where its workspace is, if what that holds matters.
    disk: Option<PathBuf>,
    sessions: Vec<At>,
}

/// One of its sessions that has a worker.
struct At {
    session: Session,
    worker: i32,
    /// Bytes that its checkpoints hold.
    frozen: u64,
    is_busy: bool,
}

/// A session that is to be ended.
type Condemned = (Session, i32, DeathReason);

/// Runs until the task is dropped.
pub(crate) async fn watch(registry: Arc<Registry>, around: Arc<Surroundings>) {
    let mut left = Left::default();
    loop {
        let began = Instant::now();
        let watched = with_quotas(&registry, &around);
        if watched.is_empty() {
            left.clear();
            around.quotas.hold(BTreeMap::new());
        } else {
            let looked = tokio::task::spawn_blocking(move || {
                let seen = look(watched, &mut left);
                (seen, left)
            });
            let Ok(((held, condemned), remembered)) = looked.await else { return };
            left = remembered;
            around.quotas.hold(held);
            for (session, worker, reason) in condemned {
                guard::end(&session, worker, reason).await;
            }
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

fn with_quotas(registry: &Registry, around: &Surroundings) -> Vec<Watched> {
    if !around.quotas.limit_room() {
        return Vec::new();
    }
    let mut owners: BTreeSet<Owner> = around.places.owners().into_iter().collect();
    let mut sessions = HashMap::<Owner, Vec<At>>::new();
    for session in registry.all_and_branches() {
        let status = session.shared.get();
        let is_busy = status.phase.cell().is_some();
        let frozen = around.checkpoints.memory_of(&session.life);
        if let Some(worker) = status.worker.map(|view| view.pid) {
            let owner = session.life.owner().clone();
            owners.insert(owner.clone());
            sessions.entry(owner).or_default().push(At { session, worker, frozen, is_busy });
        }
    }
    let limited = |owner: Owner| {
        let rights = around.quotas.rights(&owner);
        let place = around.places.of(&owner).ok().filter(|place| place.whose().is_some());
        let disk = place.filter(|_| rights.disk.is_some()).map(|place| place.root().to_owned());
        let own = sessions.remove(&owner).unwrap_or_default();
        let matters = disk.is_some() || (rights.memory.is_some() && !own.is_empty());
        matters.then_some(Watched { owner, memory: rights.memory, disk, sessions: own })
    };
    owners.into_iter().filter_map(limited).collect()
}

fn look(watched: Vec<Watched>, left: &mut Left) -> (BTreeMap<Owner, Held>, Vec<Condemned>) {
    let table = processes::table();
    let (mut held, mut condemned) = (BTreeMap::new(), Vec::new());
    for Watched { owner, memory, disk, sessions } in watched {
        let mut used = 0;
        let mut each = Vec::new();
        for At { session, worker, frozen, is_busy } in sessions {
            let family: HashSet<i32> = processes::closure(&table, |process| process.pid == worker);
            // Shared pages count once, which is slower to find out, only where it matters.
            let most = memory.map_or(u64::MAX, |limit| limit.saturating_sub(used));
            let bytes = guard::memory_of(&table, &family, most, session.life.number(), left) + frozen;
            used += bytes;
            each.push((is_busy, bytes, session, worker));
        }
        if let Some(limit) = memory.filter(|limit| used > *limit)
            && let Some((_, _, session, worker)) =
                each.into_iter().max_by_key(|(is_busy, bytes, ..)| (*is_busy, *bytes))
        {
            condemned.push((session, worker, DeathReason::OwnerMemory { used, limit }));
        }
        held.insert(owner, Held { memory: used, disk: disk.as_deref().map_or(0, disk::held) });
    }
    (held, condemned)
}
