//! Output while a cell runs: what reaches a client that asked for progress, and what bars leave in the reply.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Instant,
};

use serde_json::{Value, json};

use crate::support::{Forkpy, PATIENCE, Setup, http::HttpForkpy};

/// Protocol 2026-07-28 has it in each request.
fn modern(token: &str) -> Value {
    json!({
        "progressToken": token,
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
    })
}

fn begin(forkpy: &mut Forkpy, code: &str, meta: &Value) -> u64 {
    forkpy.begin("tools/call", json!({"name": "run_python_code", "arguments": {"code": code}, "_meta": meta}))
}

fn progress(message: &Value) -> Option<&str> {
    (message["method"] == "notifications/progress").then(|| message["params"]["message"].as_str().expect("a message"))
}

/// Joins messages until `wanted`.
fn heard_until(forkpy: &mut Forkpy, wanted: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(wanted) {
        let message = forkpy.message(wanted, |message| progress(message).is_some());
        heard += progress(&message).expect("progress");
    }
    heard
}

const STEPS: &str = "\
import os, sys, time
def gate(name):
    while not os.path.exists(name): time.sleep(0.01)
print('one')
gate('first')
print('two', file=sys.stderr)
gate('second')
print('three, ', end='')
gate('third')
print('four')
gate('fourth')";

/// Each part is seen before the next is let out: nothing waits for the end of the cell.
fn steps(mut forkpy: Forkpy, meta: &Value) {
    let cell = begin(&mut forkpy, STEPS, meta);
    for (words, gate) in [("one\n", "first"), ("two\n", "second"), ("three, ", "third"), ("four\n", "fourth")] {
        assert_eq!(heard_until(&mut forkpy, words), words);
        std::fs::write(forkpy.file(gate), "").expect("written");
    }
    let reply = forkpy.reply(cell).data;
    assert_eq!((&reply["stdout"], &reply["stderr"]), (&json!("one\nthree, four\n"), &json!("two\n")));
}

#[test]
fn output_arrives_while_the_cell_runs() {
    steps(Forkpy::start(), &json!({"progressToken": 7}));
}

#[test]
fn output_arrives_while_the_cell_runs_in_the_stateless_protocol() {
    steps(Setup::new().spawn(), &modern("p"));
}

#[test]
fn who_does_not_ask_hears_nothing() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import time\nfor n in range(20): print(n); time.sleep(0.05)");
    assert_eq!(forkpy.notifications, [] as [Value; 0]);
}

/// Some hundred thousand lines a second: the client gets some messages a second, each of some kilobytes.
#[test]
fn a_flood_is_told_in_few_and_short_messages() {
    let mut forkpy = Forkpy::start();
    let code = "import time\nend = time.monotonic() + 1.5\nn = 0\nwhile time.monotonic() < end: print(n); n += 1\nn";
    let began = Instant::now();
    let cell = begin(&mut forkpy, code, &json!({"progressToken": "p"}));
    let reply = forkpy.reply(cell).data;
    let messages: Vec<&str> = forkpy.notifications.iter().filter_map(progress).collect();
    let most = began.elapsed().as_millis() / 200 + 1;
    assert!(messages.len() >= 3 && messages.len() as u128 <= most, "{} messages", messages.len());
    assert!(messages.iter().all(|message| message.len() < 9000));
    // On a machine that has no time for it one comes last that says how long the cell has run.
    let numbers = messages.iter().rev().find_map(|message| message.lines().last()?.parse::<u64>().ok());
    let last = numbers.unwrap_or_else(|| panic!("a number: {messages:?}"));
    let is_cut = messages.iter().any(|message| message.contains("bytes left out of this message"));
    assert!(last > 1000 && is_cut, "up to {last}, {messages:?}, {reply}");
}

const BAR: &str = "\
import os, sys, time
for n in range(101):
    sys.stderr.write(f'\\r{n:3}%|' + '#' * (n // 10))
    sys.stderr.flush()
    if n == 50:
        while not os.path.exists('go'): time.sleep(0.01)
sys.stderr.write('\\n')
print('a,b\\r')";

#[test]
fn a_bar_is_one_line_in_messages_and_in_the_reply() {
    let mut forkpy = Forkpy::start();
    let cell = begin(&mut forkpy, BAR, &json!({"progressToken": "p"}));
    let half = forkpy.message("half of the bar", |message| progress(message).is_some());
    assert_eq!(progress(&half), Some(" 50%|#####"));
    std::fs::write(forkpy.file("go"), "").expect("written");
    let reply = forkpy.reply(cell).data;
    assert_eq!((&reply["stderr"], &reply["stdout"]), (&json!("100%|##########\n"), &json!("a,b\r\n")));
    assert!(reply["stderr_bytes"].as_u64() > Some(800), "all that was written: {reply}");
}

/// A million states of a bar are one line, and no file is needed for it.
#[test]
fn a_bar_of_any_length_needs_no_file() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("import sys\nfor n in range(200_000): sys.stdout.write(f'\\rstep {n}')\nprint()");
    assert_eq!(reply["stdout"], "step 199999\n");
    assert!(reply["stdout_file"].is_null() && reply["stdout_bytes"].as_u64() > Some(2_000_000), "{reply}");
}

/// Reads the events of one POST: what came, until the answer.
fn events(server: &HttpForkpy, headers: &str, body: &Value, mut on_progress: impl FnMut(&str)) -> Value {
    let mut stream = TcpStream::connect(&server.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let body = body.to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    for line in BufReader::new(stream).lines() {
        let line = line.expect("text");
        let text = line.strip_prefix("data:").unwrap_or(&line);
        let Ok(message) = serde_json::from_str::<Value>(text.trim()) else { continue };
        match progress(&message) {
            Some(words) => on_progress(words),
            None if message["result"].is_object() => return message,
            None => {}
        }
    }
    panic!("no answer");
}

#[test]
fn output_arrives_over_http_in_both_generations() {
    let server = HttpForkpy::start(Setup::new());
    let open = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}});
    let opened = server.post(&[], &open.to_string());
    let head = opened.head.to_lowercase();
    let session = head.split("mcp-session-id: ").nth(1).and_then(|rest| rest.lines().next()).expect("a session");
    let legacy = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
    let modern_headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: run_python_code\r\n";
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    server.post(&[("Mcp-Session-Id", session), ("MCP-Protocol-Version", "2025-11-25")], &ready.to_string());
    for (name, headers, meta) in
        [("legacy", legacy.as_str(), json!({"progressToken": "p"})), ("modern", modern_headers, modern("p"))]
    {
        let gate = server.workspace().join(name);
        let code = format!(
            "import os, time\nprint('first')\nwhile not os.path.exists({gate:?}): time.sleep(0.01)\nprint('last')"
        );
        let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": "run_python_code", "arguments": {"code": code}, "_meta": meta}});
        let mut heard = String::new();
        let answer = events(&server, headers, &call, |words| {
            heard += words;
            std::fs::write(&gate, "").expect("written");
        });
        assert!(heard.starts_with("first\n"), "{heard:?}");
        assert_eq!(answer["result"]["structuredContent"]["stdout"], "first\nlast\n");
    }
}
