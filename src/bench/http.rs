//! Cells a second over HTTP, by clients that keep their connection.
//!
//! Runs in: bench, a thread for each client. They share the processors with the server that is measured: so a client is a socket
//! and what HTTP/1.1 needs, and no more (one with all comforts took three times the server's own time).

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use serde_json::{Value, json};

use super::{BenchError, stage::Stage};

/// Calls of one client.
const CALLS: usize = 400;
const PROTOCOL: &str = "2026-07-28";
/// The last version whose clients open a session.
const OPENED: &str = "2025-11-25";

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Each call for itself.
    Alone,
    /// In a session that `initialize` has opened: what most clients do.
    Opened,
}

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
pub(crate) fn throughput(stage: &mut Stage, manner: Manner) -> Result<f64, BenchError> {
    let server = Server::start(stage)?;
    let open = |_| Connection::open(&server.address, manner);
    let mut connections = (0..SIDE_BY_SIDE).map(open).collect::<Result<Vec<_>, _>>()?;
    for (number, connection) in connections.iter_mut().enumerate() {
        create(connection, number)?;
        cell(connection, number)?;
    }
    let began = Instant::now();
    thread::scope(|scope| {
        let clients = connections
            .iter_mut()
            .enumerate()
            .map(|(number, connection)| scope.spawn(move || (0..CALLS).try_for_each(|_| cell(connection, number))));
        let clients: Vec<_> = clients.collect();
        clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| Err(gone())))
    })?;
    Ok((SIDE_BY_SIDE * CALLS) as f64 / began.elapsed().as_secs_f64())
}

/// A connection that stays open.
struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    path: String,
    /// Of a client that has opened one.
    session: Option<String>,
}

impl Connection {
    fn open(address: &str, manner: Manner) -> Result<Self, BenchError> {
        let (host, path) = address.strip_prefix("http://").and_then(|rest| rest.split_once('/')).ok_or_else(gone)?;
        let failed = BenchError::system("connect to a server over HTTP");
        let stream = TcpStream::connect(host).and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = BufReader::with_capacity(64 << 10, stream.map_err(failed)?);
        let (host, path) = (host.to_owned(), format!("/{path}"));
        let mut connection = Self { stream, host, path, session: None };
        if manner == Manner::Opened {
            connection.initialize().map_err(|error| refused("initialize", error.to_string()))?;
        }
        Ok(connection)
    }

    fn initialize(&mut self) -> io::Result<()> {
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": OPENED, "capabilities": {},
            "clientInfo": {"name": "forkpy bench", "version": env!("CARGO_PKG_VERSION")}}});
        let (head, text) = self.post("", &message.to_string())?;
        self.session = Some(head.session.ok_or_else(|| io::Error::other(text))?);
        let headers = self.headers("");
        self.post(&headers, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)?;
        Ok(())
    }

    /// What a call of a tool says in its head.
    fn headers(&self, tool: &str) -> String {
        match &self.session {
            None => format!("MCP-Protocol-Version: {PROTOCOL}\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"),
            Some(session) => format!("MCP-Protocol-Version: {OPENED}\r\nMcp-Session-Id: {session}\r\n"),
        }
    }

    /// Sends a message, and reads the head and the body of what comes back.
    fn post(&mut self, headers: &str, body: &str) -> io::Result<(Head, String)> {
        let Self { stream, host, path, .. } = self;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json, text/event-stream\r\n\
             Content-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        let head = read_head(stream)?;
        let mut text = String::new();
        match head.length {
            Some(length) => stream.take(length).read_to_string(&mut text).map(drop)?,
            None => read_chunks(stream, &mut text)?,
        }
        Ok((head, text))
    }
}

struct Head {
    status: u16,
    /// Of what follows; none where it comes in chunks.
    length: Option<u64>,
    session: Option<String>,
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Head> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(io::Error::other)?;
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = header("content-length").and_then(|length| length.parse().ok());
    let session = header("mcp-session-id").map(ToOwned::to_owned);
    Ok(Head { status: response.code.unwrap_or(0), length, session })
}

fn read_chunks(stream: &mut impl BufRead, text: &mut String) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        stream.read_until(b'\n', &mut line)?;
        let Ok(httparse::Status::Complete((_, length))) = httparse::parse_chunk_size(&line) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        stream.take(length).read_to_string(text)?;
        stream.read_until(b'\n', &mut Vec::new())?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// A session for each client.
fn create(connection: &mut Connection, session: usize) -> Result<(), BenchError> {
    let reply = call(connection, "create_session", &json!({"session_id": format!("s{session}")}))?;
    if reply["session_id"].is_string() { Ok(()) } else { Err(refused("create_session", reply.to_string())) }
}

fn cell(connection: &mut Connection, session: usize) -> Result<(), BenchError> {
    let arguments = json!({"code": "1+1", "session_id": format!("s{session}")});
    let reply = call(connection, "run_python_code", &arguments)?;
    if reply["results"][0] == "2" { Ok(()) } else { Err(refused("run_python_code", reply.to_string())) }
}

fn call(connection: &mut Connection, tool: &str, arguments: &Value) -> Result<Value, BenchError> {
    let mut params = json!({"name": tool, "arguments": arguments});
    if connection.session.is_none() {
        params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": PROTOCOL,
                  "io.modelcontextprotocol/clientInfo": {"name": "forkpy bench", "version": env!("CARGO_PKG_VERSION")},
                  "io.modelcontextprotocol/clientCapabilities": {}});
    }
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let headers = connection.headers(tool);
    let answer = connection.post(&headers, &message.to_string()).map_err(|error| refused(tool, error.to_string()))?;
    let (Head { status, .. }, text) = answer;
    // Of the events the reply is the one that says something.
    let reply = text.lines().filter_map(|line| line.strip_prefix("data: ")).find(|data| !data.is_empty());
    match serde_json::from_str::<Value>(reply.unwrap_or(&text)) {
        Ok(mut reply) if status == 200 => Ok(reply["result"]["structuredContent"].take()),
        _ => Err(refused(tool, format!("HTTP {status}: {text}"))),
    }
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
