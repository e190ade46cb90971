//! The short way of a cell through the server loses nothing: each line and each file is in the reply to its own cell, each
//! call has one reply, and what is no plain call goes the long way.

use serde_json::{Value, json};

use crate::support::Setup;

/// The server reads what the reactor has told it of, and asks for nothing else.
#[test]
fn each_cell_has_its_own_lines_and_files() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("import os, subprocess, sys, threading");
    for number in 0..150 {
        let (code, out, err) = match number % 6 {
            0 => (format!("open('f{number}', 'w').close(); print({number})"), format!("{number}\n"), String::new()),
            1 => (
                format!("os.write(1, b'{number}'); os.write(2, b'e'); open('f{number}', 'w').close()"),
                number.to_string(),
                "e".to_owned(),
            ),
            // Another process writes, and has ended before the cell does.
            2 => (
                format!("_ = subprocess.run(['sh', '-c', 'echo {number}; touch f{number}'])"),
                format!("{number}\n"),
                String::new(),
            ),
            // The reply needs several reads.
            3 => (
                format!("print({number}); open('f{number}', 'w').close(); 'x' * 19_000"),
                format!("{number}\n"),
                String::new(),
            ),
            4 => (
                format!(
                    "t = threading.Thread(target=print, args=({number},)); t.start(); t.join(); os.mkdir('d{number}'); open('d{number}/f', 'w').close()"
                ),
                format!("{number}\n"),
                String::new(),
            ),
            _ => ("1+1".to_owned(), String::new(), String::new()),
        };
        let reply = forkpy.run(&code);
        let file = match number % 6 {
            4 => json!([format!("d{number}/f")]),
            5 => json!([]),
            _ => json!([format!("f{number}")]),
        };
        assert_eq!(
            (&reply["stdout"], &reply["stderr"], &reply["new_files"]),
            (&out.into(), &err.into(), &file),
            "{code}"
        );
    }
}

/// What another has put into the workspace between two cells is not the next cell's.
#[test]
fn files_from_between_cells_are_no_cells() {
    let mut forkpy = Setup::new().start();
    forkpy.eval("1");
    for number in 0..30 {
        forkpy.call("write_file", json!({"path": format!("w{number}"), "content": "x"}));
        std::fs::write(forkpy.workspace.join(format!("o{number}")), "x").expect("written");
        assert_eq!(forkpy.run("1+1")["new_files"], json!([]));
    }
}

/// Many at once: more than a pipe holds.
#[test]
fn calls_that_wait_in_a_row_have_one_whole_reply_each() {
    let mut forkpy = Setup::new().start();
    forkpy.eval("1");
    let asked: Vec<u64> = (0..60)
        .map(|number| {
            let code = format!("print('{number} ' + 'y' * 39_000)");
            forkpy.begin_call("run_python_code", json!({"code": code}))
        })
        .collect();
    for (number, id) in asked.into_iter().enumerate() {
        let reply = forkpy.reply(id);
        let text = reply.data["stdout"].as_str().expect("text");
        assert!(text.starts_with(&format!("{number} y")) && text.len() > 39_000, "{}", &text[..40]);
    }
}

fn reply_in(version: &str) -> Value {
    let mut forkpy = Setup::new().spawn();
    let hello = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let greeted = forkpy.request("initialize", hello);
    assert_eq!(greeted["result"]["protocolVersion"], version, "{greeted}");
    forkpy.notify("notifications/initialized", json!({}));
    forkpy.request("tools/call", json!({"name": "run_python_code", "arguments": {"code": "'a' + 'b'"}}))["result"]
        .clone()
}

/// A reply looks as the protocol of its request says; those of 2026-07-28 say that they are complete.
#[test]
fn each_version_of_the_protocol_has_its_replies() {
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let result = reply_in(version);
        assert_eq!(result["content"], json!([{"type": "text", "text": "'ab'"}]), "{version}");
        assert_eq!((&result["isError"], &result["structuredContent"]["results"]), (&false.into(), &json!(["'ab'"])));
        assert_eq!(result.as_object().expect("an object").len(), 3, "{version}: {result}");
    }
    let mut forkpy = Setup::new().spawn();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let call = json!({"name": "run_python_code", "arguments": {"code": "1+1"}, "_meta": meta});
    for _ in 0..2 {
        let result = forkpy.request("tools/call", call.clone())["result"].clone();
        assert_eq!(result["resultType"], "complete", "{result}");
        assert_eq!(result["structuredContent"]["results"], json!(["2"]));
    }
    // A tool error goes the long way, and says it too.
    let wrong = json!({"name": "run_python_code", "arguments": {"kode": "1"}, "_meta": meta});
    let result = forkpy.request("tools/call", wrong)["result"].clone();
    assert_eq!((&result["resultType"], &result["isError"]), (&"complete".into(), &true.into()), "{result}");
}

/// It has its reply, or none; never one that comes when it was taken back.
#[test]
fn a_call_that_was_taken_back_has_no_reply() {
    let mut forkpy = Setup::new().start();
    forkpy.run("import time");
    for _ in 0..10 {
        let id = forkpy.begin_run("time.sleep(600)");
        forkpy.until_state("busy");
        forkpy.forget(id);
        forkpy.notify("notifications/cancelled", json!({"requestId": id}));
        assert_eq!(forkpy.eval("1+1"), "2");
        assert!(!forkpy.has_answer(id));
    }
}
