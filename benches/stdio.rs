//! What a client sees over stdio: `cargo bench`. Drives the release binary; prints one table.
//!
//! | row | times |
//! |---|---|
//! | ping | one `tools/call` of `ping`: request written to reply read, by this process |
//! | run 1+1 | the same for `run_python_code("1+1")` in a warm session, alternating with `ping` |
//! | print | the same for `print("x")` |
//! | new session | `create_session`, then the first `run_python_code("1+1")` in it, to its reply |
//! | cold start | spawn of the process to the reply of the first `run_python_code("1+1")` |
//! | python3 -c pass | spawn to exit of the interpreter itself, alternating with the cold starts |
//!
//! Memory is the proportional set size (`smaps_rollup`) of server, zygote and workers together, before and after 100
//! sessions, and the change of `MemAvailable`, which counts the kernel's share too and is noisy.

mod client;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use client::{Client, memory, row, say};
use serde_json::json;

const CALLS: usize = 4000;
const SESSIONS: usize = 100;
const STARTS: usize = 20;
const PYTHON: &str = client::PYTHON;

fn main() {
    let workspace = tempfile::tempdir().expect("a directory");
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    calls(workspace.path());
    sessions(workspace.path());
    starts(workspace.path());
}

fn calls(workspace: &Path) {
    let mut client = Client::start(workspace, 1000);
    let (mut pings, mut cells, mut prints) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..200 {
        client.run("1+1", "default");
    }
    for _ in 0..CALLS {
        pings.push(client.call("ping", &json!({})));
        cells.push(client.run("1+1", "default"));
        prints.push(client.run("print('x')", "default"));
    }
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    let ratio = median(&cells) / median(&pings);
    row("ping", pings);
    row("run 1+1", cells);
    row("print", prints);
    say(&format!("run 1+1 / ping (p50): {ratio:.2}"));
    client.stop();
}

fn sessions(workspace: &Path) {
    let mut client = Client::start(workspace, 1000);
    client.run("1+1", "default");
    std::thread::sleep(Duration::from_secs(1));
    let before = memory(client.process.id());
    let mut made = Vec::new();
    for number in 0..SESSIONS {
        let name = format!("s{number}");
        made.push(client.call("create_session", &json!({"session_id": name})) + client.run("1+1", &name));
    }
    std::thread::sleep(Duration::from_secs(1));
    let after = memory(client.process.id());
    row("new session", made);
    let each = |kilobytes: u64| kilobytes / SESSIONS as u64;
    say(&format!(
        "memory of an idle session, of {SESSIONS}: {} KiB proportional, {} KiB by MemAvailable",
        each(after.0.saturating_sub(before.0)),
        each(before.1.saturating_sub(after.1)),
    ));
    client.stop();
}

fn starts(workspace: &Path) {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        let mut client = Client::start(workspace, 1000);
        client.run("1+1", "default");
        ours.push(began.elapsed());
        client.stop();
        let began = Instant::now();
        Command::new(PYTHON).args(["-c", "pass"]).status().expect("Python runs");
        bare.push(began.elapsed());
    }
    row("cold start", ours);
    row("python3 -c pass", bare);
}
