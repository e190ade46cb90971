//! Clients of the stateless protocol that keep no cookies: known by their connections, and none is left untold.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::support::{Setup, http::HttpForkpy};

const LOST: (&str, &str) = ("ok", "lost");
const KEPT: (&str, &str) = ("ok", "kept");

/// A client that keeps its connection and no cookie, as Node's `fetch` does.
struct Kept<'a> {
    server: &'a HttpForkpy,
    stream: BufReader<TcpStream>,
    /// Header lines that a proxy has added.
    relayed: &'static str,
}

impl<'a> Kept<'a> {
    fn new(server: &'a HttpForkpy, relayed: &'static str) -> Self {
        Self { server, stream: BufReader::new(server.connect()), relayed }
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": tool, "arguments": arguments,
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                      "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                      "io.modelcontextprotocol/clientCapabilities": {}}}})
        .to_string();
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{}\
             Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n\
             Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\nContent-Length: {}\r\n\r\n{body}",
            self.server.address,
            self.relayed,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("sent");
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("a line");
            if let Some((name, value)) = line.trim_end().split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse().expect("a number");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the body");
        let mut reply: Value = serde_json::from_slice(&body).expect("JSON");
        reply["result"]["structuredContent"].take()
    }

    fn run(&mut self, code: &str) -> Value {
        self.call("run_python_code", json!({"code": code}))
    }
}

fn said(reply: &Value) -> (&str, &str) {
    (reply["status"].as_str().unwrap_or_default(), reply["state"].as_str().unwrap_or_default())
}

fn perhaps(reply: &Value) -> bool {
    reply["notice"].as_str().is_some_and(|words| words.starts_with("Perhaps you know"))
}

#[test]
fn each_connection_learns_of_a_loss_and_none_takes_it_from_another() {
    let server = HttpForkpy::start(Setup::new().args(&["--checkpoints", "off"]));
    let (mut one, mut two) = (Kept::new(&server, ""), Kept::new(&server, ""));
    assert_eq!((said(&one.run("x = 1")), said(&two.run("x"))), (KEPT, KEPT));
    assert_eq!(one.run("import os; os._exit(1)")["status"], "died");
    let first = one.run("1");
    assert_eq!(said(&first), LOST, "{first}");
    let (again, other) = (one.run("1"), two.run("1"));
    assert_eq!((said(&again), again["notice"].is_null()), (KEPT, true), "{again}");
    assert_eq!(said(&other), LOST, "{other}");
    assert_eq!(said(&two.run("1")), KEPT);
    // A new connection may be one of both.
    let mut new = Kept::new(&server, "");
    let (reply, next) = (new.run("1"), new.run("1"));
    assert!(perhaps(&reply) && said(&reply) == KEPT && !perhaps(&next), "{reply} {next}");
    assert_eq!(new.call("restart_kernel", json!({}))["restarted"], true);
    assert_eq!((said(&new.run("1")), said(&one.run("1"))), (KEPT, LOST), "who ordered it knows");
}

/// Behind a proxy clients share connections.
#[test]
fn a_client_that_comes_by_a_proxy_is_reminded() {
    let server = HttpForkpy::start(Setup::new().args(&["--checkpoints", "off"]));
    let relayed = "X-Forwarded-For: 192.0.2.7\r\n";
    let mut proxy = Kept::new(&server, relayed);
    proxy.run("x = 1");
    proxy.run("import os; os._exit(1)");
    assert_eq!(said(&proxy.run("1")), LOST);
    for _ in 0..2 {
        let reply = proxy.run("1");
        assert!(perhaps(&reply) && said(&reply) == KEPT, "{reply}");
    }
}
