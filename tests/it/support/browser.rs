//! A client of the stateless protocol over HTTP, told from others by its cookie.

use serde_json::{Value, json};

use super::http::{Answer, HttpForkpy};

/// A client over HTTP that is recognised by its cookie.
pub struct Browser<'a> {
    server: &'a HttpForkpy,
    cookie: String,
}

impl<'a> Browser<'a> {
    pub fn new(server: &'a HttpForkpy) -> Self {
        let answer = post(server, &[], "ping", json!({}));
        let cookie = answer.header("Set-Cookie").split(';').next().expect("a cookie").to_owned();
        assert!(!cookie.is_empty(), "{answer:?}");
        Self { server, cookie }
    }

    /// The reply whole: an error has no structure.
    pub fn ask(&self, tool: &str, arguments: Value) -> Value {
        let answer = post(self.server, &[("Cookie", &self.cookie)], tool, arguments);
        answer.json()["result"].take()
    }

    pub fn call(&self, tool: &str, arguments: Value) -> Value {
        let mut reply = self.ask(tool, arguments);
        assert!(reply["structuredContent"].is_object(), "{reply}");
        reply["structuredContent"].take()
    }

    pub fn run_in(&self, session: &str, code: &str) -> Value {
        self.call("run_python_code", json!({"code": code, "session_id": session}))
    }

    pub fn error(&self, tool: &str, arguments: Value) -> String {
        let reply = self.ask(tool, arguments);
        assert_eq!(reply["isError"], true, "{reply}");
        reply["content"][0]["text"].as_str().expect("words").to_owned()
    }
}

fn post(server: &HttpForkpy, headers: &[(&str, &str)], tool: &str, arguments: Value) -> Answer {
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let own = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)];
    let headers: Vec<_> = own.into_iter().chain(headers.iter().copied()).collect();
    let answer = server.post(&headers, &call.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}
