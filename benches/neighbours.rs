//! What an ordinary cell notices of others: `cargo bench --bench neighbours`. Drives the release binary over stdio.
//!
//! | row | times |
//! |---|---|
//! | 1+1, quiet | `run_python_code("1+1")` in one session, nothing else going on |
//! | 1+1, a flood | the same while another session prints 1 GB, by turns with the quiet rows |
//! | 1+1, a bar | the same while another session overwrites one line as fast as it can |
//! | 1+1, empty / 100,000 files | in two servers by turns, one of them in a workspace of that size |
//! | file, empty / 100,000 files | a cell that makes one file, likewise |
//! | start, empty / 100,000 files | spawn to the reply of the first `1+1`, likewise |
//!
//! A floor moves with the machine's load: only rows of one run are comparable. The floods also give the server's peak
//! memory (`VmHWM`) before and after.

mod client;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use client::{Client, kilobytes, row, say};
use serde_json::{Value, json};

const CALLS: usize = 1000;
const FILES: usize = 100_000;
const STARTS: usize = 10;
const FLOOD: &str = "import sys\nline = 'y' * 99 + '\\n'\nfor _ in range(10_000): sys.stdout.write(line * 1000)";
const BAR: &str = "import os\nfor n in range(3_000_000): os.write(2, b'\\r%7d|##########' % n)";

fn main() {
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    floods();
    workspaces();
}

fn quiet(client: &mut Client) -> Vec<Duration> {
    (0..CALLS).map(|_| client.run("1+1", "default")).collect()
}

/// Latencies in `default` while `code` runs in another session, and how long that took.
fn beside(client: &mut Client, code: &str) -> (Vec<Duration>, Duration, String) {
    let began = Instant::now();
    let flood = client.begin("run_python_code", &json!({"code": code, "session_id": "other"}));
    let mut times = Vec::new();
    while !client.has(flood) {
        times.push(client.run("1+1", "default"));
    }
    let took = began.elapsed();
    client.line.clear();
    client.await_answer(flood);
    (times, took, client.line.clone())
}

fn floods() {
    let workspace = tempfile::tempdir().expect("a directory");
    let mut client = Client::start(workspace.path(), 64);
    client.call("create_session", &json!({"session_id": "other"}));
    client.run("1+1", "other");
    let peak = |client: &Client| kilobytes(&format!("/proc/{}/status", client.process.id()), "VmHWM:");
    quiet(&mut client);
    let before = peak(&client);
    row("1+1, quiet", quiet(&mut client));
    let (times, took, reply) = beside(&mut client, FLOOD);
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    let bytes = &reply["result"]["structuredContent"]["stdout_bytes"];
    row("1+1, a flood", times);
    row("1+1, quiet", quiet(&mut client));
    say(&format!(
        "the flood: {bytes} bytes in {:.1} s; peak memory of the server {before} KiB before, {} KiB after",
        took.as_secs_f64(),
        peak(&client)
    ));
    let (times, took, _) = beside(&mut client, BAR);
    row("1+1, a bar", times);
    row("1+1, quiet", quiet(&mut client));
    say(&format!("the bar: {:.1} s; peak memory of the server {} KiB", took.as_secs_f64(), peak(&client)));
    client.stop();
}

fn fill(workspace: &Path) {
    for number in 0..FILES {
        let directory = workspace.join(format!("d{}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&directory).expect("made");
        }
        std::fs::write(directory.join(format!("f{number}")), "").expect("written");
    }
}

fn start(workspace: &Path) -> (Client, Duration) {
    let began = Instant::now();
    let mut client = Client::start(workspace, 64);
    client.run("1+1", "default");
    (client, began.elapsed())
}

fn workspaces() {
    let (empty, full) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    fill(full.path());
    let (mut in_empty, mut in_full) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        for (place, times) in [(&empty, &mut in_empty), (&full, &mut in_full)] {
            let (client, took) = start(place.path());
            times.push(took);
            client.stop();
        }
    }
    row("start, empty", in_empty);
    row("start, 100,000 files", in_full);
    let (mut one, mut two) = (start(empty.path()).0, start(full.path()).0);
    let began = Instant::now();
    while {
        two.run("1+1", "default");
        two.line.contains("\"new_files_incomplete\":true")
    } {
        std::thread::sleep(Duration::from_millis(1));
    }
    say(&format!("after the first reply, all is watched within {:.0} ms", began.elapsed().as_secs_f64() * 1e3));
    for code in ["1+1", "open('new', 'x').close(); import os; os.remove('new')"] {
        let (mut in_empty, mut in_full) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            in_empty.push(one.run(code, "default"));
            in_full.push(two.run(code, "default"));
        }
        let what = if code == "1+1" { "1+1" } else { "file" };
        row(&format!("{what}, empty"), in_empty);
        row(&format!("{what}, 100,000 files"), in_full);
    }
    one.stop();
    two.stop();
}
