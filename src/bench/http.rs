//! Cells a second over HTTP, by clients that keep their connection.
//!
//! Runs in: bench, a thread for each client.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use serde_json::{Value, json};

use super::{BenchError, stage::Stage};

/// Calls of one client.
const CALLS: usize = 400;
const PROTOCOL: &str = "2026-07-28";

/// A server over HTTP.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(stage: &mut Stage) -> Result<Self, BenchError> {
        let workspace = stage.workspace().join(stage.fresh());
        let mut command = Command::new("/proc/self/exe");
        command.arg("--workspace").arg(workspace).args(stage.args());
        command.args(["--log", "forkpy=info", "--transport", "http", "--port", "0"]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().map_err(BenchError::system("start a server over HTTP"))?;
        let mut log = BufReader::new(process.stderr.take().ok_or_else(gone)?).lines().map_while(Result::ok);
        let address = log.find_map(|line| Some(line.split_once("listening on ")?.1.trim().to_owned()));
        // What it logs later is not read, and must not stop it.
        thread::spawn(move || log.for_each(drop));
        let server = Self { process, address: address.unwrap_or_default() };
        if server.address.is_empty() { Err(gone()) } else { Ok(server) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(0));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousand cells")]
pub(crate) fn throughput(stage: &mut Stage) -> Result<f64, BenchError> {
    let server = Server::start(stage)?;
    let agents: Vec<ureq::Agent> = (0..SIDE_BY_SIDE).map(|_| ureq::Agent::new_with_defaults()).collect();
    for (number, agent) in agents.iter().enumerate() {
        create(agent, &server.address, number)?;
        cell(agent, &server.address, number)?;
    }
    let began = Instant::now();
    let address = &server.address;
    thread::scope(|scope| {
        let clients = agents
            .iter()
            .enumerate()
            .map(|(number, agent)| scope.spawn(move || (0..CALLS).try_for_each(|_| cell(agent, address, number))));
        let clients: Vec<_> = clients.collect();
        clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| Err(gone())))
    })?;
    Ok((SIDE_BY_SIDE * CALLS) as f64 / began.elapsed().as_secs_f64())
}

/// A session for each client.
fn create(agent: &ureq::Agent, address: &str, session: usize) -> Result<(), BenchError> {
    let reply = call(agent, address, "create_session", &json!({"session_id": format!("s{session}")}))?;
    if reply["session_id"].is_string() { Ok(()) } else { Err(refused("create_session", reply.to_string())) }
}

fn cell(agent: &ureq::Agent, address: &str, session: usize) -> Result<(), BenchError> {
    let arguments = json!({"code": "1+1", "session_id": format!("s{session}")});
    let reply = call(agent, address, "run_python_code", &arguments)?;
    if reply["results"][0] == "2" { Ok(()) } else { Err(refused("run_python_code", reply.to_string())) }
}

fn call(agent: &ureq::Agent, address: &str, tool: &str, arguments: &Value) -> Result<Value, BenchError> {
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": PROTOCOL,
                  "io.modelcontextprotocol/clientInfo": {"name": "forkpy bench", "version": env!("CARGO_PKG_VERSION")},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let sent = agent
        .post(address)
        .header("Accept", "application/json, text/event-stream")
        .header("Content-Type", "application/json")
        .header("MCP-Protocol-Version", PROTOCOL)
        .header("Mcp-Method", "tools/call")
        .header("Mcp-Name", tool)
        .send(message.to_string());
    let mut answer = sent.map_err(|error| refused(tool, error.to_string()))?;
    let text = answer.body_mut().read_to_string().map_err(|error| refused(tool, error.to_string()))?;
    let mut reply: Value = serde_json::from_str(&text).map_err(|_| refused(tool, text))?;
    Ok(reply["result"]["structuredContent"].take())
}

fn refused(tool: &str, words: String) -> BenchError {
    let words = words.chars().take(300).collect();
    BenchError::Refused { who: "forkpy over HTTP".to_owned(), tool: tool.to_owned(), words }
}

fn gone() -> BenchError {
    BenchError::Server { who: "forkpy over HTTP".to_owned(), what: "did not say where it listens".to_owned() }
}

/// Sessions of the throughput rows.
pub(crate) const SIDE_BY_SIDE: usize = 8;
