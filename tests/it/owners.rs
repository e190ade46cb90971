//! Over HTTP each client has sessions of its own: what is another's cannot be reached, and is not even told to be there.

use serde_json::{Value, json};

use crate::support::{
    Setup,
    browser::{self, Browser},
    http::HttpForkpy,
    legacy::Legacy,
    processes, wait_for,
};

/// As long as [`SECRET`], and no session's name.
const NOTHING: &str = "nosuch";
const SECRET: &str = "secret";

fn value(browser: &Browser, code: &str) -> Value {
    browser.call("run_python_code", json!({"code": code}))["results"][0].take()
}

fn pid(health: &Value) -> i32 {
    health["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid")
}

#[test]
fn two_clients_have_a_default_each_and_find_it_again() {
    let server = HttpForkpy::start(Setup::new());
    let (one, two) = (Browser::new(&server), Browser::new(&server));
    let (three, four) = (Legacy::new(&server, &[]), Legacy::new(&server, &[]));
    // Each request comes over a connection of its own.
    value(&one, "x = 'one'; 0");
    value(&two, "x = 'two'; 0");
    three.run("x = 'three'");
    assert_eq!(four.run("'x' in globals()")["results"], json!(["False"]));
    four.run("x = 'four'");
    assert_eq!((value(&one, "x"), value(&two, "x")), (json!("'one'"), json!("'two'")));
    assert_eq!((&three.run("x")["results"], &four.run("x")["results"]), (&json!(["'three'"]), &json!(["'four'"])));
    for listed in [one.call("list_sessions", json!({})), four.call("list_sessions", json!({}))] {
        assert_eq!(
            (&listed["total_sessions"], listed["sessions"].as_object().map(|all| all.len())),
            (&json!(1), Some(1))
        );
    }
    // Names are an owner's own.
    for (client, text) in [(&one, "1"), (&two, "2")] {
        assert_eq!(client.call("create_session", json!({"session_id": "same"}))["status"], "created");
        client.run_in("same", &format!("y = {text}"));
    }
    assert_eq!(one.run_in("same", "y")["results"], json!(["1"]));
    one.call("delete_session", json!({"session_id": "same"}));
    assert_eq!(two.run_in("same", "y")["results"], json!(["2"]));
}

/// Calls that name a session, and what they name beside it.
pub fn attempts(session: &str, checkpoint: &str) -> Vec<(&'static str, Value)> {
    let mut calls = vec![
        ("run_python_code", json!({"code": "stolen = x"})),
        ("run_python_code", json!({"code": "x", "background": true})),
        ("wait_for_cell", json!({})),
        ("wait_for_cell", json!({"cell": 2, "timeout": 0})),
        ("interrupt_cell", json!({})),
        ("interrupt_cell", json!({"cell": 2})),
        ("list_variables", json!({})),
        ("code_completion", json!({"code": "x", "cursor_pos": 1})),
        ("inspect_object", json!({"code": "x", "cursor_pos": 1})),
        ("restart_kernel", json!({})),
        ("switch_session", json!({})),
        ("delete_session", json!({})),
        ("checkpoint_session", json!({})),
        ("list_checkpoints", json!({})),
        ("restore_checkpoint", json!({"name": checkpoint})),
        ("delete_checkpoint", json!({"name": checkpoint})),
        ("fork_session", json!({"new_session_id": "copy", "checkpoint": checkpoint})),
        ("fork_session", json!({"new_session_id": "copy"})),
        ("run_branches", json!({"codes": ["x"]})),
        ("save_session", json!({"path": "stolen.saved"})),
        ("load_session", json!({"path": "own.saved"})),
        ("get_kernel_health", json!({"history": "5m"})),
        ("configure_health", json!({"recovery": "manual"})),
        ("dump_stacks", json!({})),
        ("check_kernel_responsiveness", json!({})),
        ("export_notebook", json!({"path": "stolen.ipynb"})),
        ("run_notebook", json!({"path": "own.ipynb"})),
    ];
    for (_, arguments) in &mut calls {
        arguments["session_id"] = json!(session);
    }
    calls
}

fn no_resource_tells_of_it(stranger: &Browser, crash: &str) {
    let resources = stranger.request("resources/list", None, json!({})).to_string();
    assert!(resources.contains("health://sessions/default") && !resources.contains(SECRET), "{resources}");
    assert!(!resources.contains("health://crashes"), "{resources}");
    for (real, none) in [
        (format!("health://sessions/{SECRET}"), format!("health://sessions/{NOTHING}")),
        (format!("health://crashes/{crash}"), format!("health://crashes/{}", crash.replace("crashed", "nothing"))),
    ] {
        let read = |uri: &str| stranger.request("resources/read", Some(uri), json!({"uri": uri}))["error"].take();
        let (found, missing) = (read(&real), read(&none));
        assert!(found["code"].is_number(), "{found}");
        let same = found.to_string().replace(SECRET, NOTHING).replace("crashed", "nothing");
        assert_eq!(same, missing.to_string());
    }
    for uri in ["health://report", "health://alerts"] {
        let read = stranger.request("resources/read", Some(uri), json!({"uri": uri})).to_string();
        assert!(!read.contains(SECRET) && !read.contains("crashed"), "{read}");
    }
    for (template, variable) in [("health://sessions/{session_id}", "session_id"), ("health://crashes/{id}", "id")] {
        let params =
            json!({"ref": {"type": "ref/resource", "uri": template}, "argument": {"name": variable, "value": ""}});
        let values = stranger.request("completion/complete", None, params).to_string();
        assert!(values.contains("\"values\"") && !values.contains(SECRET) && !values.contains(crash), "{values}");
    }
}

#[test]
fn what_is_another_clients_cannot_be_reached_nor_told_to_be_there() {
    let server = HttpForkpy::start(Setup::new());
    let (owner, stranger) = (Browser::new(&server), Browser::new(&server));
    owner.call("create_session", json!({"session_id": SECRET}));
    owner.run_in(SECRET, "x = 42");
    owner.call("checkpoint_session", json!({"session_id": SECRET, "name": "early"}));
    owner.call("create_session", json!({"session_id": "crashed", "health": {"checkpoints": "off"}}));
    owner.run_in("crashed", "import os; os._exit(3)");
    let crash = owner.call("list_crashes", json!({}))["crashes"][0]["id"].as_str().expect("a report").to_owned();
    let order = json!({"code": "import time; time.sleep(600)", "session_id": SECRET, "background": true});
    assert_eq!(owner.call("run_python_code", order)["cell"], 2);

    let notebook = json!({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
    std::fs::write(server.workspace().join("own.ipynb"), notebook.to_string()).expect("written");
    value(&stranger, "x = 'own'; 0");
    stranger.call("save_session", json!({"path": "own.saved"}));
    let tries = attempts(SECRET, "early");
    assert!(tries.len() >= 20, "{}", tries.len());
    for ((tool, real), (_, none)) in tries.into_iter().zip(attempts(NOTHING, "early")) {
        let (reply, other) = (stranger.error(tool, real), stranger.error(tool, none));
        assert_eq!(reply.replace(SECRET, NOTHING), other, "{tool} tells that there is such a session");
        assert!(reply.contains("does not exist"), "{tool}: {reply}");
    }
    for (tool, arguments) in
        [("list_sessions", json!({"detail": true})), ("get_health_report", json!({})), ("list_checkpoints", json!({}))]
    {
        let reply = stranger.call(tool, arguments).to_string();
        assert!(!reply.contains(SECRET) && !reply.contains("crashed") && !reply.contains("early"), "{tool}: {reply}");
    }
    assert_eq!(stranger.call("list_crashes", json!({}))["crashes"], json!([]));
    let (known, none) = (crash.clone(), crash.replace("crashed", "nothing"));
    assert_eq!(
        stranger.error("list_crashes", json!({"id": known})).replace("crashed", "nothing"),
        stranger.error("list_crashes", json!({"id": none}))
    );

    no_resource_tells_of_it(&stranger, &crash);

    // The same name is another session.
    assert_eq!(stranger.call("create_session", json!({"session_id": SECRET}))["status"], "created");
    assert_eq!(stranger.run_in(SECRET, "'x' in globals()")["results"], json!(["False"]));
    stranger.call("delete_session", json!({"session_id": SECRET}));

    // And nothing of it all has touched the owner's.
    let waited = owner.call("wait_for_cell", json!({"cell": 2, "session_id": SECRET, "timeout": 0}));
    assert_eq!(waited["status"], "running", "{waited}");
    assert_eq!(owner.call("list_checkpoints", json!({}))["checkpoints"][0]["name"], "early");
    let interrupted = owner.call("interrupt_cell", json!({"cell": 2, "session_id": SECRET}));
    assert_eq!((&interrupted["status"], &interrupted["state"]), (&json!("cancelled"), &json!("kept")), "{interrupted}");
    assert_eq!(owner.run_in(SECRET, "x, 'stolen' in globals()")["results"], json!(["(42, False)"]));
}

/// A question's name is all that a second call brings.
#[test]
fn the_question_of_another_clients_cell_cannot_be_answered() {
    let server = HttpForkpy::start(Setup::new());
    let (owner, stranger) = (Browser::new(&server), Browser::new(&server));
    let ask = |client: &Browser, again: Value| {
        let meta = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}});
        let mut params = json!({"name": "run_python_code", "arguments": {"code": "input('who? ')"}, "_meta": meta});
        for (key, value) in again.as_object().expect("an object") {
            params[key] = value.clone();
        }
        client.request("tools/call", Some("run_python_code"), params)["result"].take()
    };
    let question = ask(&owner, json!({}));
    let answer = json!({"input": {"action": "accept", "content": {"input": "Mallory"}}});
    let again = json!({"requestState": question["requestState"], "inputResponses": answer});
    let refused = ask(&stranger, again.clone());
    assert_eq!(refused["isError"], true, "{refused}");
    assert!(!refused.to_string().contains("Mallory"), "{refused}");
    let done = ask(&owner, again);
    assert_eq!(done["structuredContent"]["results"], json!(["'Mallory'"]), "the owner's own answer: {done}");
}

/// One token is one identity, however often a client begins anew.
#[test]
fn all_that_have_the_token_have_the_same_sessions() {
    let server = HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", "open-sesame"));
    let token = [("Authorization", "Bearer open-sesame")];
    let first = Legacy::new(&server, &token);
    first.run("x = 1");
    assert_eq!(first.leave(), 204);
    assert_eq!(Legacy::new(&server, &token).run("x")["results"], json!(["1"]));
}

#[test]
fn sessions_are_shared_where_that_is_wished() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), "share-sessions = true\n").expect("written");
    let named = file.path().to_str().expect("UTF-8");
    let setups = [
        Setup::new().args(&["--share-sessions"]),
        Setup::new().env("FORKPY_SHARE_SESSIONS", "1"),
        Setup::new().args(&["--config", named]),
    ];
    for setup in setups {
        let server = HttpForkpy::start(setup);
        let (one, two) = (Browser::new(&server), Legacy::new(&server, &[]));
        value(&one, "x = 1; 0");
        one.call("create_session", json!({"session_id": "a"}));
        assert_eq!(two.run("x")["results"], json!(["1"]));
        assert_eq!(two.leave(), 204);
        assert_eq!(Legacy::new(&server, &[]).call("delete_session", json!({"session_id": "a"}))["status"], "deleted");
    }
}

/// It can never come again under that name, and nobody else can reach its sessions.
#[test]
fn the_sessions_of_a_client_that_leaves_end_with_it() {
    let server = HttpForkpy::start(Setup::new());
    let (leaves, stays) = (Legacy::new(&server, &[]), Legacy::new(&server, &[]));
    leaves.call("run_python_code", json!({"code": "while True: pass", "background": true}));
    let gone = pid(&leaves.call("get_kernel_health", json!({})));
    let kept = pid(&stays.call("get_kernel_health", json!({})));
    assert_eq!(leaves.leave(), 204);
    wait_for("its worker to end", || processes::state(gone) == '-');
    assert_eq!(pid(&stays.call("get_kernel_health", json!({}))), kept);
}

#[test]
fn a_client_that_was_away_for_too_long_learns_what_became_of_its_sessions() {
    let server = HttpForkpy::start(Setup::new().args(&["--client-idle", "1"]));
    let client = Browser::new(&server);
    client.call("run_python_code", json!({"code": "x = 1"}));
    let worker = pid(&client.call("get_kernel_health", json!({})));
    wait_for("its worker to end", || processes::state(worker) == '-');
    let reply = client.call("run_python_code", json!({"code": "'x' in globals()"}));
    assert_eq!((&reply["state"], &reply["results"]), (&json!("lost"), &json!(["False"])), "{reply}");
    let notice = reply["notice"].as_str().unwrap_or_default();
    assert!(notice.contains("without use"), "{reply}");
}

/// A place is not held for days by clients that went without a word.
#[test]
fn who_is_away_gives_way_when_all_places_are_taken() {
    let server = HttpForkpy::start(Setup::new().args(&["--max-sessions", "2", "--client-idle", "48"]));
    let clients: Vec<_> = (0..3).map(|_| Browser::new(&server)).collect();
    for client in &clients[..2] {
        client.call("run_python_code", json!({"code": "x = 1"}));
    }
    let refused = clients[2].error("run_python_code", json!({"code": "1"}));
    assert!(refused.contains("--max-sessions") && refused.contains("other clients'"), "{refused}");
    wait_for("a place", || clients[2].ask("run_python_code", json!({"code": "1"}))["isError"] == false);
}

/// It cannot know that it would be another's from its second call on.
#[test]
fn a_client_that_began_without_a_cookie_finds_what_it_made() {
    let server = HttpForkpy::start(Setup::new());
    let run = |headers: &[(&str, &str)], code: &str| {
        let params = json!({"name": "run_python_code", "arguments": {"code": code}});
        browser::request(&server, headers, "tools/call", Some("run_python_code"), params)
    };
    let first = run(&[], "x = 1");
    let cookie = first.header("Set-Cookie").split(';').next().expect("a cookie").to_owned();
    let second = run(&[("Cookie", &cookie)], "x").json();
    assert_eq!(second["result"]["structuredContent"]["results"], json!(["1"]), "{second}");
    assert_eq!(value(&Browser::new(&server), "'x' in globals()"), json!("False"));
}
