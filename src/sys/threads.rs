//! Threads of a process as the kernel sees them: what each one waits for.
//!
//! Runs in: server. Reads `/proc/PID/task`; the system call needs the right to trace the process, which a server has over
//! its own descendants.

use std::fs;

use serde::{Deserialize, Serialize};

/// Most threads that are looked at.
const MAX_THREADS: usize = 64;

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Thread {
    /// Its number; that of the main thread is the process id.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// State letter: R runs, S sleeps, D waits and cannot be interrupted, T is stopped.
    pub state: char,
    /// System call it is in; null when it is in none or that cannot be read.
    pub syscall: Option<String>,
    /// Function of the kernel in which it sleeps, where the kernel tells.
    pub wait_channel: Option<String>,
}

/// The threads of a process, at most 64.
#[must_use]
pub(crate) fn of(pid: i32) -> Vec<Thread> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut numbers: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).take(MAX_THREADS).collect();
    numbers.sort_unstable();
    numbers.into_iter().filter_map(|tid| look_up(pid, tid)).collect()
}

/// The system call that the main thread of a process is in.
#[must_use]
pub(crate) fn syscall_of_main(pid: i32) -> Option<String> {
    syscall(&fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?)
}

fn look_up(pid: i32, tid: i32) -> Option<Thread> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}")).ok();
    let stat = read("stat")?;
    let state = stat.get(stat.rfind(')')? + 1..)?.trim_start().chars().next()?;
    Some(Thread {
        tid,
        name: read("comm").unwrap_or_default().trim().to_owned(),
        state,
        syscall: read("syscall").and_then(|text| syscall(&text)),
        wait_channel: read("wchan").filter(|name| !name.is_empty() && name != "0"),
    })
}

/// `230 0x1 …` names call 230; `running` and `-1 …` mean that it is in none.
fn syscall(text: &str) -> Option<String> {
    let number: usize = text.split_whitespace().next()?.parse().ok()?;
    Some(syscalls::Sysno::new(number).map_or_else(|| format!("system call {number}"), |call| call.name().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_have_names() {
        assert_eq!(syscall("230 0x1 0x0").as_deref(), Some("clock_nanosleep"));
        assert_eq!(syscall("99999 0x1").as_deref(), Some("system call 99999"));
        assert_eq!(syscall("running\n"), None);
        assert_eq!(syscall("-1 0x7ffc 0x7f6c"), None);
    }

    #[test]
    fn a_sleeping_thread_is_found_with_its_name() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (ready, started) = std::sync::mpsc::channel();
        let sleeper = std::thread::Builder::new().name("sleeper".into()).spawn(move || {
            let _ = ready.send(());
            let _ = held.recv();
        });
        let _ = started.recv();
        let own = i32::try_from(std::process::id()).expect("small");
        assert!(of(own).iter().any(|thread| thread.name == "sleeper"), "{:?}", of(own));
        drop(hold);
        let _ = sleeper.expect("a thread").join();
    }
}
