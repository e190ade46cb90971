//! Things that break: at named moments (`src/sys/fault.rs`), by signals, by user code that writes where it should not.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, as_user, processes, wait_for};

/// Some user that is not root and has no processes of its own.
const NOBODY: u32 = 62_137;

fn armed(fault: &str) -> Forkpy {
    // Forks are numbered, and those that nobody asked for would count.
    Setup::new().args(&["--max-spares", "0", "--checkpoints", "off"]).env("FORKPY_FAULT", fault).start()
}

/// Zygote stopped, worker killed: nobody can reap it, so it is a zombie until the zygote goes on.
#[test]
fn a_zombie_is_told_from_the_dead() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("x = 1");
    let (worker, zygote) = (forkpy.pid(), forkpy.zygote_pid());
    processes::signal(zygote, Signal::SIGSTOP);
    processes::signal(worker, Signal::SIGKILL);
    let seen = forkpy.until("zombie", |seen| seen["status"] == "zombie");
    assert_eq!(seen["pid"], worker);
    for metric in ["memory_usage", "cpu_percent", "num_threads", "uptime"] {
        assert_eq!(seen[metric], Value::Null, "{seen}");
    }
    let check = forkpy.call("check_kernel_responsiveness", json!({"timeout": 0.2}));
    assert!(!check.is_error && check.data["responsive"] == false && check.data["response_time"].is_number());
    processes::signal(zygote, Signal::SIGCONT);
    let seen = forkpy.until("dead", |seen| seen["status"] == "dead");
    assert_eq!((&seen["pid"], &seen["state"]), (&Value::Null, &json!("dead")));
    let next = forkpy.run("'x' in globals()");
    assert_eq!((&next["results"], &next["state"]), (&json!(["False"]), &json!("lost")));
}

#[test]
fn the_report_names_the_sick_among_the_healthy() {
    let mut forkpy = Forkpy::start();
    for session in ["a", "b"] {
        forkpy.call("create_session", json!({"session_id": session}));
    }
    let before = forkpy.call("get_health_report", json!({})).data;
    assert_eq!((&before["healthy"], &before["unhealthy"], &before["zygote"]), (&json!(3), &json!([]), &json!("warm")));
    assert!(before["total_memory"].as_u64().expect("a number") > 1 << 20);
    let pid = before["sessions"]["b"]["pid"].as_i64().expect("a pid");
    processes::signal(i32::try_from(pid).expect("small"), Signal::SIGKILL);
    wait_for("its end", || processes::state(i32::try_from(pid).expect("small")) == '-');
    let after = forkpy.call("get_health_report", json!({})).data;
    assert_eq!((&after["healthy"], &after["unhealthy"]), (&json!(2), &json!(["b"])));
    assert_eq!(after["sessions"]["b"]["last_exit"]["signal"], "SIGKILL");
    assert_eq!(after["sessions"]["a"]["pid"], before["sessions"]["a"]["pid"], "nobody else was touched");
}

#[test]
fn a_stopped_worker_is_stopped_and_goes_on() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1");
    let worker = forkpy.pid();
    processes::signal(worker, Signal::SIGSTOP);
    let seen = forkpy.until_state("stopped");
    assert_eq!(seen["status"], "healthy");
    processes::signal(worker, Signal::SIGCONT);
    forkpy.until_state("idle");
    assert_eq!(forkpy.eval("x"), "1");
}

#[cfg(debug_assertions)]
#[test]
fn a_worker_killed_at_the_moment_of_its_reply_has_ended_its_cell_once() {
    for (moment, status) in [("worker.reply", "died"), ("worker.half", "died"), ("worker.replied", "ok")] {
        let action = if moment == "worker.half" { "fail" } else { "kill" };
        let mut forkpy = armed(&format!("{moment}:2={action}"));
        forkpy.run("x = 1");
        let code = "with open('runs', 'a') as f: f.write('x')";
        assert_eq!(forkpy.run(code)["status"], status, "{moment}");
        forkpy.until("dead", |seen| seen["status"] == "dead");
        let next = forkpy.run("'x' in globals()");
        assert_eq!((&next["results"], &next["state"]), (&json!(["False"]), &json!("lost")), "{moment}");
        assert_eq!(std::fs::read_to_string(forkpy.file("runs")).expect("written"), "x", "{moment}: run once");
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_worker_stopped_at_the_moment_of_its_reply_is_waited_for() {
    let mut forkpy = armed("worker.reply:1=stop");
    let cell = forkpy.begin_run("6 * 7");
    let seen = forkpy.until_state("stopped");
    assert_eq!(seen["cell"], 1);
    processes::signal(i32::try_from(seen["pid"].as_i64().expect("a pid")).expect("small"), Signal::SIGCONT);
    assert_eq!(forkpy.reply(cell).data["results"], json!(["42"]));
}

#[cfg(debug_assertions)]
#[test]
fn a_worker_that_dies_before_it_is_ready_is_an_error_with_its_reason() {
    let mut forkpy = armed("worker.hello:0=kill");
    let reply = forkpy.call("run_python_code", json!({"code": "1"}));
    assert!(reply.is_error && reply.data["status"] == "refused", "{reply:?}");
    assert!(reply.text.contains("did not come up"), "{}", reply.text);
    let health = forkpy.health();
    assert_eq!(health["status"], "dead");
    assert!(health["trouble"].as_str().expect("said").contains("did not come up"), "{health}");
}

#[cfg(debug_assertions)]
#[test]
fn a_fork_that_fails_is_an_error_and_the_next_one_works() {
    let mut forkpy = armed("zygote.fork:2=fail");
    forkpy.run("1");
    forkpy.call("create_session", json!({"session_id": "a"}));
    let first = forkpy.call("get_kernel_health", json!({"session_id": "a"})).data;
    assert!(first["trouble"].as_str().expect("said").contains("failed to fork"), "{first}");
    let reply = forkpy.call("run_python_code", json!({"code": "1", "session_id": "a"})).data;
    assert_eq!(reply["status"], "ok");
    assert_eq!(forkpy.eval("1"), "1");
}

#[cfg(debug_assertions)]
#[test]
fn a_zygote_that_dies_over_a_fork_is_replaced_and_living_sessions_go_on() {
    let mut forkpy = armed("zygote.fork:2=kill");
    forkpy.run("x = 1");
    forkpy.call("create_session", json!({"session_id": "a"}));
    assert_eq!(forkpy.eval("x"), "1");
    let reply = forkpy.call("run_python_code", json!({"code": "2", "session_id": "a"})).data;
    assert_eq!(reply["status"], "ok", "{reply}");
}

#[test]
fn workers_survive_their_zygote_and_a_new_one_takes_over() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("x = 41");
    let (worker, zygote) = (forkpy.pid(), forkpy.zygote_pid());
    processes::signal(zygote, Signal::SIGKILL);
    assert_eq!(forkpy.eval("x + 1"), "42");
    assert_eq!(forkpy.pid(), worker);
    let made = forkpy.call("create_session", json!({"session_id": "new"})).data;
    assert_eq!(made["status"], "created");
    let reply = forkpy.call("run_python_code", json!({"code": "1", "session_id": "new"})).data;
    assert_eq!(reply["status"], "ok", "{reply}");
    // A spare worker may have served the new session: the new zygote is there a moment later.
    let others = || processes::children(forkpy.server_pid()).into_iter().filter(|pid| *pid != zygote);
    wait_for("a new zygote", || others().any(|pid| processes::name(pid) == "forkpy:zygote"));
    // The old worker is the server's own child now, and its end is heard all the same.
    processes::signal(worker, Signal::SIGKILL);
    forkpy.until("dead", |seen| seen["status"] == "dead");
    wait_for("the old worker to be reaped", || processes::state(worker) == '-');
    assert_eq!(forkpy.run("1")["state"], "lost");
}

#[test]
fn user_code_that_writes_to_every_descriptor_harms_its_own_session_at_most() {
    let mut forkpy = Forkpy::start();
    forkpy.call("create_session", json!({"session_id": "other"}));
    forkpy.call("run_python_code", json!({"code": "y = 5", "session_id": "other"}));
    let loops = [
        "for fd in range(3, 256):\n    try: os.write(fd, b'x')\n    except OSError: pass",
        "for fd in range(3, 70000):\n    try: os.write(fd, b'x')\n    except OSError: pass",
        "for fd in map(int, os.listdir('/proc/self/fd')):\n    if fd > 2:\n        try: os.write(fd, b'fpy1\\xff\\xff\\xff\\xff')\n        except OSError: pass",
        "for fd in range(3, 70000):\n    try: os.close(fd)\n    except OSError: pass",
    ];
    for (turn, code) in loops.iter().enumerate() {
        let reply =
            forkpy.call("run_python_code", json!({"code": format!("import os\n{code}\n'survived'"), "timeout": 20}));
        let status = reply.data["status"].as_str().expect("a status");
        assert!(["ok", "died"].contains(&status), "{reply:?}");
        if turn == 0 {
            assert_eq!(reply.data["results"], json!(["'survived'"]), "the usual loop does not reach our sockets");
        }
        assert_eq!(forkpy.eval("1 + 1"), "2");
        let other = forkpy.call("run_python_code", json!({"code": "y", "session_id": "other"})).data;
        assert_eq!((&other["results"], &other["state"]), (&json!(["5"]), &json!("kept")));
    }
}

/// `os.fork` in a cell makes a second process with the session's sockets; it must never answer in the session's name.
#[test]
fn a_fork_by_user_code_does_not_answer_twice() {
    let mut forkpy = Forkpy::start();
    let code =
        "import os, time\npid = os.fork()\nif pid == 0:\n    print('child')\nelse:\n    os.waitpid(pid, 0)\npid > 0";
    let reply = forkpy.run(code);
    assert_eq!((&reply["results"], &reply["stdout"]), (&json!(["True"]), &json!("child\n")));
    assert_eq!(forkpy.eval("2"), "2");
}

#[test]
fn a_worker_without_descriptors_left_says_so_and_recovers() {
    let mut forkpy = Forkpy::start();
    let code = "\
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
while True: files.append(open('/dev/null'))";
    let reply = forkpy.run(code);
    assert_eq!((&reply["status"], &reply["error"]["type"]), (&json!("error"), &json!("OSError")));
    assert_eq!(forkpy.eval("files.clear()\nopen('/dev/null').read()"), "''");
}

/// A stopped zygote harms nobody who has a worker; who needs one waits until it is replaced, and gets it.
#[test]
fn a_stopped_zygote_is_replaced_and_living_sessions_notice_nothing() {
    // A spare worker would serve the new session.
    let mut forkpy = Setup::new().args(&["--max-spares", "0"]).start();
    forkpy.run("x = 5");
    let (worker, zygote) = (forkpy.pid(), forkpy.zygote_pid());
    processes::signal(zygote, Signal::SIGSTOP);
    wait_for("the zygote to be stopped", || processes::state(zygote) == 'T');
    forkpy.call("create_session", json!({"session_id": "new"}));
    let waiting = forkpy.begin_call("run_python_code", json!({"code": "6 * 7", "session_id": "new"}));
    assert_eq!(forkpy.eval("x"), "5");
    let health = forkpy.health();
    assert_eq!(
        (&health["status"], &health["state"], &health["pid"]),
        (&json!("healthy"), &json!("idle"), &json!(worker))
    );
    assert!(!forkpy.has_answer(waiting), "nobody can make a worker now");
    let reply = forkpy.reply(waiting).data;
    assert_eq!((&reply["status"], &reply["results"], &reply["state"]), (&json!("ok"), &json!(["42"]), &json!("kept")));
    assert_ne!(forkpy.zygote_pid(), zygote);
    assert_eq!(processes::state(zygote), '-', "the old one is ended and reaped");
    assert_eq!((forkpy.eval("x"), forkpy.pid()), ("5".to_owned(), worker));
}

/// The system refuses the zygote another process: the call is told so, nobody else is touched, and later it works again.
#[test]
fn a_process_limit_makes_forks_fail_with_the_systems_reason() {
    // Root is exempt from this limit, so that the server must be somebody else.
    let is_root = nix::unistd::getuid().is_root();
    let setup = Setup::new().args(&["--max-spares", "0"]);
    let mut forkpy = if is_root { setup.run_as(NOBODY).start() } else { setup.start() };
    forkpy.run("x = 5");
    let (worker, zygote) = (forkpy.pid(), forkpy.zygote_pid());
    let limit = |most: &str| {
        let code = "import resource, sys\npid, most = int(sys.argv[1]), sys.argv[2]\n\
                    hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]\n\
                    resource.prlimit(pid, resource.RLIMIT_NPROC, (hard if most == 'all' else int(most), hard))";
        let python = env!("FORKPY_BUILD_PYTHON");
        let mut command = if is_root { as_user(NOBODY, python) } else { std::process::Command::new(python) };
        let done = command.args(["-c", code, &zygote.to_string(), most]).status();
        assert!(done.expect("Python runs").success());
    };
    limit("1");
    let made = forkpy.call("create_session", json!({"session_id": "a"}));
    assert!(!made.is_error, "{made:?}");
    let reply = forkpy.call("run_python_code", json!({"code": "1", "session_id": "a"}));
    assert!(reply.is_error && reply.data["status"] == "refused", "{reply:?}");
    assert!(
        reply.text.contains("failed to fork") && reply.text.contains("Resource temporarily unavailable"),
        "{reply:?}"
    );
    assert_eq!((forkpy.eval("x"), forkpy.pid()), ("5".to_owned(), worker));
    assert_eq!(forkpy.call("get_kernel_health", json!({"session_id": "a"})).data["status"], "dead");
    limit("all");
    let reply = forkpy.call("run_python_code", json!({"code": "2", "session_id": "a"})).data;
    assert_eq!((&reply["status"], &reply["results"]), (&json!("ok"), &json!(["2"])), "{reply}");
    assert_eq!(forkpy.zygote_pid(), zygote, "it was not its fault");
}
