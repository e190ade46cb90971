//! What the benches share: a plain client over stdio, and a look at what the server and all it started take.

#![allow(dead_code, reason = "each bench is a crate of its own and uses a part")]

pub mod http;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// What sessions run on.
pub const PYTHON: &str = env!("FORKPY_BUILD_PYTHON");

/// The server that is measured: the one that was built with the bench, or the one that `FORKPY_BENCH_PROGRAM` names.
pub fn program() -> PathBuf {
    std::env::var_os("FORKPY_BENCH_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_forkpy").into(), PathBuf::from)
}

/// One server and the only client of it.
pub struct Client {
    pub process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub line: String,
    /// Answers that came while another was waited for.
    early: Vec<String>,
    next: u64,
}

impl Client {
    /// With room for so many sessions.
    pub fn start(workspace: &Path, sessions: usize) -> Self {
        let mut process = Command::new(program())
            .arg("--workspace")
            .arg(workspace)
            .args(["--python", PYTHON, "--log", "error", "--max-sessions", &sessions.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut client = Self { process, input, output, line: String::new(), early: Vec::new(), next: 1 };
        client.request(
            "initialize",
            &json!({"protocolVersion": "2025-11-25", "capabilities": {},
                                             "clientInfo": {"name": "bench", "version": "1"}}),
        );
        client.input.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n").expect("it reads");
        client
    }

    /// Time from before the write to after the read; the reply lies in `line`.
    pub fn request(&mut self, method: &str, params: &Value) -> Duration {
        let id = self.next;
        let message = self.message(method, params);
        let began = Instant::now();
        self.input.write_all(message.as_bytes()).expect("it reads");
        self.read();
        let took = began.elapsed();
        if is_answer(&self.line, id) {
            return took;
        }
        self.await_answer(id);
        began.elapsed()
    }

    fn message(&mut self, method: &str, params: &Value) -> String {
        let id = self.next;
        self.next += 1;
        format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
    }

    fn read(&mut self) {
        self.line.clear();
        self.output.read_line(&mut self.line).expect("it answers");
    }

    /// Sends a call and does not wait; gives its id.
    pub fn begin(&mut self, tool: &str, arguments: &Value) -> u64 {
        let id = self.next;
        let message = self.message("tools/call", &json!({"name": tool, "arguments": arguments}));
        self.input.write_all(message.as_bytes()).expect("it reads");
        self.line.clear();
        id
    }

    /// Whether the answer came while another was waited for.
    pub fn has(&self, id: u64) -> bool {
        self.early.iter().any(|line| is_answer(line, id))
    }

    /// Waits until the answer lies in `line`, and keeps others.
    pub fn await_answer(&mut self, id: u64) {
        if let Some(place) = self.early.iter().position(|line| is_answer(line, id)) {
            self.line = self.early.swap_remove(place);
        }
        while !is_answer(&self.line, id) {
            if !self.line.is_empty() {
                self.early.push(std::mem::take(&mut self.line));
            }
            self.read();
        }
    }

    pub fn call(&mut self, tool: &str, arguments: &Value) -> Duration {
        self.request("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// Calls, and gives the structured result.
    pub fn ask(&mut self, tool: &str, arguments: &Value) -> Value {
        self.call(tool, arguments);
        let answer: Value = serde_json::from_str(&self.line).expect("JSON");
        answer["result"]["structuredContent"].clone()
    }

    pub fn run(&mut self, code: &str, session: &str) -> Duration {
        let took = self.call("run_python_code", &json!({"code": code, "session_id": session}));
        assert!(self.line.contains("\"status\":\"ok\""), "{}", self.line);
        took
    }

    pub fn stop(mut self) {
        drop(self.input);
        self.process.wait().expect("ours");
    }
}

fn is_answer(line: &str, id: u64) -> bool {
    line.contains(&format!("\"id\":{id},")) || line.contains(&format!("\"id\":{id}}}"))
}

/// Prints a line.
pub fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("standard output");
}

/// One row of a table: p50, p90, p99 in microseconds.
pub fn row(name: &str, mut times: Vec<Duration>) {
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

/// The number behind `key` in a file of `/proc`.
pub fn kilobytes(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The process and all that descends from it.
pub fn family(root: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let all: Vec<(u32, Option<u32>)> = std::fs::read_dir("/proc")
        .expect("mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(|pid| (pid, parent(pid)))
        .collect();
    let mut found = vec![root];
    let mut seen = 0;
    while seen < found.len() {
        let from = found[seen];
        found.extend(all.iter().filter(|(_, parent)| *parent == Some(from)).map(|(pid, _)| *pid));
        seen += 1;
    }
    found
}

/// Proportional set size of the family, and what the machine has left; KiB.
pub fn memory(root: u32) -> (u64, u64) {
    let pss = family(root).iter().map(|pid| kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum();
    (pss, kilobytes("/proc/meminfo", "MemAvailable:"))
}
