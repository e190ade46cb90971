//! What every tool's structured reply holds: the keys that the ancestor's clients read are always there, and every other key only
//! when it says something. A model pays for each key that says nothing.
//!
//! Runs in: the test binary. Calls each tool of the real server in the states in which most is missing: a session that has run
//! nothing, one that is dead, an empty workspace.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup};

/// Keys that may be empty, by tool, with the reason.
const MAY_BE_EMPTY: [(&str, &str, &str); 40] = [
    ("run_python_code", "stdout", "the ancestor's"),
    ("run_python_code", "stderr", "the ancestor's"),
    ("run_python_code", "results", "the ancestor's"),
    ("run_python_code", "outputs", "the ancestor's"),
    ("run_python_code", "new_files", "the ancestor's"),
    ("run_python_code", "error.traceback", "the key is always there for programs; stderr has it"),
    ("run_python_code", "error.message", "an exception need not have words"),
    ("run_branches", "branches.outcome.error.traceback", "as run_python_code has it"),
    ("underway", "stdout", "as run_python_code has it"),
    ("underway", "stderr", "as run_python_code has it"),
    ("underway", "results", "as run_python_code has it"),
    ("underway", "outputs", "as run_python_code has it"),
    ("underway", "new_files", "as run_python_code has it"),
    ("code_completion", "matches", "the ancestor's"),
    ("code_completion", "metadata.*", "as Jupyter's kernels give it"),
    ("code_completion", "metadata", "the ancestor's"),
    ("inspect_object", "data", "the ancestor's"),
    ("inspect_object", "metadata", "the ancestor's"),
    ("restart_kernel", "preserved_vars", "the ancestor's"),
    ("restart_kernel", "restored_vars", "the ancestor's"),
    ("list_files", "files", "the ancestor's"),
    ("read_file", "text", "the ancestor's"),
    ("run_script", "stdout", "the ancestor's"),
    ("run_script", "stderr", "the ancestor's"),
    ("run_script", "new_files", "the ancestor's"),
    ("install_dependencies", "stdout", "the ancestor's"),
    ("install_dependencies", "stderr", "the ancestor's"),
    ("install_dependencies", "installed_packages", "the ancestor's"),
    ("list_variables", "variables", "the ancestor's"),
    ("create_session", "description", "the ancestor's"),
    ("create_session", "metadata", "the ancestor's"),
    ("list_sessions", "sessions.*.description", "the ancestor's"),
    ("list_sessions", "sessions.*.metadata", "the ancestor's"),
    ("check_kernel_responsiveness", "test_result", "the ancestor's"),
    ("list_checkpoints", "checkpoints", "that there are none is the answer"),
    ("list_crashes", "crashes", "that there are none is the answer"),
    ("list_packages", "packages", "that there are none is the answer"),
    ("get_health_report", "unhealthy", "that there are none is the answer"),
    ("get_health_report", "hung", "that there are none is the answer"),
    ("get_health_report", "past_alerts", "that there are none is the answer"),
];

/// Keys of a session's health, wherever that stands: the health document's, and the question that a monitor asks.
const OF_HEALTH: [&str; 8] =
    ["pid", "memory_usage", "cpu_percent", "num_threads", "uptime", "alerts", "history.samples", "history.buckets"];

/// Where the health of a session stands in a reply.
const HEALTH: [(&str, &str); 4] = [
    ("get_kernel_health", ""),
    ("get_health_report", ""),
    ("get_health_report", "sessions.*."),
    ("list_sessions", "sessions.*.health."),
];

/// What each tool must have, whatever happens: clients of the ancestor read these.
const ALWAYS: [(&str, &[&str]); 20] = [
    ("run_python_code", &["stdout", "stderr", "results", "outputs", "new_files", "execution_time"]),
    ("code_completion", &["matches", "cursor_start", "cursor_end", "metadata", "status"]),
    ("inspect_object", &["found", "data", "metadata", "status"]),
    ("restart_kernel", &["restarted", "session_id", "preserve_state", "preserved_vars", "restored_vars", "timestamp"]),
    ("list_files", &["root"]),
    ("read_file", &["binary", "encoding", "size"]),
    ("write_file", &["path", "full_path", "size"]),
    ("delete_file", &["deleted", "success", "path"]),
    ("save_script", &["script", "full_path"]),
    ("run_script", &["returncode", "stdout", "stderr", "execution_time", "new_files"]),
    ("install_dependencies", &["returncode", "stdout", "stderr", "installed_packages"]),
    ("list_variables", &["variables"]),
    ("create_session", &["session_id", "status", "description", "metadata", "timestamp"]),
    ("switch_session", &["previous_session", "current_session", "status", "timestamp"]),
    ("list_sessions", &["sessions", "active_session", "total_sessions", "max_sessions"]),
    ("delete_session", &["session_id", "status", "was_active"]),
    ("get_kernel_health", &["status", "pid", "memory_usage", "cpu_percent", "num_threads", "uptime"]),
    ("check_kernel_responsiveness", &["responsive", "response_time", "test_result", "timeout"]),
    ("ping", &["status", "ok", "timestamp"]),
    ("get_workspace_info", &["workspace", "scripts", "outputs", "uploads", "workspace_dir", "scripts_dir"]),
];

/// The names in objects that are data and no keys.
const NAMED: [&str; 6] = ["sessions", "variables", "details", "lost_vars", "skipped", "metadata"];

/// Every place in a value that says nothing.
fn empty_places(value: &Value, place: &str, found: &mut BTreeSet<String>) {
    let nothing = match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    if nothing {
        found.insert(place.to_owned());
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| empty_places(item, place, found)),
        Value::Object(keys) => {
            let is_named = NAMED.iter().any(|name| place == *name || place.ends_with(&format!(".{name}")));
            for (key, value) in keys {
                let key = if is_named { "*" } else { key };
                let place = if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
                empty_places(value, &place, found);
            }
        }
        _ => {}
    }
}

fn may_be_empty(tool: &str, place: &str) -> bool {
    let is_of_health =
        |(of, at): &(&str, &str)| *of == tool && place.strip_prefix(at).is_some_and(|key| OF_HEALTH.contains(&key));
    // Asked after by another tool, a reply is the same.
    let tool = if ["wait_for_cell", "interrupt_cell"].contains(&tool) { "run_python_code" } else { tool };
    MAY_BE_EMPTY.iter().any(|(of, key, _)| *of == tool && *key == place) || HEALTH.iter().any(is_of_health)
}

/// Calls tools, and looks at each reply.
struct Walk {
    forkpy: Forkpy,
    /// Of each tool the sets of keys of which its schema promises one.
    promised: BTreeMap<String, Vec<BTreeSet<String>>>,
    called: BTreeSet<String>,
    /// What says nothing and is not listed, with a reply that has it.
    wrong: BTreeMap<String, Value>,
}

impl Walk {
    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let reply = self.forkpy.call(tool, arguments);
        assert!(reply.data.is_object(), "{tool} has no structure: {reply:?}");
        self.look(tool, &reply.data);
        reply.data
    }

    fn look(&mut self, tool: &str, data: &Value) {
        self.called.insert(tool.to_owned());
        let called = tool.to_owned();
        let is_underway =
            tool != "run_python_code" && ["running", "queued"].contains(&data["status"].as_str().unwrap_or(""));
        let tool = if is_underway && tool != "wait_for_cell" { "underway" } else { tool };
        let mut places = BTreeSet::new();
        empty_places(data, "", &mut places);
        for place in places.into_iter().filter(|place| !may_be_empty(tool, place)) {
            self.wrong.insert(format!("{tool}: {place}"), data.clone());
        }
        let has = |keys: &BTreeSet<String>| keys.iter().all(|key| data.get(key).is_some());
        let promised = self.promised.get(&called).map_or(&[][..], Vec::as_slice);
        if !promised.is_empty() && !promised.iter().any(has) {
            self.wrong.insert(format!("{called} lacks what its schema promises: {promised:?}"), data.clone());
        }
        let always = ALWAYS.iter().filter(|_| !is_underway).filter(|(of, _)| *of == tool).flat_map(|(_, keys)| *keys);
        for key in always.filter(|key| data.get(**key).is_none()) {
            self.wrong.insert(format!("{tool} lacks {key}"), data.clone());
        }
    }
}

/// The keys that a tool's schema requires, in each form that it allows.
fn promised(tool: &Value) -> Vec<BTreeSet<String>> {
    let whole = &tool["outputSchema"]["allOf"][0];
    let forms = whole["anyOf"].as_array().cloned().unwrap_or_else(|| vec![whole.clone()]);
    let required = |form: &Value| {
        let keys = form["required"].as_array().into_iter().flatten();
        keys.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    forms.iter().map(required).collect()
}

/// Everything that a session can be asked while it is idle.
fn in_a_session_that_lives(walk: &mut Walk) {
    walk.call("get_workspace_info", json!({}));
    for code in ["1", "x = 1", "1/0", "print('a')", "import sys; sys.exit(3)", "class T: pass\nT()"] {
        walk.call("run_python_code", json!({"code": code}));
    }
    walk.call("wait_for_cell", json!({}));
    let cell =
        walk.call("run_python_code", json!({"code": "import time; time.sleep(600)", "background": true}))["cell"]
            .clone();
    walk.forkpy.until_state("busy");
    for tool in
        ["get_kernel_health", "check_kernel_responsiveness", "get_health_report", "list_variables", "dump_stacks"]
    {
        walk.call(tool, json!({}));
    }
    walk.call("get_kernel_health", json!({"history": "5m", "stacks": true}));
    walk.call("wait_for_cell", json!({"cell": cell, "timeout": 0}));
    walk.call("interrupt_cell", json!({"cell": cell}));
    walk.call("list_variables", json!({}));
    walk.call("list_variables", json!({"filter": "zzz"}));
    walk.call("code_completion", json!({"code": "x.re", "cursor_pos": 4}));
    walk.call("code_completion", json!({"code": "zzzqqq", "cursor_pos": 6}));
    walk.call("inspect_object", json!({"code": "x", "cursor_pos": 1}));
    walk.call("inspect_object", json!({"code": "zzzqqq", "cursor_pos": 3}));
    walk.call("check_kernel_responsiveness", json!({}));
    walk.call("configure_health", json!({"recovery": "manual"}));
    walk.call("list_sessions", json!({"detail": true}));
    walk.call("list_crashes", json!({}));
}

fn with_copies(walk: &mut Walk) {
    walk.call("create_session", json!({"session_id": "new"}));
    walk.call("create_session", json!({"session_id": "new"}));
    walk.call("create_session", json!({"session_id": "told", "description": "d", "limits": {"cpu_seconds": 100}}));
    walk.call("list_sessions", json!({}));
    walk.call("list_checkpoints", json!({}));
    for session in ["new", "default"] {
        walk.call("checkpoint_session", json!({"name": "a", "session_id": session}));
        walk.call("list_checkpoints", json!({"session_id": session}));
        walk.call("restore_checkpoint", json!({"name": "a", "session_id": session}));
        walk.call("fork_session", json!({"new_session_id": format!("of-{session}"), "session_id": session}));
    }
    walk.call("delete_checkpoint", json!({"name": "a", "session_id": "new"}));
    walk.call("run_branches", json!({"codes": ["1", "1/0", "pass"]}));
    walk.call("run_branches", json!({"codes": ["1", "2"], "keep": "max"}));
    walk.call("save_session", json!({"path": "a.state"}));
    walk.call("load_session", json!({"path": "a.state", "session_id": "new"}));
    walk.call("switch_session", json!({"session_id": "new"}));
    walk.call("delete_session", json!({"session_id": "told"}));
    walk.call("delete_session", json!({"session_id": "new"}));
    walk.call("restart_kernel", json!({"preserve_state": true}));
    walk.call("restart_kernel", json!({}));
    walk.call("get_kernel_health", json!({}));
    walk.call("sleep_session", json!({}));
    walk.call("get_kernel_health", json!({}));
    walk.call("list_checkpoints", json!({}));
}

fn in_the_workspace(walk: &mut Walk) {
    walk.call("list_files", json!({"path": "uploads"}));
    walk.call("list_files", json!({"tree": true, "path": "uploads"}));
    walk.call("write_file", json!({"path": "empty.txt", "content": ""}));
    walk.call("read_file", json!({"path": "empty.txt"}));
    walk.call("write_file", json!({"path": "b.bin", "content": "/w==", "binary_base64": true}));
    walk.call("read_file", json!({"path": "b.bin"}));
    walk.call("delete_file", json!({"path": "b.bin"}));
    walk.call("save_script", json!({"name": "quiet", "content": ""}));
    walk.call("run_script", json!({"path": "quiet.py"}));
    walk.call(
        "save_script",
        json!({"name": "dies", "content": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"}),
    );
    walk.call("run_script", json!({"path": "dies.py"}));
    let notebook = |source: &str| {
        let cell =
            json!({"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": null});
        json!({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}).to_string()
    };
    for source in ["1", "1/0"] {
        walk.call("write_file", json!({"path": "n.ipynb", "content": notebook(source)}));
        walk.call("run_notebook", json!({"path": "n.ipynb"}));
    }
    walk.call("export_notebook", json!({}));
    let job = walk.call("run_script", json!({"path": "quiet.py", "background": true}));
    walk.call("wait_for_cell", json!({"cell": job["cell"]}));
}

fn in_a_session_that_is_dead(walk: &mut Walk) {
    walk.call("run_python_code", json!({"code": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"}));
    walk.forkpy.until_state("dead");
    for tool in ["get_kernel_health", "check_kernel_responsiveness", "dump_stacks", "get_health_report", "list_crashes"]
    {
        walk.call(tool, json!({}));
    }
    walk.call("get_kernel_health", json!({"history": "5m", "stacks": true}));
    walk.call("list_sessions", json!({"detail": true}));
    let id = walk.call("list_crashes", json!({}))["crashes"][0]["id"].clone();
    walk.call("list_crashes", json!({"id": id}));
    walk.call("run_python_code", json!({"code": "import os; os._exit(3)", "session_id": "of-new"}));
    walk.call("restart_kernel", json!({}));
}

#[test]
fn no_reply_has_a_key_that_says_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().to_str().expect("UTF-8");
    let setup = Setup::new().args(&["--tools", "all", "--checkpoints", "off", "--state-dir", state]);
    let mut forkpy = setup.start();
    let tools = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
    let tools = tools.as_array().expect("tools").iter();
    let promised: BTreeMap<String, _> =
        tools.map(|tool| (tool["name"].as_str().expect("a name").to_owned(), promised(tool))).collect();
    let names: BTreeSet<String> = promised.keys().cloned().collect();
    let mut walk = Walk { forkpy, promised, called: BTreeSet::new(), wrong: BTreeMap::new() };
    walk.call("ping", json!({}));
    in_a_session_that_lives(&mut walk);
    with_copies(&mut walk);
    in_the_workspace(&mut walk);
    in_a_session_that_is_dead(&mut walk);
    // What needs an environment of its own to be changed is refused here before it begins; to list it is not.
    walk.call("list_packages", json!({"filter": "no such package"}));
    walk.call("list_packages", json!({"filter": "pip"}));
    assert!(
        walk.wrong.is_empty(),
        "say these only when there is something to say, or list them with a reason: {:#?}",
        walk.wrong
    );

    let mut missing: BTreeSet<&String> = names.difference(&walk.called).collect();
    // Looked at with the packages that packages.rs makes.
    missing.retain(|tool| *tool != "install_dependencies");
    assert!(missing.is_empty(), "call these too: {missing:?}");
}

/// For `install_dependencies`, which `packages.rs` calls.
pub(crate) fn is_lean(tool: &str, data: &Value) {
    let mut places = BTreeSet::new();
    empty_places(data, "", &mut places);
    places.retain(|place| !may_be_empty(tool, place));
    assert!(places.is_empty(), "{tool} says nothing with {places:?}: {data}");
}
