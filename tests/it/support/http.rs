//! HTTP/1.1 by hand, so that a test can send what no client would.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    sync::mpsc::channel,
    time::Duration,
};

use serde_json::{Value, json};

use super::{PATIENCE, Setup};

/// A server on a free port of loopback.
pub struct HttpForkpy {
    process: Child,
    pub address: String,
    setup: Setup,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    pub bytes: Vec<u8>,
}

impl HttpForkpy {
    pub fn start(setup: Setup) -> Self {
        let mut setup = setup.args(&["--transport", "http", "--port", "0"]);
        let mut process = setup.command().stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let (found, address) = channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on http://") {
                    let _ = found.send(rest.trim_end_matches("/mcp").to_owned());
                }
            }
        });
        let address = address.recv_timeout(PATIENCE).expect("it says where it listens");
        Self { process, address, setup }
    }

    /// Sends a GET without any header of our own.
    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let host = &self.address;
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"))
    }

    /// Calls a tool as clients of 2026-07-28 do; its structured reply.
    pub fn call(&self, tool: &str, arguments: Value) -> Value {
        let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": tool, "arguments": arguments,
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                      "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                      "io.modelcontextprotocol/clientCapabilities": {}}}});
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)];
        let answer = self.post(&headers, &call.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut reply: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("no JSON: {answer:?}"));
        reply["result"]["structuredContent"].take()
    }

    /// Runs a cell in the default session.
    pub fn run(&self, code: &str) -> Value {
        self.call("run_python_code", json!({"code": code}))
    }

    pub fn zygote_pid(&self) -> i32 {
        self.zygotes().into_iter().next().expect("a zygote")
    }

    pub fn zygotes(&self) -> Vec<i32> {
        let children = super::processes::children(self.server_pid()).into_iter();
        children.filter(|pid| super::processes::name(*pid) == "forkpy:zygote").collect()
    }

    /// Has the server become another program, which serves.
    pub fn hang_up(&self) {
        let before = self.zygote_pid();
        super::processes::signal(self.server_pid(), nix::sys::signal::Signal::SIGHUP);
        super::wait_for("another program", || {
            let now = self.zygotes();
            !now.is_empty() && !now.contains(&before)
        });
        assert_eq!(self.get("/healthz").status, 200);
    }

    pub fn workspace(&self) -> &std::path::Path {
        &self.setup.workspace
    }

    pub fn server_pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid")
    }

    /// Sends a POST to `/mcp` with these header lines besides the usual ones.
    pub fn post(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = "POST /mcp HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
                           Accept: application/json, text/event-stream\r\n"
            .to_owned();
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.send(&request)
    }

    /// Any request; `Host` and `Content-Length` are added where they are missing.
    pub fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let has = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !has("Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if !has("Content-Length") && !has("Transfer-Encoding") && !matches!(method, "GET" | "HEAD") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.send_bytes(&[head.as_bytes(), b"\r\n", body].concat())
    }

    /// A connection of its own, for what is sent and read by parts.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        stream
    }

    fn send(&self, request: &str) -> Answer {
        self.send_bytes(request.as_bytes())
    }

    /// A server may answer and close before it has read everything.
    fn send_bytes(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut reader = stream.try_clone().expect("a socket");
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes);
            bytes
        });
        let _ = stream.write_all(request);
        Answer::read(&reading.join().expect("no panic"))
    }
}

impl Answer {
    pub fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let bytes = bytes.get(end + 4..).unwrap_or_default().to_vec();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Self { status, head, body: String::from_utf8_lossy(&bytes).into_owned(), bytes }
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

impl Drop for HttpForkpy {
    fn drop(&mut self) {
        super::processes::signal(self.server_pid(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}
