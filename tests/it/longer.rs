//! Work longer than a call: cells that go on without it, their kept replies, and calls that wait behind others.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, attach::Attached, wait_for};

/// A file, whose coming a cell waits for: no test has to guess how long anything takes.
fn until_told(name: &str) -> String {
    format!("import os, time\nwhile not os.path.exists({name:?}): time.sleep(0.01)")
}

fn tell(forkpy: &Forkpy, name: &str) {
    std::fs::write(forkpy.file(name), "").expect("the workspace can be written");
}

fn run(forkpy: &mut Forkpy, code: &str, more: Value) -> Value {
    let mut arguments = json!({ "code": code });
    arguments.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let reply = forkpy.call("run_python_code", arguments);
    assert!(!reply.is_error, "{reply:?}");
    reply.data
}

fn wait(forkpy: &mut Forkpy, arguments: Value) -> Value {
    let reply = forkpy.call("wait_for_cell", arguments);
    assert!(!reply.is_error, "{reply:?}");
    reply.data
}

fn notice(reply: &Value) -> &str {
    reply["notice"].as_str().unwrap_or_default()
}

#[test]
fn a_cell_goes_on_without_its_call_and_nothing_of_it_is_lost() {
    let mut forkpy = Forkpy::start();
    let code = format!("print('first', flush=True)\n{}\nprint('second')\nx = 42\nx", until_told("go"));
    let mut reply = run(&mut forkpy, &code, json!({"wait": 0.1}));
    // Python may still be starting.
    wait_for("the first output", || {
        let has_come = reply["stdout"] == "first\n";
        if !has_come {
            reply = wait(&mut forkpy, json!({"cell": 1, "timeout": 0.1}));
        }
        has_come
    });
    assert_eq!((reply["status"].as_str(), reply["cell"].as_u64()), (Some("running"), Some(1)), "{reply}");
    assert!(notice(&reply).contains("wait_for_cell(cell: 1)") && notice(&reply).contains("do not send the code again"));
    // Only what is new.
    let looked = wait(&mut forkpy, json!({"cell": 1, "timeout": 0}));
    assert_eq!((looked["status"].as_str(), looked["stdout"].as_str()), (Some("running"), Some("")), "{looked}");
    tell(&forkpy, "go");
    let ended = wait(&mut forkpy, json!({"cell": 1}));
    assert_eq!((ended["status"].as_str(), ended["results"][0].as_str()), (Some("ok"), Some("42")), "{ended}");
    assert_eq!(ended["stdout"], "first\nsecond\n");
    // Whoever missed it gets it again; and it was run once.
    assert_eq!(wait(&mut forkpy, json!({}))["results"], ended["results"]);
    assert_eq!(forkpy.eval("x"), "42");
}

#[test]
fn a_background_call_is_answered_at_once_with_pictures_later() {
    let mut forkpy = Forkpy::start();
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let code = format!(
        "{}\nimport base64\nfrom IPython.display import Image\nImage(base64.b64decode('{png}'))",
        until_told("go")
    );
    let reply = run(&mut forkpy, &code, json!({"background": true}));
    assert!(["running", "queued"].contains(&reply["status"].as_str().expect("a status")), "{reply}");
    tell(&forkpy, "go");
    let answer = forkpy.request("tools/call", json!({"name": "wait_for_cell", "arguments": {"cell": 1}}));
    let kinds: Vec<_> = answer["result"]["content"].as_array().expect("blocks").iter().map(|b| &b["type"]).collect();
    assert!(kinds.contains(&&json!("image")), "{answer}");
}

#[test]
fn a_call_behind_a_running_cell_says_so_and_has_its_turn() {
    let mut forkpy = Setup::new().args(&["--wait", "0.3"]).start();
    run(&mut forkpy, "1", json!({"wait": 60}));
    let first = run(&mut forkpy, &until_told("go"), json!({}));
    let second = run(&mut forkpy, "order = ['second']", json!({}));
    let third = run(&mut forkpy, "order.append('third'); order", json!({}));
    assert_eq!(
        (&first["status"], &second["status"], &third["status"]),
        (&json!("running"), &json!("queued"), &json!("queued"))
    );
    assert_eq!((second["cell"].as_u64(), third["cell"].as_u64()), (Some(3), Some(4)));
    assert!(notice(&second).contains("as number 1: cell 2 runs") && notice(&third).contains("as number 2"), "{third}");
    // What has not begun is taken back without being run.
    let fourth = run(&mut forkpy, "order.append('fourth')", json!({"wait": 0}));
    let taken = forkpy.call("interrupt_cell", json!({"cell": fourth["cell"]}));
    tell(&forkpy, "go");
    assert_eq!((taken.is_error, taken.data["status"].as_str()), (false, Some("queued")), "{taken:?}");
    let third = wait(&mut forkpy, json!({"cell": 4, "timeout": 60}));
    assert_eq!(third["results"][0], "['second', 'third']");
    let fourth = forkpy.call("wait_for_cell", json!({"cell": 5, "timeout": 60}));
    assert_eq!(fourth.data["status"], "cancelled", "{fourth:?}");
    assert_eq!(forkpy.eval("order"), "['second', 'third']");
}

#[test]
fn variables_are_listed_beside_a_running_cell() {
    let mut forkpy = Forkpy::start();
    forkpy.run("done = [1, 2]");
    run(&mut forkpy, &format!("under_way = 'yes'\n{}\ndone = None", until_told("go")), json!({"wait": 0}));
    forkpy
        .until("the cell to be at work", |seen| seen["cell_running_for"].as_f64().is_some_and(|seconds| seconds > 0.3));
    let listed = forkpy.call("list_variables", json!({}));
    assert_eq!(
        listed.data["variables"],
        json!({"done": "list: 2 items, [1, 2]", "under_way": "str: 'yes'"}),
        "{listed:?}"
    );
    assert_eq!(listed.data["details"]["done"]["length"], 2);
    assert!(notice(&listed.data).contains("Cell 2 runs meanwhile"), "{listed:?}");
    tell(&forkpy, "go");
    wait(&mut forkpy, json!({}));
    assert_eq!(forkpy.call("list_variables", json!({})).data["notice"], Value::Null);
    // Native code that holds the interpreter.
    let held = "import ctypes\nctypes.PyDLL(None).usleep(20_000_000)";
    run(&mut forkpy, held, json!({"wait": 0}));
    forkpy.until_state("hung");
    let busy = forkpy.refused("list_variables", json!({}));
    assert!(busy.contains("is busy: cell 3 runs native code"), "{busy}");
    forkpy.call("restart_kernel", json!({}));
}

#[test]
fn an_interrupt_does_what_a_time_out_does() {
    let mut forkpy = Forkpy::start();
    run(&mut forkpy, "x = 1\nimport time\ntime.sleep(600)", json!({"background": true}));
    forkpy.until("it runs", |seen| seen["state"] == "busy" && seen["cell"] == 1);
    let reply = forkpy.call("interrupt_cell", json!({}));
    assert_eq!((reply.is_error, reply.data["status"].as_str()), (false, Some("cancelled")), "{reply:?}");
    assert_eq!(forkpy.eval("x"), "1");
    let again = forkpy.refused("interrupt_cell", json!({"cell": 1}));
    assert!(again.contains("has ended already") && again.contains("\"cancelled\""), "{again}");
    assert!(forkpy.refused("interrupt_cell", json!({})).contains("no cell runs"));
    // A time limit holds, whoever waits.
    run(&mut forkpy, "time.sleep(600)", json!({"wait": 0, "timeout": 0.2}));
    let ended = forkpy.call("wait_for_cell", json!({}));
    assert_eq!((ended.is_error, ended.data["status"].as_str()), (true, Some("timeout")), "{ended:?}");
}

#[test]
fn what_cannot_be_waited_for_is_named() {
    let mut forkpy = Setup::new().args(&["--keep-replies", "1"]).start();
    assert!(forkpy.refused("wait_for_cell", json!({})).contains("no cell whose reply is kept"));
    forkpy.run("x = 1");
    let never = forkpy.refused("wait_for_cell", json!({"cell": 7}));
    assert!(never.contains("no cell 7") && never.contains("newest cell is 1"), "{never}");
    std::thread::sleep(Duration::from_millis(1100));
    let dropped = forkpy.refused("wait_for_cell", json!({"cell": 1}));
    assert!(dropped.contains("is not kept any more") && dropped.contains("--keep-replies"), "{dropped}");
    for (arguments, words) in [
        (json!({"code": "1", "wait": -1}), "`wait` is -1"),
        (json!({"code": "1", "wait": 1e12}), "at most 604800 seconds"),
        (json!({"code": "1", "wait": "soon"}), "`wait`"),
        (json!({"code": "1", "background": "yes"}), "`background`"),
    ] {
        let refused = forkpy.refused("run_python_code", arguments);
        assert!(refused.contains(words), "{refused}");
    }
    assert!(forkpy.refused("wait_for_cell", json!({"timeout": -0.5})).contains("`timeout` is -0.5"));
    assert!(forkpy.refused("wait_for_cell", json!({"cell": -1})).contains("`cell`"));
    assert_eq!(forkpy.eval("x"), "1", "nothing of it was run");
}

/// A client that hears of progress is not left, however long it takes; one that does not is answered in time.
#[test]
fn progress_keeps_a_call() {
    let mut forkpy = Setup::new().args(&["--wait", "auto"]).start();
    let params = json!({"name": "run_python_code", "arguments": {"code": until_told("go"), "timeout": 60},
                        "_meta": {"progressToken": 1}});
    let id = forkpy.begin("tools/call", params);
    forkpy.message("progress", |message| message["method"] == "notifications/progress");
    tell(&forkpy, "go");
    assert_eq!(forkpy.reply(id).data["status"], "ok");
}

#[test]
fn a_wait_that_is_cancelled_leaves_the_cell_alone_and_a_cancelled_call_ends_its_own() {
    let mut forkpy = Forkpy::start();
    let code = format!("{}\nx = 1", until_told("go"));
    run(&mut forkpy, &code, json!({"wait": 0}));
    let id = forkpy.begin_call("wait_for_cell", json!({"cell": 1}));
    forkpy.until_state("busy");
    forkpy.notify("notifications/cancelled", json!({"requestId": id}));
    forkpy.forget(id);
    tell(&forkpy, "go");
    assert_eq!(wait(&mut forkpy, json!({"cell": 1}))["status"], "ok");
    let id = forkpy.begin_run("import time; time.sleep(600)");
    forkpy.until("it runs", |seen| seen["cell"] == 2);
    forkpy.notify("notifications/cancelled", json!({"requestId": id}));
    forkpy.forget(id);
    let ended = forkpy.call("wait_for_cell", json!({"cell": 2}));
    assert_eq!(ended.data["status"], "cancelled", "{ended:?}");
}

#[test]
fn a_question_waits_for_whoever_follows_the_cell() {
    let mut forkpy = Setup::new().start_with(json!({"elicitation": {}}));
    let code = format!("{}\nname = input('Name? ')\nname", until_told("go"));
    run(&mut forkpy, &code, json!({"wait": 0}));
    tell(&forkpy, "go");
    forkpy.until_state("waiting_input");
    let id = forkpy.begin_call("wait_for_cell", json!({"cell": 1}));
    let question = forkpy.message("a question", |message| message["method"] == "elicitation/create");
    forkpy.respond(&question, json!({"action": "accept", "content": {"input": "Ada"}}));
    assert_eq!(forkpy.reply(id).data["results"][0], "'Ada'");
}

/// The client is killed in the middle of a cell; the next one has its reply, and the code has run once.
#[test]
fn a_client_that_is_killed_in_the_middle_of_a_cell_loses_nothing() {
    let attached = Attached::new();
    let mut first = attached.client();
    let code = format!("runs = globals().get('runs', 0) + 1\n{}\nprint('through')\nruns", until_told("go"));
    first.begin_run(&code);
    first.until_state("busy");
    first.kill();
    wait_for("the server to see it", || attached.status()["status"]["clients"] == 0);
    // The protocol's library waits some seconds for calls of a connection that has ended, and takes them back then.
    std::thread::sleep(Duration::from_secs(6));
    let mut second = attached.client();
    tell(&second, "go");
    let reply = wait(&mut second, json!({}));
    assert_eq!((reply["status"].as_str(), reply["results"][0].as_str()), (Some("ok"), Some("1")), "{reply}");
    assert_eq!(reply["stdout"], "through\n");
    assert_eq!(second.eval("runs"), "1");
}

/// They waited in silence until their clients gave up, and were done all the same some minutes later.
#[test]
fn what_is_no_cell_is_taken_back_when_its_turn_does_not_come() {
    let mut forkpy = Setup::new().args(&["--wait", "1"]).start();
    forkpy.run("x = 1");
    forkpy.call("checkpoint_session", json!({"name": "early"}));
    forkpy.call("save_session", json!({"path": "early.saved"}));
    let cell =
        forkpy.call("run_python_code", json!({"code": "x = 2\nwhile True: pass", "background": true})).data["cell"]
            .clone();
    let calls = [
        ("checkpoint_session", json!({"name": "late"})),
        ("restore_checkpoint", json!({"name": "early"})),
        ("fork_session", json!({"new_session_id": "copy"})),
        ("save_session", json!({"path": "late.saved"})),
        ("load_session", json!({"path": "early.saved"})),
    ];
    let asked = calls.map(|(tool, arguments)| (tool, forkpy.begin_call(tool, arguments)));
    for (tool, id) in asked {
        let reply = forkpy.reply(id);
        assert!(reply.is_error, "{tool}: {}", reply.text);
        for words in
            ["nothing was done", "cell 2 of session \"default\" runs", "wait_for_cell(cell: 2)", "then call again"]
        {
            assert!(reply.text.contains(words), "{tool}: {words:?} is not in {}", reply.text);
        }
    }
    assert_eq!(forkpy.call("list_variables", json!({})).data["variables"]["x"], "int: 2", "a look waits for nothing");
    forkpy.call("interrupt_cell", json!({"cell": cell}));
    assert_eq!(forkpy.eval("x"), "2");
    let held = forkpy.call("list_checkpoints", json!({})).data["checkpoints"].to_string();
    assert!(!held.contains("late"), "{held}");
    assert!(!forkpy.workspace.join("late.saved").exists());
    let listed = forkpy.call("list_sessions", json!({})).data;
    assert_eq!(listed["total_sessions"], 1, "{listed}");
}
