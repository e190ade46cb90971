//! What a reply says of a session's variables is so: across deaths, restarts, checkpoints, deletions, and for each client.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, browser::Browser, http::HttpForkpy, processes, wait_for};

/// Races are tried so often.
const TURNS: usize = 50;
/// What is answered at once is answered within this, beside other work.
const AT_ONCE: Duration = Duration::from_secs(20);

fn in_session(forkpy: &mut Forkpy, session: &str, code: &str) -> Value {
    forkpy.call("run_python_code", json!({"code": code, "session_id": session})).data
}

fn make(forkpy: &mut Forkpy, session: &str) {
    let made = forkpy.call("create_session", json!({"session_id": session}));
    assert!(!made.is_error && made.data["status"] == "created", "{made:?}");
}

fn delete(forkpy: &mut Forkpy, session: &str) {
    let deleted = forkpy.call("delete_session", json!({"session_id": session}));
    assert!(!deleted.is_error, "{deleted:?}");
}

fn keeping_last() -> Setup {
    Setup::new().args(&["--checkpoints", "last", "--grace", "0.6", "--max-spares", "0"])
}

fn notice(reply: &Value) -> &str {
    reply["notice"].as_str().unwrap_or_default()
}

/// Status, state, and the first result.
fn said(reply: &Value) -> (&str, &str, &str) {
    let word = |key: &str| reply[key].as_str().unwrap_or_default();
    (word("status"), word("state"), reply["results"][0].as_str().unwrap_or_default())
}

/// Waits until the default session's worker is another one.
fn until_another_worker(forkpy: &mut Forkpy, than: i32) {
    forkpy.until("another worker", |seen| seen["pid"].as_i64().is_some_and(|pid| pid != i64::from(than)));
}

fn cancel(forkpy: &mut Forkpy, call: u64) {
    forkpy.notify("notifications/cancelled", json!({"requestId": call}));
    forkpy.forget(call);
    forkpy.tolerate(call);
}

// -- copies belong to one session, not to its name

#[test]
fn a_session_that_is_made_anew_has_nothing_of_the_one_that_was_deleted() {
    let mut forkpy = keeping_last().start();
    for turn in 0..TURNS {
        make(&mut forkpy, "b");
        // Its automatic checkpoint is on its way when it is deleted.
        assert_eq!(in_session(&mut forkpy, "b", "secret = 1")["status"], "ok");
        delete(&mut forkpy, "b");
        make(&mut forkpy, "b");
        let reply = in_session(&mut forkpy, "b", "import os; os._exit(1)");
        assert_eq!((&reply["status"], &reply["state"]), (&json!("died"), &json!("lost")), "turn {turn}: {reply}");
        let reply = in_session(&mut forkpy, "b", "'secret' in globals()");
        assert_eq!(said(&reply), ("ok", "lost", "False"), "turn {turn}");
        delete(&mut forkpy, "b");
    }
    assert_eq!(forkpy.call("list_checkpoints", json!({})).data["total"], 0);
    wait_for("every copy of them to be gone", || forkpy.family().len() == 3);
}

#[test]
fn a_checkpoint_on_its_way_ends_with_its_session() {
    let mut forkpy = Setup::new().args(&["--max-spares", "0"]).start();
    for turn in 0..TURNS {
        make(&mut forkpy, "b");
        in_session(&mut forkpy, "b", "secret = 1");
        let made = forkpy.begin_call("checkpoint_session", json!({"session_id": "b", "name": "a"}));
        let deleted = forkpy.begin_call("delete_session", json!({"session_id": "b"}));
        forkpy.reply(deleted);
        make(&mut forkpy, "b");
        let _ = forkpy.reply(made);
        let listed = forkpy.call("list_checkpoints", json!({"session_id": "b"})).data;
        assert_eq!(listed["total"], 0, "turn {turn}: {listed}");
        let refused = forkpy.refused("restore_checkpoint", json!({"session_id": "b", "name": "a"}));
        assert!(refused.contains("no checkpoint"), "{refused}");
        delete(&mut forkpy, "b");
    }
    wait_for("every copy of them to be gone", || forkpy.family().len() == 3);
}

/// Its branches went on with its variables, to their own end.
#[test]
fn branches_end_with_their_session() {
    let mut forkpy = Setup::new().args(&["--max-spares", "0"]).start();
    make(&mut forkpy, "b");
    in_session(&mut forkpy, "b", "secret = 1");
    let codes = json!([
        "import time; time.sleep(60); secret",
        "open('second', 'w'); time = __import__('time'); time.sleep(60)"
    ]);
    let run = forkpy.begin_call("run_branches", json!({"session_id": "b", "codes": codes, "max_parallel": 2}));
    wait_for("the branches to run", || forkpy.file("second").exists());
    let began = Instant::now();
    delete(&mut forkpy, "b");
    let reply = forkpy.reply(run);
    assert!(reply.is_error && reply.text.contains("has been deleted"), "{reply:?}");
    assert!(began.elapsed() < AT_ONCE);
    wait_for("all of it to be gone", || forkpy.family().len() == 3);
}

#[cfg(debug_assertions)]
#[test]
fn a_checkpoint_that_stands_still_at_its_birth_ends_with_its_session() {
    for moment in ["checkpoint.settle:1=stop", "worker.checkpointed:1=stop"] {
        let mut forkpy = Setup::new().args(&["--max-spares", "0"]).env("FORKPY_FAULT", moment).start();
        make(&mut forkpy, "b");
        in_session(&mut forkpy, "b", "secret = 1");
        let made = forkpy.begin_call("checkpoint_session", json!({"session_id": "b", "name": "a"}));
        wait_for("the moment", || forkpy.family().into_iter().any(|pid| processes::state(pid) == 'T'));
        let began = Instant::now();
        delete(&mut forkpy, "b");
        assert!(forkpy.reply(made).is_error, "{moment}");
        assert!(began.elapsed() < AT_ONCE, "{moment}: {:?}", began.elapsed());
        wait_for("its copy to be gone", || forkpy.family().len() == 3);
    }
}

// -- what was reported is told when it is undone

#[test]
fn a_cell_that_is_undone_after_its_reply_is_told() {
    let mut forkpy = keeping_last().start();
    for turn in 0..5 {
        let good = forkpy.run("import os\nx = 1");
        let cell = good["cell"].as_u64().expect("a number");
        wait_for("the automatic checkpoint", || {
            let listed = forkpy.call("list_checkpoints", json!({})).data;
            listed["checkpoints"].as_array().is_some_and(|all| all.iter().any(|one| one["after_cell"] == cell))
        });
        let worker = forkpy.pid();
        let code = "x = 2; os.register_at_fork(before=lambda: os.kill(os.getpid(), 9))";
        assert_eq!(said(&forkpy.run(code)), ("ok", "kept", ""), "turn {turn}");
        until_another_worker(&mut forkpy, worker);
        // Another tool's reply says it too, and it is not told with that.
        let listed = forkpy.call("list_variables", json!({})).data;
        assert_eq!(listed["state"], "restored", "{listed}");
        let reply = forkpy.run("x");
        assert_eq!(said(&reply), ("ok", "restored", "1"), "{reply}");
        assert_eq!((&reply["recovered_from"], &reply["lost_cells"]), (&json!(cell), &json!([cell + 1, cell + 1])));
        assert!(notice(&reply).contains(&format!("lost: cell {}", cell + 1)), "{reply}");
        assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "1"));
    }
}

/// What `load_session` has reported as loaded is not undone without a word.
#[cfg(debug_assertions)]
#[test]
fn variables_that_were_loaded_after_the_checkpoint_are_named_when_it_is_gone_on_from() {
    let mut forkpy = keeping_last().env("FORKPY_FAULT", "worker.checkpoint:3=kill").start();
    let kept = |forkpy: &mut Forkpy, cell: u64| {
        wait_for("the automatic checkpoint", || {
            forkpy.call("list_checkpoints", json!({})).data["checkpoints"][0]["after_cell"] == cell
        });
    };
    forkpy.run("y = 5");
    kept(&mut forkpy, 1);
    assert!(!forkpy.call("save_session", json!({"path": "state"})).is_error);
    forkpy.run("del y; x = 1");
    kept(&mut forkpy, 2);
    let worker = forkpy.pid();
    let loaded = forkpy.call("load_session", json!({"path": "state"}));
    assert_eq!(loaded.data["loaded"], json!(["y"]), "{loaded:?}");
    until_another_worker(&mut forkpy, worker);
    let reply = forkpy.run("'y' in globals(), x");
    assert_eq!(said(&reply), ("ok", "restored", "(False, 1)"));
    assert!(notice(&reply).contains("load_session brought in"), "{reply}");
}

/// It was gone from the list, and the session still went on from it.
#[test]
fn an_automatic_checkpoint_that_was_deleted_is_not_gone_on_from() {
    let mut forkpy = keeping_last().start();
    forkpy.run("import os; x = 1");
    wait_for("the automatic checkpoint", || !forkpy.call("delete_checkpoint", json!({"name": "last"})).is_error);
    assert_eq!(forkpy.run("os._exit(1)")["state"], "lost");
    assert_eq!(said(&forkpy.run("'x' in globals()")), ("ok", "lost", "False"));
}

#[test]
fn a_death_that_another_tools_error_passed_on_is_told_by_the_next_cell() {
    let mut forkpy = keeping_last().start();
    forkpy.run("import os\nclass Deadly:\n    def __reduce__(self): os._exit(3)");
    forkpy.run("x = 1");
    wait_for("the automatic checkpoint", || {
        let listed = forkpy.call("list_checkpoints", json!({})).data;
        listed["checkpoints"].as_array().is_some_and(|all| all.iter().any(|one| one["after_cell"] == 2))
    });
    let hooked = forkpy.run("os.register_at_fork(before=lambda: time.sleep(0)) if 'time' in globals() else None");
    assert_eq!(hooked["status"], "ok");
    wait_for("the automatic checkpoint", || {
        let listed = forkpy.call("list_checkpoints", json!({})).data;
        listed["checkpoints"].as_array().is_some_and(|all| all.iter().any(|one| one["after_cell"] == 3))
    });
    forkpy.run("d = Deadly()");
    let refused = forkpy.refused("save_session", json!({"path": "state"}));
    assert!(refused.contains("exited with code 3") && refused.contains("recovered_from"), "{refused}");
    let reply = forkpy.run("x");
    assert_eq!(said(&reply), ("ok", "restored", "1"), "{reply}");
    assert!(notice(&reply).contains("exited with code 3"), "{reply}");
}

#[test]
fn a_worker_that_died_idle_is_told_as_restored_and_nothing_is_lost_twice() {
    let mut forkpy = keeping_last().start();
    forkpy.run("import os\nx = 1");
    let kept = |forkpy: &mut Forkpy, after: u64| {
        wait_for("the automatic checkpoint", || {
            let listed = forkpy.call("list_checkpoints", json!({})).data;
            listed["checkpoints"].as_array().is_some_and(|all| all.iter().any(|one| one["after_cell"] == after))
        });
    };
    kept(&mut forkpy, 1);
    let reply = forkpy.run("os._exit(1)");
    assert_eq!((&reply["state"], &reply["lost_cells"]), (&json!("restored"), &json!([2, 2])), "{reply}");
    let worker = forkpy.pid();
    processes::signal(worker, Signal::SIGKILL);
    until_another_worker(&mut forkpy, worker);
    let reply = forkpy.run("x");
    assert_eq!(said(&reply), ("ok", "restored", "1"), "{reply}");
    assert_eq!((&reply["recovered_from"], &reply["lost_cells"]), (&json!(1), &Value::Null), "cell 2 was told: {reply}");
}

#[test]
fn a_checkpoint_made_after_going_back_says_which_cell_it_is_of() {
    let mut forkpy = keeping_last().start();
    forkpy.run("import os\nx = 1");
    forkpy.call("checkpoint_session", json!({"name": "early"}));
    forkpy.run("x = 2");
    forkpy.run("x = 3");
    let restored = forkpy.call("restore_checkpoint", json!({"name": "early"}));
    assert!(!restored.is_error, "{restored:?}");
    let reply = forkpy.run("os._exit(1)");
    assert_eq!((&reply["state"], &reply["recovered_from"]), (&json!("restored"), &json!(1)), "{reply}");
    assert_eq!(reply["lost_cells"], json!([4, 4]), "{reply}");
    assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "1"));
}

/// A copy that took long came after its session had gone back, and took the place of what was there by then.
#[test]
fn a_copy_of_a_past_that_was_left_is_let_go_when_it_comes_late() {
    let mut forkpy = keeping_last().start();
    forkpy.run("import os, time\nx = 1");
    forkpy.call("checkpoint_session", json!({"name": "early"}));
    forkpy.run("x = 2\nos.register_at_fork(after_in_child=lambda: time.sleep(1.5))");
    // Two are on their way then, and the session knows of the newer.
    forkpy.run("x = 3");
    let restored = forkpy.call("restore_checkpoint", json!({"name": "early"}));
    assert!(!restored.is_error, "{restored:?}");
    wait_for("the copy of what was gone back to", || {
        !forkpy.call("delete_checkpoint", json!({"name": "last"})).is_error
    });
    let copies =
        |forkpy: &Forkpy| forkpy.family().iter().filter(|pid| processes::name(**pid).starts_with("fp-ckpt")).count();
    wait_for("the late copy to be gone", || copies(&forkpy) == 1);
    let listed = forkpy.call("list_checkpoints", json!({})).data;
    assert_eq!((&listed["total"], &listed["checkpoints"][0]["name"]), (&json!(1), &json!("early")), "{listed}");
    // To that one a crash would go back now.
    assert!(!forkpy.call("delete_checkpoint", json!({"name": "early"})).is_error);
    let reply = forkpy.run("os._exit(1)");
    assert_eq!((&reply["status"], &reply["state"]), (&json!("died"), &json!("lost")), "{reply}");
}

#[test]
fn a_session_put_to_rest_does_not_get_its_old_variables_by_a_later_death() {
    let mut forkpy = keeping_last().args(&["--idle-ttl", "1"]).start();
    forkpy.run("import os\nold = 1");
    forkpy.until("its rest", |seen| seen["last_exit"]["reason"] == "idle" && seen["pid"].is_null());
    let reply = forkpy.run("import os; os._exit(1)");
    assert_eq!((&reply["status"], &reply["state"]), (&json!("died"), &json!("lost")), "{reply}");
    assert_eq!(said(&forkpy.run("'old' in globals()")), ("ok", "lost", "False"));
}

// -- nothing is thrown away that could not be carried over

#[test]
fn a_restart_that_cannot_keep_the_variables_is_none() {
    let mut forkpy = Setup::new().args(&["--grace", "0.6"]).env("FORKPY_ERRAND_LIMIT", "1").start();
    forkpy.run("class Loop:\n    def __reduce__(self):\n        while True: pass\nx, loop = 1, Loop()");
    let worker = forkpy.pid();
    let refused = forkpy.refused("restart_kernel", json!({"preserve_state": true}));
    assert!(refused.contains("was not restarted") && refused.contains("preserve_state: false"), "{refused}");
    assert_eq!((forkpy.pid(), said(&forkpy.run("x"))), (worker, ("ok", "kept", "1")));
    forkpy.run("del loop");
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert!(restarted["restored_vars"].as_array().is_some_and(|all| all.contains(&json!("x"))), "{restarted}");
    assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "1"));
}

#[test]
fn a_cell_that_no_interrupt_reaches_is_not_killed_for_a_restart_that_is_to_keep_its_variables() {
    let mut forkpy = Setup::new().args(&["--grace", "0.3"]).start();
    forkpy.run("import signal, ctypes\nx = 1");
    let cell = forkpy.begin_run(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nctypes.PyDLL(None).usleep(4_000_000)\n\
         signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])",
    );
    forkpy.until("the cell to run", |seen| seen["cell"] == 2);
    let refused = forkpy.refused("restart_kernel", json!({"preserve_state": true}));
    assert!(refused.contains("was not restarted") && refused.contains("cell 2"), "{refused}");
    assert_eq!(forkpy.reply(cell).data["state"], "kept");
    assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "1"));
}

// -- no request holds a session beyond reach

/// A request that does not end.
struct Held {
    /// Makes it so; `x` is 7 then.
    code: &'static str,
    tool: &'static str,
    /// What health says meanwhile.
    doing: &'static str,
}

const LOOP: &str = "class Loop:\n    def __reduce__(self):\n        while True: pass\nx, loop = 7, Loop()";
const SLEEPING_FORK: &str = "import os, time\nos.register_at_fork(before=lambda: time.sleep(100))\nx = 7";
const SLEEPING_COPY: &str = "import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep(100))\nx = 7";
/// It sleeps in what a checkpoint wakes, and not in the checkpoint.
const SLEEPING_WAKE: &str = "import os, time\nx, forks = 7, 0\ndef hook():\n    global forks\n    forks += 1\n    \
                             if forks == 2: time.sleep(100)\nos.register_at_fork(after_in_child=hook)";

const HELD: [Held; 9] = [
    Held { code: LOOP, tool: "save_session", doing: "saves its variables" },
    Held { code: LOOP, tool: "restart_kernel", doing: "saves its variables" },
    Held {
        code: "import sys, types\nx = 7\ndef loop(*_):\n    while True: pass\n\
               class Slow:\n    def __reduce__(self): return (getattr, (sys.modules['slow'], 'wait'))\n\
               sys.modules['slow'] = types.ModuleType('slow'); sys.modules['slow'].__getattr__ = loop\nslow = Slow()",
        tool: "load_session",
        doing: "loads variables",
    },
    Held { code: SLEEPING_FORK, tool: "checkpoint_session", doing: "makes a checkpoint" },
    Held { code: SLEEPING_FORK, tool: "fork_session", doing: "makes a checkpoint" },
    Held { code: SLEEPING_FORK, tool: "run_branches", doing: "makes a checkpoint" },
    Held { code: SLEEPING_FORK, tool: "run_python_code", doing: "makes a checkpoint" },
    Held { code: SLEEPING_WAKE, tool: "restore_checkpoint", doing: "goes back to a checkpoint" },
    Held {
        code: "import ctypes, threading, time\nx = 7\ndef hold():\n    time.sleep(0.3); ctypes.PyDLL(None).usleep(4_000_000)\n\
               threading.Thread(target=hold, daemon=True).start()",
        tool: "list_variables",
        doing: "lists its variables",
    },
];

/// Waits until native code holds the interpreter.
fn until_held(forkpy: &mut Forkpy, session: &str) {
    wait_for("native code to hold the interpreter", || {
        let asked = json!({"session_id": session, "timeout": 0.2});
        forkpy.call("check_kernel_responsiveness", asked).data["responsive"] == false
    });
}

fn begin_held(forkpy: &mut Forkpy, session: &str, held: &Held) -> u64 {
    assert_eq!(in_session(forkpy, session, held.code)["status"], "ok");
    let mut arguments = json!({"session_id": session});
    let with = match held.tool {
        "save_session" | "load_session" => json!({"path": "state"}),
        "restart_kernel" => json!({"preserve_state": true}),
        "fork_session" => json!({"new_session_id": "copy"}),
        "run_branches" => json!({"codes": ["1"]}),
        "run_python_code" => json!({"code": "x = 8", "on_error": "rollback"}),
        "restore_checkpoint" => json!({"name": "a"}),
        _ => json!({}),
    };
    arguments.as_object_mut().expect("an object").extend(with.as_object().expect("an object").clone());
    match held.tool {
        "list_variables" => until_held(forkpy, session),
        "load_session" => {
            let saved = forkpy.call("save_session", arguments.clone());
            assert!(!saved.is_error, "{saved:?}");
        }
        "restore_checkpoint" => {
            let made = forkpy.call("checkpoint_session", json!({"session_id": session, "name": "a"}));
            assert!(!made.is_error, "{made:?}");
        }
        _ => {}
    }
    let call = forkpy.begin_call(held.tool, arguments);
    wait_for("the session to be at it", || {
        let seen = forkpy.call("get_kernel_health", json!({"session_id": session})).data;
        assert_ne!((&seen["status"], &seen["state"]), (&json!("dead"), &json!("dead")), "{seen}");
        seen["reason"].as_str().is_some_and(|words| words.contains(held.doing))
    });
    call
}

#[test]
fn whatever_a_session_is_asked_for_a_restart_and_a_deletion_end_it_at_once() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off", "--grace", "0.6", "--max-spares", "0"]).start();
    for held in HELD {
        let tool = held.tool;
        make(&mut forkpy, "a");
        let call = begin_held(&mut forkpy, "a", &held);
        let began = Instant::now();
        let restarted = forkpy.call("restart_kernel", json!({"session_id": "a"}));
        assert!(!restarted.is_error && began.elapsed() < AT_ONCE, "{tool}: {restarted:?}");
        forkpy.reply(call);
        assert_eq!(said(&in_session(&mut forkpy, "a", "1 + 1")).2, "2");
        forkpy.call("delete_checkpoint", json!({"session_id": "a", "name": "a"}));
        let call = begin_held(&mut forkpy, "a", &held);
        let began = Instant::now();
        delete(&mut forkpy, "a");
        assert!(began.elapsed() < AT_ONCE, "{tool}");
        assert!(forkpy.reply(call).is_error, "{tool}");
    }
    wait_for("nothing of it to be left", || forkpy.family().len() == 3);
}

#[test]
fn whatever_a_session_is_asked_for_ends_when_its_caller_takes_it_back() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off", "--grace", "0.6"]).start();
    for held in HELD {
        make(&mut forkpy, "a");
        let call = begin_held(&mut forkpy, "a", &held);
        let began = Instant::now();
        cancel(&mut forkpy, call);
        let reply = in_session(&mut forkpy, "a", "x");
        assert_eq!(said(&reply), ("ok", "kept", "7"), "{}: {reply}", held.tool);
        assert!(began.elapsed() < AT_ONCE, "{}", held.tool);
        delete(&mut forkpy, "a");
    }
}

#[test]
fn whatever_a_session_is_asked_for_has_a_limit_and_costs_no_variable() {
    let mut forkpy =
        Setup::new().args(&["--checkpoints", "off", "--grace", "0.6"]).env("FORKPY_ERRAND_LIMIT", "0.5").start();
    for held in HELD {
        let tool = held.tool;
        make(&mut forkpy, "a");
        let call = begin_held(&mut forkpy, "a", &held);
        let waiting = forkpy.begin_call("run_python_code", json!({"code": "x", "session_id": "a"}));
        let reply = forkpy.reply(call);
        // A fork hook that is interrupted lets the fork be made, and the cell be run.
        let expected = if tool == "run_python_code" { ("ok", "kept", "8") } else { ("ok", "kept", "7") };
        assert!(reply.is_error || held.code == SLEEPING_FORK, "{tool}: {reply:?}");
        let reply = forkpy.reply(waiting).data;
        assert_eq!(said(&reply), expected, "{tool}: {reply}");
        delete(&mut forkpy, "a");
    }
}

/// A copy that never stands still holds no session, is taken back with its call, and is not listed.
#[test]
fn a_checkpoint_whose_process_does_not_come_up_is_none() {
    let mut forkpy =
        Setup::new().args(&["--checkpoints", "off", "--max-spares", "0"]).env("FORKPY_ERRAND_LIMIT", "20").start();
    forkpy.run(SLEEPING_COPY);
    for (tool, arguments) in [
        ("checkpoint_session", json!({"name": "a"})),
        ("fork_session", json!({"new_session_id": "b"})),
        ("run_branches", json!({"codes": ["1"]})),
    ] {
        let call = forkpy.begin_call(tool, arguments);
        wait_for("the copy to be forked", || forkpy.family().len() == 4);
        let began = Instant::now();
        if tool != "run_branches" {
            assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "7"), "{tool}: the session is not held");
        }
        cancel(&mut forkpy, call);
        assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "7"), "{tool}");
        wait_for("the copy to be gone", || forkpy.family().len() == 3);
        assert!(began.elapsed() < AT_ONCE, "{tool}");
        assert_eq!(forkpy.call("list_checkpoints", json!({})).data["total"], 0);
        assert_eq!(forkpy.call("list_sessions", json!({})).data["total_sessions"], 1);
    }
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_not_listed() {
    let mut forkpy =
        Setup::new().args(&["--checkpoints", "off", "--max-spares", "0"]).env("FORKPY_ERRAND_LIMIT", "0.5").start();
    forkpy.run(SLEEPING_COPY);
    let refused = forkpy.refused("checkpoint_session", json!({"name": "a"}));
    assert!(refused.contains("cannot be used"), "{refused}");
    assert_eq!(forkpy.call("list_checkpoints", json!({})).data["total"], 0);
    wait_for("its process to be gone", || forkpy.family().len() == 3);
    assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "7"));
}

/// Policy `last` copies after each good cell, and a fork hook may sleep: the next cell is not held for that.
#[test]
fn an_automatic_checkpoint_does_not_hold_the_next_cell() {
    let mut forkpy = keeping_last().env("FORKPY_ERRAND_LIMIT", "0.5").start();
    forkpy.run(SLEEPING_FORK);
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(said(&forkpy.run("x")), ("ok", "kept", "7"));
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
}

#[test]
fn a_session_held_by_an_errand_that_no_interrupt_reaches_says_so_and_is_within_reach() {
    let mut forkpy =
        Setup::new().args(&["--checkpoints", "off", "--grace", "0.3"]).env("FORKPY_ERRAND_LIMIT", "0.3").start();
    forkpy.run(
        "import ctypes, threading, time\nx = 7\ndef hold():\n    time.sleep(0.3); ctypes.PyDLL(None).sleep(60)\n\
         threading.Thread(target=hold, daemon=True).start()",
    );
    until_held(&mut forkpy, "default");
    let refused = forkpy.refused("list_variables", json!({}));
    assert!(refused.contains("broken off") && refused.contains("as they were"), "{refused}");
    let seen = forkpy.health();
    assert!(
        seen["state"] != "idle" && seen["reason"].as_str().is_some_and(|words| words.contains("lists its")),
        "{seen}"
    );
    let waiting = forkpy.begin_run("x");
    // Its turn has come when this is answered: it waits for the worker, no more in the queue.
    forkpy.health();
    let began = Instant::now();
    assert!(!forkpy.call("restart_kernel", json!({})).is_error);
    assert!(began.elapsed() < AT_ONCE);
    let reply = forkpy.reply(waiting).data;
    assert_eq!((&reply["status"], &reply["state"]), (&json!("refused"), &json!("lost")), "{reply}");
    assert_eq!(forkpy.eval("1 + 1"), "2");
}

// -- interventions come in the order in which they came

#[test]
fn restarts_that_came_before_a_deletion_are_answered_before_it() {
    let mut forkpy = Forkpy::start();
    for _ in 0..10 {
        make(&mut forkpy, "a");
        let cell =
            forkpy.begin_call("run_python_code", json!({"code": "import time; time.sleep(60)", "session_id": "a"}));
        wait_for("the cell to run", || forkpy.call("get_kernel_health", json!({"session_id": "a"})).data["cell"] == 1);
        let first = forkpy.begin_call("restart_kernel", json!({"session_id": "a", "preserve_state": true}));
        let second = forkpy.begin_call("restart_kernel", json!({"session_id": "a"}));
        let third = forkpy.begin_call("delete_session", json!({"session_id": "a"}));
        assert!(!forkpy.reply(third).is_error);
        let (first, second) = (forkpy.reply(first), forkpy.reply(second));
        let _ = (first.is_error, second.is_error);
        assert_ne!(forkpy.reply(cell).data["status"], "ok");
        let gone = forkpy.refused("run_python_code", json!({"code": "1", "session_id": "a"}));
        assert!(gone.contains("was deleted by delete_session"), "{gone}");
    }
}

/// Three restarts come while one errand is ended: they are carried out as they came.
#[test]
fn interventions_that_had_to_wait_are_carried_out_in_the_order_in_which_they_came() {
    let mut forkpy = Setup::new().args(&["--grace", "3"]).start();
    for turn in 0..5 {
        make(&mut forkpy, "a");
        // It is interrupted for the first restart, takes its time, and the others come meanwhile.
        let code = "import time\nx = 7\ntry: time.sleep(60)\nexcept KeyboardInterrupt: time.sleep(0.7)";
        let cell = forkpy.begin_call("run_python_code", json!({"code": code, "session_id": "a"}));
        wait_for("the cell to run", || forkpy.call("get_kernel_health", json!({"session_id": "a"})).data["cell"] == 1);
        let save = || json!({"session_id": "a", "preserve_state": true});
        let restarts = [save(), save(), save()].map(|arguments| forkpy.begin_call("restart_kernel", arguments));
        let others =
            [json!({"session_id": "a"}), save()].map(|arguments| forkpy.begin_call("restart_kernel", arguments));
        let asked = [&restarts[..], &others[..]].concat();
        let came = forkpy.order_of_answers(&asked);
        assert_eq!(came, asked, "turn {turn}");
        let _ = forkpy.reply(cell);
        for call in asked {
            let _ = forkpy.reply(call);
        }
        delete(&mut forkpy, "a");
    }
}

// -- several clients

#[test]
fn each_client_learns_once_that_the_variables_are_lost() {
    let server = HttpForkpy::start(Setup::new().args(&["--share-sessions"]));
    let (one, two, three) = (Browser::new(&server), Browser::new(&server), Browser::new(&server));
    for browser in [&one, &two, &three] {
        assert_eq!(browser.run_in("default", "x = 1")["state"], "kept");
    }
    let reply = one.run_in("default", "import os; os._exit(1)");
    assert_eq!((&reply["status"], &reply["state"]), (&json!("died"), &json!("lost")));
    for browser in [&one, &two, &three] {
        let reply = browser.run_in("default", "'x' in globals()");
        assert_eq!(said(&reply), ("ok", "lost", "False"), "{reply}");
        assert!(notice(&reply).contains("exited with code 1"), "{reply}");
        let reply = browser.run_in("default", "1");
        assert_eq!((&reply["state"], &reply["notice"]), (&json!("kept"), &Value::Null), "{reply}");
    }
}

#[test]
fn each_client_learns_of_the_restart_the_restore_and_the_branch_that_another_ordered() {
    let server = HttpForkpy::start(Setup::new().args(&["--share-sessions"]));
    let (one, two) = (Browser::new(&server), Browser::new(&server));
    one.run_in("default", "x = 1");
    two.run_in("default", "x");
    let both = |changed: &dyn Fn(), state: &str, words: &str| {
        changed();
        let own = one.run_in("default", "1");
        assert_eq!((&own["state"], &own["notice"]), (&json!("kept"), &Value::Null), "{own}");
        let other = two.run_in("default", "1");
        assert_eq!(other["state"], state, "{other}");
        assert!(notice(&other).contains(words), "{other}");
        assert_eq!(two.run_in("default", "1")["state"], "kept");
    };
    both(&|| drop(one.call("restart_kernel", json!({}))), "lost", "restart_kernel was called");
    one.run_in("default", "x = 1");
    let carried = || drop(one.call("restart_kernel", json!({"preserve_state": true})));
    both(&carried, "restored", "all variables were carried over");
    one.call("checkpoint_session", json!({"name": "early"}));
    one.run_in("default", "x = 2");
    both(&|| drop(one.call("restore_checkpoint", json!({"name": "early"}))), "restored", "checkpoint \"early\"");
    let branches = || drop(one.call("run_branches", json!({"codes": ["x = 3"], "keep": 0})));
    both(&branches, "restored", "kept a branch");
    assert_eq!(two.run_in("default", "x")["results"], json!(["3"]));
}

#[test]
fn who_used_a_session_learns_that_its_name_was_given_to_another() {
    let server = HttpForkpy::start(Setup::new().args(&["--share-sessions"]));
    let (one, two) = (Browser::new(&server), Browser::new(&server));
    one.call("create_session", json!({"session_id": "a"}));
    one.run_in("a", "x = 1");
    two.run_in("a", "x");
    one.call("delete_session", json!({"session_id": "a"}));
    let gone = two.error("run_python_code", json!({"code": "x", "session_id": "a"}));
    assert!(gone.contains("\"a\" does not exist any more") && gone.contains("deleted by delete_session"), "{gone}");
    one.call("create_session", json!({"session_id": "a"}));
    assert_eq!(one.run_in("a", "1")["state"], "kept");
    let reply = two.run_in("a", "'x' in globals()");
    assert_eq!(said(&reply), ("ok", "lost", "False"), "{reply}");
    assert!(notice(&reply).contains("made anew"), "{reply}");
    assert_eq!(two.run_in("a", "1")["state"], "kept");
}

#[test]
fn a_client_whose_active_session_was_deleted_does_not_work_in_another_unasked() {
    let server = HttpForkpy::start(Setup::new().args(&["--share-sessions"]));
    let (one, two) = (Browser::new(&server), Browser::new(&server));
    one.call("create_session", json!({"session_id": "a"}));
    two.call("switch_session", json!({"session_id": "a"}));
    two.call("run_python_code", json!({"code": "x = 1"}));
    one.call("delete_session", json!({"session_id": "a"}));
    for _ in 0..2 {
        let words = two.error("run_python_code", json!({"code": "leak = 1"}));
        assert!(words.contains("your active session \"a\" was deleted") && words.contains("switch_session"), "{words}");
    }
    let listed = two.call("list_sessions", json!({}));
    assert!(listed["active_session"] == "a" && notice(&listed).contains("was deleted"), "{listed}");
    // Also when there is another of that name.
    one.call("create_session", json!({"session_id": "a"}));
    let words = two.error("list_variables", json!({}));
    assert!(words.contains("another session, which was made later"), "{words}");
    assert_eq!(one.run_in("default", "'leak' in globals()")["results"], json!(["False"]));
    assert_eq!(two.run_in("default", "'leak' in globals()")["results"], json!(["False"]), "session_id says which");
    assert_eq!(two.call("switch_session", json!({"session_id": "default"}))["previous_session"], "a");
    assert_eq!(two.call("run_python_code", json!({"code": "1 + 1"}))["session_id"], "default");
    // Who deletes its own active session has asked for it.
    two.call("switch_session", json!({"session_id": "a"}));
    let deleted = two.call("delete_session", json!({"session_id": "a"}));
    assert_eq!((&deleted["was_active"], &deleted["new_active_session"]), (&json!(true), &json!("default")));
    assert_eq!(two.call("run_python_code", json!({"code": "1"}))["session_id"], "default");
}

// -- a lost session says so, whatever it is asked

#[test]
fn a_session_that_has_lost_its_worker_says_so_until_a_cell_has() {
    let mut forkpy = Setup::new().args(&["--recovery", "on-demand"]).start();
    forkpy.run("x = 1");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    forkpy.until_state("dead");
    std::fs::write(forkpy.file("kept.state"), "an older file").expect("written");
    let refused = forkpy.refused("save_session", json!({"path": "kept.state"}));
    assert!(refused.contains("nothing was saved") && refused.contains("SIGKILL"), "{refused}");
    assert_eq!(std::fs::read_to_string(forkpy.file("kept.state")).expect("there"), "an older file");
    for _ in 0..2 {
        let listed = forkpy.call("list_variables", json!({}));
        assert!(listed.text.contains("SIGKILL") && listed.text.contains("variables were lost"), "{listed:?}");
        assert_eq!(listed.data["state"], "lost");
    }
    let completed = forkpy.call("code_completion", json!({"code": "x", "cursor_pos": 1}));
    assert!(completed.text.contains("variables were lost"), "{completed:?}");
    let made = forkpy.call("checkpoint_session", json!({})).data;
    assert!(made["warnings"].to_string().contains("variables were lost"), "{made}");
    assert_eq!(said(&forkpy.run("1")), ("ok", "lost", "1"));
    let listed = forkpy.call("list_variables", json!({})).data;
    assert_eq!((listed["state"].is_null(), listed["notice"].is_null()), (true, true), "{listed}");
}

#[test]
fn a_refused_cell_does_not_say_that_lost_variables_are_kept() {
    let mut forkpy = Setup::new().args(&["--recovery", "manual"]).start();
    forkpy.run("x = 1");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    forkpy.until_state("dead");
    let reply = forkpy.call("run_python_code", json!({"code": "x"})).data;
    assert_eq!((&reply["status"], &reply["state"]), (&json!("refused"), &json!("lost")), "{reply}");
    forkpy.call("restart_kernel", json!({}));
    assert_eq!(said(&forkpy.run("1")), ("ok", "kept", "1"), "who ordered it knows");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Sessions and checkpoints come and go, and the server has afterwards what it had before.
///
/// ```text
/// FORKPY_LEAK_SESSIONS=3000 cargo it truth::come_and_go -- --nocapture
/// ```
#[test]
fn come_and_go_leaves_nothing() {
    let sessions = setting("FORKPY_LEAK_SESSIONS").unwrap_or(120);
    let mut forkpy = Setup::new().args(&["--max-spares", "0"]).start();
    let round = |forkpy: &mut Forkpy, sessions: u64| {
        for turn in 0..sessions {
            make(forkpy, "a");
            assert_eq!(in_session(forkpy, "a", "x = 1")["status"], "ok");
            if turn % 10 == 0 {
                for name in ["one", "two"] {
                    let made = forkpy.call("checkpoint_session", json!({"session_id": "a", "name": name}));
                    assert!(!made.is_error, "{made:?}");
                }
                let restored = forkpy.call("restore_checkpoint", json!({"session_id": "a", "name": "one"}));
                assert!(!restored.is_error, "{restored:?}");
                forkpy.call("delete_checkpoint", json!({"session_id": "a", "name": "one"}));
            }
            delete(forkpy, "a");
        }
        wait_for("everything of it to be gone", || forkpy.family().len() == 3);
        let server = forkpy.server_pid();
        let least = (0..40).map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            processes::open_files(server)
        });
        (least.min().expect("some"), processes::memory(server))
    };
    // What the allocator stocks is stocked by the first rounds.
    let before = round(&mut forkpy, (sessions / 3).max(40));
    let after = round(&mut forkpy, sessions);
    let text = format!("{sessions} sessions: descriptors and memory before {before:?}, after {after:?}");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
    assert!(after.0 <= before.0 + 4, "{text}");
    assert!(after.1 <= before.1 + (4 << 20), "{text}");
    let zygote = forkpy.zygote_pid();
    wait_for("every worker to be reaped", || processes::children(zygote).len() <= 1);
}

#[cfg(debug_assertions)]
#[test]
fn a_worker_that_dies_while_variables_are_carried_into_it_has_lost_them_and_says_so() {
    let server = HttpForkpy::start(Setup::new().args(&["--max-spares", "0", "--share-sessions"]));
    let (one, two) = (Browser::new(&server), Browser::new(&server));
    // What is read back ends the process that reads it, and not the one that wrote it.
    let code =
        "import os\nclass Deadly:\n    def __reduce__(self):\n        return (os._exit, (3,))\nx, deadly = 1, Deadly()";
    one.run_in("default", code);
    two.run_in("default", "x");
    let restarted = one.call("restart_kernel", json!({"preserve_state": true}));
    assert!(notice(&restarted).contains("exited with code 3"), "{restarted}");
    for browser in [&one, &two] {
        let reply = browser.run_in("default", "'x' in globals()");
        assert_eq!(said(&reply), ("ok", "lost", "False"), "{reply}");
    }
}
