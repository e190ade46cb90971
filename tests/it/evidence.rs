//! What can be seen of a session: states, stacks, series, and reports on the dead.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_for};

fn watched() -> Forkpy {
    Setup::new().args(&["--checkpoints", "off", "--health-interval", "0.2"]).start()
}

fn cancel(forkpy: &mut Forkpy, cell: u64) {
    forkpy.notify("notifications/cancelled", json!({"requestId": cell}));
    forkpy.forget(cell);
    forkpy.until_state("idle");
}

#[test]
fn a_cell_that_waits_is_blocked_and_one_that_works_or_sleeps_is_busy() {
    let mut forkpy = watched();
    for (code, call) in [
        ("import os\nos.read(os.pipe()[0], 1)", "read"),
        ("import threading\nthreading.Lock().acquire() and threading.Event().wait()", "futex"),
    ] {
        let cell = forkpy.begin_run(code);
        let seen = forkpy.until_state("blocked");
        assert!(seen["reason"].as_str().expect("words").contains(call), "{seen}");
        cancel(&mut forkpy, cell);
    }
    for code in ["import time\ntime.sleep(600)", "import asyncio\nawait asyncio.sleep(600)"] {
        let cell = forkpy.begin_run(code);
        let is_sleeping = |seen: &Value| seen["reason"].as_str().is_some_and(|reason| reason.contains("(sleeping)"));
        let seen = forkpy.until("sleep", is_sleeping);
        assert_eq!(seen["state"], "busy", "{seen}");
        cancel(&mut forkpy, cell);
    }
    let cell = forkpy.begin_run("import os\nos.read(os.pipe()[0], 1)");
    let seen = forkpy.until_state("blocked");
    assert_eq!((&seen["status"], &seen["cell"]), (&json!("healthy"), &json!(5)));
    cancel(&mut forkpy, cell);
    let cell = forkpy.begin_run("while True: pass");
    forkpy.until("a second of work", |seen| seen["cell_running_for"].as_f64().is_some_and(|seconds| seconds > 1.5));
    assert_eq!(forkpy.health()["state"], "busy");
    cancel(&mut forkpy, cell);
}

#[test]
fn a_cell_whose_subprocess_works_is_busy_and_its_memory_counts() {
    let mut forkpy = watched();
    let code =
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytearray(50 << 20)\\nwhile True: pass'])";
    let cell = forkpy.begin_run(code);
    let seen =
        forkpy.until("its subprocess", |seen| seen["subprocess_memory"].as_u64().is_some_and(|bytes| bytes > 50 << 20));
    assert_eq!(seen["subprocesses"], 1);
    forkpy.until("two seconds of work", |seen| seen["cell_running_for"].as_f64().is_some_and(|seconds| seconds > 2.5));
    assert_eq!(forkpy.health()["state"], "busy");
    cancel(&mut forkpy, cell);
}

#[test]
fn stacks_are_shown_of_what_is_idle_busy_held_and_stopped() {
    let mut forkpy = Forkpy::start();
    let dump = |forkpy: &mut Forkpy| forkpy.call("dump_stacks", json!({}));
    // On a machine with much to do the interpreter's turn may come too late, and the signal's way is taken.
    let through = |forkpy: &mut Forkpy| {
        let mut seen = dump(forkpy);
        wait_for("the way through the interpreter", || {
            seen = dump(forkpy);
            seen.data["stacks"]["route"] == "interpreter"
        });
        seen
    };
    assert_eq!(through(&mut forkpy).data["state"], "idle");
    let cell = forkpy.begin_run("def spinner():\n    while True: pass\nspinner()");
    forkpy.until_state("busy");
    // A cell is busy a moment before its first line runs.
    let mut busy = through(&mut forkpy);
    wait_for("its function to run", || {
        busy = through(&mut forkpy);
        busy.text.contains("in spinner")
    });
    assert!(busy.text.contains("in spinner") && busy.text.contains("<cell 1>"), "{}", busy.text);
    assert_eq!(forkpy.health()["state"], "busy", "nothing was interrupted");
    cancel(&mut forkpy, cell);
    let held = "import ctypes\ndef holder():\n    ctypes.PyDLL(None).usleep(1500000)\nholder()\nprint('whole')";
    let cell = forkpy.begin_run(held);
    wait_for("the call, seen from outside", || {
        let seen = dump(&mut forkpy);
        let threads = seen.data["stacks"]["threads"].as_array().expect("a list").clone();
        seen.text.contains("in holder") && threads.iter().any(|thread| thread["syscall"] == "clock_nanosleep")
    });
    assert_eq!(forkpy.reply(cell).data["stdout"], "whole\n", "the sleep was not cut short");
    let worker = forkpy.pid();
    processes::signal(worker, Signal::SIGSTOP);
    wait_for("every thread to stand still", || processes::all_threads_are(worker, 'T'));
    let stopped = dump(&mut forkpy);
    assert_eq!((&stopped.data["stacks"]["route"], &stopped.data["state"]), (&json!("none"), &json!("stopped")));
    assert!(stopped.data["stacks"]["threads"].as_array().expect("a list").iter().all(|thread| thread["state"] == "T"));
    processes::signal(worker, Signal::SIGCONT);
    assert_eq!(forkpy.eval("1"), "1");
}

/// The signal that dumps stacks ends a process that has no handler for it: user code that takes the handler away gets no
/// stacks, and loses nothing.
#[test]
fn code_that_takes_the_dump_handler_away_is_not_harmed() {
    let mut forkpy = Forkpy::start();
    let code = "\
import signal, ctypes
for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
    signal.signal(number, signal.SIG_DFL)
def holder():
    ctypes.PyDLL(None).usleep(1500000)
holder()
'lives'";
    let cell = forkpy.begin_run(code);
    forkpy.until("the call", |seen| seen["cell"] == 1);
    forkpy.call("dump_stacks", json!({}));
    assert_eq!(forkpy.reply(cell).data["results"], json!(["'lives'"]));
}

#[test]
fn each_kind_of_death_leaves_a_report_that_tells_it() {
    let mut forkpy = watched();
    let cases = [
        (
            "def boom():\n    import ctypes\n    ctypes.string_at(0)\nprint('before')\nboom()",
            "died",
            "SIGSEGV",
            "in boom",
        ),
        ("import os\ndef boom():\n    os.abort()\nboom()", "died", "SIGABRT", "in boom"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "died", "SIGKILL", ""),
        ("import os\nos._exit(7)", "died", "", ""),
    ];
    for (number, (code, reason, signal, frame)) in cases.into_iter().enumerate() {
        let reply = forkpy.run(code);
        assert_eq!((&reply["status"], &reply["death"]["reason"]), (&json!("died"), &json!(reason)), "{reply}");
        let path = reply["death"]["report"].as_str().expect("a report").to_owned();
        assert_eq!(reply["new_files"], json!([]), "a report is no file of the code's");
        let list = forkpy.call("list_crashes", json!({})).data;
        assert_eq!(list["crashes"].as_array().expect("a list").len(), number + 1);
        assert_eq!(list["crashes"][0]["path"], json!(path), "the newest first");
        let report = forkpy.call("list_crashes", json!({"id": list["crashes"][0]["id"]})).data["report"].clone();
        assert_eq!((&report["session_id"], &report["method"]), (&json!("default"), &json!("by itself")));
        assert_eq!(report["signal"].as_str().unwrap_or_default(), signal, "{report}");
        assert_eq!(report["cell"]["code"], code);
        assert_eq!(report["out_of_memory"]["happened"], false);
        let stacks = report["stacks"]["python"].as_str().unwrap_or_default();
        assert!(stacks.contains(frame) && (frame.is_empty() || stacks.contains("<cell")), "{report}");
        if number == 0 {
            assert_eq!(report["cell"]["stdout_tail"], "before\n");
        }
        if signal.is_empty() {
            assert_eq!(report["exit_code"], 7);
        }
    }
    assert_eq!(forkpy.call("list_crashes", json!({"limit": 2})).data["crashes"].as_array().expect("a list").len(), 2);
    assert_eq!(forkpy.call("list_crashes", json!({"session_id": "nobody"})).data["crashes"], json!([]));
    assert!(forkpy.refused("list_crashes", json!({"id": "../../etc/passwd"})).contains("there is no crash report"));
}

#[test]
fn a_restart_or_an_end_that_was_asked_for_leaves_no_report() {
    let mut forkpy = Forkpy::start();
    forkpy.run("1");
    forkpy.call("restart_kernel", json!({}));
    forkpy.call("create_session", json!({"session_id": "a"}));
    forkpy.call("delete_session", json!({"session_id": "a"}));
    assert_eq!(forkpy.call("list_crashes", json!({})).data["crashes"], json!([]));
}

/// A child that a cell forked has inherited the worker's crash handler, and once spoke for it: the session was then
/// thought to have overflowed its stack when it was killed later.
#[test]
fn a_crash_in_a_forked_child_is_not_taken_for_the_workers() {
    let mut forkpy = Forkpy::start();
    let code = "\
import os, sys
pid = os.fork()
if pid == 0:
    sys.setrecursionlimit(10**9)
    import ctypes
    ctypes.string_at(0)
os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])";
    assert_eq!(forkpy.eval(code), "-11");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    forkpy.until_state("dead");
    let mut id = Value::Null;
    wait_for("the report", || {
        id = forkpy.call("list_crashes", json!({})).data["crashes"][0]["id"].take();
        id.is_string()
    });
    let report = forkpy.call("list_crashes", json!({"id": id})).data["report"].clone();
    assert_eq!((&report["signal"], &report["stacks"]), (&json!("SIGKILL"), &Value::Null));
}

#[test]
fn the_past_of_a_session_is_a_series() {
    let mut forkpy = watched();
    forkpy.run("x = bytearray(30 << 20)");
    let long = |seen: &Value| seen["history"]["samples"].as_array().is_some_and(|samples| samples.len() >= 3);
    let seen = loop {
        let seen = forkpy.call("get_kernel_health", json!({"history": "5m"})).data;
        if long(&seen) {
            break seen;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let samples = seen["history"]["samples"].as_array().expect("a list");
    let last = samples.last().expect("one");
    assert_eq!((&last["pid"], &last["state"]), (&seen["pid"], &json!("idle")));
    assert!(last["memory_usage"].as_u64().expect("bytes") > 30 << 20);
    assert!(samples.iter().any(|sample| sample["proportional_memory"].as_u64().is_some_and(|bytes| bytes > 30 << 20)));
    assert!(samples.is_sorted_by_key(|sample| sample["time"].as_str().expect("a time").to_owned()));
    assert_eq!(forkpy.health()["history"], Value::Null, "only when asked for");
    for wrong in ["five minutes or so", "-5m", "0s", "25h"] {
        assert!(forkpy.refused("get_kernel_health", json!({"history": wrong})).contains("24h"), "{wrong}");
    }
}
