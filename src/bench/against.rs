//! Other programs that run Python for a client: any MCP server over stdio, and ipykernel.
//!
//! Runs in: bench. ipykernel is spoken to by jupyter_client, in a process with the sessions' interpreter, and timed there:
//! from the request's sending to its reply and the kernel's `idle`.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{BenchError, client::Client};

/// One line in, one time in nanoseconds out.
const SPEAKER: &str = r#"
import sys, time
from jupyter_client.manager import KernelManager

class Kernel:
    def __init__(self):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def cell(self):
        began = time.perf_counter_ns()
        request = self.client.execute("1+1")
        idle = replied = False
        while not idle:
            message = self.client.get_iopub_msg(timeout=60)
            mine = message["parent_header"].get("msg_id") == request
            idle = mine and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
        while not replied:
            replied = self.client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") == request
        return time.perf_counter_ns() - began

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

kernel = Kernel()
kernel.cell()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "cell":
        took = kernel.cell()
    else:
        began = time.perf_counter_ns()
        other = Kernel()
        other.cell()
        took = time.perf_counter_ns() - began
        other.end()
    print(took, flush=True)
kernel.end()
"#;

#[derive(Debug)]
pub(crate) struct Other {
    client: Client,
    tool: String,
    argument: String,
}

impl Other {
    /// Starts it by a shell's command line.
    pub(crate) fn start(command: &str, tool: &str, argument: &str) -> Result<Self, BenchError> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {command}"));
        let client = Client::start(command, &mut shell)?;
        let mut other = Self { client, tool: tool.to_owned(), argument: argument.to_owned() };
        other.cell()?;
        Ok(other)
    }

    pub(crate) fn cell(&mut self) -> Result<Duration, BenchError> {
        let arguments: Map<String, Value> = [(self.argument.clone(), json!("1+1"))].into_iter().collect();
        self.client.call(&self.tool, &Value::Object(arguments))
    }
}

/// ipykernel and who speaks to it.
#[derive(Debug)]
pub(crate) struct Kernel {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Kernel {
    pub(crate) fn start(python: &Path) -> Result<Self, BenchError> {
        let mut command = Command::new(python);
        command.args(["-c", SPEAKER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().map_err(BenchError::system("start ipykernel"))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else { return Err(gone()) };
        let mut kernel = Self { process, input: Some(input), output: BufReader::new(output) };
        if kernel.line()?.trim() == "ready" { Ok(kernel) } else { Err(gone()) }
    }

    pub(crate) fn cell(&mut self) -> Result<Duration, BenchError> {
        self.ask("cell\n")
    }

    /// Starts another one, has it run `1+1`, and ends it.
    pub(crate) fn another(&mut self) -> Result<Duration, BenchError> {
        self.ask("start\n")
    }

    fn ask(&mut self, words: &str) -> Result<Duration, BenchError> {
        if let Some(input) = &mut self.input {
            input.write_all(words.as_bytes()).map_err(|_| gone())?;
        }
        self.line()?.trim().parse().map(Duration::from_nanos).map_err(|_| gone())
    }

    fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(count) if count > 0 => Ok(line),
            _ => Err(gone()),
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // It ends its kernel when its input ends.
        self.input = None;
        let _ = self.process.wait();
    }
}

fn gone() -> BenchError {
    BenchError::Server { who: "ipykernel".to_owned(), what: "did not start, or ended, or does not answer".to_owned() }
}
