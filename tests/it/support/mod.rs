//! The strict client: the real binary over its real stdio, every line accounted for, nothing left behind.
//!
//! On drop a [`Forkpy`] closes the server's input and asserts that it ends by itself in time, that no process it started
//! is left, and that every line it wrote was a JSON-RPC message that somebody asked for.
//! `FORKPY_TEST_TRACE=1` prints the conversation, `FORKPY_TEST_LOG=1` the server's log.

pub mod attach;
pub mod browser;
pub mod http;
pub mod issuer;
pub mod legacy;
pub mod processes;
pub mod terminal;
pub mod who;
pub mod zygote;

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Clients kill a server that has not ended by then.
const FAREWELL: Duration = Duration::from_secs(60);

/// Starts servers.
pub struct Setup {
    command: Command,
    pub workspace: PathBuf,
    mark: String,
    directory: tempfile::TempDir,
    keep_log: bool,
    sockets: bool,
    /// Shell commands before it starts, and whether it then becomes an ordinary user: `who.rs`.
    before: Vec<String>,
    ordinary: bool,
    /// A directory that becomes its root, and a program that starts it in its place: `who.rs`.
    root: Option<PathBuf>,
    through: Vec<String>,
    /// It is a front: what it starts goes on without it.
    outlived: bool,
}

/// A running server and its client.
pub struct Forkpy {
    pub process: Child,
    input: Option<Box<dyn Write + Send>>,
    lines: Receiver<String>,
    answers: HashMap<u64, Value>,
    /// Errors without an id, for lines from which none could be read.
    pub nameless: Vec<Value>,
    pub notifications: Vec<Value>,
    next: u64,
    asked: Vec<u64>,
    /// Cancelled requests whose answer was perhaps under way already.
    tolerated: Vec<u64>,
    pub workspace: PathBuf,
    mark: String,
    killed: bool,
    outlived: bool,
    directory: tempfile::TempDir,
}

type Started = (Child, Box<dyn Write + Send>, Box<dyn Read + Send>);

/// A tool's reply.
#[derive(Debug)]
pub struct Reply {
    pub is_error: bool,
    pub data: Value,
    pub text: String,
}

/// The interpreter that forkpy was built with: this one, or the one that `.ci/run` has built it with since.
pub fn python() -> String {
    std::env::var("FORKPY_TEST_PYTHON").unwrap_or_else(|_| env!("FORKPY_BUILD_PYTHON").to_owned())
}

impl Setup {
    pub fn new() -> Self {
        // The interpreter itself, so that no test makes an environment.
        Self::without_python().args(&["--python", &python()])
    }

    /// With the environment that the server finds or makes.
    pub fn without_python() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workspace = directory.path().join("workspace");
        let mark = format!("{}-{}", std::process::id(), directory.path().display());
        let mut command = Command::new(zygote::program());
        command.arg("--workspace").arg(&workspace);
        command.env("TEST_MARK_OF_FORKPY", &mark).env_remove("VIRTUAL_ENV").env("HOME", directory.path());
        // Tests that stop or count processes know one zygote: none takes its place because an import was slow here.
        command.env("FORKPY_PRELOAD", "none");
        // They know how it has started too (`cold_start.rs`).
        command.env("FORKPY_ZYGOTE_IMAGE", "off");
        // One for all: what jedi keeps there takes seconds to make.
        command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        Self {
            command,
            workspace,
            mark,
            directory,
            keep_log: false,
            sockets: false,
            before: Vec::new(),
            ordinary: false,
            root: None,
            through: Vec::new(),
            outlived: false,
        }
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Another file than the one that is tested usually.
    pub fn program(mut self, program: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(self.command.get_args());
        copy_variables(&self.command, &mut command);
        self.command = command;
        self
    }

    /// In the workspace of another one, which is to outlive it.
    pub fn in_workspace(mut self, workspace: &Path) -> Self {
        let args: Vec<_> = self.command.get_args().map(OsStr::to_owned).collect();
        let mut command = Command::new(self.command.get_program());
        let at = args.iter().position(|arg| arg == "--workspace").expect("given") + 1;
        command.args(&args[..at]).arg(workspace).args(&args[at + 1..]);
        copy_variables(&self.command, &mut command);
        self.command = command;
        self.workspace = workspace.to_owned();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without a variable that tests have.
    pub fn unset(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Root starts the server as another user, whom the workspace belongs to, and who may still read everything: the
    /// Python of these tests may lie in root's home.
    pub fn run_as(mut self, user: u32) -> Self {
        std::os::unix::fs::chown(self.directory.path(), Some(user), Some(user)).expect("root may do this");
        let mut command = as_user(user, self.command.get_program());
        command.args(self.command.get_args());
        copy_variables(&self.command, &mut command);
        self.command = command;
        self
    }

    /// Standard input and output are sockets, as Node's clients have it, and not pipes.
    pub fn over_sockets(mut self) -> Self {
        self.sockets = true;
        self
    }

    /// For [`Forkpy::log`].
    pub fn keep_log(mut self) -> Self {
        self.keep_log = true;
        self
    }

    /// Starts it and opens the connection as clients of 2025-11-25 do.
    pub fn start(self) -> Forkpy {
        self.start_with(json!({}))
    }

    /// The same with these capabilities of the client's.
    pub fn start_with(self, capabilities: Value) -> Forkpy {
        let mut forkpy = self.spawn();
        let client = json!({"name": "it", "version": "1"});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": client});
        let answer = forkpy.request("initialize", hello);
        assert_eq!(answer["result"]["serverInfo"]["name"], "forkpy", "{answer}");
        forkpy.notify("notifications/initialized", json!({}));
        forkpy
    }

    /// Starts it and says nothing.
    pub fn spawn(mut self) -> Forkpy {
        let log = match (self.keep_log, std::env::var_os("FORKPY_TEST_LOG")) {
            (true, _) => std::fs::File::create(self.directory.path().join("log")).expect("a file").into(),
            (false, Some(_)) => Stdio::inherit(),
            (false, None) => Stdio::null(),
        };
        self.wrap();
        self.command.stderr(log);
        let (process, input, output) = if self.sockets { self.with_sockets() } else { self.with_pipes() };
        let output = BufReader::new(output);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { break };
                if std::env::var_os("FORKPY_TEST_TRACE").is_some() {
                    let _ = writeln!(std::io::stderr(), "<- {line}");
                }
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Forkpy {
            input: Some(input),
            process,
            lines,
            answers: HashMap::new(),
            nameless: Vec::new(),
            notifications: Vec::new(),
            next: 1,
            asked: Vec::new(),
            tolerated: Vec::new(),
            workspace: self.workspace,
            mark: self.mark,
            killed: false,
            outlived: self.outlived,
            directory: self.directory,
        }
    }

    fn with_pipes(&mut self) -> Started {
        let mut process = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let input = Box::new(process.stdin.take().expect("piped"));
        let output = Box::new(process.stdout.take().expect("piped"));
        (process, input, output)
    }

    fn with_sockets(&mut self) -> Started {
        let (input, theirs) = UnixStream::pair().expect("a pair");
        self.command.stdin(OwnedFd::from(theirs));
        let (output, theirs) = UnixStream::pair().expect("a pair");
        self.command.stdout(OwnedFd::from(theirs));
        let process = self.command.spawn().expect("the binary starts");
        // The command keeps its copies until it is told otherwise, and with them the connection.
        self.command.stdin(Stdio::null()).stdout(Stdio::null());
        (process, Box::new(input), Box::new(output))
    }

    /// Runs it to its end: exit code and what it logged.
    pub fn run_to_end(mut self) -> (Option<i32>, String) {
        let output = self.command.stdin(Stdio::null()).output().expect("the binary starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// For transports other than stdio.
    pub fn command(&mut self) -> &mut Command {
        self.wrap();
        &mut self.command
    }
}

/// Gives one command the variables that another has been given.
fn copy_variables(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

/// A command that root runs as another user, who may still read everything.
pub fn as_user(user: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]).arg(program);
    command
}

impl Forkpy {
    pub fn start() -> Self {
        Setup::new().start()
    }

    // -- the wire

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("open");
        input.write_all(bytes).and_then(|()| input.flush()).expect("the server reads");
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    pub fn notify(&mut self, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.send_bytes(format!("{message}\n").as_bytes());
    }

    /// Sends a request and does not wait.
    pub fn begin(&mut self, method: &str, params: Value) -> u64 {
        let id = self.expect_id();
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send_bytes(format!("{message}\n").as_bytes());
        id
    }

    /// An id that an answer may come for.
    pub fn expect_id(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        self.asked.push(id);
        id
    }

    /// No answer will come for this one: it was cancelled.
    pub fn forget(&mut self, id: u64) {
        self.asked.retain(|asked| *asked != id);
    }

    /// An answer to this one may still come and is not looked at.
    pub fn tolerate(&mut self, id: u64) {
        self.tolerated.push(id);
    }

    pub fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params);
        self.answer(id)
    }

    /// Waits for the answer to one request, keeping what else comes.
    pub fn answer(&mut self, id: u64) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                self.forget(id);
                return answer;
            }
            assert!(self.read_one(deadline), "no answer to request {id}");
        }
    }

    /// Waits until all these requests are answered, and says in which order they were.
    pub fn order_of_answers(&mut self, asked: &[u64]) -> Vec<u64> {
        let deadline = Instant::now() + PATIENCE;
        let mut came: Vec<u64> = Vec::new();
        loop {
            let new: Vec<u64> =
                asked.iter().copied().filter(|id| self.answers.contains_key(id) && !came.contains(id)).collect();
            assert!(new.len() < 2, "looked at too late: {new:?}");
            came.extend(new);
            if came.len() == asked.len() {
                return came;
            }
            assert!(self.read_one(deadline), "only {came:?} of {asked:?} are answered");
        }
    }

    /// Waits for an error that has no id.
    pub fn nameless_error(&mut self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        while self.nameless.is_empty() {
            assert!(self.read_one(deadline), "no error came");
        }
        self.nameless.remove(0)
    }

    /// Answers a request of the server's.
    pub fn respond(&mut self, request: &Value, result: Value) {
        let message = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
        self.send_bytes(format!("{message}\n").as_bytes());
    }

    /// Waits for the first message of the server's own that is wanted, and takes it away.
    pub fn message(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.notifications.iter().position(&wanted) {
                return self.notifications.remove(place);
            }
            assert!(self.read_one(deadline), "waited for {what}");
        }
    }

    /// Whether an answer has come already.
    pub fn has_answer(&mut self, id: u64) -> bool {
        while let Ok(line) = self.lines.try_recv() {
            self.sort_in(&line);
        }
        self.answers.contains_key(&id)
    }

    fn read_one(&mut self, deadline: Instant) -> bool {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.sort_in(&line);
                true
            }
            Err(_) => false,
        }
    }

    fn sort_in(&mut self, line: &str) {
        let message: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("standard output carries something else than JSON ({error}): {line:?}"));
        assert_eq!(message["jsonrpc"], "2.0", "{line}");
        match (message["id"].as_u64(), message["method"].is_string()) {
            (_, true) => self.notifications.push(message),
            (Some(id), false) if self.tolerated.contains(&id) => {}
            (Some(id), false) => {
                assert!(self.asked.contains(&id), "an answer that nobody asked for: {line}");
                assert!(self.answers.insert(id, message).is_none(), "a second answer: {line}");
            }
            (None, false) => self.nameless.push(message),
        }
    }

    // -- tools

    pub fn call(&mut self, tool: &str, arguments: Value) -> Reply {
        let id = self.begin_call(tool, arguments);
        self.reply(id)
    }

    pub fn begin_call(&mut self, tool: &str, arguments: Value) -> u64 {
        self.begin("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    pub fn reply(&mut self, id: u64) -> Reply {
        let answer = self.answer(id);
        let result = &answer["result"];
        assert!(result.is_object(), "a protocol error: {answer}");
        Reply {
            is_error: result["isError"].as_bool().unwrap_or(false),
            data: result["structuredContent"].clone(),
            text: result["content"][0]["text"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// Runs a cell in the default session.
    pub fn run(&mut self, code: &str) -> Value {
        self.call("run_python_code", json!({"code": code})).data
    }

    /// Runs a cell that must end well and have one result.
    pub fn eval(&mut self, code: &str) -> String {
        let reply = self.run(code);
        assert_eq!(reply["status"], "ok", "{reply}");
        reply["results"][0].as_str().unwrap_or_else(|| panic!("no result: {reply}")).to_owned()
    }

    pub fn begin_run(&mut self, code: &str) -> u64 {
        self.begin_call("run_python_code", json!({"code": code}))
    }

    pub fn health(&mut self) -> Value {
        self.call("get_kernel_health", json!({})).data
    }

    pub fn pid(&mut self) -> i32 {
        let health = self.health();
        i32::try_from(health["pid"].as_i64().unwrap_or_else(|| panic!("no worker: {health}"))).expect("a pid")
    }

    pub fn refused(&mut self, tool: &str, arguments: Value) -> String {
        let reply = self.call(tool, arguments);
        assert!(reply.is_error, "not refused: {reply:?}");
        reply.text
    }

    /// Looks at health until `wanted`.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.health();
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "waited for {what}; last seen: {seen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn until_state(&mut self, state: &str) -> Value {
        self.until(state, |seen| seen["state"] == state)
    }

    // -- processes

    pub fn server_pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid")
    }

    pub fn zygote_pid(&self) -> i32 {
        processes::children(self.server_pid())
            .into_iter()
            .find(|pid| processes::name(*pid) == "forkpy:zygote")
            .expect("a zygote")
    }

    /// Everything that descends from this server, wherever it has gone.
    pub fn family(&self) -> Vec<i32> {
        processes::with_environment("TEST_MARK_OF_FORKPY", &self.mark)
    }

    /// SIGKILL: what it would have tidied up stays for others to tidy.
    pub fn kill(&mut self) {
        self.killed = true;
        self.process.kill().expect("it lives");
        self.process.wait().expect("ours");
    }

    /// What the server has logged, if it was to be kept.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("kept")
    }

    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.workspace.join(name)
    }

    fn end(&mut self) {
        self.close_input();
        let deadline = Instant::now() + FAREWELL;
        while !self.killed && self.process.try_wait().expect("ours").is_none() {
            assert!(Instant::now() < deadline, "the server does not end after its input has");
            std::thread::sleep(Duration::from_millis(5));
        }
        while let Ok(line) = self.lines.recv() {
            self.sort_in(&line);
        }
        wait_for("the end of all it started", || self.outlived || self.family().is_empty());
        let unread: Vec<_> = self.answers.keys().collect();
        assert!(unread.is_empty(), "answers nobody looked at: {unread:?}");
        assert!(self.nameless.is_empty(), "errors nobody looked at: {:?}", self.nameless);
    }
}

impl Drop for Forkpy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.process.kill();
            let _ = self.process.wait();
            return;
        }
        self.end();
    }
}

/// Looks again and again.
pub fn wait_for(what: &str, happened: impl FnMut() -> bool) {
    wait_up_to(PATIENCE, what, happened);
}

/// The same, for what takes seconds of the processor, and so minutes on a busy machine.
pub fn wait_up_to(limit: Duration, what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !happened() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
