//! The process table: who descends from whom, and ending all of it.
//!
//! Runs in: all three processes. A worker is a *subreaper*: whatever a session starts, also a daemon that detached itself
//! twice, stays a descendant of its worker as long as the worker lives, and falls to the server when the worker dies.
//! So "descendants of the worker", and after its death "children of the server that it did not make", is complete.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read},
    path::Path,
    sync::LazyLock,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::SysconfVar,
};

use super::pidfd::PidFd;

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// State letter of `/proc/PID/stat`: R, S, D, T, Z, …
    pub state: char,
    pub threads: u64,
    /// Processor time used so far, its own.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub memory: u64,
    /// When it was made, in clock ticks since the machine started.
    pub started: u64,
}

/// Everybody, as far as `/proc` shows them.
#[must_use]
pub(crate) fn table() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(look_up).collect()
}

/// What a process has started, and what that has, without the table of all processes, which takes milliseconds. `None` where the
/// kernel does not list children (`CONFIG_PROC_CHILDREN`).
#[must_use]
pub(crate) fn descendants(pid: i32) -> Option<Vec<Process>> {
    let (mut found, mut seen, mut next) = (Vec::new(), HashSet::from([pid]), vec![pid]);
    while let Some(parent) = next.pop() {
        // A number that is given out anew makes no circle.
        let children: Vec<i32> = children(parent)?.into_iter().filter(|child| seen.insert(*child)).collect();
        found.extend(children.iter().filter_map(|child| look_up(*child)));
        next.extend(children);
    }
    Some(found)
}

/// What a process has started itself, or got as a subreaper; nothing of one that is gone. `None` as above. The kernel lists them
/// one after the other: where one is reaped meanwhile, another may be left out.
#[must_use]
pub(crate) fn children(pid: i32) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Some(found) };
    for thread in threads.flatten() {
        found.extend(children_of_thread(&thread.path())?);
    }
    Some(found)
}

/// Those among them that have lost their parent: the kernel gives them to the first thread. `None` as above.
#[must_use]
pub(crate) fn orphans(subreaper: i32) -> Option<Vec<i32>> {
    children_of_thread(Path::new(&format!("/proc/{subreaper}/task/{subreaper}")))
}

fn children_of_thread(thread: &Path) -> Option<Vec<i32>> {
    match fs::read_to_string(thread.join("children")) {
        Ok(text) => Some(text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && thread.exists() => None,
        // It has ended meanwhile.
        Err(_) => Some(Vec::new()),
    }
}

#[must_use]
pub(crate) fn look_up(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether two processes have one memory, as `vfork` leaves them.
#[must_use]
pub(crate) fn share_memory(one: i32, other: i32) -> bool {
    const KCMP_VM: libc::c_long = 1;
    // SAFETY: the call compares two processes by number and touches no memory; one that is refused is not 0.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}

fn parse(pid: i32, stat: &str) -> Option<Process> {
    // The name stands in parentheses and may itself hold anything, so begin behind the last one.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    // `session` was the 6th field of proc(5); `utime` and `stime` are 14 and 15, `num_threads` 20, `rss` 24.
    let (user, system): (u64, u64) = (fields.nth(7)?.parse().ok()?, fields.next()?.parse().ok()?);
    let threads = fields.nth(4)?.parse().ok()?;
    // `starttime` is the 22nd.
    let started = fields.nth(1)?.parse().ok()?;
    let pages: u64 = fields.nth(1)?.parse().ok()?;
    let (ticks, page) = *UNITS;
    let cpu = Duration::from_millis((user + system) * 1000 / ticks);
    Some(Process { pid, parent, group, session, state, threads, cpu, memory: pages * page, started })
}

/// Clock ticks in a second, bytes in a page.
static UNITS: LazyLock<(u64, u64)> = LazyLock::new(|| {
    let read = |name| nix::unistd::sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
    (read(SysconfVar::CLK_TCK).unwrap_or(100).max(1), read(SysconfVar::PAGE_SIZE).unwrap_or(4096))
});

/// Highest resident memory of a process so far, bytes.
#[must_use]
pub(crate) fn peak_memory(pid: i32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

/// Memory of a process with each page that others share counted in part, and what of it lies in swap; bytes. The kernel
/// walks the process' page tables for it: some 100 µs, and milliseconds for gigabytes.
#[must_use]
pub(crate) fn proportional_memory(pid: i32) -> Option<(u64, u64)> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some((kilobytes(&rollup, "Pss:")?, kilobytes(&rollup, "SwapPss:").unwrap_or(0)))
}

/// Memory of a process that is no file's, shared with forks or not, bytes. Cheap: the kernel keeps the count.
#[must_use]
pub(crate) fn anonymous_memory(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(kilobytes(&status, "RssAnon:")? + kilobytes(&status, "VmSwap:").unwrap_or(0))
}

/// Memory of a process that no other shares, bytes; swapped out or not.
#[must_use]
pub(crate) fn private_memory(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let swapped = kilobytes(&rollup, "SwapPss:").unwrap_or(0);
    Some(kilobytes(&rollup, "Private_Clean:")? + kilobytes(&rollup, "Private_Dirty:")? + swapped)
}

/// Now, on the clock of [`Process::started`]. A process made after this was asked has no lower number.
#[must_use]
pub(crate) fn ticks_now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call, which fills it.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * UNITS.0 + nanoseconds / (1_000_000_000 / UNITS.0)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?;
    Some(number.parse::<u64>().ok()? * 1024)
}

/// Private writable memory that this process has mapped, bytes: what `RLIMIT_DATA` is compared with, and the stack.
#[must_use]
pub(crate) fn data_size() -> Option<u64> {
    // No allocation: this is asked when there may be no memory left.
    let mut bytes = [0; 256];
    let count = fs::File::open("/proc/self/statm").ok()?.read(&mut bytes).ok()?;
    let statm = str::from_utf8(&bytes[..count]).ok()?;
    Some(statm.split_ascii_whitespace().nth(5)?.parse::<u64>().ok()? * UNITS.1)
}

/// Processor time of a process, of all that descends from it, and of those of its children that have ended.
#[must_use]
pub(crate) fn family_cpu(table: &[Process], root: i32) -> Duration {
    let ticks: u64 = closure(table, |process| process.pid == root).into_iter().filter_map(ticks).sum();
    Duration::from_millis(ticks * 1000 / UNITS.0)
}

/// User and system time, own and of children reaped: the 14th to the 17th field.
fn ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11).take(4);
    fields.map(|field| field.parse::<u64>().ok()).sum()
}

/// The roots and all that descends from them, within `table`.
#[must_use]
pub(crate) fn closure(table: &[Process], roots: impl Fn(&Process) -> bool) -> HashSet<i32> {
    let mut found: HashSet<i32> = table.iter().filter(|process| roots(process)).map(|process| process.pid).collect();
    loop {
        let before = found.len();
        found.extend(table.iter().filter(|process| found.contains(&process.parent)).map(|p| p.pid).collect::<Vec<_>>());
        if found.len() == before {
            return found;
        }
    }
}

/// Ends all that this process started, for good: none of its threads can start another one from now on. A cell that runs
/// while its server dies goes on until this process ends, and what it forked in the last moment would be left.
pub(crate) fn end_children() {
    super::no_forks::forbid();
    kill_children();
}

/// Whether this process has any child: one system call, where the table of all processes takes milliseconds.
#[must_use]
pub(crate) fn has_children() -> bool {
    let any = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
    any != Err(Errno::ECHILD)
}

/// Ends all that this process started and that still descends from it. Cheap when there is nothing.
pub(crate) fn kill_children() {
    kill_children_but(&HashSet::new());
}

/// The same, but for some of the children and what descends from them.
pub(crate) fn kill_children_but(spare: &HashSet<i32>) {
    if !has_children() {
        return;
    }
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    kill_families(|process| process.parent == own && !spare.contains(&process.pid), spare);
}

/// Kills what `roots` selects and all that descends from it, except `spare`, until no new one shows up.
pub(crate) fn kill_families(roots: impl Fn(&Process) -> bool, spare: &HashSet<i32>) {
    let look = || {
        let mut table = table();
        let family = closure(&table, &roots);
        table.retain(|process| family.contains(&process.pid));
        table
    };
    kill_seen(look, spare);
}

/// Kills what `look` finds, except `spare`, until it finds no new one.
///
/// Nothing is stopped first: the killing process may be killed itself at any moment, and what it had stopped would then stand for
/// ever. Descendants go before those they descend from: a worker that is still there, when we are not any more, ends the
/// rest of its own. What a process forks before its end falls to a subreaper among those we look at, and is met in the
/// next round.
pub(crate) fn kill_seen(look: impl Fn() -> Vec<Process>, spare: &HashSet<i32>) {
    const ROUNDS: u32 = 64;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut done = HashSet::new();
    for _ in 0..ROUNDS {
        let family = look();
        let mut living: Vec<&Process> = family
            .iter()
            .filter(|process| process.state != 'Z' && process.state != 'X')
            .filter(|process| process.pid != own && !spare.contains(&process.pid))
            .filter(|process| !done.contains(&(process.pid, process.started)))
            .collect();
        if living.is_empty() {
            break;
        }
        living.sort_by_cached_key(|process| std::cmp::Reverse(depth(&family, process.pid)));
        for process in living {
            done.insert((process.pid, process.started));
            kill_exactly(process);
        }
    }
}

/// Ends a process, which must not be reaped meanwhile, and all that descends from it; it goes last. Should this process be
/// killed half way, that one is still there, and ends the rest itself.
pub(crate) fn kill_family(pid: i32) {
    kill_families(|process| process.pid == pid, &HashSet::new());
}

/// How many of the table a process descends from.
fn depth(table: &[Process], pid: i32) -> usize {
    let parent = |pid: &i32| table.iter().find(|process| process.pid == *pid).map(|process| process.parent);
    // A table that is read while it changes may have circles.
    std::iter::successors(Some(pid), parent).take(table.len()).count()
}

/// SIGKILL to this process, and to no other that has its number by now.
fn kill_exactly(process: &Process) {
    if let Ok(pidfd) = PidFd::open(process.pid)
        && look_up(process.pid).is_some_and(|now| now.started == process.started)
    {
        let _ = pidfd.signal(Signal::SIGKILL);
    }
}

/// From now on this process runs only where no other wants the processor.
pub(crate) fn yield_to_all() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads the structure and changes how this process is scheduled; one that is refused changes nothing.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
}

/// From now on this thread, and none of its siblings, lets others go before it.
pub(crate) fn stand_back() {
    const SOME: i32 = 5;
    // SAFETY: the call changes how this thread is scheduled; one that is refused changes nothing.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, SOME) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let process =
            parse(7, "7 (a) b (c)) S 3 7 5 0 -1 4194560 1 2 3 4 500 600 7 8 20 0 9 0 100 4096 12").expect("parses");
        let (ticks, page) = *UNITS;
        let cpu = Duration::from_millis(1100 * 1000 / ticks);
        let expected = Process {
            pid: 7,
            parent: 3,
            group: 7,
            session: 5,
            state: 'S',
            threads: 9,
            cpu,
            memory: 12 * page,
            started: 100,
        };
        assert_eq!(process, expected);
    }

    #[test]
    fn descendants_are_those_of_the_table() {
        use std::process::{Command, Stdio};
        let code = "sh -c 'sleep 60 & echo; wait' & sleep 60 & wait";
        let mut shell = Command::new("sh").args(["-c", code]).stdout(Stdio::piped()).spawn().expect("there is a shell");
        let mut line = [0];
        shell.stdout.take().expect("piped").read_exact(&mut line).expect("all run");
        let pid = i32::try_from(shell.id()).expect("a pid");
        let of_table = || closure(&table(), |process| process.parent == pid);
        while of_table().len() < 3 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let found = descendants(pid).expect("this kernel lists children");
        assert_eq!(found.iter().map(|process| process.pid).collect::<HashSet<_>>(), of_table());
        kill_seen(|| look_up(pid).into_iter().chain(descendants(pid).unwrap_or_default()).collect(), &HashSet::new());
        shell.wait().expect("it ends");
        assert_eq!(descendants(pid), Some(Vec::new()), "one that is gone has none");
    }

    #[test]
    fn the_closure_holds_grandchildren_whatever_the_order() {
        let idle = Process {
            pid: 0,
            parent: 0,
            group: 0,
            session: 0,
            state: 'S',
            threads: 1,
            cpu: Duration::ZERO,
            memory: 0,
            started: 0,
        };
        let process = |pid, parent| Process { pid, parent, ..idle };
        let table = [process(4, 3), process(3, 2), process(2, 1), process(9, 1)];
        assert_eq!(closure(&table, |p| p.pid == 2), HashSet::from([2, 3, 4]));
        assert!(depth(&table, 4) > depth(&table, 3) && depth(&table, 3) > depth(&table, 2));
        assert_eq!(depth(&[process(1, 2), process(2, 1)], 1), 2, "a circle ends");
    }

    #[test]
    fn this_process_is_in_the_table() {
        let own = i32::try_from(std::process::id()).expect("small");
        assert!(table().iter().any(|process| process.pid == own));
    }
}
