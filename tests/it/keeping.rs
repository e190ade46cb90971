//! What a session keeps of itself without being asked: policy `auto`, the default.

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, wait_for};

fn held(forkpy: &mut Forkpy) -> Value {
    forkpy.call("get_kernel_health", json!({})).data["checkpoints"].clone()
}

/// Waits until the cell with this number is in the copy.
fn until_kept(forkpy: &mut Forkpy, cell: u64) {
    wait_for("the copy of a session at rest", || held(forkpy)["last"] == cell);
}

/// The first segfault cost everything, unless somebody had thought of it before.
#[test]
fn a_crash_of_any_kind_keeps_the_variables_with_default_settings() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import itertools\ncount = itertools.count(5)\nnext(count)\ndef double(x): return 2 * x");
    until_kept(&mut forkpy, 1);
    let crashes = [
        "import ctypes; ctypes.string_at(0)",
        "import os; os._exit(3)",
        "import os; os.abort()",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    ];
    for crash in crashes {
        let died = forkpy.run(crash);
        assert_eq!((&died["status"], &died["state"]), (&json!("died"), &json!("restored")), "{crash}: {died}");
        assert_eq!(forkpy.eval("double(6), next(count) > 5"), "(12, True)", "{crash}");
    }
}

/// Cells in a burst pay nothing: a copy after each made the next one copy what it writes to.
#[test]
fn a_session_that_is_not_at_rest_is_not_copied() {
    let mut forkpy = Setup::new().args(&["--checkpoint-after", "86400000"]).start();
    forkpy.run("x = 1");
    for _ in 0..20 {
        forkpy.run("x += 1");
    }
    assert_eq!(held(&mut forkpy)["count"], 0);
    let mut forkpy = Forkpy::start();
    assert_eq!(held(&mut forkpy)["count"], 0, "nothing has run, so there is nothing to keep");
    forkpy.run("x = 1\n1/0");
    until_kept(&mut forkpy, 1);
    let died = forkpy.run("import os; os._exit(1)");
    assert_eq!(died["state"], "restored", "{died}");
    assert_eq!(forkpy.eval("x"), "1", "what a cell that failed has left is kept too");
}

/// It was never said that policy `last` had made nothing.
#[test]
fn a_session_that_cannot_be_copied_says_so_once() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import threading, time\nbee = threading.Thread(target=time.sleep, args=(600,), name='bee', daemon=True)\nbee.start()");
    wait_for("the attempt", || held(&mut forkpy)["can"] == false);
    let told = held(&mut forkpy);
    assert!(told["why"].as_str().is_some_and(|why| why.contains("Python thread \"bee\"")), "{told}");
    let first = forkpy.run("1");
    let notice = first["notice"].as_str().expect("a notice");
    assert!(notice.contains("cannot be copied as it is") && notice.contains("\"bee\""), "{notice}");
    assert!(
        notice.contains("by value: threading, time;") && notice.contains("bee (TypeError: cannot pickle"),
        "{notice}"
    );
    assert_eq!(forkpy.run("2")["notice"], Value::Null, "once");
}

#[test]
fn what_is_large_is_not_copied_without_being_asked() {
    let mut forkpy = Setup::new().args(&["--checkpoint-auto-memory", "32"]).start();
    forkpy.run("small = bytearray(1 << 20)");
    until_kept(&mut forkpy, 1);
    forkpy.run("large = bytearray(64 << 20)");
    wait_for("the attempt", || held(&mut forkpy)["can"] == false);
    let told = held(&mut forkpy);
    assert!(told["why"].as_str().is_some_and(|why| why.contains("--checkpoint-auto-memory")), "{told}");
    assert_eq!(told["last"], 1, "the copy from before is better than none");
    forkpy.run("del large");
    until_kept(&mut forkpy, 3);
    assert_eq!(held(&mut forkpy)["can"], true);
}

/// Sessions at rest are many: the oldest copies make room, and nobody who never asked for one hears of it.
#[test]
fn copies_give_way_to_each_other_quietly() {
    let mut forkpy = Setup::new().args(&["--max-checkpoints-total", "2"]).start();
    for name in ["a", "b", "c"] {
        forkpy.call("create_session", json!({"session_id": name}));
        forkpy.call("run_python_code", json!({"code": format!("x = {name:?}"), "session_id": name}));
        let kept = |forkpy: &mut Forkpy| {
            forkpy.call("get_kernel_health", json!({"session_id": name})).data["checkpoints"]["last"] == 1
        };
        wait_for("its copy", || kept(&mut forkpy));
    }
    let of_a = forkpy.call("get_kernel_health", json!({"session_id": "a"})).data;
    assert_eq!(of_a["checkpoints"]["count"], 0, "{of_a}");
    assert_eq!(forkpy.call("run_python_code", json!({"code": "x", "session_id": "a"})).data["notice"], Value::Null);
}

/// A copy has what the session had open, and its end of a pipe kept a child waiting that the session had long let go.
#[test]
fn what_others_wait_for_is_in_no_copy() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import subprocess\nx = 1");
    until_kept(&mut forkpy, 1);
    forkpy.run("child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)");
    wait_for("the attempt", || held(&mut forkpy)["can"] == false);
    let told = held(&mut forkpy);
    assert!(told["why"].as_str().is_some_and(|why| why.contains("a pipe")), "{told}");
    let ended = forkpy.eval("child.stdin.close(); child.wait(timeout=20)");
    assert_eq!(ended, "0");
    until_kept(&mut forkpy, 3);
    assert_eq!(held(&mut forkpy)["can"], true);
}

/// A client that watches its health restarts what is dead, and must be able to see it: nothing is brought back unseen. What
/// uses the session brings it back.
#[test]
fn an_idle_worker_that_died_is_seen_dead_and_the_next_use_goes_on_from_the_copy() {
    let mut forkpy = Forkpy::start();
    for used in ["cell", "variables"] {
        forkpy.run("x = 7");
        let cell = forkpy.call("list_sessions", json!({})).data["sessions"]["default"]["execution_count"].clone();
        until_kept(&mut forkpy, cell.as_u64().expect("a count"));
        let pid = forkpy.health()["pid"].as_i64().expect("a worker");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid")),
            nix::sys::signal::SIGKILL,
        )
        .expect("it lives");
        wait_for("its death to be seen", || forkpy.health()["status"] == "dead");
        assert_eq!(forkpy.health()["status"], "dead", "it stays dead");
        if used == "variables" {
            let variables = forkpy.call("list_variables", json!({})).data;
            assert!(variables["variables"]["x"].is_string(), "{variables}");
        }
        let reply = forkpy.run("x");
        assert_eq!((&reply["results"][0], &reply["status"]), (&json!("7"), &json!("ok")), "{reply}");
        if used == "cell" {
            assert_eq!(reply["state"], "restored", "{reply}");
        }
        assert_eq!(forkpy.health()["status"], "healthy");
    }
    // Restarted while dead, it begins anew.
    let pid = forkpy.health()["pid"].as_i64().expect("a worker");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid")), nix::sys::signal::SIGKILL)
        .expect("it lives");
    wait_for("its death to be seen", || forkpy.health()["status"] == "dead");
    assert!(!forkpy.call("restart_kernel", json!({})).is_error);
    assert_eq!(forkpy.eval("'x' in globals()"), "False");
}

/// The next call waited up to five seconds behind a copy that no one had asked for.
#[test]
fn a_copy_that_takes_long_gives_way_to_a_call() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os, time\nx = 7\nos.register_at_fork(before=lambda: time.sleep(60))");
    wait_for("the copy to begin", || forkpy.health()["state"] != "idle");
    let reply = forkpy.run("x");
    assert_eq!((&reply["results"][0], &reply["state"]), (&json!("7"), &json!("kept")), "{reply}");
    assert!(reply["queued_time"].as_f64().unwrap_or(0.0) < 4.0, "{reply}");
}

/// Starts a thread that no copy of the session would have.
const THREAD: &str = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n";

fn until_kept_by_value(forkpy: &mut Forkpy, cell: u64) {
    wait_for("what is kept by value", || held(forkpy)["by_value_cell"] == cell);
}

/// Where there could be no copy (threads, polars, CUDA), a crash cost everything.
#[test]
fn where_there_can_be_no_copy_variables_are_kept_by_value() {
    let mut forkpy = Forkpy::start();
    forkpy.run(&format!("{THREAD}import json, re\nshared = [1]\nboth = {{'one': shared}}\ngen = (n for n in 'ab')"));
    until_kept_by_value(&mut forkpy, 1);
    let told = held(&mut forkpy);
    assert_eq!((&told["can"], &told["by_value"]), (&json!(false), &json!(true)), "{told}");
    assert!(told["left_out"]["gen"].as_str().is_some_and(|why| why.contains("generator")), "{told}");
    forkpy.run("shared.append(2)");
    until_kept_by_value(&mut forkpy, 2);
    let died = forkpy.run("import os; shared.append(3); os._exit(3)");
    assert_eq!((&died["status"], &died["state"]), (&json!("died"), &json!("restored")), "{died}");
    assert_eq!((&died["recovered_from"], &died["lost_cells"]), (&json!(2), &json!([3, 3])));
    let notice = died["notice"].as_str().expect("a notice");
    assert!(notice.contains("has, by value, threading, json, re, shared, both;"), "what came back: {notice}");
    assert!(notice.contains("not there are gen (TypeError"), "and what did not: {notice}");
    assert_eq!(forkpy.eval("both, both['one'] is shared, json.dumps(1)"), "({'one': [1, 2]}, True, '1')");
    assert_eq!(forkpy.run("gen")["error"]["type"], "NameError");
    // Idle, and killed from outside.
    let pid = forkpy.call("get_kernel_health", json!({})).data["pid"].as_i64().expect("a pid");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("killed");
    wait_for("its end", || forkpy.call("get_kernel_health", json!({})).data["pid"] != json!(pid));
    let next = forkpy.run("shared");
    assert_eq!((&next["results"], &next["state"]), (&json!(["[1, 2]"]), &json!("restored")), "{next}");
}

/// `restart_kernel` with `preserve_state` said of a dead session that nothing could be carried over.
#[test]
fn what_is_kept_by_value_is_carried_into_a_restart_of_the_dead() {
    let mut forkpy = Setup::new().args(&["--recovery", "manual"]).start();
    forkpy.run(&format!("{THREAD}x = 5\ngen = (n for n in 'ab')"));
    until_kept_by_value(&mut forkpy, 1);
    let died = forkpy.run("import os; os._exit(3)");
    assert_eq!(died["status"], "died", "{died}");
    let done = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert_eq!(done["restored_vars"], json!(["threading", "x"]), "{done}");
    assert!(done["lost_vars"]["gen"].as_str().is_some_and(|why| why.contains("generator")), "{done}");
    assert_eq!(forkpy.eval("x"), "5");
    let done = forkpy.call("restart_kernel", json!({})).data;
    assert_eq!(done["restored_vars"].as_array().map_or(0, Vec::len), 0, "{done}");
    let died = forkpy.run("import os; os._exit(3)");
    assert_ne!(died["state"], "restored", "a restart without them leaves them behind: {died}");
}
