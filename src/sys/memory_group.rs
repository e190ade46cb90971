//! A cgroup for the memory of one session, where the system lets us make one.
//!
//! Runs in: server. The kernel counts there all that the session's processes have made it keep: their own pages, shared
//! memory (also files in `/dev/shm` that no process has open any more), buffers of sockets and pipes. Version one does not tell
//! those of pipes and Unix sockets apart from what it can drop, so they count towards the kernel's own limit only. What a
//! worker has from the zygote is not its own and does not count. A cgroup of the first version needs a folder that we may write; one of the
//! second needs the controller `memory` too, and none but our processes beside it (systemd: `Delegate=memory`).
//!
//! Files that were only read are not memory of the session: the kernel can drop them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How our folders are called, before the server's pid and a number.
const PREFIX: &str = "forkpy-";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    One,
    Two,
}

/// Where groups can be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    folder: PathBuf,
    version: Version,
}

/// Found when the first session asks.
static PLACE: OnceLock<Option<Place>> = OnceLock::new();
static NUMBERS: AtomicU64 = AtomicU64::new(1);
/// Folders that could not be removed yet: a process was still there.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// One session's cgroup. Dropped, it is removed once it is empty.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    folder: PathBuf,
    version: Version,
}

/// Where groups are made, on the way to the program that this process becomes: it is in the same folder, and may have moved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedPlace {
    place: Place,
    /// The number of the next group.
    next: u64,
}

/// What there is to take along.
pub(crate) fn pack() -> Option<PackedPlace> {
    let place = PLACE.get()?.clone()?;
    Some(PackedPlace { place, next: NUMBERS.load(Ordering::Relaxed) })
}

/// Goes on with it, before the first session asks.
pub(crate) fn go_on(packed: PackedPlace) {
    NUMBERS.store(packed.next, Ordering::Relaxed);
    let _ = PLACE.set(Some(packed.place));
}

impl MemoryGroup {
    /// Where it is, for the program that this process becomes.
    pub(crate) fn pack(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Goes on with it.
    pub(crate) fn going_on(folder: PathBuf) -> Option<Arc<Self>> {
        let place = PLACE.get()?.as_ref()?;
        Some(Arc::new(Self { folder, version: place.version }))
    }

    /// For a session that is ended when it has more than `most` bytes. The kernel's own limit is above that.
    #[must_use]
    pub(crate) fn for_session(most: u64) -> Option<Arc<Self>> {
        Self::make(most + most / 4 + (64 << 20)).map(Arc::new)
    }

    /// Makes one whose processes together never get more than `most` bytes; `None` where the system allows none.
    fn make(most: u64) -> Option<Self> {
        let place = PLACE.get_or_init(Place::find).as_ref()?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let folder = place.folder.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let group = Self { folder, version: place.version };
        let limit = match place.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        // The guard ends a session before; this is for one that is faster than the guard looks.
        fs::write(group.folder.join(limit), most.to_string()).ok()?;
        group.used().map(|_| group)
    }

    /// Counts a process here, and all it starts from now on.
    pub(crate) fn take_in(&self, pid: i32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    /// Bytes that cannot be had back without ending processes or removing files in memory.
    #[must_use]
    pub(crate) fn used(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.folder.join("memory.stat")).ok()?;
        let tcp = || fs::read_to_string(self.folder.join("memory.kmem.tcp.usage_in_bytes")).ok()?.trim().parse().ok();
        used(&stat, self.version, || tcp().unwrap_or(0))
    }

    /// Most that it ever had, files that were only read included.
    #[must_use]
    pub(crate) fn peak(&self) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    /// How often the kernel has killed a process here because the group was full.
    #[must_use]
    pub(crate) fn kills(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        field(&text, "oom_kill").unwrap_or(0)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        LEFT.lock().push(std::mem::take(&mut self.folder));
        sweep();
    }
}

/// Removes the groups that are not wanted any more, as far as they are empty.
pub(crate) fn sweep() {
    LEFT.lock().retain(|folder| fs::remove_dir(folder).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
}

/// The server ends, and all it started is about to: removes what there is of ours. Blocks for as long as the last process
/// takes to be gone, and not for ever.
pub(crate) fn end() {
    const LOOKS: u32 = 100;
    if NUMBERS.load(Ordering::Relaxed) == 1 {
        return;
    }
    let Some(place) = PLACE.get_or_init(Place::find).as_ref() else { return };
    let own = format!("{PREFIX}{}-", std::process::id());
    for _ in 0..LOOKS {
        let Ok(entries) = fs::read_dir(&place.folder) else { return };
        let ours =
            entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&own)));
        // Not by `any`: all are tried.
        if ours.filter(|entry| fs::remove_dir(entry.path()).is_err()).count() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn used(stat: &str, version: Version, tcp: impl Fn() -> u64) -> Option<u64> {
    let of = |name: &str| field(stat, name);
    match version {
        Version::One => Some(of("total_rss")? + of("total_shmem").unwrap_or(0) + of("total_swap").unwrap_or(0) + tcp()),
        Version::Two => {
            let kernel = of("kernel").unwrap_or(0).saturating_sub(of("slab_reclaimable").unwrap_or(0));
            Some(of("anon")? + of("shmem").unwrap_or(0) + of("sock").unwrap_or(0) + kernel)
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Place {
    fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (folder, version) = located(&mounts, &own)?;
        let place = Self { folder, version };
        if version == Version::Two {
            place.delegate()?;
        }
        place.clear();
        Some(place)
    }

    /// Lets groups below have the controller. A folder whose groups have it may hold no process itself: we move into one of
    /// our own, where we are the only ones.
    fn delegate(&self) -> Option<()> {
        let has = |file: &str| {
            let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
            text.split_ascii_whitespace().any(|word| word == "memory")
        };
        if has("cgroup.subtree_control") {
            return Some(());
        }
        if !has("cgroup.controllers") {
            return None;
        }
        let enable = || fs::write(self.folder.join("cgroup.subtree_control"), "+memory").ok();
        enable().or_else(|| {
            self.move_aside()?;
            enable()
        })
    }

    fn move_aside(&self) -> Option<()> {
        let table = super::processes::table();
        let own = i32::try_from(std::process::id()).ok()?;
        let family = super::processes::closure(&table, |process| process.pid == own);
        let here = fs::read_to_string(self.folder.join("cgroup.procs")).ok()?;
        let here: Vec<i32> = here.lines().filter_map(|pid| pid.parse().ok()).collect();
        if here.iter().any(|pid| !family.contains(pid)) {
            return None;
        }
        let aside = self.folder.join(format!("{PREFIX}{own}-server"));
        fs::create_dir(&aside).ok()?;
        here.iter().try_for_each(|pid| fs::write(aside.join("cgroup.procs"), pid.to_string()).ok())
    }

    /// Removes what servers have left that were killed. A folder with a process in it stays: the kernel sees to that.
    fn clear(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let server =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<i32>().ok());
            if server.is_some_and(|server| !Path::new(&format!("/proc/{server}")).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// The folder of this process' own cgroup that counts memory: from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn located(mounts: &str, own: &str) -> Option<(PathBuf, Version)> {
    let mut lines = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let lines: Vec<(&str, &str)> = lines.by_ref().collect();
    let path_of = |wanted: &dyn Fn(&str) -> bool| lines.iter().find(|(kinds, _)| wanted(kinds)).map(|(_, path)| *path);
    let mount_of = |kind: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut back = back.split(' ');
            let fits = back.next()? == kind
                && option.is_none_or(|option| back.nth(1).is_some_and(|all| all.split(',').any(|one| one == option)));
            let mut front = front.split(' ').skip(3);
            fits.then_some((front.next()?, front.next()?))
        })
    };
    let below = |(root, point): (&str, &str), path: &str| {
        let path = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        Path::new(point).join(path.trim_start_matches('/'))
    };
    if let Some(path) = path_of(&|kinds| kinds.split(',').any(|kind| kind == "memory"))
        && let Some(mount) = mount_of("cgroup", Some("memory"))
    {
        return Some((below(mount, path), Version::One));
    }
    let (path, mount) = (path_of(&str::is_empty)?, mount_of("cgroup2", None)?);
    Some((below(mount, path), Version::Two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_folder_is_found_in_both_versions() {
        let one = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n35 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let own = "4:memory:/a/b\n1:cpu:/\n0::/\n";
        assert_eq!(located(one, own), Some(("/sys/fs/cgroup/memory/a/b".into(), Version::One)));
        let two = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(located(two, "0::/user/x\n"), Some(("/sys/fs/cgroup/user/x".into(), Version::Two)));
        let inside = "30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(located(inside, "0::/docker/1\n"), Some(("/sys/fs/cgroup".into(), Version::Two)));
        assert_eq!(located("", "0::/\n"), None);
    }

    /// A folder that looks like a cgroup of the second version to who reads and writes its files.
    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("written");
        }
        folder
    }

    fn place(folder: &tempfile::TempDir) -> Place {
        Place { folder: folder.path().to_owned(), version: Version::Two }
    }

    #[test]
    fn the_controller_is_asked_for_where_it_can_be_had() {
        let without = folder_with(&[("cgroup.controllers", "cpu pids\n"), ("cgroup.subtree_control", "")]);
        assert_eq!(place(&without).delegate(), None);
        let with = folder_with(&[("cgroup.controllers", "cpu memory\n"), ("cgroup.subtree_control", "")]);
        assert_eq!(place(&with).delegate(), Some(()));
        let asked = fs::read_to_string(with.path().join("cgroup.subtree_control")).expect("there");
        assert_eq!(asked, "+memory");
        let enabled = folder_with(&[("cgroup.controllers", "memory\n"), ("cgroup.subtree_control", "memory\n")]);
        assert_eq!(place(&enabled).delegate(), Some(()), "it is done already");
    }

    #[test]
    fn the_server_moves_aside_unless_a_stranger_is_beside_it() {
        let own = std::process::id();
        let alone = folder_with(&[("cgroup.procs", &format!("{own}\n"))]);
        assert_eq!(place(&alone).move_aside(), Some(()));
        let moved = alone.path().join(format!("{PREFIX}{own}-server/cgroup.procs"));
        assert_eq!(fs::read_to_string(moved).expect("there"), own.to_string());
        let shared = folder_with(&[("cgroup.procs", &format!("1\n{own}\n"))]);
        assert_eq!(place(&shared).move_aside(), None);
        assert_eq!(fs::read_dir(shared.path()).expect("there").count(), 1, "nothing was made");
    }

    #[test]
    fn what_the_second_version_tells_of_a_group_is_read() {
        let folder = folder_with(&[
            ("memory.stat", "anon 100\nfile 900\nkernel 50\nsock 2\nshmem 20\nslab_reclaimable 45\n"),
            ("memory.peak", "700\n"),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n"),
            ("cgroup.procs", ""),
        ]);
        let group = MemoryGroup { folder: folder.path().to_owned(), version: Version::Two };
        assert_eq!((group.used(), group.peak(), group.kills()), (Some(127), Some(700), 1));
        group.take_in(7).expect("written");
        assert_eq!(fs::read_to_string(folder.path().join("cgroup.procs")).expect("there"), "7");
        let lost = MemoryGroup { folder: folder.path().join("gone"), version: Version::Two };
        assert_eq!((lost.used(), lost.peak(), lost.kills()), (None, None, 0));
    }

    #[test]
    fn what_killed_servers_have_left_is_removed_and_nothing_else() {
        let folder = folder_with(&[]);
        let (dead, own) = (format!("{PREFIX}999999999-1"), format!("{PREFIX}{}-1", std::process::id()));
        for name in [dead.as_str(), own.as_str(), "forkpy-test-1", "other"] {
            fs::create_dir(folder.path().join(name)).expect("made");
        }
        place(&folder).clear();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).expect("there").flatten().map(|one| one.file_name()).collect();
        left.sort();
        assert_eq!(left, [own.as_str(), "forkpy-test-1", "other"]);
    }

    #[test]
    fn files_that_were_only_read_do_not_count() {
        let one = "cache 900\nrss 7\nshmem 5\ntotal_cache 900\ntotal_rss 10\ntotal_shmem 20\ntotal_swap 3\n";
        assert_eq!(used(one, Version::One, || 4), Some(37));
        let two = "anon 10\nfile 900\nkernel 50\nsock 2\nshmem 20\nslab_reclaimable 45\n";
        assert_eq!(used(two, Version::Two, || 0), Some(37));
    }
}
