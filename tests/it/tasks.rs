//! Tasks (SEP-2663): calls of clients that know them go on under a name, by which any connection of their owner asks what came of them.

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, attach::Attached, http::HttpForkpy, wait_for};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";

fn capabilities() -> Value {
    json!({"elicitation": {}, "extensions": {EXTENSION: {}}})
}

/// A client that knows tasks, of a server that lets calls wait for a second.
fn client() -> Forkpy {
    Setup::new().args(&["--wait", "1"]).start_with(capabilities())
}

/// Calls a tool; the task that it becomes.
fn task(forkpy: &mut Forkpy, tool: &str, arguments: Value) -> String {
    let reply = forkpy.request("tools/call", json!({"name": tool, "arguments": arguments}));
    let task = &reply["result"];
    assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")), "{reply}");
    assert!(task["pollIntervalMs"].is_number() && task["ttlMs"].is_null(), "{reply}");
    task["taskId"].as_str().expect("a name").to_owned()
}

fn get(forkpy: &mut Forkpy, name: &str) -> Value {
    let reply = forkpy.request("tasks/get", json!({"taskId": name}));
    assert!(reply["result"]["taskId"] == name, "{reply}");
    reply["result"].clone()
}

fn until(forkpy: &mut Forkpy, name: &str, status: &str) -> Value {
    let mut seen = Value::Null;
    wait_for(&format!("the task to be {status}"), || {
        seen = get(forkpy, name);
        assert!(seen["status"] == status || seen["status"] == "working", "{seen}");
        seen["status"] == status
    });
    seen
}

const WAITS: &str =
    "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nx = 7\nx";

#[test]
fn a_long_call_becomes_a_task_and_its_result_is_what_a_reply_would_be() {
    let mut forkpy = client();
    let name = task(&mut forkpy, "run_python_code", json!({"code": WAITS}));
    let mut working = Value::Null;
    wait_for("it to run", || {
        working = get(&mut forkpy, &name);
        working["statusMessage"].as_str().is_some_and(|words| words.contains("runs, for"))
    });
    assert!(working["result"].is_null() && working["error"].is_null(), "{working}");
    std::fs::write(forkpy.file("go"), "").expect("written");
    let done = until(&mut forkpy, &name, "completed");
    assert_eq!(done["result"]["structuredContent"]["results"], json!(["7"]), "{done}");
    assert_eq!(done["result"]["structuredContent"]["stdout"], "begun\n", "{done}");
    assert!(done["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("begun")), "{done}");
    assert!(done["ttlMs"].as_u64().is_some_and(|left| left >= 3_600_000), "{done}");
    // It may be asked for again, and a call that takes little time is no task.
    assert_eq!(get(&mut forkpy, &name)["status"], "completed");
    assert_eq!(forkpy.eval("x"), "7");
    // A failure of the code is a result.
    let name = task(&mut forkpy, "run_python_code", json!({"code": "import time\ntime.sleep(2)\n1/0"}));
    let done = until(&mut forkpy, &name, "completed");
    assert_eq!(done["result"]["structuredContent"]["error"]["type"], "ZeroDivisionError", "{done}");
    let unknown = forkpy.request("tasks/get", json!({"taskId": "none"}));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
}

#[test]
fn a_task_is_cancelled_and_a_call_that_says_how_long_it_waits_is_none() {
    let mut forkpy = client();
    let name = task(&mut forkpy, "run_python_code", json!({"code": "import time\ntime.sleep(600)"}));
    let ack = forkpy.request("tasks/cancel", json!({"taskId": name}));
    assert!(ack["result"].is_object() && ack["result"]["taskId"].is_null(), "{ack}");
    until(&mut forkpy, &name, "cancelled");
    let again = forkpy.request("tasks/cancel", json!({"taskId": name}));
    assert!(again["result"].is_object(), "{again}");
    for more in [json!({"wait": 0.1}), json!({"background": true})] {
        let mut arguments = json!({"code": "import time\ntime.sleep(1.5)"});
        arguments.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
        let reply = forkpy.call("run_python_code", arguments);
        assert!(reply.data["status"] == "running" || reply.data["status"] == "queued", "{reply:?}");
    }
}

#[test]
fn code_that_asks_is_answered_through_its_task() {
    let mut forkpy = client();
    let code = "import time\ntime.sleep(2)\nname = input('Who? ')\nage = input('Age? ')\n(name, age)";
    let name = task(&mut forkpy, "run_python_code", json!({"code": code}));
    let mut earlier = String::new();
    for (prompt, answer) in [("Who?", "Ada"), ("Age?", "36")] {
        let mut key = String::new();
        wait_for("the question", || {
            let asks = get(&mut forkpy, &name);
            let Some((found, request)) = asks["inputRequests"].as_object().and_then(|all| all.iter().next()) else {
                return false;
            };
            assert!(asks["status"] == "input_required" && request["method"] == "elicitation/create", "{asks}");
            key.clone_from(found);
            request["params"]["message"].as_str().is_some_and(|message| message.contains(prompt))
        });
        assert_ne!(key, earlier, "each question has a key of its own");
        let wrong =
            json!({"taskId": name, "inputResponses": {"other": {"action": "accept", "content": {"input": "x"}}}});
        assert!(forkpy.request("tasks/update", wrong)["result"].is_object());
        let given =
            json!({"taskId": name, "inputResponses": {&key: {"action": "accept", "content": {"input": answer}}}});
        assert!(forkpy.request("tasks/update", given)["result"].is_object());
        earlier = key;
    }
    let mut done = Value::Null;
    wait_for("the end", || {
        done = get(&mut forkpy, &name);
        done["status"] == "completed"
    });
    assert_eq!(done["result"]["structuredContent"]["results"], json!(["('Ada', '36')"]), "{done}");
}

#[test]
fn a_script_is_a_task_too_and_who_does_not_know_tasks_gets_none() {
    let attached = Attached::new().args(&["--wait", "1"]);
    let mut knows = attached.front().start_with(capabilities());
    let mut other = attached.client();
    knows.call("write_file", json!({"path": "scripts/wait.py", "content": WAITS}));
    let name = task(&mut knows, "run_script", json!({"path": "wait.py"}));
    let reply = other.call("run_python_code", json!({"code": "import time\ntime.sleep(2)"}));
    assert_eq!(reply.data["status"], "running", "{reply:?}");
    let refused = other.request("tasks/get", json!({"taskId": name}));
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
    // Its client goes, another of the same user comes, and the server becomes another program.
    std::fs::write(knows.file("go"), "").expect("written");
    drop(knows);
    let mut again = attached.front().start_with(capabilities());
    let done = until(&mut again, &name, "completed");
    assert_eq!(done["result"]["structuredContent"]["stdout"], "begun\n", "{done}");
    other.call("wait_for_cell", json!({}));
    assert!(attached.run(&["restart"]).status.success());
    assert_eq!(until(&mut again, &name, "completed")["result"]["structuredContent"]["stdout"], "begun\n");
}

/// A request of the stateless protocol, of the client that has this cookie.
fn ask(server: &HttpForkpy, cookie: &str, method: &str, mut params: Value) -> (Value, String) {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                             "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                             "io.modelcontextprotocol/clientCapabilities": capabilities()});
    let name = params["name"].as_str().or(params["taskId"].as_str()).unwrap_or_default().to_owned();
    let body = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params}).to_string();
    let mut headers = vec![("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method), ("Mcp-Name", name.as_str())];
    if !cookie.is_empty() {
        headers.push(("Cookie", cookie));
    }
    let answer = server.post(&headers, &body);
    let given = answer.header("Set-Cookie").split(';').next().unwrap_or_default().to_owned();
    (serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("no JSON: {answer:?}")), given)
}

#[test]
fn over_http_a_task_is_its_owners_alone() {
    let server = HttpForkpy::start(Setup::new().args(&["--wait", "1"]));
    let (_, one) = ask(&server, "", "server/discover", json!({}));
    let (_, two) = ask(&server, "", "server/discover", json!({}));
    assert!(one != two && one.starts_with("forkpy_client="), "{one} {two}");
    let call = json!({"name": "run_python_code", "arguments": {"code": "import time\ntime.sleep(2)\n'mine'"}});
    let (created, _) = ask(&server, &one, "tools/call", call);
    let name = created["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
    let (seen, _) = ask(&server, &two, "tasks/get", json!({"taskId": name}));
    assert_eq!(seen["error"]["code"], -32602, "{seen}");
    let (ack, _) = ask(&server, &two, "tasks/cancel", json!({"taskId": name}));
    assert_eq!(ack["error"]["code"], -32602, "{ack}");
    wait_for("its end", || {
        let (seen, _) = ask(&server, &one, "tasks/get", json!({"taskId": name}));
        seen["result"]["result"]["structuredContent"]["results"] == json!(["'mine'"])
    });
}
