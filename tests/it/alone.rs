//! Calls of protocol 2026-07-28, where each stands for itself: plain ones share a connection to their service, and none
//! notices another.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::support::{
    Setup,
    browser::{self, Browser},
    http::{Answer, HttpForkpy},
    wait_for,
};

fn ask(server: &HttpForkpy, headers: &[(&str, &str)], params: Value) -> Answer {
    let name = params["name"].as_str().expect("a name").to_owned();
    browser::request(server, headers, "tools/call", Some(&name), params)
}

fn run(code: &str, session: &str, token: &str) -> Value {
    json!({"name": "run_python_code", "arguments": {"code": code, "session_id": session}, "_meta": {"progressToken": token}})
}

/// What came, the progress and the reply.
fn messages(answer: &Answer) -> Vec<Value> {
    let lines = answer.body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    lines.filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect()
}

/// Two clients number their calls and their progress alike, at the same time.
#[test]
fn calls_with_the_same_numbers_are_told_apart() {
    let server = HttpForkpy::start(Setup::new().args(&["--share-sessions"]));
    let maker = Browser::new(&server);
    let code = |own: &str, other: &str| {
        format!(
            "import os, time\nprint('{own} speaks')\nopen('{own}', 'w').close()\n\
             while not os.path.exists('{other}'): time.sleep(0.01)\ntime.sleep(1.5)\nprint('more of {own}')\n'{own}'"
        )
    };
    for session in ["a", "b"] {
        maker.call("create_session", json!({"session_id": session}));
    }
    let [a, b] = std::thread::scope(|scope| {
        let both = [("a", "b"), ("b", "a")];
        let server = &server;
        both.map(|(own, other)| scope.spawn(move || ask(server, &[], run(&code(own, other), own, "p"))))
            .map(|call| messages(&call.join().expect("an answer")))
    });
    for (own, other, said) in [("a", "b", a), ("b", "a", b)] {
        let (reply, progress) = said.split_last().expect("a reply");
        assert_eq!(
            (&reply["id"], &reply["result"]["structuredContent"]["results"]),
            (&json!(2), &json!([format!("'{own}'")]))
        );
        assert!(!progress.is_empty(), "a cell of a second tells of itself: {reply}");
        for step in progress {
            assert_eq!(step["params"]["progressToken"], "p", "{step}");
            assert!(!step.to_string().contains(&format!("{other} speaks")), "{step}");
        }
    }
}

/// What is not plainly a call goes by rmcp; the client sees no difference.
#[test]
fn both_ways_to_a_tool_say_the_same() {
    let server = HttpForkpy::start(Setup::new());
    let client = Browser::new(&server);
    let cookie = client.cookie();
    let said = |more: &[(&str, &str)], params: Value| {
        let answer = ask(&server, &[&[("Cookie", cookie)], more].concat(), params);
        let mut reply = answer.json();
        let said = &mut reply["result"]["structuredContent"];
        let cell = said["cell"].take();
        for time in ["execution_time", "queued_time", "timestamp"] {
            said[time] = Value::Null;
        }
        let content = &mut reply["result"]["content"];
        if said_is_json(content) {
            *content = Value::Null;
        }
        (
            answer.status,
            answer.header("Content-Type").to_owned(),
            reply.to_string().replace(&format!("<cell {cell}>"), "<cell>"),
        )
    };
    let call = |name: &str, arguments: Value| json!({"name": name, "arguments": arguments});
    for params in [
        call("run_python_code", json!({"code": "1 + 1"})),
        call("run_python_code", json!({"code": "print('a')\n1 / 0"})),
        call("run_python_code", json!({"code": 7})),
        call("run_python_code", json!({"code": "1", "session_id": "none"})),
        call("ping", json!({})),
        call("no_such_tool", json!({})),
    ] {
        let quick = said(&[], params.clone());
        // A header that no tool has asked for.
        assert_eq!(said(&[("Mcp-Param-Other", "1")], params.clone()), quick, "{params}");
    }
}

/// The text of a reply without words of its own, with the time in it.
fn said_is_json(content: &Value) -> bool {
    content[0]["text"].as_str().is_some_and(|text| text.starts_with('{'))
}

#[test]
fn a_client_that_goes_away_has_taken_its_call_back() {
    let server = HttpForkpy::start(Setup::new().args(&["--share-sessions"]));
    let watcher = Browser::new(&server);
    let state = || watcher.call("get_kernel_health", json!({}))["state"].take();
    let code = "import time\nopen('began', 'w').close()\ntime.sleep(600)";
    for token in [json!({}), json!({"progressToken": "p"})] {
        let mut meta = token.clone();
        meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "it", "version": "1"});
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        let body = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": "run_python_code", "arguments": {"code": code}, "_meta": meta}})
        .to_string();
        let mut stream = server.connect();
        write!(
            stream,
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n\
             Mcp-Method: tools/call\r\nMcp-Name: run_python_code\r\nContent-Length: {}\r\n\r\n{body}",
            server.address,
            body.len()
        )
        .expect("sent");
        let began = server.workspace().join("began");
        wait_for("the cell to run", || began.exists());
        assert_eq!(state(), "busy");
        if token["progressToken"].is_string() {
            // Progress has come: the head of the answer is out.
            stream.read_exact(&mut [0; 10]).expect("the head");
        }
        drop(stream);
        wait_for("the cell to be interrupted", || state() == "idle");
        std::fs::remove_file(began).expect("there");
    }
    assert_eq!(watcher.run_in("default", "'free'")["results"], json!(["'free'"]));
}
