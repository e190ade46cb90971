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

    /// The header that it sends.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Any request; its whole answer.
    pub fn request(&self, method: &str, name: Option<&str>, params: Value) -> Value {
        request(self.server, &[("Cookie", &self.cookie)], method, name, params).json()
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
    let params = json!({"name": tool, "arguments": arguments});
    let answer = request(server, headers, "tools/call", Some(tool), params);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// A request of protocol 2026-07-28.
pub fn request(
    server: &HttpForkpy,
    headers: &[(&str, &str)],
    method: &str,
    name: Option<&str>,
    mut params: Value,
) -> Answer {
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "it", "version": "1"});
    if meta["io.modelcontextprotocol/clientCapabilities"].is_null() {
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params});
    let own = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method)];
    let name = name.map(|name| ("Mcp-Name", name));
    let headers: Vec<_> = own.into_iter().chain(name).chain(headers.iter().copied()).collect();
    server.post(&headers, &call.to_string())
}
