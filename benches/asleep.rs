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
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use client::{PYTHON, memory, row, say};
use serde_json::{Value, json};

const CLIENTS: usize = 10;

fn main() {
    let number =
        |name: &str, usual: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (sessions, wakes) = (number("FORKPY_BENCH_ASLEEP", 1000), number("FORKPY_BENCH_WAKES", 2000));
    let folder = tempfile::tempdir().expect("a directory");
    let (mut server, address) = start(folder.path(), sessions);
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned();
    say(&format!("{sessions} sessions, {CLIENTS} clients, load {}", load()));
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    let began = Instant::now();
    row("made", by_all(sessions, |session| timed(|| make(&address, session))));
    say(&format!("all of them in {:.1} s", began.elapsed().as_secs_f64()));
    tell(&server, &folder.path().join("state"), sessions);
    // What each has told so far; a client that asks holds it.
    let told: Vec<Mutex<usize>> = (0..sessions).map(|_| Mutex::new(1)).collect();
    let slept = Mutex::new(Vec::new());
    let began = Instant::now();
    let woken = by_all(wakes, |_| {
        let session = fastrand::usize(..sessions);
        let mut told = told[session].lock().expect("no panic");
        let took = timed(|| wake(&address, session, *told));
        *told += 1;
        slept.lock().expect("no panic").push(timed(|| sleep(&address, session)));
        took
    });
    row("wake", woken);
    row("sleep", slept.into_inner().expect("no panic"));
    say(&format!("{wakes} of each in {:.1} s, load {}", began.elapsed().as_secs_f64(), load()));
    tell(&server, &folder.path().join("state"), sessions);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
        .expect("ours");
    server.wait().expect("ours");
}

fn start(folder: &Path, sessions: usize) -> (Child, String) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_forkpy"))
        .args(["--transport", "http", "--port", "0", "--share-sessions", "--python", PYTHON, "--checkpoints", "off"])
        .args(["--state-disk", "100000", "--max-sessions", &(sessions + 10).to_string()])
        .arg("--workspace")
        .arg(folder.join("workspace"))
        .arg("--state-dir")
        .arg(folder.join("state"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut log = BufReader::new(server.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let found =
        log.find_map(|line| Some(line.split_once("listening on http://")?.1.trim_end_matches("/mcp").to_owned()));
    // It goes on to write there.
    thread::spawn(move || log.for_each(drop));
    (server, found.expect("it says where it listens"))
}

/// Does a piece of work so often, by all clients.
fn by_all(count: usize, work: impl Fn(usize) -> Duration + Sync) -> Vec<Duration> {
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        return;
                    }
                    let took = work(place);
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

fn make(address: &str, session: usize) {
    let name = format!("s{session}");
    call(address, "create_session", &json!({"session_id": name}));
    let code = format!("value = 'of {session}'; rows = (n * {session} for n in range(10 ** 9)); next(rows)");
    call(address, "run_python_code", &json!({"session_id": name, "code": code}));
    sleep(address, session);
}

fn wake(address: &str, session: usize, told: usize) {
    let name = format!("s{session}");
    let reply = call(address, "run_python_code", &json!({"session_id": name, "code": "value, next(rows)"}));
    assert_eq!(reply["results"], json!([format!("('of {session}', {})", told * session)]), "{reply}");
}

fn sleep(address: &str, session: usize) {
    let reply = call(address, "sleep_session", &json!({"session_id": format!("s{session}")}));
    assert_eq!(reply["status"], "asleep", "{reply}");
}

fn call(address: &str, tool: &str, arguments: &Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}})
    .to_string();
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n\
         Mcp-Name: {tool}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let mut reply: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}"));
    reply["result"]["structuredContent"].take()
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
