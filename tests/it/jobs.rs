//! Long work that is no cell (scripts, notebooks, installs, branches): it goes on without its call as a cell does.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, attach::Attached, wait_for};

fn write(forkpy: &Forkpy, name: &str, text: &str) {
    fs::write(forkpy.file(name), text).expect("the workspace can be written");
}

/// Lines that end when this file is there: no test has to guess how long anything takes.
fn until_told(name: &str) -> String {
    format!("import os, time\nwhile not os.path.exists({name:?}): time.sleep(0.01)\n")
}

fn tell(forkpy: &Forkpy, name: &str) {
    write(forkpy, name, "");
}

fn notebook(forkpy: &Forkpy, name: &str, codes: &[&str]) {
    let cell = |code: &&str| json!({"cell_type": "code", "metadata": {}, "source": code, "outputs": [], "execution_count": null});
    let cells: Vec<Value> = codes.iter().map(cell).collect();
    let notebook = json!({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells});
    write(forkpy, name, &notebook.to_string());
}

fn call(forkpy: &mut Forkpy, tool: &str, arguments: Value) -> Value {
    let reply = forkpy.call(tool, arguments);
    assert!(!reply.is_error, "{tool}: {reply:?}");
    reply.data
}

fn notice(reply: &Value) -> &str {
    reply["notice"].as_str().unwrap_or_default()
}

/// Looks until the reply is as it should be.
fn look_until(forkpy: &mut Forkpy, cell: &Value, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut seen = Value::Null;
    wait_for(what, || {
        seen = call(forkpy, "wait_for_cell", json!({"cell": cell, "timeout": 0.05}));
        is_so(&seen)
    });
    seen
}

fn keys(reply: &Value) -> BTreeSet<&String> {
    reply.as_object().expect("an object").keys().collect()
}

#[test]
fn a_script_goes_on_without_its_call_and_nothing_of_it_is_lost() {
    let mut forkpy = Setup::new().args(&["--wait", "0.2"]).start();
    write(&forkpy, "train.py", &format!("print('first', flush=True)\n{}print('second')\n", until_told("go")));
    let running = call(&mut forkpy, "run_script", json!({"path": "train.py"}));
    let cell = running["cell"].clone();
    assert_eq!((&running["status"], &running["session_id"]), (&json!("running"), &json!("default")), "{running}");
    for words in ["script \"train.py\"", &format!("wait_for_cell(cell: {cell})"), "do not call run_script again"] {
        assert!(notice(&running).contains(words), "{words:?} is not in {running}");
    }
    let mut heard = running["stdout"].as_str().expect("text").to_owned();
    wait_for("its first line", || {
        let seen = call(&mut forkpy, "wait_for_cell", json!({"cell": cell, "timeout": 0.05}));
        heard += seen["stdout"].as_str().expect("text");
        heard == "first\n"
    });
    // The session is free meanwhile, and the reply to its cell has the same form.
    let unfinished = call(&mut forkpy, "run_python_code", json!({"code": until_told("cell"), "wait": 0.1}));
    assert_eq!(keys(&running), keys(&unfinished));
    assert_eq!(unfinished["cell"].as_u64(), cell.as_u64().map(|cell| cell + 1));
    tell(&forkpy, "cell");
    tell(&forkpy, "go");
    let done = call(&mut forkpy, "wait_for_cell", json!({"cell": cell, "timeout": 60}));
    assert_eq!((&done["status"], &done["returncode"]), (&json!("ok"), &json!(0)), "{done}");
    assert_eq!(done["stdout"], "first\nsecond\n");
    // Exactly what a call that waits gets; and again for those who missed it.
    let waited = call(&mut forkpy, "run_script", json!({"path": "train.py", "wait": 60}));
    assert_eq!(keys(&done), keys(&waited));
    assert_eq!(call(&mut forkpy, "wait_for_cell", json!({"cell": cell})), done);
    let ended = forkpy.refused("interrupt_cell", json!({"cell": cell}));
    assert!(ended.contains("has ended already (status \"ok\")"), "{ended}");
}

#[test]
fn every_long_tool_can_be_left_and_its_whole_reply_fetched() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1");
    write(&forkpy, "a.py", &until_told("go"));
    notebook(&forkpy, "a.ipynb", &["print('one')", &until_told("go"), "x = 2; x"]);
    let slow = format!("{}x + 1", until_told("go"));
    let calls = [
        ("run_script", json!({"path": "a.py", "background": true}), "script"),
        ("run_notebook", json!({"path": "a.ipynb", "background": true, "session_id": "n"}), "notebook"),
        ("run_branches", json!({"codes": [slow, "x + 5"], "keep": "max", "background": true}), "branches"),
        ("install_dependencies", json!({"packages": ["no-such-package-of-forkpy==0"], "wait": 0}), "install"),
    ];
    call(&mut forkpy, "create_session", json!({"session_id": "n"}));
    let mut left = Vec::new();
    for (tool, arguments, word) in calls {
        let reply = call(&mut forkpy, tool, arguments);
        assert!(["running", "queued"].contains(&reply["status"].as_str().expect("a status")), "{tool}: {reply}");
        assert!(notice(&reply).contains(word) && notice(&reply).contains("is kept for 60 min"), "{tool}: {reply}");
        left.push((tool, reply["session_id"].clone(), reply["cell"].clone()));
    }
    let seen = call(&mut forkpy, "wait_for_cell", json!({"session_id": "n", "timeout": 0}));
    assert_eq!(seen["cell"], left[1].2, "the client's newest of that session: {seen}");
    tell(&forkpy, "go");
    let fetched = left.into_iter().map(|(tool, session, cell)| {
        let reply = forkpy.call("wait_for_cell", json!({"session_id": session, "cell": cell, "timeout": 60}));
        (tool, reply)
    });
    for (tool, reply) in fetched {
        let of_it = match tool {
            "run_script" => reply.data["returncode"] == 0,
            "run_notebook" => reply.data["executed"] == 3 && reply.data["status"] == "ok",
            "run_branches" => reply.data["kept"] == 1,
            _ => reply.data["status"] == "error" && reply.data["tool"].is_string(),
        };
        assert!(of_it && !reply.is_error, "{tool}: {reply:?}");
    }
    assert_eq!(forkpy.eval("x"), "1", "branches leave the session as the branch left it");
}

#[test]
fn an_interrupt_reaches_whatever_goes_on() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1");
    write(&forkpy, "a.py", "import time\nprint('begun', flush=True)\ntime.sleep(600)\n");
    notebook(&forkpy, "a.ipynb", &["x = 2", "import time; time.sleep(600)"]);
    let script = call(&mut forkpy, "run_script", json!({"path": "a.py", "background": true}))["cell"].clone();
    look_until(&mut forkpy, &script, "the script to begin", |seen| seen["stdout"] == "begun\n");
    let ended = call(&mut forkpy, "interrupt_cell", json!({"cell": script}));
    assert_eq!((&ended["status"], &ended["stdout"]), (&json!("cancelled"), &json!("begun\n")), "{ended}");
    // Without a number: what is at work in the session, its call still waiting or not.
    let waited = forkpy.begin_call("run_notebook", json!({"path": "a.ipynb"}));
    forkpy.until("its second cell", |seen| seen["cell"].as_u64().is_some_and(|cell| cell >= 4));
    let ended = call(&mut forkpy, "interrupt_cell", json!({}));
    assert_eq!((&ended["status"], &ended["executed"]), (&json!("cancelled"), &json!(2)), "{ended}");
    assert_eq!(forkpy.reply(waited).data["status"], "cancelled");
    let branches = json!({"codes": ["import time; time.sleep(600)", "x = 9"], "keep": 1, "background": true});
    let branches = call(&mut forkpy, "run_branches", branches)["cell"].clone();
    look_until(&mut forkpy, &branches, "one to end", |seen| notice(seen).contains("1 of 2 branches have ended"));
    let ended = call(&mut forkpy, "interrupt_cell", json!({"cell": branches}));
    assert_eq!(
        (&ended["branches"][0]["outcome"]["status"], &ended["kept"]),
        (&json!("cancelled"), &Value::Null),
        "{ended}"
    );
    assert_eq!(forkpy.eval("x"), "2", "the session is as before");
    assert!(forkpy.refused("interrupt_cell", json!({})).contains("no cell runs"));
}

#[test]
fn what_waits_for_its_turn_says_for_what_and_as_which_number() {
    let mut forkpy = Setup::new().args(&["--max-scripts", "1"]).start();
    forkpy.run("x = 1");
    write(&forkpy, "a.py", &until_told("go"));
    write(&forkpy, "b.py", "print('b')");
    notebook(&forkpy, "a.ipynb", &["x + 1"]);
    let mut begin = |tool: &str, arguments: Value| call(&mut forkpy, tool, arguments);
    let first = begin("run_script", json!({"path": "a.py", "background": true}));
    let second = begin("run_script", json!({"path": "b.py", "wait": 0.1}));
    let third = begin("run_script", json!({"path": "b.py", "background": true}));
    let cell = begin("run_python_code", json!({"code": until_told("go"), "background": true}))["cell"].clone();
    let branches = begin("run_branches", json!({"codes": ["x"], "wait": 0.1}));
    let book = begin("run_notebook", json!({"path": "a.ipynb", "wait": 0.1}));
    for (reply, words) in [
        (&second, "1 scripts run, which is the limit (--max-scripts), and it waits as number 1".to_owned()),
        (&third, "as number 2".to_owned()),
        (&branches, format!("cell {cell} runs")),
        (&branches, "as number 1".to_owned()),
        (&book, format!("cell 1 of 1 waits for its turn in session \"default\" as number 2: cell {cell} runs")),
    ] {
        assert_eq!(reply["status"], "queued", "{reply}");
        assert!(notice(reply).contains(&words), "{words:?} is not in {reply}");
    }
    // What has not begun is taken back without being run.
    let taken = call(&mut forkpy, "interrupt_cell", json!({"cell": third["cell"]}));
    assert_eq!((&taken["status"], &taken["returncode"]), (&json!("cancelled"), &Value::Null), "{taken}");
    tell(&forkpy, "go");
    let mut end = |reply: &Value| forkpy.call("wait_for_cell", json!({"cell": reply["cell"], "timeout": 60})).data;
    assert_eq!((&end(&first)["status"], &end(&second)["stdout"]), (&json!("ok"), &json!("b\n")));
    assert_eq!(
        (&end(&book)["status"], &end(&branches)["branches"][0]["outcome"]["status"]),
        (&json!("ok"), &json!("ok"))
    );
}

#[test]
fn what_cannot_be_done_is_refused_at_once_and_what_ends_is_not_kept_for_a_dead_session() {
    let mut forkpy = Forkpy::start();
    for (tool, arguments, words) in [
        ("run_script", json!({"path": "none.py", "background": true}), "none.py"),
        ("run_notebook", json!({"path": "none.ipynb", "background": true}), "none.ipynb"),
        ("run_branches", json!({"codes": [], "wait": 0}), "between 1 and"),
        ("install_dependencies", json!({"packages": ["--index-url=x"], "wait": 0}), "--index-url"),
        ("run_script", json!({"path": "none.py", "wait": -1}), "`wait` is -1"),
        ("run_notebook", json!({"path": "a.ipynb", "background": "perhaps"}), "`background`"),
        ("run_script", json!({"path": "a.py", "background": true, "colour": 1}), "no argument \"colour\""),
    ] {
        let refused = forkpy.refused(tool, arguments);
        assert!(refused.contains(words), "{tool}: {words:?} is not in {refused}");
    }
    assert!(forkpy.refused("wait_for_cell", json!({})).contains("no cell whose reply is kept"), "none was begun");
    // A session that is deleted takes along what has its number there.
    call(&mut forkpy, "create_session", json!({"session_id": "short"}));
    call(&mut forkpy, "switch_session", json!({"session_id": "short"}));
    let code =
        "import os, time\nopen('draft', 'w').write(str(os.getpid()))\nos.rename('draft', 'pid')\ntime.sleep(600)\n";
    write(&forkpy, "a.py", code);
    let left = call(&mut forkpy, "run_script", json!({"path": "a.py", "background": true}));
    assert_eq!(left["session_id"], "short");
    wait_for("the script to begin", || forkpy.file("pid").exists());
    let pid = fs::read_to_string(forkpy.file("pid")).expect("written");
    call(&mut forkpy, "delete_session", json!({"session_id": "short"}));
    wait_for("the script to end", || !Path::new("/proc").join(&pid).exists());
}

/// The client hears of progress by the call that waits, whichever that is.
#[test]
fn progress_of_what_goes_on_is_told_to_the_call_that_waits() {
    let mut forkpy = Forkpy::start();
    write(&forkpy, "a.py", &format!("print('at work', flush=True)\n{}", until_told("go")));
    let meta = json!({"progressToken": "first"});
    let id = forkpy
        .begin("tools/call", json!({"name": "run_script", "arguments": {"path": "a.py", "wait": 60}, "_meta": meta}));
    let heard = forkpy.message("its output", |message| message["method"] == "notifications/progress");
    assert_eq!(heard["params"]["message"], "at work\n", "{heard}");
    // A call that is taken back takes its script along.
    forkpy.notify("notifications/cancelled", json!({"requestId": id}));
    forkpy.forget(id);
    let cell = call(&mut forkpy, "run_script", json!({"path": "a.py", "background": true}))["cell"].clone();
    let id = forkpy.begin(
        "tools/call",
        json!({"name": "wait_for_cell", "arguments": {"cell": cell}, "_meta": {"progressToken": "second"}}),
    );
    let heard = forkpy.message("what it does", |message| {
        message["method"] == "notifications/progress" && message["params"]["progressToken"] == "second"
    });
    assert!(heard["params"]["message"].as_str().expect("words").starts_with("script \"a.py\""), "{heard}");
    tell(&forkpy, "go");
    assert_eq!(forkpy.reply(id).data["status"], "ok");
}

/// A variable whose saving takes until a file is there.
const SLOW: &str = "import os, time\nclass Slow:\n    def __reduce__(self):\n        \
                    while not os.path.exists('go'): time.sleep(0.01)\n        return (int, ('7',))\nslow = Slow()";

/// What a session is asked for goes on without its call once its turn has come, and its reply is kept.
#[test]
fn saving_that_outlasts_its_call_goes_on_and_is_waited_for() {
    let attached = Attached::new().args(&["--wait", "1"]);
    let mut forkpy = attached.client();
    forkpy.run(SLOW);
    let reply = forkpy.call("save_session", json!({"path": "kept.state"}));
    assert!(!reply.is_error && reply.data["status"] == "running", "{reply:?}");
    assert!(reply.text.contains("save_session goes on"), "{reply:?}");
    let number = reply.data["cell"].clone();
    // Its client goes, and another comes.
    drop(forkpy);
    let mut again = attached.client();
    std::fs::write(again.file("go"), "").expect("written");
    let saved = again.call("wait_for_cell", json!({"cell": number, "timeout": 60}));
    assert!(saved.data["status"] == "saved" && saved.text.contains("slow"), "{saved:?}");
    // A short one is answered as ever, and one whose turn does not come is taken back.
    let made = again.call("checkpoint_session", json!({"name": "one"}));
    assert_eq!(made.data["status"], "created", "{made:?}");
    again.call("run_python_code", json!({"code": "while True: time.sleep(0.01)", "background": true}));
    let refused = again.refused("save_session", json!({"path": "other.state"}));
    assert!(refused.contains("nothing was done") && refused.contains("runs, for"), "{refused}");
    assert!(!again.file("other.state").exists());
    again.call("interrupt_cell", json!({}));
    let loaded = again.call("load_session", json!({"path": "kept.state"}));
    assert_eq!(loaded.data["status"], "loaded", "{loaded:?}");
    assert_eq!(again.eval("slow"), "7");
}
