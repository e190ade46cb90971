//! Files in a workspace of 100,000, as a client sees them over stdio: `cargo bench --bench files`.
//!
//! | row | times |
//! |---|---|
//! | list, first page | `list_files` of the one directory that holds them all, 1000 paths: request written to reply read |
//! | list, last page | the same with the offset of the last page |
//! | list, all pages | a hundred such calls |
//! | tree, first page | `list_files(recursive)` over 100 directories with 1000 files each |
//! | resources, first page | `resources/list`, 1000 with sizes and types |
//! | resources, all pages | `resources/list` to its end: 200 pages, both halves |
//! | read 1 kB, read 100 kB | `read_file` of one file among them |
//! | write 1 kB | `write_file`, a file replaced by a temporary one |
//! | run 1+1 | a warm cell in that workspace, which the watcher keeps an eye on |
//! | ls, cat | what a shell takes for the same, spawn to exit: `ls` of the directory, `cat` of the 1 kB file |

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const FILES: u64 = 100_000;
const PAGE: u64 = 1000;
const ROUNDS: usize = 30;
const CALLS: usize = 500;

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
            .args(["--python", env!("FORKPY_BUILD_PYTHON"), "--log", "error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut client = Self { process, input, output, line: String::new(), next: 1 };
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {},
                           "clientInfo": {"name": "bench", "version": "1"}});
        client.request("initialize", &hello);
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
        let took = began.elapsed();
        assert!(!self.line.contains("\"isError\":true") && self.line.contains("\"result\""), "{}", self.line);
        took
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> Duration {
        self.request("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// All pages of the resources; how long they took and how many there were.
    fn resources(&mut self) -> (Duration, usize) {
        let (mut took, mut found, mut cursor) = (Duration::ZERO, 0, Value::Null);
        loop {
            let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
            took += self.request("resources/list", &params);
            let reply: Value = serde_json::from_str(&self.line).expect("JSON");
            found += reply["result"]["resources"].as_array().map_or(0, Vec::len);
            cursor = reply["result"]["nextCursor"].clone();
            if cursor.is_null() {
                return (took, found);
            }
        }
    }

    fn stop(mut self) {
        drop(self.input);
        self.process.wait().expect("ours");
    }
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |hundredths: usize| times[(times.len() - 1) * hundredths / 100].as_secs_f64() * 1e6;
    say(&format!("{name:<22} {:>10.0} {:>10.0} {:>10.0}", at(50), at(90), at(99)));
}

fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("standard output");
}

fn times(count: usize, mut work: impl FnMut() -> Duration) -> Vec<Duration> {
    (0..count).map(|_| work()).collect()
}

fn shell(program: &str, path: &Path) -> Duration {
    let began = Instant::now();
    let done = Command::new(program).arg(path).stdout(Stdio::null()).status().expect("it runs");
    assert!(done.success());
    began.elapsed()
}

/// One directory of all, and the same number in a hundred directories.
fn fill(workspace: &Path) {
    let text = "x".repeat(1000);
    std::fs::create_dir(workspace.join("flat")).expect("made");
    for index in 0..FILES {
        std::fs::write(workspace.join(format!("flat/file-{index:06}.txt")), "").expect("written");
        let directory = workspace.join(format!("tree/{:02}", index / 1000));
        if index % 1000 == 0 {
            std::fs::create_dir_all(&directory).expect("made");
        }
        std::fs::write(directory.join(format!("{:03}.txt", index % 1000)), "").expect("written");
    }
    std::fs::write(workspace.join("flat/file-050000.txt"), &text).expect("written");
    std::fs::write(workspace.join("flat/file-050001.txt"), text.repeat(100)).expect("written");
}

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let workspace = directory.path();
    fill(workspace);
    let mut client = Client::start(workspace);
    client.call("run_python_code", &json!({"code": "1+1"}));
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    let page = |offset: u64| json!({"path": "flat", "offset": offset, "limit": PAGE});
    row("list, first page", times(ROUNDS, || client.call("list_files", &page(0))));
    row("list, last page", times(ROUNDS, || client.call("list_files", &page(FILES - PAGE))));
    let all =
        |client: &mut Client| (0..FILES / PAGE).map(|number| client.call("list_files", &page(number * PAGE))).sum();
    row("list, all pages", times(3, || all(&mut client)));
    let tree = json!({"path": "tree", "recursive": true, "limit": PAGE});
    row("tree, first page", times(ROUNDS, || client.call("list_files", &tree)));
    row("resources, first page", times(ROUNDS, || client.request("resources/list", &json!({}))));
    row(
        "resources, all pages",
        times(3, || {
            let (took, found) = client.resources();
            assert_eq!(found as u64, 2 * FILES);
            took
        }),
    );
    let read = |number: u64| json!({"path": format!("flat/file-{number:06}.txt")});
    row("read 1 kB", times(CALLS, || client.call("read_file", &read(50_000))));
    row("read 100 kB", times(CALLS, || client.call("read_file", &read(50_001))));
    let write = json!({"path": "flat/file-050002.txt", "content": "x".repeat(1000)});
    row("write 1 kB", times(CALLS, || client.call("write_file", &write)));
    row("run 1+1", times(CALLS, || client.call("run_python_code", &json!({"code": "1+1"}))));
    client.stop();
    row("ls", times(ROUNDS, || shell("ls", &workspace.join("flat"))));
    row("cat", times(ROUNDS, || shell("cat", &workspace.join("flat/file-050000.txt"))));
}
