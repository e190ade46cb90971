//! Checkpoints against a bare fork of the same memory: `cargo bench --bench checkpoints`. Over stdio, the release binary.
//!
//! | row | times |
//! |---|---|
//! | fork | `os.fork()` in a cell of the session, to its return in the parent: what the kernel and CPython's hooks take |
//! | pause | `checkpoint_session` and a cell sent right behind it, to the cell's reply, less a cell alone: how long the session could not serve |
//! | checkpoint | `checkpoint_session` to its reply, which waits for the look at what is not held |
//! | restore | `restore_checkpoint` and a first `1+1`, to its reply |
//! | sleep | `sleep_session` to its reply, with the image woken once for a proof |
//! | wake | a first `1+1` after that, to its reply |
//! | off, last | `1+1` under policy `off` and `last`, calls 5 ms apart, two sessions of one server in turn |
//!
//! Everything that is compared is interleaved. Memory is what `list_checkpoints` says of a checkpoint of a session that has not
//! changed since: pages that no other process has.

mod client;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use client::{Client, row, say};
use serde_json::json;

const ROUNDS: usize = 30;
/// What sleeps more than this is written for seconds, and is no question of microseconds.
const MOST_ASLEEP: usize = 500;
const CALLS: usize = 600;
const APART: Duration = Duration::from_millis(5);

fn main() {
    let workspace = tempfile::tempdir().expect("a directory");
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    for megabytes in [0, 10, 500, 2000] {
        pauses(workspace.path(), megabytes);
    }
    policies(workspace.path());
}

fn pauses(workspace: &Path, megabytes: usize) {
    let mut client = Client::start(workspace, 10);
    client.run(&format!("import os, time; held = bytearray(b'x') * {}", megabytes << 20), "default");
    let (mut forks, mut pauses, mut checkpoints, mut restores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut memory = 0;
    for _ in 0..ROUNDS {
        forks.push(fork(&mut client));
        let alone = client.run("1+1", "default");
        pauses.push(pause(&mut client).saturating_sub(alone));
        client.call("delete_checkpoint", &json!({"name": "behind"}));
        checkpoints.push(client.call("checkpoint_session", &json!({"name": "one"})));
        memory = client.ask("list_checkpoints", &json!({}))["memory"].as_u64().unwrap_or(0);
        restores.push(client.call("restore_checkpoint", &json!({"name": "one"})) + client.run("1+1", "default"));
        client.call("delete_checkpoint", &json!({"name": "one"}));
    }
    if megabytes <= MOST_ASLEEP {
        sleeps(&mut client, megabytes);
    }
    let ratio = median(&pauses) / median(&forks);
    row(&format!("fork {megabytes} MB"), forks);
    row(&format!("pause {megabytes} MB"), pauses);
    row(&format!("checkpoint {megabytes} MB"), checkpoints);
    row(&format!("restore {megabytes} MB"), restores);
    say(&format!("pause / fork {megabytes} MB (p50): {ratio:.2}; an unchanged checkpoint holds {} KiB", memory >> 10));
    client.stop();
}

/// It falls asleep and wakes up, as often as there is time for.
fn sleeps(client: &mut Client, megabytes: usize) {
    let rounds = if megabytes < 100 { ROUNDS } else { ROUNDS / 6 };
    let (mut slept, mut woken) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        slept.push(client.call("sleep_session", &json!({})));
        assert!(client.line.contains("asleep"), "{}", client.line);
        woken.push(client.run("1+1", "default"));
    }
    client.run(&format!("assert len(held) == {} and held[-1:] == b'x' * (len(held) > 0)", megabytes << 20), "default");
    row(&format!("sleep {megabytes} MB"), slept);
    row(&format!("wake {megabytes} MB"), woken);
}

/// Seconds that a bare fork takes, as the session's own code sees it.
fn fork(client: &mut Client) -> Duration {
    let code = "t = time.perf_counter(); pid = os.fork()\nif pid == 0: os._exit(0)\nt = time.perf_counter() - t\n\
                _pid = os.waitpid(pid, 0); t";
    let reply = client.ask("run_python_code", &json!({"code": code}));
    let seconds = reply["results"][0].as_str().and_then(|text| text.parse().ok()).expect("a number");
    Duration::from_secs_f64(seconds)
}

/// A checkpoint and a cell right behind it, to the cell's reply.
fn pause(client: &mut Client) -> Duration {
    let began = Instant::now();
    let checkpoint = client.begin("checkpoint_session", &json!({"name": "behind"}));
    let cell = client.begin("run_python_code", &json!({"code": "1+1"}));
    client.await_answer(cell);
    let took = began.elapsed();
    client.await_answer(checkpoint);
    took
}

fn policies(workspace: &Path) {
    let mut client = Client::start(workspace, 10);
    for policy in ["off", "last"] {
        client.call("create_session", &json!({"session_id": policy, "health": {"checkpoints": policy}}));
    }
    let (mut off, mut last) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        thread::sleep(APART);
        off.push(client.run("1+1", "off"));
        thread::sleep(APART);
        last.push(client.run("1+1", "last"));
    }
    let ratio = median(&last) / median(&off);
    row("1+1, off", off);
    row("1+1, last", last);
    say(&format!("last / off, calls 5 ms apart (p50): {ratio:.2}"));
    client.stop();
}

fn median(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
