//! A client of protocols with `initialize` over HTTP, told from others by its `Mcp-Session-Id`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use super::http::{Answer, HttpForkpy};

pub struct Legacy<'a> {
    server: &'a HttpForkpy,
    headers: Vec<(String, String)>,
}

impl<'a> Legacy<'a> {
    /// Begins with a new session; these header lines are sent each time.
    pub fn new(server: &'a HttpForkpy, headers: &[(&str, &str)]) -> Self {
        let own = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut client = Self { server, headers: own.collect() };
        let version = "2025-11-25";
        let answer = client.post(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}}));
        let session = answer.header("Mcp-Session-Id").to_owned();
        assert!(!session.is_empty(), "{answer:?}");
        client.headers.extend([("Mcp-Session-Id".into(), session), ("MCP-Protocol-Version".into(), version.into())]);
        client.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    /// The name of its connection.
    pub fn session(&self) -> &str {
        let named = self.headers.iter().find(|(name, _)| name == "Mcp-Session-Id");
        named.map(|(_, session)| session.as_str()).expect("it has begun")
    }

    fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn post(&self, message: &Value) -> Answer {
        self.server.post(&self.headers(), &message.to_string())
    }

    pub fn request(&self, method: &str, params: Value) -> Value {
        let answer = self.post(&json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params}));
        let data = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
        let mut messages = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        messages.find(|message| message["id"] == 2).unwrap_or_else(|| panic!("no reply: {answer:?}"))
    }

    pub fn call(&self, tool: &str, arguments: Value) -> Value {
        let mut reply = self.request("tools/call", json!({"name": tool, "arguments": arguments}));
        assert!(reply["result"]["structuredContent"].is_object(), "{reply}");
        reply["result"]["structuredContent"].take()
    }

    pub fn run(&self, code: &str) -> Value {
        self.call("run_python_code", json!({"code": code}))
    }

    /// A connection of it that stays.
    pub fn stays(&self) -> Staying {
        let mut head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n",
            self.server.address
        );
        for (name, value) in self.headers() {
            head += &format!("{name}: {value}\r\n");
        }
        Staying { stream: BufReader::new(self.server.connect()), head }
    }

    /// Its stream of events, line by line.
    pub fn listen(&self) -> BufReader<TcpStream> {
        let mut stream = self.server.connect();
        let mut head = format!("GET /mcp HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n", self.server.address);
        for (name, value) in self.headers() {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("it listens");
        BufReader::new(stream)
    }

    /// Says that it will not come again.
    pub fn leave(&self) -> u16 {
        self.server.exchange("DELETE", "/mcp", &self.headers(), b"").status
    }
}

/// A connection on which one request comes after the other.
pub struct Staying {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Staying {
    /// Runs a cell. The reply: its head, its body, and whether that came in one piece.
    pub fn run(&mut self, code: &str) -> (String, String, bool) {
        let body = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call",
                          "params": {"name": "run_python_code", "arguments": {"code": code}}});
        let body = body.to_string();
        let request = format!("{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.get_mut().write_all(request.as_bytes()).expect("sent");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line();
        }
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if let Some(length) = length {
            return (head, self.piece(length), true);
        }
        let mut body = String::new();
        loop {
            let length = usize::from_str_radix(self.line().trim_end(), 16).expect("a length");
            body += &self.piece(length);
            assert_eq!(self.line(), "\r\n");
            if length == 0 {
                return (head, body, false);
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.stream.read_line(&mut line).expect("it reads"), 0, "the connection was closed");
        line
    }

    fn piece(&mut self, length: usize) -> String {
        let mut piece = vec![0; length];
        self.stream.read_exact(&mut piece).expect("the body");
        String::from_utf8(piece).expect("UTF-8")
    }
}
