//! The process table, as a test looks at it.

use std::fs;

use nix::{sys::signal::Signal, unistd::Pid};

/// Process ids in `/proc`.
fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn stat(pid: i32) -> Option<(String, char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (front, rest) = stat.rsplit_once(") ")?;
    let name = front.split_once('(')?.1.to_owned();
    let mut fields = rest.split(' ');
    Some((name, fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

pub fn name(pid: i32) -> String {
    stat(pid).map(|stat| stat.0).unwrap_or_default()
}

/// State letter; `-` when there is no such process.
pub fn state(pid: i32) -> char {
    stat(pid).map_or('-', |stat| stat.1)
}

/// All that helps to find out why a process is still there.
pub fn told(pid: i32) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let wanted = ["Name", "State", "PPid", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "NSpgid", "NSsid"];
    let status = read("status");
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links =
        open.filter_map(|entry| Some(format!("{:?} {:?}", entry.file_name(), fs::read_link(entry.path()).ok()?)));
    let told: Vec<String> = lines.map(str::to_owned).chain([read("wchan"), read("syscall")]).chain(links).collect();
    format!("{pid}: {}", told.join(", "))
}

pub fn children(parent: i32) -> Vec<i32> {
    all().into_iter().filter(|pid| stat(*pid).is_some_and(|stat| stat.2 == parent)).collect()
}

/// Living processes that were started with this in their environment.
pub fn with_environment(name: &str, value: &str) -> Vec<i32> {
    let wanted = format!("{name}={value}").into_bytes();
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted)
    };
    all().into_iter().filter(has).filter(|pid| !matches!(state(*pid), 'Z' | '-')).collect()
}

pub fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory in bytes.
pub fn memory(pid: i32) -> u64 {
    bytes(pid, "VmRSS:")
}

/// The most it ever took.
pub fn peak_memory(pid: i32) -> u64 {
    bytes(pid, "VmHWM:")
}

fn bytes(pid: i32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Whether every thread of it is in this state: a stopped process' threads stop one by one.
pub fn all_threads_are(pid: i32, state: char) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(state))
    })
}

/// Only ever for a process of the test's own.
pub fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid), signal).expect("the process is there");
}

/// Has it run like any other process, where it had asked to run when no other does.
pub fn hurry(pid: i32) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters are only read. That it has ended meanwhile is an error that changes nothing.
    unsafe { libc::sched_setscheduler(pid, libc::SCHED_OTHER, &raw const parameters) };
}
