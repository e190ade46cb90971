//! Attempts of one owner at what is another's. Both have a good token; the one knows every name of the other's.

use serde_json::{Value, json};

use crate::{
    owners::attempts,
    support::{
        Setup,
        browser::request,
        http::{Answer, HttpForkpy},
        issuer::{AUDIENCE, Issuer, Signer},
        legacy::Legacy,
        wait_for,
    },
};

const SECRET: &str = "secret";
const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Who asks, and how often she has tried.
struct Eve<'a> {
    server: &'a HttpForkpy,
    bearer: String,
    tried: usize,
}

impl Eve<'_> {
    fn ask(&mut self, method: &str, name: Option<&str>, params: Value) -> Answer {
        self.tried += 1;
        request(self.server, &[("Authorization", &self.bearer)], method, name, params)
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.ask("tools/call", Some(tool), json!({"name": tool, "arguments": arguments}));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["result"].take()
    }

    fn with(&mut self, http: &str, path: &str, session: &str, body: &Value) -> u16 {
        self.tried += 1;
        let headers = [
            ("Authorization", &*self.bearer),
            ("Mcp-Session-Id", session),
            ("MCP-Protocol-Version", "2025-11-25"),
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
        ];
        let body = if http == "POST" { body.to_string() } else { String::new() };
        self.server.exchange(http, path, &headers, body.as_bytes()).status
    }
}

/// A cell of hers that has become a task, in the session.
fn begin_task(server: &HttpForkpy, bearer: &str) -> String {
    let meta = json!({"io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}}});
    let arguments = json!({"code": "import time; time.sleep(600)", "session_id": SECRET});
    let params = json!({"name": "run_python_code", "arguments": arguments, "_meta": meta});
    let reply = request(server, &[("Authorization", bearer)], "tools/call", Some("run_python_code"), params).json();
    reply["result"]["taskId"].as_str().unwrap_or_else(|| panic!("a task: {reply}")).to_owned()
}

fn resources_tell_nothing(eve: &mut Eve<'_>) {
    let uri = format!("health://sessions/{SECRET}");
    for uri in [&*uri, "health://report", "health://alerts"] {
        let read = eve.ask("resources/read", Some(uri), json!({"uri": uri})).body;
        assert!(!read.contains("\"pid\"") || uri.ends_with("report") && !read.contains(SECRET), "{uri}: {read}");
    }
    let listed = eve.ask("resources/list", None, json!({})).body;
    assert!(!listed.contains(SECRET), "{listed}");
    let argument = json!({"ref": {"type": "ref/resource", "uri": "health://sessions/{session_id}"},
        "argument": {"name": "session_id", "value": "s"}});
    let completed = eve.ask("completion/complete", None, argument).body;
    assert!(!completed.contains(SECRET), "{completed}");
}

#[test]
fn forty_attempts_at_what_is_anothers_tell_nothing_and_touch_nothing() {
    let (issuer, signer) = (Issuer::start(false), Signer::curve("c"));
    issuer.publish(&[&signer]);
    let options = ["--wait", "3", "--oauth-issuer", &issuer.url, "--oauth-audience", AUDIENCE];
    let server = HttpForkpy::start(Setup::new().args(&options));
    let bearer = |who: &str| format!("Bearer {}", issuer.token(&signer, who, "cells:run files:read files:write"));
    let (hers, evil) = (bearer("ann"), bearer("eve"));
    let ann = Legacy::new(&server, &[("Authorization", &hers)]);
    ann.call("create_session", json!({"session_id": SECRET}));
    ann.call("run_python_code", json!({"session_id": SECRET, "code": "x = 42", "wait": 60}));
    ann.call("checkpoint_session", json!({"session_id": SECRET, "name": "early"}));
    let task = begin_task(&server, &hers);
    let mut eve = Eve { server: &server, bearer: evil, tried: 0 };
    let notebook = json!({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
    std::fs::write(server.workspace().join("own.ipynb"), notebook.to_string()).expect("written");
    eve.call("save_session", json!({"path": "own.saved"}));
    let began = eve.ask("events/poll", None, json!({"name": "cell.ended", "arguments": {}, "cursor": null})).json();
    eve.tried = 0;

    for (tool, arguments) in attempts(SECRET, "early") {
        let reply = eve.call(tool, arguments);
        let words = reply["content"][0]["text"].as_str().unwrap_or_default();
        assert!(reply["isError"] == true && words.contains("does not exist"), "{tool}: {reply}");
    }
    for tool in ["list_sessions", "get_health_report", "list_checkpoints", "list_crashes"] {
        let reply = eve.call(tool, json!({})).to_string();
        assert!(!reply.contains(SECRET) && !reply.contains("early") && !reply.contains("ann"), "{tool}: {reply}");
    }
    for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
        let mut of = |name: &str| {
            let params = json!({"taskId": name, "inputResponses": {}});
            eve.ask(method, Some(name), params).json()["error"].to_string().replace(name, "")
        };
        let (real, none) = (of(&task), of("00000000-0000-4000-8000-000000000000"));
        assert!(real.contains("code") && real == none, "{method}: {real} {none}");
    }
    let session = ann.session();
    let ping = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "ping", "arguments": {}}});
    for http in ["POST", "GET", "DELETE"] {
        assert_eq!(eve.with(http, "/mcp", session, &ping), 404, "{http} with the name of her connection");
    }
    for (http, path) in [("GET", "/metrics"), ("POST", "/admin/drain")] {
        assert_eq!(eve.with(http, path, session, &Value::Null), 403, "{path}");
    }
    resources_tell_nothing(&mut eve);

    // It ends, which others are not told.
    ann.call("interrupt_cell", json!({"session_id": SECRET}));
    let health = || ann.call("get_kernel_health", json!({"session_id": SECRET}));
    wait_for("its end", || health()["state"] == "idle");
    let since = json!({"name": "cell.ended", "arguments": {}, "cursor": began["result"]["cursor"]});
    let events = eve.ask("events/poll", None, since).json();
    assert_eq!(events["result"]["events"], json!([]), "{events}");
    assert!(eve.tried >= 40, "{} attempts", eve.tried);
    let code = "x, 'stolen' in globals()";
    let kept = ann.call("run_python_code", json!({"session_id": SECRET, "code": code, "wait": 60}));
    assert_eq!(kept["results"], json!(["(42, False)"]));
    assert_eq!(ann.call("list_checkpoints", json!({}))["checkpoints"][0]["name"], "early");
}
