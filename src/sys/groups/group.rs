//! One session's cgroup: made, asked and removed.
//!
//! Runs in: server. What each controller does for a session is said in `mod.rs`.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    controller::Controller,
    place::{PLACES, PREFIX, Place, Version},
};

static NUMBERS: AtomicU64 = AtomicU64::new(1);
/// Folders that could not be removed yet: a process was still there.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Microseconds in which a share of processor time is given.
const PERIOD: u64 = 100_000;

fn next_name() -> String {
    format!("{PREFIX}{}-{}", std::process::id(), NUMBERS.fetch_add(1, Ordering::Relaxed))
}

/// The name of the group in which a process is, if it is one of this process': after an exec, of the program before.
#[must_use]
pub(crate) fn name_of(pid: i32) -> Option<String> {
    let own = format!("{PREFIX}{}-", std::process::id());
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut names = text.lines().filter_map(|line| line.rsplit('/').next());
    let is_sessions = |name: &&str| name.strip_prefix(&own).is_some_and(|number| number.parse::<u64>().is_ok());
    names.find(is_sessions).map(str::to_owned)
}

/// Whether groups with this can be made here, as far as that is seen without making one.
#[must_use]
pub(crate) fn can_be_had(controller: Controller) -> bool {
    Place::of(controller).is_some_and(|place| place.looks_free(controller))
}

/// What a session is to be kept to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes from which on it is ended. The kernel's own limit is above that.
    pub memory: Option<u64>,
    /// Processes beside the worker.
    pub processes: Option<u32>,
    /// Thousandths of a processor.
    pub cpus: Option<u32>,
}

/// One controller's folder of a session.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) folder: PathBuf,
    pub(super) version: Version,
}

impl Seat {
    fn write(&self, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
        fs::write(self.folder.join(file), value.to_string())
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }
}

/// One session's cgroup. Dropped, it is removed once it is empty.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(super) memory: Option<Seat>,
    pub(super) processes: Option<Seat>,
    pub(super) cpus: Option<Seat>,
    /// Each once.
    pub(super) folders: Vec<PathBuf>,
}

/// A group on its way to the program that this process becomes: its name, and what it keeps of memory, processes and processors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedGroup {
    name: String,
    keeps: [bool; 3],
}

impl Group {
    /// For the program that this process becomes.
    pub(crate) fn pack(&self) -> Option<PackedGroup> {
        let name = self.folders.first()?.file_name()?.to_str()?.to_owned();
        Some(PackedGroup { name, keeps: Controller::ALL.map(|controller| self.keeps(controller)) })
    }

    /// Goes on with it, in the same folders.
    pub(crate) fn going_on(packed: PackedGroup) -> Option<Arc<Self>> {
        // There is something to remove at the end.
        NUMBERS.fetch_max(2, Ordering::Relaxed);
        let places = &*PLACES;
        let mut group = Self::default();
        let [memory, processes, cpus] = packed.keeps;
        let mut seat = |keeps: bool, place: &Option<Place>| {
            let place = place.as_ref().filter(|_| keeps)?;
            let folder = Some(place.folder.join(&packed.name)).filter(|folder| folder.is_dir())?;
            if !group.folders.contains(&folder) {
                group.folders.push(folder.clone());
            }
            Some(Seat { folder, version: place.version })
        };
        let (memory, processes, cpus) =
            (seat(memory, &places.memory), seat(processes, &places.processes), seat(cpus, &places.cpus));
        (group.memory, group.processes, group.cpus) = (memory, processes, cpus);
        (!group.folders.is_empty()).then(|| Arc::new(group))
    }

    /// For a session with these limits; none where it has none of them, or the system allows none of it.
    #[must_use]
    pub(crate) fn for_session(bounds: Bounds) -> Option<Arc<Self>> {
        if bounds == Bounds::default() {
            return None;
        }
        let places = &*PLACES;
        // What this process was before an exec may have made some.
        let is_free = |name: &String| !places.each().any(|place| place.folder.join(name).exists());
        let name = std::iter::repeat_with(next_name).find(is_free)?;
        let mut group = Self::default();
        group.memory = bounds.memory.and_then(|most| group.keep_memory(places.memory.as_ref()?, &name, most));
        group.processes =
            bounds.processes.and_then(|most| group.keep_processes(places.processes.as_ref()?, &name, most));
        group.cpus = bounds.cpus.and_then(|most| group.keep_cpus(places.cpus.as_ref()?, &name, most));
        let keeps_some = group.memory.is_some() || group.processes.is_some() || group.cpus.is_some();
        keeps_some.then(|| Arc::new(group))
    }

    /// The folder there, made if it is not one of ours yet.
    fn seat(&mut self, place: &Place, name: &str) -> Option<Seat> {
        let folder = place.folder.join(name);
        if !self.folders.contains(&folder) {
            fs::create_dir(&folder).ok()?;
            self.folders.push(folder.clone());
        }
        Some(Seat { folder, version: place.version })
    }

    fn keep_memory(&mut self, place: &Place, name: &str, most: u64) -> Option<Seat> {
        let seat = self.seat(place, name)?;
        let file = match seat.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        // The guard ends a session before; this is for one that is faster than the guard looks.
        seat.write(file, most + most / 4 + (64 << 20)).ok()?;
        used(&seat).map(|_| seat)
    }

    fn keep_processes(&mut self, place: &Place, name: &str, most: u32) -> Option<Seat> {
        let seat = self.seat(place, name)?;
        seat.write("pids.max", u64::from(most) + 1 + room_for_threads()).ok()?;
        seat.number("pids.current").map(|_| seat)
    }

    fn keep_cpus(&mut self, place: &Place, name: &str, most: u32) -> Option<Seat> {
        let seat = self.seat(place, name)?;
        let quota = u64::from(most) * PERIOD / 1000;
        match seat.version {
            Version::One => {
                seat.write("cpu.cfs_period_us", PERIOD).ok()?;
                seat.write("cpu.cfs_quota_us", quota).ok()?;
            }
            Version::Two => seat.write("cpu.max", format_args!("{quota} {PERIOD}")).ok()?,
        }
        Some(seat)
    }

    /// Whether the kernel keeps this.
    #[must_use]
    pub(crate) fn keeps(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory.is_some(),
            Controller::Processes => self.processes.is_some(),
            Controller::Cpus => self.cpus.is_some(),
        }
    }

    /// Counts a process here, and all it starts from now on. Takes milliseconds: the kernel waits for all processors.
    ///
    /// # Errors
    /// The kernel's refusal; of a process that has ended there is nothing to count.
    pub(crate) fn take_in(&self, pid: i32) -> io::Result<()> {
        let mut written = self.folders.iter().map(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()));
        match written.try_for_each(|written| written) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Counts here, too, what is in a group that this process made before an exec, and removes that.
    pub(crate) fn take_in_all_of(&self, name: &str) {
        for folder in &self.folders {
            let before = folder.with_file_name(name);
            if before == *folder {
                continue;
            }
            for pid in fs::read_to_string(before.join("cgroup.procs")).unwrap_or_default().lines() {
                // It may have ended.
                let _ = fs::write(folder.join("cgroup.procs"), pid);
            }
            let _ = fs::remove_dir(before);
        }
    }

    /// Bytes that cannot be had back without ending processes or removing files in memory; none where the kernel does not count.
    #[must_use]
    pub(crate) fn used(&self) -> Option<u64> {
        used(self.memory.as_ref()?)
    }

    /// Most that it ever had, files that were only read included.
    #[must_use]
    pub(crate) fn peak(&self) -> Option<u64> {
        let seat = self.memory.as_ref()?;
        seat.number(match seat.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        })
    }

    /// How often the kernel has killed a process here because the group was full.
    #[must_use]
    pub(crate) fn kills(&self) -> u64 {
        let Some(seat) = &self.memory else { return 0 };
        let file = match seat.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        field(&seat.text(file).unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    /// The session has so many processes beside its worker, and may have `most`: lets the kernel refuse what goes far beyond.
    /// Threads and copies are let be. False where it does not.
    pub(crate) fn bound_processes(&self, count: u32, most: u32) -> bool {
        let Some(seat) = &self.processes else { return false };
        let Some(now) = seat.number("pids.current") else { return false };
        let more = match most.checked_sub(count) {
            Some(more) => u64::from(more) + room_for_threads(),
            // What is beyond may not grow, but forkpy's own threads and copies have to be possible.
            None => OWN,
        };
        seat.write("pids.max", now + more).is_ok()
    }

    /// For how long its processes have waited for processor time that was used up; none where the kernel does not keep it.
    #[must_use]
    pub(crate) fn throttled(&self) -> Option<Duration> {
        let seat = self.cpus.as_ref()?;
        let text = seat.text("cpu.stat")?;
        match seat.version {
            Version::One => field(&text, "throttled_time").map(Duration::from_nanos),
            Version::Two => field(&text, "throttled_usec").map(Duration::from_micros),
        }
    }
}

/// Threads and copies of forkpy's own that a session may need when it has more processes than it may have.
pub(super) const OWN: u64 = 8;

/// Threads that a session may begin between two looks at it: a library starts one for each processor, and a program some pools.
pub(super) fn room_for_threads() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    64 + 4 * u64::try_from(processors).unwrap_or(1)
}

fn used(seat: &Seat) -> Option<u64> {
    let stat = seat.text("memory.stat")?;
    used_of(&stat, seat.version, || seat.number("memory.kmem.tcp.usage_in_bytes").unwrap_or(0))
}

pub(super) fn used_of(stat: &str, version: Version, tcp: impl Fn() -> u64) -> Option<u64> {
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

impl Drop for Group {
    fn drop(&mut self) {
        LEFT.lock().append(&mut self.folders);
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
    for _ in 0..LOOKS {
        // Not by `any`: all are tried.
        if PLACES.each().map(Place::remove_ours).filter(|all_gone| !all_gone).count() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
