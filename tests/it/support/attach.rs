//! Clients that come through fronts: one server behind them, in a runtime directory of the test's own. On drop the server is
//! stopped, and nothing of it may be left.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use super::{Forkpy, Setup, processes, wait_for};

pub struct Attached {
    directory: tempfile::TempDir,
    mark: String,
    args: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    unset: Vec<String>,
}

impl Attached {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mark = format!("{}-{}", std::process::id(), directory.path().display());
        let runtime = directory.path().join("run");
        Self {
            directory,
            mark,
            args: Vec::new(),
            environment: vec![("XDG_RUNTIME_DIR".to_owned(), runtime)],
            unset: Vec::new(),
        }
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Another place than the test's own runtime directory.
    pub fn env(mut self, name: &str, value: impl Into<PathBuf>) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `forkpy` with these words, in this test's surroundings.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkpy"));
        command.args(words).env("TEST_MARK_OF_FORKPY", &self.mark).env("HOME", self.directory.path());
        command.env_remove("VIRTUAL_ENV").env_remove("FORKPY_NAME");
        for name in &self.unset {
            command.env_remove(name);
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("it runs")
    }

    /// A front that is to be started.
    pub fn front(&self) -> Setup {
        let workspace = self.directory.path().join("workspace");
        let mut command = self.command(&["attach", "--python", env!("FORKPY_BUILD_PYTHON")]);
        command.arg("--workspace").arg(&workspace).args(&self.args);
        Setup {
            command,
            workspace,
            mark: self.mark.clone(),
            directory: tempfile::tempdir().expect("a temporary directory"),
            keep_log: false,
            sockets: false,
            before: Vec::new(),
            ordinary: false,
            root: None,
            through: Vec::new(),
            outlived: true,
        }
    }

    /// A client that has opened its connection.
    pub fn client(&self) -> Forkpy {
        self.front().start()
    }

    /// What `forkpy status` says of the one server.
    pub fn status(&self) -> Value {
        let done = self.run(&["status", "--json"]);
        assert!(done.status.success(), "{done:?}");
        let told: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        told["servers"][0].clone()
    }

    /// A program is to take the server's place, as the server is told of it; what it answers.
    pub fn ask_to_restart(&self, program: &str) -> String {
        let socket = self.status()["socket"].as_str().expect("a path").to_owned();
        let mut stream = UnixStream::connect(socket).expect("it listens");
        let hello = json!({"wants": "restart", "version": "0", "program": program});
        stream.write_all(format!("{hello}\n").as_bytes()).expect("written");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        line
    }

    /// Without a variable that tests set.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.unset.push(name.to_owned());
        self
    }

    pub fn server_pid(&self) -> i32 {
        let status = self.status();
        i32::try_from(status["pid"].as_i64().unwrap_or_else(|| panic!("no server: {status}"))).expect("a pid")
    }

    pub fn kill_server(&self) {
        let pid = nix::unistd::Pid::from_raw(self.server_pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("ours");
        wait_for("the server's end", || matches!(processes::state(pid.as_raw()), '-' | 'Z'));
    }

    /// Processes that any of it has started.
    pub fn family(&self) -> Vec<i32> {
        processes::with_environment("TEST_MARK_OF_FORKPY", &self.mark)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let done = self.run(&["stop", "--all"]);
        if !std::thread::panicking() {
            assert!(done.status.success(), "{done:?}");
            wait_for("the end of all that was started", || self.family().is_empty());
        }
    }
}
