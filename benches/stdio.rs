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

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const CALLS: usize = 4000;
const SESSIONS: usize = 100;
const STARTS: usize = 20;
const PYTHON: &str = env!("FORKPY_BUILD_PYTHON");

struct Client {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    line: String,
    next: u64,
}

impl Client {
    fn start(workspace: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_forkpy"))
            .arg("--workspace")
            .arg(workspace)
            .args(["--python", PYTHON, "--max-sessions", "1000", "--log", "error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut client = Self { process, input, output, line: String::new(), next: 1 };
        client.request(
            "initialize",
            &json!({"protocolVersion": "2025-11-25", "capabilities": {},
                                             "clientInfo": {"name": "bench", "version": "1"}}),
        );
        client.input.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n").expect("it reads");
        client
    }

    /// Time from before the write to after the read; the reply lies in `line`.
    fn request(&mut self, method: &str, params: &Value) -> Duration {
        let id = self.next;
        self.next += 1;
        let message = format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let began = Instant::now();
        self.input.write_all(message.as_bytes()).expect("it reads");
        self.line.clear();
        self.output.read_line(&mut self.line).expect("it answers");
        began.elapsed()
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> Duration {
        self.request("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    fn run(&mut self, code: &str, session: &str) -> Duration {
        let took = self.call("run_python_code", &json!({"code": code, "session_id": session}));
        assert!(self.line.contains("\"status\":\"ok\""), "{}", self.line);
        took
    }

    fn stop(mut self) {
        drop(self.input);
        self.process.wait().expect("ours");
    }
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| {
        let last = times.len() - 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank"
        )]
        let rank = (last as f64 * share) as usize;
        times[rank].as_secs_f64() * 1e6
    };
    say(&format!("{name:<22} {:>10.0} {:>10.0} {:>10.0}", at(0.5), at(0.9), at(0.99)));
}

fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("standard output");
}

fn kilobytes(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The process and all that descends from it.
fn family(root: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let all: Vec<u32> = std::fs::read_dir("/proc")
        .expect("mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = vec![root];
    let mut seen = 0;
    while seen < found.len() {
        let from = found[seen];
        found.extend(all.iter().filter(|pid| parent(**pid) == Some(from)));
        seen += 1;
    }
    found
}

fn memory(root: u32) -> (u64, u64) {
    let pss = family(root).iter().map(|pid| kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum();
    (pss, kilobytes("/proc/meminfo", "MemAvailable:"))
}

fn main() {
    let workspace = tempfile::tempdir().expect("a directory");
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    calls(workspace.path());
    sessions(workspace.path());
    starts(workspace.path());
}

fn calls(workspace: &Path) {
    let mut client = Client::start(workspace);
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
    let mut client = Client::start(workspace);
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
        let mut client = Client::start(workspace);
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
