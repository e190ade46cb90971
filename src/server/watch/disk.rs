//! Keeps sessions to their disk: what the workspace holds, with a confined session's own directory.
//!
//! Runs in: server, one task, which does nothing but sleep as long as no session has such a limit; disks are looked at on a
//! blocking thread, the rarer the longer that takes. Quotas of the file system need root and a disk made for it, so this looks.
//!
//! A workspace is of all sessions, or of all of one owner. What made it grow beyond a limit is the session that has written most since the last look,
//! or the only one at work. One that removes files, or reads, is left alone.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;

use super::guard;
use crate::{
    server::sessions::{handle::Session, outcome::DeathReason, quotas::Quotas, registry::Registry},
    sys::processes,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// A look that took long is followed by a pause so many times as long.
const SHARE: u32 = 30;

struct Watched {
    session: Session,
    worker: i32,
    room: Option<PathBuf>,
    limit: u64,
    /// It is its owner's quota.
    is_owners: bool,
    is_busy: bool,
}

/// What was seen of a session.
struct Seen {
    watched: Watched,
    used: u64,
    /// Since the last look.
    grew: u64,
    wrote: u64,
}

/// Bytes at the last look.
#[derive(Debug, Default)]
struct Before {
    /// Blocks in use of each workspace's file system, and bytes of the workspace.
    workspaces: HashMap<PathBuf, (u64, u64)>,
    /// Of each life: what it used, and what its worker had written.
    sessions: HashMap<u64, (u64, i32, u64)>,
}

/// Runs until the task is dropped.
pub(crate) async fn watch(registry: Arc<Registry>, quotas: Arc<Quotas>) {
    let mut before = Before::default();
    loop {
        let watched = limited(&registry, &quotas);
        let began = Instant::now();
        if watched.is_empty() {
            before = Before::default();
        } else {
            let looked = tokio::task::spawn_blocking(move || {
                let seen = look(watched, &mut before);
                (seen, before)
            });
            let Ok((seen, now)) = looked.await else { return };
            before = now;
            for one in seen.iter().filter(|one| !one.watched.is_owners) {
                one.watched.session.shared.record(|record| record.disk = Some((one.used, one.watched.limit)));
            }
            if let Some(one) = guilty(seen) {
                let Watched { limit, is_owners, .. } = one.watched;
                let reason = match is_owners {
                    true => DeathReason::OwnerDisk { used: one.used, limit },
                    false => DeathReason::DiskLimit { used: one.used, limit },
                };
                guard::end(&one.watched.session, one.watched.worker, reason).await;
            }
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

fn limited(registry: &Registry, quotas: &Quotas) -> Vec<Watched> {
    let with_limit = |session: Session| {
        let of_owner = session.place.whose().and_then(|owner| quotas.rights(owner).disk);
        let limit = session.limits.disk.into_iter().chain(of_owner).min()?;
        let is_owners = of_owner == Some(limit);
        let status = session.shared.get();
        let is_busy = status.phase.cell().is_some();
        let view = status.worker?;
        let room = view.room.as_ref().map(|room| room.path().to_owned());
        Some(Watched { session, worker: view.pid, room, limit, is_owners, is_busy })
    };
    registry.all_and_branches().into_iter().filter_map(with_limit).collect()
}

fn look(watched: Vec<Watched>, before: &mut Before) -> Vec<Seen> {
    let mut workspaces = HashMap::new();
    for root in watched.iter().map(|one| one.session.place.root()) {
        if workspaces.contains_key(root) {
            continue;
        }
        let blocks = statvfs(root).map_or(0, |found| found.blocks() - found.blocks_free());
        let bytes = match before.workspaces.get(root) {
            // Nothing has changed on that disk.
            Some((then, bytes)) if *then == blocks && blocks > 0 => *bytes,
            _ => held(root),
        };
        workspaces.insert(root.to_owned(), (blocks, bytes));
    }
    let table = processes::table();
    let mut sessions = HashMap::new();
    let seen = watched
        .into_iter()
        .map(|watched| {
            let shared = workspaces.get(watched.session.place.root()).map_or(0, |(_, bytes)| *bytes);
            let used = shared + watched.room.as_deref().map_or(0, held);
            let family = processes::closure(&table, |process| process.pid == watched.worker);
            let written: u64 = family.iter().filter_map(|pid| written_by(*pid)).sum();
            let life = watched.session.life.number();
            let then = before.sessions.get(&life).filter(|(_, worker, _)| *worker == watched.worker);
            let (grew, wrote) =
                then.map_or((0, 0), |(then, _, before)| (used.saturating_sub(*then), written.saturating_sub(*before)));
            sessions.insert(life, (used, watched.worker, written));
            Seen { watched, used, grew, wrote }
        })
        .collect();
    (before.workspaces, before.sessions) = (workspaces, sessions);
    seen
}

/// Who is to be ended.
fn guilty(seen: Vec<Seen>) -> Option<Seen> {
    let at_work = |one: &Seen| one.watched.is_busy || one.wrote > 0;
    let is_alone = seen.iter().filter(|one| at_work(one)).count() == 1;
    let beyond = seen.into_iter().filter(|one| one.used > one.watched.limit && one.grew > 0 && at_work(one));
    // Files can grow by other means than writing; then it shows who is at work.
    beyond.filter(|one| is_alone || one.wrote > 0).max_by_key(|one| one.wrote)
}

/// Bytes that a process, and what it has waited for, has given to be written.
fn written_by(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(field("wchar:")?.max(field("write_bytes:")?))
}

/// Bytes on disk of all below a directory. Links are not followed; a file with several names counts once.
pub(super) fn held(directory: &Path) -> u64 {
    let mut named = HashSet::new();
    let mut bytes = 0;
    let mut open = vec![directory.to_owned()];
    let mut add = |path: &Path, open: &mut Vec<PathBuf>| -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                open.push(entry.path());
            } else if found.nlink() > 1 && !named.insert((found.dev(), found.ino())) {
                continue;
            }
            bytes += found.blocks() * 512;
        }
        Ok(())
    };
    while let Some(path) = open.pop() {
        // What has gone meanwhile holds nothing.
        let _ = add(&path, &mut open);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_and_what_a_link_leads_to_not_at_all() {
        let place = tempfile::tempdir().expect("a directory");
        let inside = place.path().join("inside");
        fs::create_dir_all(inside.join("below")).expect("made");
        let empty = held(&inside);
        fs::write(inside.join("below/file"), vec![1; 1 << 20]).expect("written");
        fs::hard_link(inside.join("below/file"), inside.join("again")).expect("a link");
        fs::write(place.path().join("outside"), vec![1; 1 << 20]).expect("written");
        std::os::unix::fs::symlink(place.path(), inside.join("up")).expect("a link");
        let grown = held(&inside) - empty;
        assert!((1 << 20..(1 << 20) + (1 << 16)).contains(&grown), "{grown}");
        assert_eq!(held(Path::new("/no/such/directory")), 0);
    }
}
