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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall: Option<String>,
    /// Function of the kernel in which it sleeps, where the kernel tells.
    #[serde(skip_serializing_if = "Option::is_none")]
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

/// What the main thread of a process waits in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    /// The system call.
    pub(crate) call: String,
    /// The clock ends it, and nothing else is waited for that might not come: `time.sleep`, `asyncio.sleep`.
    pub(crate) is_sleep: bool,
}

/// The system call that the main thread of a process is in.
pub(crate) fn wait_of_main(pid: i32) -> Option<Wait> {
    wait(&fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?)
}

fn wait(text: &str) -> Option<Wait> {
    let call = syscall(text)?;
    let argument = |place: usize| {
        let word = text.split_whitespace().nth(place + 1)?;
        u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
    };
    let is_null = |place| argument(place).is_none_or(|value| value == 0);
    // An `int`: negative is for ever.
    let is_limited = |place| argument(place).is_some_and(|value| value & 0x8000_0000 == 0);
    let is_sleep = match call.as_str() {
        "nanosleep" | "clock_nanosleep" => true,
        // Of no descriptor at all: a sleep by other means.
        "select" | "pselect6" => is_null(0) && !is_null(4),
        "poll" => is_null(1) && is_limited(2),
        "ppoll" => is_null(1) && !is_null(2),
        // An event loop, with a timer that is due.
        "epoll_wait" | "epoll_pwait" => is_limited(3),
        "epoll_pwait2" => !is_null(3),
        _ => false,
    };
    Some(Wait { call, is_sleep })
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

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_clock_ends_a_sleep_and_nothing_else() {
        for (text, is_sleep) in [
            ("230 0x1 0x1 0x7ffd 0x0 0x0 0x0 0x7ffd 0x7f", true),
            ("232 0x5 0x7f 0x1 0x7530 0x0 0x0 0x7ffd 0x7f", true),
            ("232 0x5 0x7f 0x1 0xffffffff 0x0 0x0 0x7ffd 0x7f", false),
            ("23 0x0 0x0 0x0 0x0 0x7ffd 0x0 0x7ffd 0x7f", true),
            ("23 0x4 0x7f 0x0 0x0 0x7ffd 0x0 0x7ffd 0x7f", false),
            ("7 0x7ffd 0x1 0x7530 0x0 0x0 0x0 0x7ffd 0x7f", false),
            ("202 0x7f 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f", false),
            ("45 0x3 0x7f 0x400 0x0 0x0 0x0 0x7ffd 0x7f", false),
        ] {
            assert_eq!(wait(text).expect("in a call").is_sleep, is_sleep, "{text}");
        }
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
