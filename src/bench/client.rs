//! A client over stdio that waits for one answer at a time, or for many: as quick as a client can be, so that what is
//! measured is the server.
//!
//! Runs in: bench.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::BenchError;

/// How long a server may take to end when its input is closed.
const FAREWELL: Duration = Duration::from_secs(5);

/// One server and its client.
#[derive(Debug)]
pub(crate) struct Client {
    who: String,
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    line: String,
    next: u64,
}

impl Client {
    /// Starts this binary as a server.
    pub(crate) fn forkpy(workspace: &std::path::Path, args: &[String]) -> Result<Self, BenchError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--workspace").arg(workspace).args(["--log", "error"]).args(args);
        Self::start("forkpy", &mut command)
    }

    /// Starts a server and opens the conversation.
    pub(crate) fn start(who: &str, command: &mut Command) -> Result<Self, BenchError> {
        let fail = |what: String| BenchError::Server { who: who.to_owned(), what };
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| fail(format!("did not start: {error}")))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(fail("has no pipes".to_owned()));
        };
        let output = BufReader::with_capacity(1 << 20, output);
        let mut client =
            Self { who: who.to_owned(), process, input: Some(input), output, line: String::new(), next: 1 };
        let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {},
                           "clientInfo": {"name": "forkpy bench", "version": env!("CARGO_PKG_VERSION")}});
        client.request("initialize", &hello)?;
        client.write("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n")?;
        Ok(client)
    }

    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Calls a tool: how long that took, request written to reply read. The reply is in [`Client::reply`].
    ///
    /// # Errors
    /// [`BenchError`], also for a tool error that is no cell's.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Result<Duration, BenchError> {
        self.request("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// Runs code in a session.
    pub(crate) fn run(&mut self, code: &str, session: &str) -> Result<Duration, BenchError> {
        self.call("run_python_code", &json!({"code": code, "session_id": session}))
    }

    /// Makes a session and runs its first cell.
    pub(crate) fn first(&mut self, session: &str, code: &str) -> Result<(), BenchError> {
        self.call("create_session", &json!({"session_id": session}))?;
        self.run(code, session).map(drop)
    }

    /// The structured content of the last reply.
    #[must_use]
    pub(crate) fn reply(&self) -> Value {
        let message: Value = serde_json::from_str(&self.line).unwrap_or_default();
        message["result"]["structuredContent"].clone()
    }

    /// Waits for the answer to this call, and lets others go by.
    pub(crate) fn await_answer(&mut self, id: u64) -> Result<(), BenchError> {
        loop {
            self.read()?;
            if is_answer(&self.line, id) {
                return Ok(());
            }
        }
    }

    /// Waits for so many answers, to whatever.
    pub(crate) fn await_answers(&mut self, count: usize) -> Result<(), BenchError> {
        let mut seen = 0;
        while seen < count {
            self.read()?;
            seen += usize::from(!self.line.contains("\"method\":"));
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, text: &str) -> Result<(), BenchError> {
        let written = self.input.as_mut().map(|input| input.write_all(text.as_bytes()));
        match written {
            Some(Ok(())) => Ok(()),
            _ => Err(self.gone()),
        }
    }

    /// One line with a fresh id.
    pub(crate) fn message(&mut self, method: &str, params: &Value) -> String {
        let id = self.next;
        self.next += 1;
        format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
    }

    fn request(&mut self, method: &str, params: &Value) -> Result<Duration, BenchError> {
        let id = self.next;
        let message = self.message(method, params);
        let began = Instant::now();
        self.write(&message)?;
        self.await_answer(id)?;
        let took = began.elapsed();
        if self.line.contains("\"error\":{\"code\"") || self.is_refusal() {
            let words = self.line.chars().take(300).collect();
            let tool = params["name"].as_str().unwrap_or(method).to_owned();
            return Err(BenchError::Refused { who: self.who.clone(), tool, words });
        }
        Ok(took)
    }

    /// A tool error without structured content: not one of a cell, which has some.
    fn is_refusal(&self) -> bool {
        self.line.contains("\"isError\":true") && !self.line.contains("\"structuredContent\"")
    }

    fn read(&mut self) -> Result<(), BenchError> {
        self.line.clear();
        match self.output.read_line(&mut self.line) {
            Ok(count) if count > 0 => Ok(()),
            _ => Err(self.gone()),
        }
    }

    fn gone(&self) -> BenchError {
        BenchError::Server { who: self.who.clone(), what: "ended in the middle of the measurement".to_owned() }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.input = None;
        let began = Instant::now();
        while began.elapsed() < FAREWELL {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_answer(line: &str, id: u64) -> bool {
    ["\"id\":", "\"id\": "].iter().any(|key| [",", "}"].iter().any(|end| line.contains(&format!("{key}{id}{end}"))))
}
