//! A server over HTTP, and clients that keep their connection.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::{Value, json};

use super::{PYTHON, program};

const PROTOCOL: &str = "2026-07-28";

/// A server that listens. It ends in order when this is dropped.
pub struct Server {
    pub process: Child,
    pub address: String,
}

impl Server {
    /// With its workspace and its state below `folder`.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let mut process = Command::new(program())
            .args(["--transport", "http", "--port", "0", "--python", PYTHON])
            .args(args)
            .arg("--workspace")
            .arg(folder.join("workspace"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut log = BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let found =
            log.find_map(|line| Some(line.split_once("listening on http://")?.1.trim_end_matches("/mcp").to_owned()));
        // It goes on to write there.
        thread::spawn(move || log.for_each(drop));
        Self { process, address: found.expect("it says where it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("ours");
        self.process.wait().expect("ours");
    }
}

/// One client.
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    /// Lines of each head.
    more: String,
    /// By which a server knows a client without a token.
    has_cookie: bool,
}

impl Connection {
    pub fn open(server: &Server, token: Option<&str>) -> Self {
        let stream = TcpStream::connect(&server.address).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let more = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        Self { stream: BufReader::new(stream), host: server.address.clone(), more, has_cookie: token.is_some() }
    }

    /// Calls, and gives the structured result; an answer that is none is shown, and ends the bench.
    pub fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": tool, "arguments": arguments,
            "_meta": {"io.modelcontextprotocol/protocolVersion": PROTOCOL,
                      "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
                      "io.modelcontextprotocol/clientCapabilities": {}}}})
        .to_string();
        let Self { stream, host, more, has_cookie } = self;
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {PROTOCOL}\r\nMcp-Method: tools/call\r\n\
             Mcp-Name: {tool}\r\n{more}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let sent = stream.get_mut().write_all((head + &body).as_bytes());
        let (answer, cookie) = sent.and_then(|()| read(stream)).expect("it answers");
        if let Some(cookie) = cookie.filter(|_| !*has_cookie) {
            (*more, *has_cookie) = (format!("{more}Cookie: {cookie}\r\n"), true);
        }
        let mut reply: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{tool}: {answer}"));
        let mut result = reply["result"].take();
        assert!(result["structuredContent"].is_object(), "{tool}: {answer}");
        result["structuredContent"].take()
    }
}

/// The body of an answer, and the cookie that it gives.
fn read(stream: &mut BufReader<TcpStream>) -> io::Result<(String, Option<String>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(io::Error::other)?;
    let line = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let cookie = line("set-cookie").and_then(|line| line.split(';').next()).map(str::to_owned);
    let mut text = String::new();
    if let Some(length) = line("content-length").and_then(|line| line.parse().ok()) {
        stream.take(length).read_to_string(&mut text)?;
        return Ok((text, cookie));
    }
    loop {
        let mut line = Vec::new();
        stream.read_until(b'\n', &mut line)?;
        let Ok(httparse::Status::Complete((_, length))) = httparse::parse_chunk_size(&line) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        stream.take(length).read_to_string(&mut text)?;
        stream.read_until(b'\n', &mut Vec::new())?;
        if length == 0 {
            return Ok((text, cookie));
        }
    }
}
