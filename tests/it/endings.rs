//! Every way a cell can end: each has its own clear outcome, and the reply says what became of the variables.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Forkpy, Reply, Setup, wait_for};

fn with_limit(forkpy: &mut Forkpy, code: &str, seconds: f64) -> Reply {
    forkpy.call("run_python_code", json!({"code": code, "timeout": seconds}))
}

/// Runs a cell that ends the worker, and checks that the next one says what was lost.
fn died(code: &str) -> Value {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("x = 1");
    let before = forkpy.pid();
    let reply = forkpy.call("run_python_code", json!({"code": code}));
    assert!(reply.is_error && reply.data["status"] == "died" && reply.data["state"] == "lost", "{reply:?}");
    assert!(reply.text.contains("its variables are lost"), "{}", reply.text);
    let health = forkpy.health();
    assert_eq!(
        (&health["status"], &health["pid"], &health["memory_usage"]),
        (&json!("dead"), &Value::Null, &Value::Null)
    );
    assert_eq!(health["last_exit"]["cell"], 2);
    let next = forkpy.run("'x' in globals()");
    assert_eq!((&next["results"], &next["state"], &next["status"]), (&json!(["False"]), &json!("lost"), &json!("ok")));
    assert!(next["notice"].as_str().expect("said").contains("in cell 2"), "{next}");
    assert_eq!(forkpy.run("1")["state"], "kept");
    assert_ne!(forkpy.pid(), before);
    reply.data
}

#[test]
fn sys_exit_ends_the_cell_and_not_the_session() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("x = 1\nimport sys\nsys.exit(3)");
    assert_eq!((&reply["status"], &reply["exit_code"], &reply["state"]), (&json!("exited"), &json!(3), &json!("kept")));
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn os_exit_ends_the_worker_with_its_code() {
    let reply = died("import os; print('last words'); os._exit(3)");
    assert_eq!((&reply["exit_code"], &reply["stdout"]), (&json!(3), &json!("last words\n")));
    assert_eq!(reply["death"]["reason"], "died");
}

#[test]
fn a_segmentation_fault_is_named() {
    let reply = died("import ctypes; ctypes.string_at(0)");
    assert_eq!((&reply["death"]["signal"], &reply["death"]["reason"]), (&json!("SIGSEGV"), &json!("died")));
}

#[test]
fn an_abort_is_named() {
    assert_eq!(died("import os; os.abort()")["death"]["signal"], "SIGABRT");
}

#[test]
fn a_stack_overflow_in_native_code_is_told_from_other_crashes() {
    // glibc reads a pattern by one call in another for each parenthesis.
    let code = "import ctypes; ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(1000), b'(' * 10**6, 1)";
    assert_eq!(died(code)["death"]["reason"], "stack_overflow");
}

#[test]
fn endless_recursion_is_an_ordinary_exception() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("x = 1\ndef f(): f()\nf()");
    assert_eq!((&reply["status"], &reply["error"]["type"]), (&json!("error"), &json!("RecursionError")));
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn memory_exhaustion_is_a_memory_error_and_keeps_the_session() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))\nx = 1");
    let reply = forkpy.run("hog = []\nwhile True: hog.append(bytearray(50_000_000))");
    assert_eq!((&reply["status"], &reply["error"]["type"]), (&json!("error"), &json!("MemoryError")));
    assert_eq!(forkpy.eval("del hog\nx"), "1");
}

#[test]
fn a_time_out_interrupts_and_keeps_the_variables() {
    let mut forkpy = Forkpy::start();
    for code in [
        "x = 1\nwhile True: pass",
        "x = 2\nimport time; time.sleep(60)",
        "x = 3\nimport asyncio\nawait asyncio.sleep(60)",
    ] {
        // Long enough that the first line has run, also on a busy machine.
        let reply = with_limit(&mut forkpy, code, 2.0);
        assert!(reply.is_error && reply.data["status"] == "timeout" && reply.data["state"] == "kept", "{reply:?}");
        assert!(reply.text.contains("time limit of 2 s"), "{}", reply.text);
        assert_eq!(forkpy.eval("x"), &code[4..5]);
    }
}

#[test]
fn the_servers_own_limit_holds_when_the_call_names_none() {
    let mut forkpy = Setup::new().args(&["--timeout", "0.3"]).start();
    assert_eq!(forkpy.run("while True: pass")["status"], "timeout");
}

#[test]
fn where_no_interrupt_arrives_the_worker_is_killed_after_the_grace_time() {
    let mut forkpy = Setup::new().args(&["--grace", "0.6", "--checkpoints", "off"]).start();
    forkpy.run("x = 1");
    let began = Instant::now();
    let reply = with_limit(&mut forkpy, "sum(range(10**12))", 0.3);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(reply.is_error && reply.data["status"] == "timeout" && reply.data["state"] == "lost", "{reply:?}");
    assert!(reply.text.contains("killed"), "{}", reply.text);
    assert_eq!(forkpy.eval("'x' in globals()"), "False");
}

#[test]
fn code_that_swallows_interrupts_ends_all_the_same() {
    let mut forkpy = Setup::new().args(&["--grace", "0.6"]).start();
    let code = "import time\nwhile True:\n    try: time.sleep(10)\n    except BaseException: pass";
    assert_eq!(with_limit(&mut forkpy, code, 0.2).data["status"], "timeout");
    let ignoring = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)";
    assert_eq!(with_limit(&mut forkpy, ignoring, 0.2).data["status"], "timeout");
    assert_eq!(forkpy.eval("1 + 1"), "2");
}

#[test]
fn a_handler_that_a_cell_left_behind_does_not_protect_the_next_one() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1\nimport signal\n_ = signal.signal(signal.SIGINT, signal.SIG_IGN)");
    let reply = with_limit(&mut forkpy, "while True: pass", 0.2);
    assert_eq!((&reply.data["status"], &reply.data["state"]), (&json!("timeout"), &json!("kept")));
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn a_cancelled_cell_is_interrupted_and_one_that_waited_never_runs() {
    let mut forkpy = Forkpy::start();
    forkpy.run("ran = []");
    let running = forkpy.begin_run("ran.append('running')\nopen('began', 'w').close()\nwhile True: pass");
    let waiting = forkpy.begin_run("ran.append('waiting')");
    // Busy is a session before its cell's first line has run.
    wait_for("that line", || forkpy.file("began").exists());
    for id in [waiting, running] {
        forkpy.notify("notifications/cancelled", json!({"requestId": id, "reason": "test"}));
        forkpy.forget(id);
    }
    assert_eq!(forkpy.eval("ran"), "['running']");
}

/// Ten thousand interrupts that come when their cell has just ended must not reach the one after it.
#[test]
fn a_late_cancellation_does_not_reach_the_next_cell() {
    let mut forkpy = Forkpy::start();
    forkpy.run("1");
    for _ in 0..200 {
        let id = forkpy.begin_run("1");
        forkpy.notify("notifications/cancelled", json!({"requestId": id}));
        forkpy.forget(id);
        // rmcp may have answered before it heard of the cancellation.
        let next = forkpy.expect_id();
        let code = "sum(range(1000))";
        let call = json!({"jsonrpc": "2.0", "id": next, "method": "tools/call",
                          "params": {"name": "run_python_code", "arguments": {"code": code}}});
        forkpy.tolerate(id);
        forkpy.send_bytes(format!("{call}\n").as_bytes());
        assert_eq!(forkpy.reply(next).data["status"], "ok");
    }
}

#[test]
fn input_is_refused_at_once_and_never_hangs() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("input('name? ')");
    assert_eq!((&reply["status"], &reply["error"]["type"]), (&json!("error"), &json!("EOFError")));
    assert!(reply["stderr"].as_str().expect("text").contains("cannot be asked for input"), "{reply}");
}

/// Code that does not let the interrupt of a time-out through, and the exception that is told with it.
const SWALLOWED: &[(&str, Option<&str>)] = &[
    ("import time\ntry:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    print('caught')\n'after'", None),
    ("import time\ntry:\n    time.sleep(30)\nexcept:\n    pass", None),
    ("import contextlib, time\nwith contextlib.suppress(BaseException):\n    time.sleep(30)", None),
    ("import time\ntry:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    1 / 0", Some("ZeroDivisionError")),
    ("import sys, time\ntry:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    sys.exit(3)", None),
    ("import asyncio\ntry:\n    await asyncio.sleep(30)\nexcept BaseException:\n    pass", None),
];

#[test]
fn a_time_out_that_the_code_swallows_is_one_all_the_same() {
    let mut forkpy = Forkpy::start();
    for (code, error) in SWALLOWED {
        let arguments = json!({"code": format!("mark = {code:?}\n{code}"), "timeout": 2, "on_error": "rollback"});
        let reply = forkpy.call("run_python_code", arguments);
        assert!(reply.is_error && reply.data["status"] == "timeout", "{code}: {reply:?}");
        let notice = reply.data["notice"].as_str().expect("a notice");
        assert!(notice.contains("limit of 2 s") && notice.contains("caught the KeyboardInterrupt"), "{notice}");
        assert_eq!(reply.data["error"]["type"], json!(error), "{code}");
        assert_eq!(reply.data["state"], "rolled_back", "{code}");
        assert_eq!(forkpy.eval("'mark' in globals()"), "False", "{code}");
    }
}

#[test]
fn a_cell_that_ends_by_its_own_interrupt_is_interrupted_and_no_time_out() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.call("run_python_code", json!({"code": "raise KeyboardInterrupt", "timeout": 30}));
    assert_eq!((reply.is_error, &reply.data["status"]), (false, &json!("interrupted")));
    let reply = forkpy.run("import _thread\ntry:\n    _thread.interrupt_main()\n    while True: pass\nexcept KeyboardInterrupt:\n    x = 1\nx");
    assert_eq!((&reply["status"], &reply["results"]), (&json!("ok"), &json!(["1"])));
}
