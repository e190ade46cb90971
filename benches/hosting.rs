//! Many clients, each an owner with sessions of its own, over HTTP for minutes: `cargo bench --bench hosting`.
//!
//! | row | is |
//! |---|---|
//! | made | `create_session` and its first cell, to the last reply |
//! | cell | a cell that counts up, to its reply; the number is checked |
//! | health, variables | `get_kernel_health`, `list_variables` |
//! | anew | `delete_session`, and the same name made again with its first cell |
//! | memory | of the server alone, and proportional of all that it started; processes; descriptors of the server |
//!
//! Each client waits between its calls, a second on average. `FORKPY_BENCH_CLIENTS` (200), `FORKPY_BENCH_SESSIONS` (1000, of all
//! together), `FORKPY_BENCH_MINUTES` (10). At the end all sessions are deleted, and what is left is compared with the begin.

mod client;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use client::{
    family,
    http::{Connection, Server},
    kilobytes, memory, program, row, say,
};
use serde_json::{Value, json};

/// Calls, by what they do.
const KINDS: [&str; 4] = ["cell", "health", "variables", "anew"];

/// What a client has seen: what kind of call, and how long it took.
type Seen = Vec<(usize, Duration)>;

fn main() {
    let number =
        |name: &str, usual: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (clients, sessions) = (number("FORKPY_BENCH_CLIENTS", 200), number("FORKPY_BENCH_SESSIONS", 1000));
    let minutes = number("FORKPY_BENCH_MINUTES", 10) as u64;
    let folder = tempfile::tempdir().expect("a directory");
    let (file, tokens) = owners(folder.path(), clients);
    let most = (sessions + 10).to_string();
    let server = Server::start(folder.path(), &["--tokens", &file, "--max-sessions", &most, "--sleep-after", "0"]);
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned();
    say(&format!("{clients} clients, {sessions} sessions, {minutes} minutes, load {}", load()));
    tell("at the begin", &server);
    let each = sessions / clients;
    let mut all: Vec<One> = tokens.iter().map(|token| One::new(&server, token, each)).collect();
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    row("made", by_all(&mut all, One::make).concat());
    tell("all made", &server);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let seen = thread::scope(|scope| {
        scope.spawn(|| {
            for quarter in 1..4 {
                thread::sleep(Duration::from_secs(15 * minutes));
                tell(&format!("after {quarter}/4"), &server);
            }
        });
        by_all(&mut all, |one| one.work(end)).concat()
    });
    tell("worked", &server);
    for (kind, name) in KINDS.iter().enumerate() {
        let times: Vec<Duration> = seen.iter().filter(|(of, _)| *of == kind).map(|(_, took)| *took).collect();
        if !times.is_empty() {
            row(name, times);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands of calls")]
    let rate = seen.len() as f64 / (60 * minutes).max(1) as f64;
    say(&format!("{} calls, all right; {rate:.0} a second, load {}", seen.len(), load()));
    by_all(&mut all, One::delete);
    drop(all);
    // What was deleted ends behind its reply.
    thread::sleep(Duration::from_secs(10));
    tell("all deleted", &server);
    // Replies are kept for a minute and a half, and memory is given back once a minute.
    thread::sleep(Duration::from_secs(200));
    tell("given back", &server);
}

/// A file of owners, and the token of each.
fn owners(folder: &Path, count: usize) -> (String, Vec<String>) {
    let path = folder.join("tokens.toml");
    fs::write(&path, "").and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600))).expect("written");
    let file = path.to_str().expect("UTF-8").to_owned();
    let made = (0..count).map(|owner| {
        let mut command = Command::new(program());
        let output = command.args(["token", "new", &format!("owner-{owner}"), "--tokens", &file]).output();
        let output = output.expect("the binary starts");
        let token = String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned();
        assert!(output.status.success() && !token.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        token
    });
    let tokens = made.collect();
    (file, tokens)
}

/// One client and its sessions, each with the number that it has counted to.
struct One {
    connection: Connection,
    counted: Vec<u64>,
}

impl One {
    fn new(server: &Server, token: &str, sessions: usize) -> Self {
        Self { connection: Connection::open(server, Some(token)), counted: vec![0; sessions] }
    }

    fn make(&mut self) -> Vec<Duration> {
        (0..self.counted.len()).map(|session| timed(|| self.begin(session))).collect()
    }

    fn begin(&mut self, session: usize) {
        self.connection.call("create_session", &name(session));
        let reply = self.run(session, "n = 0; n");
        assert_eq!(reply["results"], json!(["0"]), "{reply}");
        self.counted[session] = 0;
    }

    fn run(&mut self, session: usize, code: &str) -> Value {
        let mut arguments = name(session);
        arguments["code"] = json!(code);
        self.connection.call("run_python_code", &arguments)
    }

    /// Until the end: calls at random, and waits between them.
    fn work(&mut self, end: Instant) -> Seen {
        let mut seen = Seen::new();
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(fastrand::u64(0..2000)));
            let session = fastrand::usize(..self.counted.len());
            let kind = match fastrand::u32(..100) {
                0 => 3,
                1..4 => 2,
                4..8 => 1,
                _ => 0,
            };
            seen.push((kind, timed(|| self.step(kind, session))));
        }
        seen
    }

    fn step(&mut self, kind: usize, session: usize) {
        match KINDS[kind] {
            "cell" => {
                self.counted[session] += 1;
                let reply = self.run(session, "n += 1; n");
                assert_eq!(reply["results"], json!([self.counted[session].to_string()]), "{reply}");
            }
            "health" => {
                let reply = self.connection.call("get_kernel_health", &name(session));
                assert_eq!(reply["status"], "healthy", "{reply}");
            }
            "variables" => {
                let reply = self.connection.call("list_variables", &name(session));
                assert!(reply.to_string().contains("\"n\""), "{reply}");
            }
            _ => {
                self.connection.call("delete_session", &name(session));
                self.begin(session);
            }
        }
    }

    fn delete(&mut self) {
        for session in 0..self.counted.len() {
            self.connection.call("delete_session", &name(session));
        }
    }
}

fn name(session: usize) -> Value {
    json!({"session_id": format!("s{session}")})
}

/// Lets each client do its work, all at a time.
fn by_all<T: Send>(all: &mut [One], work: impl Fn(&mut One) -> T + Sync) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = all.iter_mut().map(|one| scope.spawn(move || work(one))).collect();
        running.into_iter().map(|one| one.join().expect("all right")).collect()
    })
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn tell(when: &str, server: &Server) {
    let pid = server.process.id();
    let own = kilobytes(&format!("/proc/{pid}/status"), "VmRSS:") >> 10;
    let (all, _) = memory(pid);
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let processes = family(pid).len();
    say(&format!(
        "{when:<13} server {own} MiB, all {} MiB, {processes} processes, {descriptors} descriptors",
        all >> 10
    ));
}
