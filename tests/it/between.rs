//! What arrives between two cells (a signal's handler that raises, `interrupt_main`, an exception from another thread) is told
//! by itself, and the next request runs, whatever it is.

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup};

/// A handler that raises as soon as the session idles: the timer runs out while the reply is under way, or later.
const ARM: &str = "\
import signal
keep = 1
def too_slow(*_):
    raise TimeoutError('too slow')
signal.signal(signal.SIGALRM, too_slow)
signal.setitimer(signal.ITIMER_REAL, 0.2);";

/// Waits until the timer has run out: another session's cell takes longer.
fn let_it_arrive(forkpy: &mut Forkpy) {
    forkpy.call("run_python_code", json!({"code": "import time; time.sleep(0.4)", "session_id": "clock"}));
}

fn start() -> Forkpy {
    let mut forkpy = Forkpy::start();
    forkpy.call("create_session", json!({"session_id": "clock"}));
    forkpy.call("switch_session", json!({"session_id": "default"}));
    forkpy
}

fn stderr(reply: &Value) -> &str {
    reply["stderr"].as_str().expect("text")
}

#[test]
fn a_handler_that_raises_is_told_with_the_next_cell_which_runs() {
    let mut forkpy = start();
    forkpy.run(ARM);
    let_it_arrive(&mut forkpy);
    let reply = forkpy.run("y = 5\nprint('ran')");
    assert_eq!((&reply["status"], &reply["stdout"]), (&json!("ok"), &json!("ran\n")), "{reply}");
    let told = stderr(&reply);
    assert!(told.contains("Between two cells") && told.contains("TimeoutError: too slow"), "{told}");
    assert!(told.contains("line 4, in too_slow") && !told.contains("forkpy_worker"), "the user's frames only: {told}");
    assert!(reply["notice"].as_str().expect("a notice").contains("TimeoutError"), "{reply}");
    let reply = forkpy.run("y");
    assert_eq!((&reply["results"], &reply["stderr"], &reply["notice"]), (&json!(["5"]), &json!(""), &Value::Null));
}

#[test]
fn a_handler_runs_while_the_session_idles() {
    let mut forkpy = start();
    forkpy.run("import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: open('ticked', 'w').close())");
    forkpy.run("signal.setitimer(signal.ITIMER_REAL, 0.1);");
    let ticked = forkpy.file("ticked");
    crate::support::wait_for("the handler", || ticked.exists());
    assert_eq!(forkpy.eval("1"), "1");
}

#[test]
fn other_threads_interrupt_no_cell_that_is_still_to_come() {
    let mut forkpy = start();
    forkpy.run("import _thread, ctypes, threading\nmain = ctypes.c_ulong(threading.get_ident())");
    let asynchronous = "ctypes.pythonapi.PyThreadState_SetAsyncExc, [main, ctypes.py_object(ValueError)]";
    for (call, name) in [("_thread.interrupt_main", "KeyboardInterrupt"), (asynchronous, "ValueError")] {
        forkpy.run(&format!("threading.Timer(0.1, {call}).start()"));
        let_it_arrive(&mut forkpy);
        let reply = forkpy.run("'ran'");
        assert_eq!((&reply["status"], &reply["results"]), (&json!("ok"), &json!(["'ran'"])), "{reply}");
        assert!(stderr(&reply).contains(name) && reply["notice"].as_str().expect("told").contains(name), "{reply}");
    }
}

#[test]
fn every_other_request_runs_too_and_nothing_is_lost() {
    let mut forkpy = start();
    let requests = [
        ("list_variables", json!({})),
        ("save_session", json!({"path": "s.state"})),
        ("load_session", json!({"path": "s.state"})),
        ("checkpoint_session", json!({"name": "c"})),
        ("restore_checkpoint", json!({"name": "c"})),
        ("code_completion", json!({"code": "kee", "cursor_pos": 3})),
        ("check_kernel_responsiveness", json!({})),
        ("run_branches", json!({"codes": ["keep"], "keep": "none"})),
    ];
    for (tool, arguments) in requests {
        forkpy.run(ARM);
        let_it_arrive(&mut forkpy);
        let reply = forkpy.call(tool, arguments);
        // The cells of branches tell of it themselves.
        let told = tool != "run_branches" && reply.text.contains("too slow");
        assert!(!reply.is_error && !told, "{tool}: {reply:?}");
        let reply = forkpy.run("keep");
        assert_eq!(reply["results"], json!(["1"]), "{tool}: {reply}");
    }
}

#[test]
fn a_restart_carries_the_variables_over_and_the_next_cell_tells() {
    let mut forkpy = start();
    forkpy.run(ARM);
    let_it_arrive(&mut forkpy);
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert!(restarted["restored_vars"].as_array().expect("names").contains(&json!("keep")), "{restarted}");
    let reply = forkpy.run("keep");
    assert_eq!(reply["results"], json!(["1"]));
    assert!(reply["background"].as_str().expect("what was said").contains("TimeoutError: too slow"), "{reply}");
}

#[test]
fn a_timer_that_raises_again_and_again_is_told_once() {
    let mut forkpy = start();
    forkpy.run(&ARM.replace("0.2)", "0.02, 0.02)"));
    let_it_arrive(&mut forkpy);
    // The cell itself may be hit too, until it has disarmed the timer.
    let reply = forkpy.run("try:\n    signal.setitimer(signal.ITIMER_REAL, 0)\nexcept TimeoutError:\n    pass");
    assert!(stderr(&reply).matches("Between two cells").count() < 4, "{reply}");
    assert_eq!(forkpy.eval("keep"), "1");
}

#[test]
fn a_handler_that_does_not_end_is_interrupted_for_the_cell_that_waits() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.call("create_session", json!({"session_id": "clock"}));
    let code = "\
import signal, time
keep = 1
def hang(*_):
    while True:
        time.sleep(0.01)
signal.signal(signal.SIGALRM, hang)
signal.setitimer(signal.ITIMER_REAL, 0.1);";
    forkpy.run(code);
    let_it_arrive(&mut forkpy);
    let reply = forkpy.call("run_python_code", json!({"code": "keep = 2", "timeout": 0.5})).data;
    assert_eq!((&reply["status"], &reply["state"]), (&json!("timeout"), &json!("kept")), "{reply}");
    assert_eq!(forkpy.eval("keep"), "1", "it was not run");
}
