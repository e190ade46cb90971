//! What is done about sick sessions: the state before, the verdict, the action, the state after; and that nobody else is
//! touched, and nothing is called recovered that was not proven.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_for};

/// Holds the interpreter in native code, and no interrupt gets through.
const HELD: &str = "\
import ctypes, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
def holder():
    ctypes.PyDLL(None).sleep(60)
holder()";

/// A busy machine may keep a healthy interpreter from answering for a second: what is shorter would call it hung.
fn with(options: &[&str]) -> Forkpy {
    Setup::new()
        .args(&["--health-interval", "0.2", "--hung-after", "2", "--grace", "1.5"])
        .args(&["--checkpoints", "off"])
        .args(options)
        .start()
}

fn steps(health: &Value) -> Vec<(String, bool)> {
    let steps = health["recovery"]["steps"].as_array();
    steps
        .into_iter()
        .flatten()
        .map(|step| (step["step"].as_str().expect("a word").to_owned(), step["verified"].as_bool().expect("a bool")))
        .collect()
}

fn restarted() -> (String, bool) {
    ("restart".to_owned(), true)
}

fn pid_of(health: &Value) -> i32 {
    i32::try_from(health["pid"].as_i64().unwrap_or_else(|| panic!("no pid: {health}"))).expect("small")
}

/// A session beside the sick one, to be found as it was left.
fn bystander(forkpy: &mut Forkpy) -> i32 {
    forkpy.call("create_session", json!({"session_id": "other"}));
    forkpy.call("run_python_code", json!({"code": "kept = 5", "session_id": "other"}));
    pid_of(&forkpy.call("get_kernel_health", json!({"session_id": "other"})).data)
}

fn is_untouched(forkpy: &mut Forkpy, pid: i32) {
    let reply = forkpy.call("run_python_code", json!({"code": "kept", "session_id": "other"})).data;
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["5"]), &json!("kept")));
    let health = forkpy.call("get_kernel_health", json!({"session_id": "other"})).data;
    assert_eq!((pid_of(&health), &health["restarts"], &health["recovery"]["steps"]), (pid, &json!(0), &Value::Null));
}

#[test]
fn manual_leaves_a_dead_session_dead_until_somebody_acts() {
    let mut forkpy = with(&["--recovery", "manual"]);
    let other = bystander(&mut forkpy);
    forkpy.run("x = 1");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    forkpy.until_state("dead");
    for _ in 0..2 {
        let reply = forkpy.call("run_python_code", json!({"code": "1"}));
        assert!(reply.is_error && reply.data["status"] == "refused", "{reply:?}");
        assert!(reply.text.contains("SIGKILL") && reply.text.contains("restart_kernel"), "{}", reply.text);
    }
    assert_eq!(forkpy.health()["status"], "dead", "asking changes nothing");
    assert_eq!(forkpy.call("restart_kernel", json!({})).data["restarted"], true);
    assert_eq!(forkpy.eval("'x' in globals()"), "False");
    is_untouched(&mut forkpy, other);
}

#[test]
fn on_demand_the_next_cell_gets_a_worker_that_has_proven_itself() {
    let mut forkpy = with(&[]);
    forkpy.run("x = 1");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    let dead = forkpy.until_state("dead");
    assert_eq!((&dead["recovery"]["policy"], steps(&dead).len()), (&json!("on-demand"), 0));
    forkpy.until("an alert", |seen| seen["alerts"] == json!(["unhealthy"]));
    let reply = forkpy.run("'x' in globals()");
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["False"]), &json!("lost")));
    assert!(reply["alerts"].is_null(), "what its state says is not said once more, of a worker that is gone: {reply}");
    assert_eq!(steps(&forkpy.health()), [restarted()]);
}

#[test]
fn auto_brings_a_dead_session_back_before_anybody_asks() {
    let mut forkpy = with(&["--recovery", "auto"]);
    let other = bystander(&mut forkpy);
    forkpy.run("x = 1");
    let before = forkpy.pid();
    processes::signal(before, Signal::SIGKILL);
    let after = forkpy.until("a new worker", |seen| seen["restarts"] == 1 && seen["state"] == "idle");
    assert_eq!(after["last_exit"]["signal"], "SIGKILL");
    wait_for("its proof", || steps(&forkpy.health()) == [restarted()]);
    let reply = forkpy.run("'x' in globals()");
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["False"]), &json!("lost")), "and it is said");
    assert_eq!(forkpy.health()["recovery"]["restarts_counted"], 0, "a cell that ended well makes the ledger blank");
    is_untouched(&mut forkpy, other);
}

#[test]
fn auto_interrupts_what_hangs_and_keeps_the_variables_when_that_helps() {
    let mut forkpy = with(&["--recovery", "auto"]);
    forkpy.run("x = 1");
    // The interrupt ends the call; the interpreter is held until then.
    let cell = forkpy.begin_run("import ctypes\nctypes.PyDLL(None).sleep(60)");
    let reply = forkpy.reply(cell);
    assert_eq!((&reply.data["status"], &reply.data["state"]), (&json!("interrupted"), &json!("kept")), "{reply:?}");
    assert!(reply.text.contains("hung"), "{}", reply.text);
    assert_eq!(steps(&forkpy.health()), [("interrupt".to_owned(), true)]);
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn auto_replaces_what_hangs_beyond_interrupts_and_shows_where_it_hung() {
    let mut forkpy = with(&["--recovery", "auto"]);
    let other = bystander(&mut forkpy);
    let cell = forkpy.begin_run(HELD);
    let seen = forkpy.until_state("hung");
    assert!(seen["reason"].as_str().expect("words").contains("native code"), "{seen}");
    let reply = forkpy.reply(cell);
    assert_eq!((&reply.data["status"], &reply.data["death"]["reason"]), (&json!("died"), &json!("hung")), "{reply:?}");
    let path = reply.data["death"]["report"].as_str().expect("a report").to_owned();
    let report: Value = serde_json::from_slice(&std::fs::read(forkpy.file(path)).expect("written")).expect("JSON");
    assert_eq!(report["stacks"]["route"], "signal", "{report}");
    assert!(report["stacks"]["python"].as_str().expect("text").contains("in holder"), "{report}");
    assert_eq!(report["method"], "killed by forkpy");
    let after = forkpy.until("a new worker", |seen| steps(seen) == [restarted()]);
    assert_eq!((&after["status"], &after["recovery"]["state"]), (&json!("healthy"), &json!("none")));
    assert_eq!(forkpy.eval("1 + 1"), "2");
    is_untouched(&mut forkpy, other);
}

#[test]
fn without_auto_what_hangs_is_told_and_left_to_its_time_out() {
    let mut forkpy = with(&[]);
    let cell = forkpy.begin_call("run_python_code", json!({"code": HELD, "timeout": 8}));
    forkpy.until_state("hung");
    let alert = forkpy.until("an alert", |seen| seen["alerts"] == json!(["unresponsive"]));
    assert_eq!((&alert["status"], steps(&alert).len()), (&json!("healthy"), 0));
    let reply = forkpy.reply(cell);
    assert_eq!((&reply.data["status"], &reply.data["state"]), (&json!("timeout"), &json!("lost")));
    let exit = forkpy.health()["last_exit"].clone();
    assert_eq!(exit["reason"], "unresponsive");
    let report = std::fs::read_to_string(forkpy.file(exit["report"].as_str().expect("a report"))).expect("written");
    assert!(report.contains("in holder"), "{report}");
}

#[test]
fn auto_replaces_a_session_that_hangs_without_a_cell() {
    let mut forkpy = with(&["--recovery", "auto"]);
    let code = "\
import ctypes, threading, time
def holder():
    time.sleep(0.2)
    ctypes.PyDLL(None).sleep(60)
threading.Thread(target=holder, daemon=True).start()";
    assert_eq!(forkpy.run(code)["status"], "ok");
    let after = forkpy.until("a new worker", |seen| steps(seen) == [restarted()]);
    assert_eq!(after["last_exit"]["reason"], "hung");
    assert_eq!(forkpy.eval("1"), "1");
}

#[test]
fn a_stopped_worker_is_told_and_not_touched() {
    let mut forkpy = with(&["--recovery", "auto"]);
    forkpy.run("x = 1");
    let worker = forkpy.pid();
    processes::signal(worker, Signal::SIGSTOP);
    let seen = forkpy.until("an alert", |seen| seen["alerts"] == json!(["stopped"]));
    assert_eq!((&seen["state"], &seen["status"]), (&json!("stopped"), &json!("healthy")));
    processes::signal(worker, Signal::SIGCONT);
    let seen = forkpy.until("no alert", |seen| seen["alerts"] == json!([]));
    assert_eq!((pid_of(&seen), steps(&seen).len()), (worker, 0));
    let reply = forkpy.run("x");
    assert_eq!(reply["results"], json!(["1"]));
    assert!(reply["alerts"][0].as_str().expect("said once").contains("stopped by a signal"), "{reply}");
    assert!(forkpy.run("x")["alerts"].is_null(), "only once");
}

#[test]
fn ten_sessions_killed_at_once_all_come_back() {
    let mut forkpy = with(&["--recovery", "auto"]);
    let other = bystander(&mut forkpy);
    let names: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
    let mut pids = Vec::new();
    for name in &names {
        forkpy.call("create_session", json!({"session_id": name}));
        pids.push(pid_of(&forkpy.call("get_kernel_health", json!({"session_id": name})).data));
    }
    pids.iter().for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    for name in &names {
        wait_for("each to be back", || {
            let seen = forkpy.call("get_kernel_health", json!({"session_id": name})).data;
            seen["state"] == "idle" && steps(&seen) == [restarted()]
        });
        let reply = forkpy.call("run_python_code", json!({"code": "6 * 7", "session_id": name})).data;
        assert_eq!(reply["results"], json!(["42"]));
    }
    is_untouched(&mut forkpy, other);
}

#[cfg(debug_assertions)]
#[test]
fn a_session_that_dies_at_each_start_is_parked_with_the_reason() {
    let options = ["--recovery", "auto", "--restart-budget", "2", "--health-interval", "0.2"];
    let mut forkpy = Setup::new().env("FORKPY_FAULT", "worker.hello:0=kill").args(&options).start();
    let seen = forkpy.until("the end of trying", |seen| seen["recovery"]["state"] == "parked");
    assert_eq!((&seen["status"], &seen["recovery"]["restarts_counted"]), (&json!("dead"), &json!(2)));
    assert!(seen["recovery"]["parked"].as_str().expect("said").contains("did not come up"), "{seen}");
    assert_eq!(steps(&seen), [("restart".to_owned(), false), ("recreate".to_owned(), false)]);
    let reply = forkpy.call("run_python_code", json!({"code": "1"}));
    assert!(reply.is_error && reply.text.contains("parked") && reply.text.contains("restart_kernel"), "{}", reply.text);
    let refused = forkpy.refused("restart_kernel", json!({}));
    assert!(refused.contains("did not come up"), "{refused}");
}

#[cfg(debug_assertions)]
#[test]
fn a_worker_that_does_not_prove_itself_is_never_called_recovered() {
    let mut forkpy = Setup::new().env("FORKPY_FAULT", "worker.probe:0=fail").start();
    forkpy.run("x = 1");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    forkpy.until_state("dead");
    let reply = forkpy.call("run_python_code", json!({"code": "1"}));
    assert!(reply.is_error && reply.text.contains("did not prove itself"), "{}", reply.text);
    // Until its parent has reaped it, it is a zombie.
    let health = forkpy.until("the end of the new worker", |seen| seen["status"] == "dead");
    assert_eq!(steps(&health), [("restart".to_owned(), false)]);
    assert_eq!(health["last_exit"]["reason"], "unverified");
}

#[test]
fn memory_above_its_thresholds_is_told_once_and_collected() {
    let mut forkpy = with(&[]);
    let base = forkpy.health()["memory_usage"].as_u64().expect("bytes") >> 20;
    let limits = json!({"memory_alert": base + 40, "memory_cleanup": base + 80});
    let set = forkpy.call("configure_health", limits).data;
    assert_eq!(set["thresholds"]["memory_alert"], json!((base + 40) << 20));
    // A ring that only the collector finds, and the collector is off.
    let code = "\
import gc
gc.disable()
class Ring: pass
ring = Ring()
ring.itself, ring.load = ring, b'x' * (120 << 20)
del ring";
    // A threshold crossed while the cell runs is told in its own reply, else in the next one.
    let alerts = |reply: &Value| reply["alerts"].as_array().cloned().unwrap_or_default();
    let mut told = alerts(&forkpy.run(code));
    let seen = forkpy.until("a collection", |seen| !steps(seen).is_empty());
    assert_eq!(steps(&seen), [("collect".to_owned(), true)]);
    assert!(seen["recovery"]["steps"][0]["detail"].as_str().expect("words").contains("MB after"), "{seen}");
    let seen = forkpy.until("the end of both alerts", |seen| seen["alerts"] == json!([]));
    assert!(seen["memory_usage"].as_u64().expect("bytes") >> 20 < base + 40, "{seen}");
    let report = forkpy.call("get_health_report", json!({})).data;
    let kinds: Vec<&Value> =
        report["past_alerts"].as_array().expect("a list").iter().map(|alert| &alert["kind"]).collect();
    // A machine that is busy with other tests may have seen the processor used for long.
    let kinds: Vec<&Value> = kinds.into_iter().filter(|kind| *kind != "cpu").collect();
    assert_eq!((kinds, &report["alerts"]), (vec![&json!("memory_cleanup"), &json!("memory")], &json!([])));
    told.extend(alerts(&forkpy.run("1")));
    told.retain(|alert| alert.as_str().is_some_and(|words| words.contains("memory")));
    assert_eq!(told.len(), 3, "two thresholds and one collection: {told:?}");
}

#[test]
fn a_processor_that_is_used_for_long_is_told() {
    let mut forkpy = Setup::new().args(&["--health-interval", "1", "--cpu-alert", "20"]).start();
    let cell = forkpy.begin_call("run_python_code", json!({"code": "while True: pass", "timeout": 20}));
    let seen = forkpy.until("an alert", |seen| seen["alerts"] == json!(["cpu"]));
    assert_eq!(seen["state"], "busy");
    forkpy.notify("notifications/cancelled", json!({"requestId": cell}));
    forkpy.forget(cell);
    forkpy.until("its end", |seen| seen["alerts"] == json!([]) && seen["state"] == "idle");
}

#[test]
fn a_session_may_have_thresholds_and_a_policy_of_its_own() {
    let mut forkpy = Forkpy::start();
    let health = json!({"memory_alert": 7, "recovery": "manual"});
    forkpy.call("create_session", json!({"session_id": "a", "health": health}));
    let seen = forkpy.call("get_kernel_health", json!({"session_id": "a"})).data["thresholds"].clone();
    assert_eq!((&seen["memory_alert"], &seen["recovery"]), (&json!(7 << 20), &json!("manual")));
    let others = forkpy.health()["thresholds"].clone();
    assert_eq!((&others["memory_alert"], &others["recovery"]), (&json!(500 << 20), &json!("on-demand")));
    for (wrong, word) in [
        (json!({"hung_after": 0}), "hung_after"),
        (json!({"memory_alert": -1}), "memory_alert"),
        (json!({"recovery": "often"}), "recovery"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let refused = forkpy.refused("configure_health", wrong.clone());
        assert!(refused.contains(word), "{refused}");
        let refused = forkpy.refused("create_session", json!({"session_id": "b", "health": wrong}));
        assert!(refused.contains(word), "{refused}");
    }
    // A policy that is set while the session lies dead holds at once.
    forkpy.run("1");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    forkpy.until_state("dead");
    forkpy.call("configure_health", json!({"recovery": "auto"}));
    forkpy.until("a new worker", |seen| steps(seen) == [restarted()]);
}
