//! What a restart takes along besides variables, and what it refuses: in words that say what to do, with nothing touched.

use std::{
    io::{BufRead, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, attach::Attached, http::HttpForkpy, legacy::Legacy, processes, wait_for};

fn said(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn restart(attached: &Attached) {
    let done = attached.run(&["restart"]);
    assert!(done.status.success(), "{}", said(&done));
}

fn restarts(attached: &Attached) -> u64 {
    attached.status()["status"]["restarts"].as_u64().expect("a number")
}

/// What a restart says that is refused, with these words among it.
fn refused(attached: &Attached, words: &[&str]) {
    let done = attached.run(&["restart"]);
    assert!(!done.status.success(), "{}", said(&done));
    for word in words.iter().chain(&["was not restarted"]) {
        assert!(said(&done).contains(word), "{word:?} is not in {}", said(&done));
    }
}

fn call(forkpy: &mut Forkpy, tool: &str, arguments: Value) -> Value {
    let reply = forkpy.call(tool, arguments);
    assert!(!reply.is_error, "{tool}: {reply:?}");
    reply.data
}

/// The kernel's account of a session stays the same one, and no session that comes later gets it.
#[test]
fn a_limit_of_memory_goes_along() {
    let attached = Attached::new().args(&["--memory-limit", "80M", "--checkpoints", "off"]);
    let mut one = attached.client();
    one.run("x = 5");
    let pid = one.pid();
    let counted_by = one.health()["limits"]["memory_counted_by"].clone();
    restart(&attached);
    assert_eq!((one.eval("x"), one.pid()), ("5".to_owned(), pid));
    assert_eq!(one.health()["limits"]["memory_counted_by"], counted_by);
    call(&mut one, "create_session", json!({"session_id": "later"}));
    call(&mut one, "run_python_code", json!({"code": "y = 7", "session_id": "later"}));
    restart(&attached);
    let many = "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        block = bytearray(b'x') * (60 << 20)\n        \
                time.sleep(60)\ntime.sleep(60)";
    let reply = one.run(many);
    assert_eq!((&reply["status"], &reply["death"]["reason"]), (&json!("died"), &json!("memory_limit")), "{reply}");
    let later = call(&mut one, "run_python_code", json!({"code": "y", "session_id": "later"}));
    assert_eq!((&later["results"], &later["state"]), (&json!(["7"]), &json!("kept")), "{later}");
}

#[test]
fn what_was_seen_of_health_goes_along() {
    let attached = Attached::new().args(&["--health-interval", "0.2", "--checkpoints", "off", "--memory-alert", "1"]);
    let mut one = attached.client();
    one.run("x = 5");
    one.until("an alert", |seen| seen["alerts"] == json!(["memory"]));
    let past = |one: &mut Forkpy| {
        let seen = call(one, "get_kernel_health", json!({"history": "1h"}));
        let samples = seen["history"]["samples"].as_array().unwrap_or_else(|| panic!("no samples: {seen}")).clone();
        samples.into_iter().map(|sample| sample["time"].clone()).collect::<Vec<_>>()
    };
    wait_for("some samples", || past(&mut one).len() >= 3);
    let alerts = |one: &mut Forkpy| one.request("resources/read", json!({"uri": "health://alerts"}))["result"].clone();
    let (before, raised) = (past(&mut one), alerts(&mut one));
    restart(&attached);
    let after = past(&mut one);
    let first = |times: &[Value]| times[0].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    let moved = first(&after).duration_since(first(&before)).as_secs_f64();
    assert!(after.len() >= before.len() && moved.abs() < 0.5, "{before:?} {after:?}");
    assert_eq!(one.health()["alerts"], json!(["memory"]));
    assert_eq!(alerts(&mut one), raised, "it is not raised once more");
}

#[test]
fn a_session_that_was_given_up_stays_so_and_says_why() {
    let attached = Attached::new().args(&["--recovery", "auto", "--restart-budget", "1", "--checkpoints", "off"]);
    let mut one = attached.client();
    one.run("1");
    let mut killed = None;
    wait_for("the end of trying", || {
        let seen = one.health();
        // Each of them once: for a moment health has the one that is dead.
        if let Some(pid) = seen["pid"].as_i64()
            && killed.replace(pid) != Some(pid)
        {
            processes::signal(i32::try_from(pid).expect("small"), Signal::SIGKILL);
        }
        seen["recovery"]["state"] == "parked"
    });
    let why = one.health()["recovery"]["parked"].clone();
    restart(&attached);
    let seen = one.health();
    assert_eq!((&seen["recovery"]["state"], &seen["recovery"]["parked"]), (&json!("parked"), &why), "{seen}");
    call(&mut one, "restart_kernel", json!({}));
    assert_eq!(one.eval("1 + 1"), "2");
}

/// A reply that was dropped is said to have been dropped, and not never to have been.
#[test]
fn replies_that_are_not_kept_any_more_are_remembered_as_such() {
    let attached = Attached::new().args(&["--keep-replies", "0"]);
    let mut one = attached.client();
    one.run("1");
    one.run("2");
    let words = one.refused("wait_for_cell", json!({"cell": 1}));
    assert!(words.contains("not kept any more") && words.contains("ended"), "{words}");
    restart(&attached);
    let after = one.refused("wait_for_cell", json!({"cell": 1}));
    assert!(after.contains("not kept any more") && after.contains("was dropped at"), "{after}");
}

/// A hangup that comes before the other program listens for it would end that, and all sessions with it.
#[test]
fn hangups_one_after_the_other_end_nothing() {
    let server = HttpForkpy::start(Setup::new());
    let one = Legacy::new(&server, &[]);
    one.run("x = 1");
    let (mut seen, mut changes) = (server.zygotes(), 0);
    wait_for("some restarts", || {
        processes::signal(server.server_pid(), Signal::SIGHUP);
        let now = server.zygotes();
        changes += u32::from(now.len() == 1 && now != seen);
        seen = now;
        changes >= 5
    });
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(one.run("x")["results"][0], "1");
    // Sessions bear hangups as any Python does: it is not ignored in what the server starts.
    let done = one.run("import signal; signal.getsignal(signal.SIGHUP) == signal.SIG_DFL");
    assert_eq!(done["results"][0], "True");
}

/// Over HTTP the client opens its stream anew, and hears as before; also when it has not come back between two restarts.
#[test]
fn subscriptions_of_earlier_protocols_go_on_over_http() {
    let server = HttpForkpy::start(Setup::new());
    let one = Legacy::new(&server, &[]);
    one.run("x = 1");
    let uri = "health://sessions/default";
    let done = one.request("resources/subscribe", json!({"uri": uri}));
    assert!(done["result"].is_object(), "{done}");
    for _ in 0..2 {
        server.hang_up();
    }
    let mut events = one.listen();
    let mut heard = |what: &str| {
        let mut line = String::new();
        while !(line.contains("notifications/resources/updated") && line.contains(uri)) {
            line.clear();
            assert!(events.read_line(&mut line).expect("it reads") > 0, "the stream ended before {what}");
        }
    };
    heard("what may have happened meanwhile");
    assert_eq!(one.run("x")["results"][0], "1");
    one.call("restart_kernel", json!({}));
    heard("what happens now");
}

/// A program of these words, which are no program that could go on.
fn program(folder: &Path, words: &str) -> PathBuf {
    let path = folder.join("other");
    // Renamed, so that no process has it open for writing when it is started.
    let draft = folder.join("draft");
    std::fs::write(&draft, format!("#!/bin/sh\n{words}\n")).expect("written");
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755)).expect("ours");
    std::fs::rename(&draft, &path).expect("renamed");
    path
}

#[test]
fn versions_that_do_not_understand_each_other_say_so_before_anything_is_touched() {
    let attached = Attached::new();
    let mut one = attached.client();
    one.run("x = 1");
    let worker = one.pid();
    let begun = call(&mut one, "run_python_code", json!({"code": "import time; time.sleep(600)", "background": true}));
    for (words, said) in [
        ("echo 'forkpy state 99, protocol 1'", "it says \\\"forkpy state 99, protocol 1\\\""),
        ("echo 'error: unexpected argument' >&2; exit 2", "does not understand this server's state"),
        ("kill -9 $$", "does not understand this server's state"),
    ] {
        let other = program(attached.directory(), words);
        let answer = attached.ask_to_restart(other.to_str().expect("UTF-8"));
        assert!(answer.contains(said), "{said:?} is not in {answer}");
    }
    let seen = call(&mut one, "wait_for_cell", json!({"cell": begun["cell"], "timeout": 0}));
    assert_eq!((&seen["status"], restarts(&attached)), (&json!("running"), 0), "{seen}");
    call(&mut one, "interrupt_cell", json!({}));
    assert_eq!((one.eval("x"), one.pid()), ("1".to_owned(), worker));
}

/// Settings are read anew by the other program: what it could not start with is found before.
#[test]
fn settings_that_a_server_cannot_have_are_found_before_it_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("forkpy.toml");
    std::fs::write(&file, "grace = 3.0\n").expect("written");
    let attached = Attached::new().args(&["--config", file.to_str().expect("UTF-8")]);
    let mut one = attached.client();
    one.run("x = 1");
    let worker = one.pid();
    for (text, said) in [
        ("no-such-option = 1\n", "there is no option \"no-such-option\""),
        ("grace = 'long'\n", "grace"),
        ("tools = 'some'\n", "tools"),
        ("this is no TOML\n", "is not TOML"),
    ] {
        std::fs::write(&file, text).expect("written");
        refused(&attached, &["cannot be started with this server's settings", said, "Nothing was touched"]);
    }
    assert_eq!((one.eval("x"), one.pid(), restarts(&attached)), ("1".to_owned(), worker, 0));
    std::fs::write(&file, "grace = 4.0\n").expect("written");
    restart(&attached);
    assert_eq!((one.eval("x"), one.pid()), ("1".to_owned(), worker));
}

#[test]
fn what_is_refused_says_what_to_do() {
    let attached = Attached::new();
    let mut one = attached.client();
    one.run("x = 1");
    let made = one.call("create_session", json!({"session_id": "closed", "sandbox": "strict"}));
    // A machine whose kernel does not allow it says why.
    if !made.is_error {
        refused(&attached, &["\"closed\" is confined", "Nothing was touched", "save_session", "forkpy stop"]);
        call(&mut one, "run_python_code", json!({"code": "y = 2", "session_id": "closed"}));
        call(&mut one, "delete_session", json!({"session_id": "closed"}));
    }
    let book = json!({"cells": [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": null,
                                 "source": "import time; time.sleep(600)"}],
                      "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
    call(&mut one, "write_file", json!({"path": "slow.ipynb", "content": book.to_string()}));
    let begun = call(&mut one, "run_notebook", json!({"path": "slow.ipynb", "background": true}));
    refused(&attached, &["a notebook", "Nothing was touched", "wait_for_cell", "interrupt_cell"]);
    one.call("interrupt_cell", json!({"cell": begun["cell"]}));
    wait_for("the end of the notebook", || {
        one.call("wait_for_cell", json!({"cell": begun["cell"], "timeout": 1})).data["status"] == "cancelled"
    });
    restart(&attached);
    assert_eq!(one.eval("x"), "1");
}

/// Lines of a megabyte, each with its number.
fn prints_much(lines: usize) {
    let attached = Attached::new().args(&["--checkpoints", "off"]);
    let mut one = attached.client();
    let code = format!(
        "import sys\nrest = b'-' * 999_993 + b'\\n'\nfor i in range({lines}): _ = sys.stdout.buffer.write(b'%06d' % i + rest)\nx = 'done'"
    );
    let begun = call(&mut one, "run_python_code", json!({"code": code, "background": true}));
    let file = one.file("outputs/default-cell-1-stdout.txt");
    let size = || file.metadata().map_or(0, |file| file.len());
    wait_for("the first of it", || size() > 0);
    let mut in_its_middle = 0;
    for _ in 0..3 {
        restart(&attached);
        let seen = call(&mut one, "wait_for_cell", json!({"cell": begun["cell"], "timeout": 0}));
        in_its_middle += u64::from(seen["status"] == "running");
    }
    assert!(in_its_middle > 0, "it was over before the restarts");
    let ended = call(&mut one, "wait_for_cell", json!({"cell": begun["cell"], "timeout": 600}));
    assert_eq!((&ended["status"], one.eval("x")), (&json!("ok"), "'done'".to_owned()), "{}", ended["notice"]);
    assert_eq!(size(), lines as u64 * 1_000_000);
    let mut whole = std::fs::File::open(&file).expect("the whole");
    let mut line = vec![0; 1_000_000];
    for number in 0..lines {
        whole.read_exact(&mut line).expect("a line");
        let is_whole = line[6..999_999].iter().all(|byte| *byte == b'-') && line[999_999] == b'\n';
        assert!(line.starts_with(format!("{number:06}").as_bytes()) && is_whole, "line {number}");
    }
}

#[test]
fn a_cell_that_prints_very_much_is_taken_along_in_its_middle() {
    prints_much(300);
}

/// The whole: `cargo it turnover::a_gigabyte -- --ignored`.
#[test]
#[ignore = "writes a gigabyte"]
fn a_gigabyte_is_printed_through_restarts() {
    prints_much(1000);
}
