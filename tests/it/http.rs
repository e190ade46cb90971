//! The HTTP door: who may come in. What happens inside is the same as over stdio.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Setup, http::HttpForkpy, processes, wait_for};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;

#[test]
fn without_a_token_only_loopback_is_served() {
    let setup = Setup::new().args(&["--transport", "http", "--host", "0.0.0.0", "--port", "0"]);
    let (code, log) = setup.run_to_end();
    assert_eq!(code, Some(1));
    assert!(log.contains("refusing to listen on 0.0.0.0 without a token") && log.contains("--token-file"), "{log}");
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (code, log) = Setup::new().args(&["--transport", "http", "--port", &port]).run_to_end();
    assert_eq!(code, Some(1));
    assert!(log.contains(&format!("failed to listen on 127.0.0.1:{port}")), "{log}");
}

#[test]
fn the_token_is_demanded_and_sessions_do_not_see_it() {
    let server = HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", "open-sesame"));
    for headers in [&[][..], &[("Authorization", "Bearer wrong")], &[("Authorization", "open-sesame")]] {
        let answer = server.post(headers, INITIALIZE);
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{answer:?}");
    }
    let answer = server.post(&[("Authorization", "Bearer open-sesame")], INITIALIZE);
    assert_eq!(answer.status, 200, "{answer:?}");
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "run_python_code", "arguments": {"code": "import os; 'FORKPY_TOKEN' in os.environ"},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let headers = [
        ("Authorization", "Bearer open-sesame"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "run_python_code"),
    ];
    let answer = server.post(&headers, &call.to_string());
    assert!(answer.status == 200 && answer.body.contains("\"results\":[\"False\"]"), "{answer:?}");
}

#[test]
fn a_token_file_serves_as_well() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "from-a-file\n").expect("written");
    let server = HttpForkpy::start(Setup::new().args(&["--token-file", file.path().to_str().expect("UTF-8")]));
    assert_eq!(server.post(&[], INITIALIZE).status, 401);
    assert_eq!(server.post(&[("Authorization", "Bearer from-a-file")], INITIALIZE).status, 200);
}

/// A page in a browser that was led to 127.0.0.1 under a name of its own must not run code here.
#[test]
fn foreign_hosts_and_origins_are_turned_away() {
    let server = HttpForkpy::start(Setup::new());
    assert_eq!(server.post(&[("Host", "evil.example")], INITIALIZE).status, 403);
    assert_eq!(server.post(&[("Origin", "http://evil.example")], INITIALIZE).status, 403);
    assert_eq!(server.post(&[("Origin", "null")], INITIALIZE).status, 403);
    assert_eq!(server.post(&[("Origin", "http://localhost:5173")], INITIALIZE).status, 200);
    assert_eq!(server.post(&[], INITIALIZE).status, 200);
    let allowed = Setup::new().args(&["--allow-host", "py.example", "--allow-origin", "https://app.example:443"]);
    let server = HttpForkpy::start(allowed);
    assert_eq!(server.post(&[("Host", "py.example"), ("Origin", "https://app.example")], INITIALIZE).status, 200);
}

#[test]
fn nonsense_over_http_is_a_client_error() {
    let server = HttpForkpy::start(Setup::new());
    for body in ["", "garbage", "[]", "{\"jsonrpc\":\"2.0\"}"] {
        let answer = server.post(&[], body);
        assert!((400..500).contains(&answer.status), "{body:?}: {answer:?}");
    }
    assert_eq!(server.post(&[], INITIALIZE).status, 200);
}

#[test]
fn readiness_is_proven_by_a_fork_and_needs_no_token() {
    let server = HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", "secret"));
    assert_eq!((server.get("/healthz").status, server.get("/healthz").body), (200, "ok\n".to_owned()));
    wait_for("readiness", || server.get("/readyz").status == 200);
    assert!(server.get("/readyz").body.contains("a worker was made in"));
    let is_zygote = |pid: &i32| processes::name(*pid) == "forkpy:zygote";
    let zygote = processes::children(server.server_pid()).into_iter().find(is_zygote).expect("a zygote");
    processes::signal(zygote, Signal::SIGSTOP);
    wait_for("the end of readiness", || server.get("/readyz").status == 503);
    assert_eq!(server.get("/healthz").status, 200, "alive all the same");
    processes::signal(zygote, Signal::SIGCONT);
    wait_for("readiness again", || server.get("/readyz").status == 200);
    wait_for("the probes' workers to be gone", || processes::children(zygote).len() == 1);
}

/// Every Python client took "202 Accepted" for a failure, and logged it.
#[test]
fn the_end_of_a_session_is_answered_without_content() {
    let server = HttpForkpy::start(Setup::new());
    let opened = server.post(&[], INITIALIZE);
    let session = opened.header("mcp-session-id").to_owned();
    assert!(!session.is_empty(), "{opened:?}");
    let end = |session: &str| server.exchange("DELETE", "/mcp", &[("Mcp-Session-Id", session)], b"");
    let ended = end(&session);
    assert_eq!((ended.status, &*ended.body), (204, ""), "{ended:?}");
    let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
    assert_eq!(server.post(&[("Mcp-Session-Id", &session)], list).status, 404, "it is gone");
    assert_eq!(server.exchange("DELETE", "/mcp", &[], b"").status, 400, "of no session");
}

/// A balancer routes by the header, forkpy acts by the body: the two must not name different sessions.
#[test]
fn a_header_that_names_another_session_than_the_body_is_refused() {
    let server = HttpForkpy::start(Setup::new());
    server.call("create_session", json!({"session_id": "work"}));
    let call = |headers: &[(&str, &str)], arguments: serde_json::Value| {
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {
            "name": "run_python_code", "arguments": arguments,
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                      "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                      "io.modelcontextprotocol/clientCapabilities": {}}}});
        let usual =
            [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "run_python_code")];
        server.post(&[&usual, headers].concat(), &call.to_string())
    };
    let named = json!({"code": "1", "session_id": "work"});
    for header in [&[][..], &[("Mcp-Param-Session-Id", "work")], &[("Mcp-Param-Session-Id", "=?base64?d29yaw==?=")]] {
        assert_eq!(call(header, named.clone()).status, 200, "{header:?}");
    }
    for (header, arguments) in
        [("default", named.clone()), ("=?base64?d29yaw?=", named), ("work", json!({"code": "1"}))]
    {
        let refused = call(&[("Mcp-Param-Session-Id", header)], arguments);
        assert_eq!(refused.status, 400, "{refused:?}");
        assert_eq!((&refused.json()["error"]["code"], &refused.json()["id"]), (&json!(-32020), &json!(7)));
    }
}
