//! Many named sessions asleep, woken at random by ten clients over HTTP: `cargo bench --bench asleep`.
//!
//! | row | is |
//! |---|---|
//! | made | a session made, its first cell, and its falling asleep, to the last reply |
//! | wake | a cell in a session that sleeps, to its reply; its values are checked |
//! | sleep | `sleep_session` after that, to its reply |
//! | memory, disk | proportional set size of the server and all it started; bytes below `--state-dir`, while all sleep |
//!
//! `FORKPY_BENCH_ASLEEP` sets the number of sessions (1000), `FORKPY_BENCH_WAKES` how often one is woken (2000).

mod client;

use std::{
    fs,
    path::Path,
    process::Child,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use client::{
    http::{Connection, Server},
    memory, row, say,
};
use serde_json::json;

const CLIENTS: usize = 10;

fn main() {
    let number =
        |name: &str, usual: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (sessions, wakes) = (number("FORKPY_BENCH_ASLEEP", 1000), number("FORKPY_BENCH_WAKES", 2000));
    let folder = tempfile::tempdir().expect("a directory");
    let most = (sessions + 10).to_string();
    let args = ["--share-sessions", "--checkpoints", "off", "--state-disk", "100000", "--max-sessions", &most];
    let server = Server::start(folder.path(), &args);
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned();
    say(&format!("{sessions} sessions, {CLIENTS} clients, load {}", load()));
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    let began = Instant::now();
    row("made", by_all(&server, sessions, |client, session| timed(|| make(client, session))));
    say(&format!("all of them in {:.1} s", began.elapsed().as_secs_f64()));
    tell(&server.process, &folder.path().join("state"), sessions);
    // What each has told so far; a client that asks holds it.
    let told: Vec<Mutex<usize>> = (0..sessions).map(|_| Mutex::new(1)).collect();
    let slept = Mutex::new(Vec::new());
    let began = Instant::now();
    let woken = by_all(&server, wakes, |client, _| {
        let session = fastrand::usize(..sessions);
        let mut told = told[session].lock().expect("no panic");
        let took = timed(|| wake(client, session, *told));
        *told += 1;
        slept.lock().expect("no panic").push(timed(|| sleep(client, session)));
        took
    });
    row("wake", woken);
    row("sleep", slept.into_inner().expect("no panic"));
    say(&format!("{wakes} of each in {:.1} s, load {}", began.elapsed().as_secs_f64(), load()));
    tell(&server.process, &folder.path().join("state"), sessions);
}

/// Does a piece of work so often, by all clients.
fn by_all(server: &Server, count: usize, work: impl Fn(&mut Connection, usize) -> Duration + Sync) -> Vec<Duration> {
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Connection::open(server, None);
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        return;
                    }
                    let took = work(&mut client, place);
                    times.lock().expect("no panic").push(took);
                }
            });
        }
    });
    times.into_inner().expect("no panic")
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn make(client: &mut Connection, session: usize) {
    let name = format!("s{session}");
    client.call("create_session", &json!({"session_id": name}));
    let code = format!("value = 'of {session}'; rows = (n * {session} for n in range(10 ** 9)); next(rows)");
    client.call("run_python_code", &json!({"session_id": name, "code": code}));
    sleep(client, session);
}

fn wake(client: &mut Connection, session: usize, told: usize) {
    let name = format!("s{session}");
    let reply = client.call("run_python_code", &json!({"session_id": name, "code": "value, next(rows)"}));
    assert_eq!(reply["results"], json!([format!("('of {session}', {})", told * session)]), "{reply}");
}

fn sleep(client: &mut Connection, session: usize) {
    let reply = client.call("sleep_session", &json!({"session_id": format!("s{session}")}));
    assert_eq!(reply["status"], "asleep", "{reply}");
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn tell(server: &Child, state: &Path, sessions: usize) {
    let (pss, _) = memory(server.id());
    let disk = bytes_below(state);
    say(&format!(
        "memory {} MiB, {:.1} KiB a session; disk {:.1} MB, {:.0} kB a session",
        pss >> 10,
        pss as f64 / sessions as f64,
        disk as f64 / 1e6,
        disk as f64 / 1e3 / sessions as f64
    ));
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(status) if status.is_dir() => bytes_below(&entry.path()),
        Ok(status) => status.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}
