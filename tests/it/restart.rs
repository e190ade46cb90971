//! The server becomes another program (`forkpy restart`): sessions go on, clients notice nothing, and what cannot be taken along is
//! refused before anything is touched.

use std::{io::Write, process::Output};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{
    Forkpy, Setup,
    attach::Attached,
    http::HttpForkpy,
    legacy::Legacy,
    processes::{self, signal},
    wait_for,
};

fn said(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn restart(attached: &Attached) {
    let done = attached.run(&["restart"]);
    assert!(done.status.success(), "{}", said(&done));
    assert!(said(&done).contains("go on") || said(&done).contains("goes on"), "{}", said(&done));
}

fn restarts(attached: &Attached) -> u64 {
    attached.status()["status"]["restarts"].as_u64().expect("a number")
}

fn call(forkpy: &mut Forkpy, tool: &str, arguments: Value) -> Value {
    let reply = forkpy.call(tool, arguments);
    assert!(!reply.is_error, "{tool}: {reply:?}");
    reply.data
}

#[test]
fn sessions_go_on_in_another_program_and_clients_notice_nothing() {
    let attached = Attached::new();
    let (mut one, mut two) = (attached.client(), attached.client());
    one.run("x = 41\nimport os; pid = os.getpid()");
    call(&mut one, "checkpoint_session", json!({"name": "early"}));
    let kept = one.run("x += 1\nprint('kept')\nx");
    call(&mut two, "create_session", json!({"session_id": "b", "description": "two's"}));
    call(&mut two, "switch_session", json!({"session_id": "b"}));
    two.run("y = 'b'");
    one.request("resources/subscribe", json!({"uri": "health://report"}));
    let (server, worker) = (attached.server_pid(), one.eval("pid"));
    for round in 1..=3 {
        restart(&attached);
        assert_eq!((attached.server_pid(), restarts(&attached)), (server, round));
        assert_eq!((one.eval("x"), one.eval("os.getpid()")), ("42".to_owned(), worker.clone()));
        assert_eq!(two.eval("y"), "'b'", "its active session");
    }
    // What came of cells before, by their numbers; and what has run since goes on counting.
    let again = call(&mut one, "wait_for_cell", json!({"cell": kept["cell"]}));
    assert_eq!((&again["stdout"], &again["results"]), (&json!("kept\n"), &json!(["42"])), "{again}");
    let next = one.run("1");
    assert_eq!(next["cell"].as_u64(), Some(3 + 6 + 1), "{next}");
    assert_eq!(next["notice"], Value::Null, "nothing has happened to the session");
    let listed = call(&mut two, "list_sessions", json!({"detail": true}));
    assert_eq!(listed["sessions"]["b"]["description"], "two's", "{listed}");
    let exported = call(&mut one, "export_notebook", json!({}));
    assert_eq!(exported["cells"], 10, "{exported}");
    // Checkpoints are there, and wake.
    call(&mut one, "restore_checkpoint", json!({"name": "early"}));
    assert_eq!(one.eval("x"), "41");
    // Workers are watched, and new ones are made.
    one.call("run_python_code", json!({"code": "import os; os._exit(3)"}));
    assert_eq!(one.run("2 + 2")["results"][0], "4");
    call(&mut two, "create_session", json!({"session_id": "c"}));
    assert_eq!(two.eval("y"), "'b'");
    call(&mut two, "delete_session", json!({"session_id": "b"}));
    wait_for("the end of what the earlier programs had started", || {
        let zygotes = processes::children(server).into_iter().filter(|pid| processes::name(*pid) == "forkpy:zygote");
        zygotes.count() == 1 && processes::children(server).into_iter().all(|pid| processes::state(pid) != 'Z')
    });
    // A client that comes new is greeted by the same sessions.
    assert_eq!(attached.client().run("x = 1")["status"], "ok");
}

/// A checkpoint that is just asked something is waited for: 10 ms after a session has gone back to one, it wakes a second worker.
#[test]
fn a_checkpoint_that_wakes_a_worker_meanwhile_is_taken_along() {
    let attached = Attached::new().args(&["--checkpoints", "off"]).env("FORKPY_FAULT", "checkpoint.wake:1=stop");
    let mut one = attached.client();
    one.run("x = 1");
    call(&mut one, "checkpoint_session", json!({"name": "a"}));
    let made = call(&mut one, "list_checkpoints", json!({}))["checkpoints"][0].clone();
    let pid = i32::try_from(made["pid"].as_i64().expect("a pid")).expect("a pid");
    // It stands still before each fork.
    let go_on = || {
        wait_for("the checkpoint to be asked", || processes::state(pid) == 'T');
        signal(pid, Signal::SIGCONT);
    };
    for round in 0..2 {
        one.run("x = 2");
        let back = one.begin_call("restore_checkpoint", json!({"name": "a"}));
        go_on();
        assert!(!one.reply(back).is_error, "round {round}");
        assert_eq!(one.eval("x"), "1");
        wait_for("its second fork", || processes::state(pid) == 'T');
        let mut restarting = attached.command(&["restart"]).spawn().expect("it runs");
        std::thread::sleep(std::time::Duration::from_millis(300));
        go_on();
        assert!(restarting.wait().expect("it ends").success());
        assert_eq!(one.run("x")["notice"], Value::Null, "no checkpoint is lost");
    }
}

#[test]
fn a_hangup_restarts_too_and_what_happened_before_is_told_after() {
    let attached = Attached::new().args(&["--checkpoints", "off"]);
    let mut one = attached.client();
    one.run("x = 1");
    let pid = one.pid();
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("ours");
    one.until("the worker to be gone", |seen| seen["pid"] != pid);
    kill(Pid::from_raw(attached.server_pid()), Signal::SIGHUP).expect("ours");
    wait_for("the restart", || restarts(&attached) == 1);
    let reply = one.call("run_python_code", json!({"code": "x"}));
    assert_eq!(reply.data["error"]["type"], "NameError", "{reply:?}");
    assert!(reply.data["notice"].as_str().is_some_and(|words| words.contains("lost")), "{reply:?}");
}

#[test]
fn what_cannot_be_taken_along_is_refused_and_nothing_is_touched() {
    let attached = Attached::new();
    let mut one = attached.client();
    one.run("x = 1");
    let worker = one.pid();
    assert!(attached.ask_to_restart("/bin/echo").contains("does not understand this server's state"));
    assert!(attached.ask_to_restart("/nowhere/forkpy").contains("cannot be run"));
    // A script is a process that this server holds by more than a socket.
    let waits = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('done')";
    call(&mut one, "write_file", json!({"path": "scripts/wait.py", "content": waits}));
    let begun = call(&mut one, "run_script", json!({"path": "wait.py", "background": true}));
    let done = attached.run(&["restart"]);
    assert!(!done.status.success());
    for words in ["was not restarted", "a script runs", "Nothing was touched"] {
        assert!(said(&done).contains(words), "{words:?} is not in {}", said(&done));
    }
    std::fs::write(one.file("go"), "").expect("written");
    let ended = call(&mut one, "wait_for_cell", json!({"cell": begun["cell"]}));
    assert_eq!((&ended["stdout"], one.eval("x"), one.pid()), (&json!("done\n"), "1".to_owned(), worker), "{ended}");
    assert_eq!(restarts(&attached), 0);
    restart(&attached);
    assert_eq!((one.eval("x"), one.pid()), ("1".to_owned(), worker));
    // Its reply is kept on the other side too.
    let kept = call(&mut one, "wait_for_cell", json!({"cell": begun["cell"]}));
    assert_eq!(kept["stdout"], "done\n", "{kept}");
    assert!(said(&attached.run(&["restart", "none"])).contains("no server of the name \"none\" runs"));
}

/// Code that writes, and waits for a file in between; what it writes is told by its length and its digest.
const MUCH: &str = "import os, sys, time\nfor i in range(4000): print('a%06d' % i, '-' * 2000)\nx += 1\n\
                    while not os.path.exists('go'): time.sleep(0.01)\n\
                    for i in range(4000): print('b%06d' % i, '-' * 2000)\nx += 1\nx";

#[test]
fn cells_that_run_and_wait_go_on_and_their_whole_output_is_there() {
    let attached = Attached::new().args(&["--checkpoints", "off"]);
    let mut one = attached.client();
    one.run("x = 0");
    let worker = one.pid();
    let begun = call(&mut one, "run_python_code", json!({"code": MUCH, "background": true}));
    let next = call(&mut one, "run_python_code", json!({"code": "x += 10; x", "background": true}));
    assert_eq!((&begun["cell"], &next["cell"], &next["status"]), (&json!(2), &json!(3), &json!("queued")));
    for round in 1..=2 {
        restart(&attached);
        let seen = call(&mut one, "wait_for_cell", json!({"cell": 2, "timeout": 0}));
        assert_eq!((&seen["status"], restarts(&attached)), (&json!("running"), round), "{seen}");
    }
    std::fs::write(one.file("go"), "").expect("written");
    let ended = call(&mut one, "wait_for_cell", json!({"cell": 2}));
    assert_eq!((&ended["status"], &ended["results"]), (&json!("ok"), &json!(["2"])), "{ended}");
    let whole = std::fs::read_to_string(one.file("outputs/default-cell-2-stdout.txt")).expect("the whole");
    let lines =
        ["a", "b"].into_iter().flat_map(|part| (0..4000).map(move |i| format!("{part}{i:06} {}\n", "-".repeat(2000))));
    assert!(whole == lines.collect::<String>(), "{} bytes", whole.len());
    let waited = call(&mut one, "wait_for_cell", json!({"cell": 3}));
    assert_eq!((&waited["results"], one.eval("x"), one.pid()), (&json!(["12"]), "12".to_owned(), worker), "{waited}");
}

/// A call that waits for what takes longer is told that it runs on; nothing is lost, and it is not run again.
#[test]
fn a_call_that_waits_is_answered_and_the_cell_is_interrupted_in_the_other_program() {
    let attached = Attached::new();
    let mut one = attached.client();
    one.run("x = 0");
    let code = "import time\nx += 1\nprint('begun', flush=True)\ntime.sleep(600)";
    let open = one.begin_run(code);
    let mut two = attached.client();
    two.until("it to run", |seen| seen["cell_running_for"].is_number());
    restart(&attached);
    let reply = one.reply(open);
    assert!(reply.data["status"] == "running" && reply.data["stdout"] == "begun\n", "{reply:?}");
    let ended = call(&mut one, "interrupt_cell", json!({"cell": 2}));
    assert_eq!((&ended["status"], one.eval("x")), (&json!("cancelled"), "1".to_owned()), "{ended}");
}

#[test]
fn sessions_that_sleep_are_there_afterwards() {
    let attached = Attached::new();
    let mut one = attached.client();
    one.run("x = 'kept'");
    let asleep = one.call("sleep_session", json!({}));
    if asleep.is_error {
        // A machine whose kernel does not allow it says why.
        return;
    }
    restart(&attached);
    assert_eq!(one.health()["state"], "asleep");
    restart(&attached);
    assert_eq!(one.eval("x"), "'kept'");
}

/// With `--state-dir` the folder of images is this server's before and after, and another server has them when it is killed.
#[test]
fn images_stay_where_they_are_and_the_next_server_has_them_as_ever() {
    let state = tempfile::tempdir().expect("a folder");
    let folder = state.path().to_str().expect("UTF-8");
    let attached = Attached::new()
        .args(&["--state-dir", folder, "--image-after", "1", "--checkpoints", "off"])
        .env("FORKPY_ERRAND_LIMIT", "40");
    let folders = || {
        let entries = std::fs::read_dir(state.path()).expect("there").map(|entry| entry.expect("readable").file_name());
        let mut own: Vec<_> = entries.filter(|name| name.to_string_lossy().starts_with("server-")).collect();
        own.sort();
        own
    };
    let run = |forkpy: &mut Forkpy, session: &str, code: &str| {
        call(forkpy, "run_python_code", json!({"code": code, "session_id": session}))
    };
    let mut one = attached.client();
    for name in ["one", "two", "resting"] {
        call(&mut one, "create_session", json!({"session_id": name}));
        run(&mut one, name, "rows = (n * n for n in range(9)); next(rows), next(rows)");
    }
    for name in ["one", "two"] {
        call(&mut one, "sleep_session", json!({"session_id": name}));
    }
    let at_rest =
        |forkpy: &mut Forkpy| call(forkpy, "list_checkpoints", json!({"session_id": "resting"}))["at_rest"].clone();
    wait_for("an image of the one that rests", || at_rest(&mut one)[0]["after_cell"] == 1);
    let (server, before, shown) = (attached.server_pid(), folders(), at_rest(&mut one));
    for _ in 0..2 {
        restart(&attached);
        assert_eq!((attached.server_pid(), folders(), at_rest(&mut one)), (server, before.clone(), shown.clone()));
    }
    // It wakes with what its image has in common with others, and sleeps again.
    assert_eq!(run(&mut one, "one", "next(rows)")["results"], json!(["4"]));
    call(&mut one, "sleep_session", json!({"session_id": "one"}));
    restart(&attached);
    // The lock has come along.
    let mut other = attached.front().args(&["--name", "other"]).start();
    let words = other.refused("run_python_code", json!({"code": "1", "session_id": "one"}));
    assert!(words.contains(&format!("process {server}")), "{words}");
    // What runs is in no image.
    let code = "import time; next(rows); time.sleep(600)";
    call(&mut one, "run_python_code", json!({"code": code, "session_id": "resting", "background": true}));
    wait_for("it to run", || {
        let health = call(&mut one, "get_kernel_health", json!({"session_id": "resting"}));
        health["cell_running_for"].is_number()
    });
    kill(Pid::from_raw(server), Signal::SIGKILL).expect("ours");
    // Its lock goes with the last of its threads; a look wakes no session.
    wait_for("the server's end", || !other.call("get_kernel_health", json!({"session_id": "two"})).is_error);
    assert_eq!(run(&mut other, "one", "next(rows)")["results"], json!(["9"]));
    assert_eq!(run(&mut other, "two", "next(rows)")["results"], json!(["4"]));
    let resting = run(&mut other, "resting", "next(rows)");
    let wanted = (&json!(["4"]), &json!("restored"));
    assert_eq!((&resting["results"], &resting["state"]), wanted, "as it was when it rested: {resting}");
}

/// The end comes before the other program has a zygote.
#[test]
fn a_server_that_is_stopped_right_after_a_restart_leaves_its_sessions_to_the_next() {
    let state = tempfile::tempdir().expect("a folder");
    let folder = state.path().to_str().expect("UTF-8");
    let attached = Attached::new().args(&["--state-dir", folder]).env("FORKPY_ERRAND_LIMIT", "40");
    let mut one = attached.client();
    call(&mut one, "create_session", json!({"session_id": "work"}));
    let code = "rows = (n * n for n in range(9)); next(rows), next(rows)";
    call(&mut one, "run_python_code", json!({"code": code, "session_id": "work"}));
    restart(&attached);
    assert!(attached.run(&["stop"]).status.success());
    let reply = call(&mut attached.client(), "run_python_code", json!({"code": "next(rows)", "session_id": "work"}));
    assert_eq!(reply["results"], json!(["4"]), "{reply}");
}

/// Two restarts at the same moment, while sessions are copied: each of the two is carried out or refused in words.
#[test]
fn restarts_at_once_and_while_sessions_fork_lose_nothing() {
    let attached = Attached::new();
    let mut one = attached.client();
    one.run("x = 5");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let forks = scope.spawn(|| {
            let mut client = attached.client();
            let mut made = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let name = format!("f{made}");
                let forked = call(&mut client, "fork_session", json!({"new_session_id": name}));
                assert_eq!(forked["session_id"], name.as_str(), "{forked}");
                let code = json!({"code": "x += 1; x", "session_id": name});
                assert_eq!(call(&mut client, "run_python_code", code)["results"][0], "6");
                if made > 3 {
                    call(&mut client, "delete_session", json!({"session_id": format!("f{}", made - 3)}));
                }
                made += 1;
            }
            made
        });
        for _ in 0..3 {
            let both: Vec<_> = (0..2).map(|_| scope.spawn(|| attached.run(&["restart"]))).collect();
            for done in both {
                let done = done.join().expect("no panic");
                let words = said(&done);
                assert!(done.status.success() || words.contains("was not restarted"), "{words}");
            }
        }
        wait_for("a restart", || restarts(&attached) > 0 || attached.run(&["restart"]).status.success());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(forks.join().expect("all copies are right") > 0);
    });
    assert_eq!(one.eval("x"), "5");
}

/// Over HTTP a hangup does it: both kinds of clients find their sessions, and what runs runs on.
#[test]
fn clients_over_http_find_their_sessions_after_a_hangup() {
    let server = HttpForkpy::start(Setup::new());
    let (one, two) = (Legacy::new(&server, &[]), Legacy::new(&server, &[]));
    one.run("x = 1");
    two.run("x = 'two'");
    server.run("x = 'unnamed'");
    let begun =
        one.call("run_python_code", json!({"code": "import time; time.sleep(2); x += 1; x", "background": true}));
    signal(server.server_pid(), Signal::SIGHUP);
    let words = || std::fs::read(format!("/proc/{}/cmdline", server.server_pid())).expect("it lives");
    wait_for("another program", || String::from_utf8_lossy(&words()).contains("--adopt"));
    let ended = one.call("wait_for_cell", json!({"cell": begun["cell"]}));
    assert_eq!(ended["results"][0], "2", "{ended}");
    assert_eq!((&two.run("x")["results"][0], &server.run("x")["results"][0]), (&json!("'two'"), &json!("'unnamed'")));
    assert_eq!(one.leave(), 204);
}

/// Four clients that never rest, a counter in each session, restarts in between: no call is lost, none runs twice.
fn counters_are_right(sessions: usize, wanted: u64) {
    let attached = Attached::new().args(&["--max-sessions", "200"]);
    let mut first = attached.client();
    for number in 0..sessions {
        call(&mut first, "create_session", json!({"session_id": format!("s{number}")}));
        let code = json!({"code": "n = 0", "session_id": format!("s{number}")});
        assert_eq!(call(&mut first, "run_python_code", code)["status"], "ok");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let counted = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (attached, stop) = (&attached, &stop);
                scope.spawn(move || {
                    let mut client = attached.client();
                    let mut counts = vec![0_u64; sessions];
                    for turn in 0.. {
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                        // Each session has one client: it knows what its counter must be.
                        let number = worker + 4 * (turn % (sessions / 4));
                        counts[number] += 1;
                        let code = json!({"code": "n += 1; n", "session_id": format!("s{number}"), "wait": 600});
                        let mut reply = call(&mut client, "run_python_code", code);
                        // A call that was answered early is followed to its end.
                        while reply["status"] == "running" || reply["status"] == "queued" {
                            let cell = json!({"cell": reply["cell"], "session_id": format!("s{number}")});
                            reply = call(&mut client, "wait_for_cell", cell);
                        }
                        assert_eq!(reply["results"][0], counts[number].to_string(), "{reply}");
                    }
                    counts
                })
            })
            .collect();
        let (mut refused, began) = (0, std::time::Instant::now());
        while restarts(&attached) < wanted {
            let done = attached.run(&["restart"]);
            refused += u64::from(!done.status.success());
            assert!(done.status.success() || said(&done).contains("was not restarted"), "{}", said(&done));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let took = began.elapsed();
        let counts = workers.into_iter().map(|worker| worker.join().expect("all counters are right"));
        let counts = counts.fold(vec![0; sessions], |sum, counts| sum.iter().zip(counts).map(|(a, b)| a + b).collect());
        let _ = writeln!(
            std::io::stderr(),
            "{sessions} sessions, 4 clients, {wanted} restarts in {took:.1?} ({refused} refused), {} calls",
            counts.iter().sum::<u64>()
        );
        counts
    });
    for (number, counted) in counted.iter().enumerate() {
        let code = json!({"code": "n", "session_id": format!("s{number}")});
        let reply = call(&mut first, "run_python_code", code);
        assert_eq!(reply["results"][0], counted.to_string(), "session {number}: {reply}");
    }
}

#[test]
fn no_call_is_lost_and_none_runs_twice_however_often_the_server_is_restarted() {
    counters_are_right(12, 4);
}

/// The whole: `cargo it restart::whole -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn whole() {
    counters_are_right(100, 10);
}
