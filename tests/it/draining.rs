//! A server that drains: who may order it, what its clients are told, and how it ends.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{Setup, http::HttpForkpy, wait_for};

const TOKEN: &str = "treasure";
const BEARER: &str = "Bearer treasure";

fn with_token(args: &[&str]) -> HttpForkpy {
    HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", TOKEN).args(args))
}

/// The whole answer to a call of a tool, as text.
fn ask(server: &HttpForkpy, tool: &str, arguments: &Value) -> String {
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", tool),
        ("Authorization", BEARER),
    ];
    server.post(&headers, &call.to_string()).body
}

fn drain(server: &HttpForkpy) -> (u16, String) {
    let answer = server.exchange("POST", "/admin/drain", &[("Authorization", BEARER)], b"");
    (answer.status, answer.body)
}

#[test]
fn a_server_that_drains_keeps_its_sessions_tells_them_and_makes_none() {
    let server = with_token(&[]);
    let run = |code: &str| ask(&server, "run_python_code", &json!({"code": code}));
    run("x = 41");
    assert_eq!(server.exchange("POST", "/admin/drain", &[], b"").status, 401, "without its token");
    assert_eq!(server.exchange("GET", "/admin/drain", &[("Authorization", BEARER)], b"").status, 405);
    wait_for("nothing has begun", || server.get("/readyz").status == 200);
    let (status, words) = drain(&server);
    assert!(status == 202 && words.contains("ends when it is told to"), "{status} {words}");
    wait_for("it drains", || server.get("/readyz").status == 503);
    assert!(server.get("/readyz").body.contains("draining"));
    assert_eq!(server.get("/readyz?draining=404").status, 404);
    let told = run("x + 1");
    assert!(told.contains("42") && told.contains("its server drains"), "it goes on, and is told: {told}");
    let told = run("x + 2");
    assert!(told.contains("43") && !told.contains("its server drains"), "once: {told}");
    let refused = ask(&server, "create_session", &json!({"session_id": "new"}));
    assert!(refused.contains("makes no new sessions"), "{refused}");
    assert_eq!(drain(&server).0, 202, "again");
}

#[test]
fn a_server_that_drains_ends_after_its_limit() {
    let server = with_token(&["--drain-limit", "1"]);
    ask(&server, "run_python_code", &json!({"code": "x = 41"}));
    let (status, words) = drain(&server);
    assert!(status == 202 && words.contains("ends in 1 s"), "{status} {words}");
    wait_for("it ends", || TcpStream::connect(&server.address).is_err());
}

/// On a server without a token any program of the machine would be an administrator.
#[test]
fn an_order_to_drain_needs_a_token() {
    let server = HttpForkpy::start(Setup::new());
    let refused = server.exchange("POST", "/admin/drain", &[], b"");
    assert!(refused.status == 403 && refused.body.contains("--token-file"), "{refused:?}");
    // It is ready, once Python has started.
    wait_for("it does not drain", || server.get("/readyz").status == 200);
}
