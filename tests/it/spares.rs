//! Workers forked ahead: taken by sessions that begin, replaced, and nobody's burden when they die.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_for};

fn spares(forkpy: &Forkpy) -> Vec<i32> {
    forkpy.family().into_iter().filter(|pid| processes::name(*pid) == "fp-spare").collect()
}

/// One that waits for its session, and whose hello the server has read: it was sent long before.
fn until_spare(forkpy: &mut Forkpy) -> i32 {
    let waiting = |forkpy: &Forkpy| spares(forkpy).into_iter().find(|pid| processes::state(*pid) == 'S');
    wait_for("a spare worker", || waiting(forkpy).is_some());
    let found = waiting(forkpy);
    for _ in 0..2 {
        forkpy.call("ping", json!({}));
    }
    found.unwrap_or_else(|| spares(forkpy)[0])
}

fn in_session(forkpy: &mut Forkpy, session: &str, code: &str) -> Value {
    forkpy.call("run_python_code", json!({"code": code, "session_id": session})).data
}

#[test]
fn a_session_that_begins_takes_one_and_another_is_made() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    assert!(spares(&forkpy).is_empty(), "none before the first reply");
    forkpy.run("x = 1");
    let spare = until_spare(&mut forkpy);
    forkpy.call("create_session", json!({"session_id": "a"}));
    let reply = in_session(&mut forkpy, "a", "import os; os.getpid(), 'x' in globals(), os.getcwd()");
    let workspace = forkpy.workspace.canonicalize().expect("there");
    assert_eq!(reply["results"], json!([format!("({spare}, False, '{}')", workspace.display())]));
    assert_eq!(processes::name(spare), "fp:a");
    assert_ne!(until_spare(&mut forkpy), spare);
    let sessions = forkpy.call("list_sessions", json!({})).data;
    assert_eq!(sessions["total_sessions"], 2);
    // It has the name in all it does, and ends as any other.
    let shown = in_session(&mut forkpy, "a", "from IPython.display import HTML; HTML('<b>x</b>')");
    assert!(shown["outputs"][0].as_str().is_some_and(|file| file.contains('a')), "{shown}");
    forkpy.call("delete_session", json!({"session_id": "a"}));
    wait_for("it to be gone", || processes::state(spare) == '-');
}

#[test]
fn a_restart_takes_one_too() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("x = 1");
    let spare = until_spare(&mut forkpy);
    assert_eq!(forkpy.call("restart_kernel", json!({})).data["pid"], spare);
    assert_eq!(forkpy.eval("'x' in globals()"), "False");
    let other = until_spare(&mut forkpy);
    assert_eq!(forkpy.run("import os; os._exit(1)")["status"], "died");
    let reply = forkpy.run("os.getpid() if 'os' in globals() else __import__('os').getpid()");
    assert_eq!((&reply["results"], &reply["state"]), (&json!([other.to_string()]), &json!("lost")));
}

#[test]
fn each_draws_its_own_random_numbers() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("1");
    let mut drawn = std::collections::BTreeSet::new();
    for name in ["a", "b", "c"] {
        until_spare(&mut forkpy);
        forkpy.call("create_session", json!({"session_id": name}));
        let reply = in_session(&mut forkpy, name, "import random; random.random()");
        drawn.insert(reply["results"][0].to_string());
    }
    assert_eq!(drawn.len(), 3, "{drawn:?}");
}

#[test]
fn one_that_dies_is_replaced_and_nobody_gets_it() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("1");
    for round in 0..3 {
        let spare = until_spare(&mut forkpy);
        processes::signal(spare, Signal::SIGKILL);
        // A signal takes a moment; the server need not have heard of the end.
        wait_for("it to be dead", || processes::state(spare) == '-' || processes::all_threads_are(spare, 'Z'));
        let name = format!("s{round}");
        forkpy.call("create_session", json!({"session_id": name}));
        let reply = in_session(&mut forkpy, &name, "1 + 1");
        assert_eq!(reply["results"], json!(["2"]), "{reply}");
        wait_for("the dead one to be reaped", || processes::state(spare) == '-');
    }
}

#[test]
fn they_outlive_the_zygote_and_serve() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("1");
    let spare = until_spare(&mut forkpy);
    let zygote = forkpy.zygote_pid();
    processes::signal(zygote, Signal::SIGKILL);
    wait_for("another zygote", || {
        processes::children(forkpy.server_pid())
            .into_iter()
            .any(|pid| pid != zygote && processes::name(pid) == "forkpy:zygote")
    });
    forkpy.call("create_session", json!({"session_id": "a"}));
    let reply = in_session(&mut forkpy, "a", "import os; os.getpid()");
    assert_eq!(reply["status"], "ok", "{reply}");
    let worker: i32 = reply["results"][0].as_str().and_then(|text| text.parse().ok()).expect("a number");
    assert_eq!(worker, spare);
    processes::signal(worker, Signal::SIGKILL);
    wait_for("it to be reaped", || processes::state(worker) == '-');
    assert_eq!(in_session(&mut forkpy, "a", "1")["state"], "lost");
}

#[test]
fn limits_of_its_own_and_no_spares_mean_a_fork_of_its_own() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("1");
    let spare = until_spare(&mut forkpy);
    forkpy.call("create_session", json!({"session_id": "small", "limits": {"memory_mb": 256}}));
    let reply = in_session(&mut forkpy, "small", "import os; os.getpid()");
    assert_ne!(reply["results"], json!([spare.to_string()]));
    drop(forkpy);
    let mut forkpy = Setup::new().args(&["--max-spares", "0"]).start();
    forkpy.run("1");
    for name in ["a", "b"] {
        forkpy.call("create_session", json!({"session_id": name}));
        assert_eq!(in_session(&mut forkpy, name, "1")["status"], "ok");
    }
    assert!(spares(&forkpy).is_empty());
}
