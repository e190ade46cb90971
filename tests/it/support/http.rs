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
        let is_zygote = |pid: &i32| super::processes::name(*pid) == "forkpy:zygote";
        super::processes::children(self.server_pid()).into_iter().find(is_zygote).expect("a zygote")
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

    fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

impl Drop for HttpForkpy {
    fn drop(&mut self) {
        super::processes::signal(self.server_pid(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}
