//! Frozen copies of sessions: rollback, forks, branches, recovery with state; and what they say of what they cannot hold.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_for};

fn checkpoint(forkpy: &mut Forkpy, name: &str) -> Value {
    let reply = forkpy.call("checkpoint_session", json!({"name": name}));
    assert!(!reply.is_error, "{reply:?}");
    reply.data
}

fn restore(forkpy: &mut Forkpy, name: &str) {
    let reply = forkpy.call("restore_checkpoint", json!({"name": name}));
    assert!(!reply.is_error && reply.data["status"] == "restored", "{reply:?}");
}

fn in_session(forkpy: &mut Forkpy, session: &str, code: &str) -> Value {
    forkpy.call("run_python_code", json!({"code": code, "session_id": session})).data
}

fn warnings(data: &Value) -> String {
    data["warnings"].as_array().into_iter().flatten().map(|words| words.as_str().expect("words")).collect()
}

/// Policy `last`, and one cell whose effects must survive.
fn keeping_last(fault: Option<&str>) -> Forkpy {
    let mut setup = Setup::new().args(&["--checkpoints", "last", "--grace", "0.3"]);
    if let Some(fault) = fault {
        setup = setup.env("FORKPY_FAULT", fault);
    }
    let mut forkpy = setup.start();
    let reply = forkpy.run("import os, signal, time\nkept = [1, 2]");
    assert_eq!((&reply["status"], &reply["recovered_from"]), (&json!("ok"), &Value::Null));
    forkpy
}

/// The automatic one is made behind the reply.
fn until_kept(forkpy: &mut Forkpy, after: u64) {
    wait_for("the automatic checkpoint", || {
        let listed = forkpy.call("list_checkpoints", json!({})).data;
        listed["checkpoints"].as_array().is_some_and(|all| all.iter().any(|one| one["after_cell"] == after))
    });
}

#[test]
fn many_copies_are_made_of_one_moment_or_none() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off", "--max-sessions", "14"]).start();
    forkpy.run("import itertools\nnumbers = itertools.count(); next(numbers)");
    let reply = forkpy.call("fork_session", json!({"new_session_id": "copy", "count": 12}));
    assert!(!reply.is_error, "{reply:?}");
    let names: Vec<String> = (1..=12).map(|number| format!("copy-{number}")).collect();
    assert_eq!((&reply.data["sessions"], &reply.data["session_id"]), (&json!(names), &json!("copy-1")));
    for name in &names {
        assert_eq!(in_session(&mut forkpy, name, "next(numbers)")["results"], json!(["1"]), "{name}");
    }
    assert_eq!(forkpy.eval("next(numbers)"), "1", "the original has not moved");
    // One is too many: there is room for one more session.
    let words = forkpy.refused("fork_session", json!({"new_session_id": "more", "count": 2}));
    assert!(words.contains("14"), "{words}");
    forkpy.call("delete_session", json!({"session_id": "copy-1"}));
    for name in ["copy", "more"] {
        forkpy.refused("fork_session", json!({"new_session_id": name, "count": 3}));
    }
    let listed = forkpy.call("list_sessions", json!({})).data.to_string();
    assert!(!listed.contains("more-") && !listed.contains("copy-1\""), "{listed}");
    assert!(forkpy.refused("fork_session", json!({"new_session_id": "x", "count": 0})).contains("`count`"));
}

#[test]
fn a_session_goes_back_to_the_same_point_ten_times() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run(
        "class Point:\n    def __init__(self, x): self.x = x\ndef counter():\n    n = 0\n    def up():\n        nonlocal n\n\
         \x20       n += 1\n        return n\n    return up\nup, squares, p = counter(), (n * n for n in range(9)), Point(5)\n\
         up(); next(squares); next(squares)",
    );
    let made = checkpoint(&mut forkpy, "start");
    assert_eq!((&made["checkpoint"]["after_cell"], &made["warnings"]), (&json!(1), &Value::Null));
    let first = forkpy.pid();
    for turn in 0..10 {
        assert_eq!(forkpy.eval("up(), next(squares), p.x"), "(2, 4, 5)", "turn {turn}");
        forkpy.run("p.x = 99; del Point; junk = [0] * 1000");
        restore(&mut forkpy, "start");
    }
    assert_ne!(forkpy.pid(), first);
    assert_eq!(forkpy.eval("up(), next(squares), Point(p.x).x, 'junk' in globals()"), "(2, 4, 5, False)");
    let listed = forkpy.call("list_checkpoints", json!({"session_id": "default"})).data;
    assert_eq!((&listed["total"], &listed["checkpoints"][0]["name"]), (&json!(1), &json!("start")));
    assert!(listed["memory"].as_u64().is_some_and(|bytes| bytes > 0), "{listed}");
    let process = i32::try_from(listed["checkpoints"][0]["pid"].as_i64().expect("a pid")).expect("small");
    assert_eq!(forkpy.call("delete_checkpoint", json!({"name": "start"})).data["status"], "deleted");
    wait_for("its process to be gone", || processes::state(process) == '-');
    let refused = forkpy.refused("restore_checkpoint", json!({"name": "start"}));
    assert!(refused.contains("no checkpoint \"start\"; it has: none"), "{refused}");
}

#[test]
fn names_are_checked_and_nothing_is_overwritten() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off", "--max-checkpoints", "2"]).start();
    forkpy.run("x = 1");
    for bad in ["", "last", "../x", "a b"] {
        let refused = forkpy.refused("checkpoint_session", json!({"name": bad}));
        assert!(refused.contains("is not allowed"), "{refused}");
    }
    checkpoint(&mut forkpy, "a");
    let refused = forkpy.refused("checkpoint_session", json!({"name": "a"}));
    assert!(refused.contains("\"default\" has a checkpoint \"a\" already"), "{refused}");
    let made_up = forkpy.call("checkpoint_session", json!({})).data;
    assert_eq!(made_up["checkpoint"]["name"], "cell-1");
    let refused = forkpy.refused("checkpoint_session", json!({}));
    assert!(refused.contains("--max-checkpoints"), "{refused}");
    let refused = forkpy.refused("fork_session", json!({"new_session_id": "default"}));
    assert!(refused.contains("exists already"), "{refused}");
    let refused = forkpy.refused("fork_session", json!({"new_session_id": "x", "checkpoint": "nope"}));
    assert!(refused.contains("it has: \"a\", \"cell-1\""), "{refused}");
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn forks_and_forks_of_forks_go_on_independently() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import random\nx = [0]\nrandom.seed(7)");
    checkpoint(&mut forkpy, "early");
    forkpy.run("x.append(1)");
    for (from, to) in [("default", "child"), ("child", "grandchild")] {
        let forked = forkpy.call("fork_session", json!({"session_id": from, "new_session_id": to}));
        assert!(!forked.is_error && forked.data["forked_from"] == from, "{forked:?}");
        in_session(&mut forkpy, to, &format!("x.append({to:?})"));
    }
    let early = json!({"new_session_id": "from-early", "checkpoint": "early"});
    assert_eq!(forkpy.call("fork_session", early).data["after_cell"], 1);
    let mut seen = Vec::new();
    for session in ["default", "child", "grandchild", "from-early"] {
        let reply = in_session(&mut forkpy, session, "x, random.random()");
        seen.push(reply["results"][0].as_str().expect("a text").to_owned());
    }
    assert!(seen[0].starts_with("([0, 1], 0."), "{seen:?}");
    assert!(seen[1].starts_with("([0, 1, 'child'], "), "{seen:?}");
    assert!(seen[2].starts_with("([0, 1, 'child', 'grandchild'], "), "{seen:?}");
    assert!(seen[3].starts_with("([0], "), "{seen:?}");
    let mut numbers: Vec<_> = seen.iter().map(|text| text.rsplit(", ").next().expect("a number")).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "each draws its own numbers");
    // The end of one is none of the others'.
    assert_eq!(in_session(&mut forkpy, "child", "import os; os._exit(1)")["status"], "died");
    assert_eq!(in_session(&mut forkpy, "grandchild", "len(x)")["results"], json!(["4"]));
    forkpy.call("delete_session", json!({"session_id": "grandchild"}));
    assert_eq!(forkpy.eval("x"), "[0, 1]");
}

#[test]
fn random_numbers_come_again_only_when_that_is_asked_for() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import random, secrets, uuid\nrandom.seed(1)");
    checkpoint(&mut forkpy, "seeded");
    let drawn = forkpy.eval("random.random()");
    forkpy.call("restore_checkpoint", json!({"name": "seeded", "keep_random": true}));
    assert_eq!(forkpy.eval("random.random()"), drawn);
    restore(&mut forkpy, "seeded");
    assert_ne!(forkpy.eval("random.random()"), drawn);
    let code = "(random.random(), secrets.token_hex(8), uuid.uuid4().hex)";
    let run = forkpy.call("run_branches", json!({"codes": [code, code, code]})).data;
    let results: std::collections::BTreeSet<String> =
        (0..3).map(|index| run["branches"][index]["outcome"]["results"][0].to_string()).collect();
    assert_eq!(results.len(), 3, "{run}");
}

#[test]
fn a_cell_that_does_not_end_well_leaves_no_trace_when_that_is_asked_for() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off", "--grace", "0.3"]).start();
    forkpy.run("import os, signal, time, ctypes\nx = [1]");
    let held = "x.append(2); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nctypes.PyDLL(None).sleep(60)";
    for (code, timeout, status) in [
        ("x.append(2); y = 1\n1/0", 60.0, "error"),
        ("x.append(2); time.sleep(60)", 0.2, "timeout"),
        (held, 0.2, "timeout"),
        ("x.append(2); os._exit(3)", 60.0, "died"),
        ("x.append(2); os.kill(os.getpid(), signal.SIGSEGV)", 60.0, "died"),
    ] {
        let arguments = json!({"code": code, "timeout": timeout, "on_error": "rollback"});
        let reply = forkpy.call("run_python_code", arguments).data;
        assert_eq!((&reply["status"], &reply["state"]), (&json!(status), &json!("rolled_back")), "{reply}");
        assert!(reply["notice"].as_str().is_some_and(|words| words.contains("outside world")), "{reply}");
        assert_eq!(forkpy.eval("x, 'y' in globals()"), "([1], False)");
    }
    let reply = forkpy.call("run_python_code", json!({"code": "x.append(2)", "on_error": "rollback"})).data;
    assert_eq!((&reply["status"], &reply["state"]), (&json!("ok"), &json!("kept")));
    assert_eq!(forkpy.eval("x"), "[1, 2]");
    assert_eq!(forkpy.call("list_checkpoints", json!({})).data["total"], 0);
}

#[test]
fn a_session_survives_every_kind_of_crash_with_its_variables() {
    let mut forkpy = keeping_last(None);
    until_kept(&mut forkpy, 1);
    let held = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nimport ctypes\nctypes.PyDLL(None).sleep(60)";
    let deep = "import ctypes\nctypes.string_at(0)";
    let mut cell = 1;
    for (code, status) in [
        ("os._exit(3)", "died"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died"),
        (deep, "died"),
        (held, "timeout"),
    ] {
        let reply = forkpy
            .call("run_python_code", json!({"code": code, "timeout": if code == held { 0.2 } else { 60.0 }}))
            .data;
        let lost = cell + 1;
        assert_eq!((&reply["status"], &reply["state"]), (&json!(status), &json!("restored")), "{reply}");
        assert_eq!((&reply["recovered_from"], &reply["lost_cells"]), (&json!(cell), &json!([lost, lost])), "{reply}");
        let words = format!("recovered_from: cell {cell}, lost: cell {lost}");
        assert!(reply["notice"].as_str().is_some_and(|notice| notice.contains(&words)), "{reply}");
        let next = forkpy.run("kept");
        assert_eq!((&next["results"], &next["state"]), (&json!(["[1, 2]"]), &json!("kept")), "{next}");
        cell += 2;
        until_kept(&mut forkpy, cell);
    }
    let crashes = forkpy.call("list_crashes", json!({})).data;
    assert_eq!(crashes["crashes"].as_array().map(Vec::len), Some(5), "{crashes}");
}

/// A memory cgroup of the first version, which a container or a service has around it; gone with the last process.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn with(bytes: u64, pids: &[i32]) -> std::io::Result<Self> {
        let path = std::path::PathBuf::from(format!("/sys/fs/cgroup/memory/forkpy-test-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        let group = Self(path);
        std::fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string())?;
        for pid in pids {
            std::fs::write(group.0.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let procs = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let _ = std::fs::write("/sys/fs/cgroup/memory/cgroup.procs", pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "what is not tested is said")]
fn the_kernels_own_oom_killer_takes_the_cell_and_not_the_variables() {
    let mut forkpy = keeping_last(None);
    until_kept(&mut forkpy, 1);
    let Ok(_group) = MemoryGroup::with(300 << 20, &forkpy.family()) else {
        eprintln!("NOT TESTED: no memory cgroup can be made here");
        return;
    };
    let reply = forkpy.run("hoard = bytearray(b'x') * (600 << 20)");
    assert_eq!((&reply["status"], &reply["death"]["reason"]), (&json!("died"), &json!("out_of_memory")), "{reply}");
    assert_eq!((&reply["state"], &reply["recovered_from"]), (&json!("restored"), &json!(1)), "{reply}");
    assert_eq!(forkpy.eval("kept"), "[1, 2]");
    let crash = forkpy.call("list_crashes", json!({})).data["crashes"][0].take();
    assert_eq!(crash["reason"], "out_of_memory", "{crash}");
}

#[test]
fn a_worker_that_dies_between_cells_is_recovered_and_the_next_reply_says_so() {
    let mut forkpy = keeping_last(None);
    until_kept(&mut forkpy, 1);
    let worker = forkpy.pid();
    processes::signal(worker, Signal::SIGKILL);
    forkpy.until("another worker", |seen| seen["pid"].as_i64().is_some_and(|pid| pid != i64::from(worker)));
    let reply = forkpy.run("kept");
    assert_eq!((&reply["results"], &reply["recovered_from"]), (&json!(["[1, 2]"]), &json!(1)), "{reply}");
    assert!(reply["notice"].as_str().is_some_and(|words| words.contains("lost: nothing")), "{reply}");
}

#[test]
fn a_hung_session_is_restarted_with_its_state_from_the_checkpoint() {
    let mut forkpy = keeping_last(None);
    until_kept(&mut forkpy, 1);
    let held = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nimport ctypes\nctypes.PyDLL(None).sleep(60)";
    let running = forkpy.begin_run(held);
    forkpy.until("the cell to run", |seen| seen["current_cell"]["number"] == 2 || seen["cell"] == 2);
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert!(restarted["restored_vars"].as_array().is_some_and(|all| all.contains(&json!("kept"))), "{restarted}");
    let _ = forkpy.reply(running);
    assert_eq!(forkpy.eval("kept"), "[1, 2]");
}

#[test]
fn a_restart_without_state_does_not_come_back_from_the_dead() {
    let mut forkpy = keeping_last(None);
    until_kept(&mut forkpy, 1);
    forkpy.call("restart_kernel", json!({}));
    let reply = forkpy.run("import os; os._exit(1)");
    assert_eq!(reply["state"], "lost", "{reply}");
    assert_eq!(forkpy.eval("'kept' in globals()"), "False");
}

#[test]
fn branches_run_from_one_state_and_one_is_kept() {
    let mut forkpy = Forkpy::start();
    forkpy.run("data = list(range(10))");
    let codes = json!(["data.append('a'); sum(data[:3])", "data.append('b'); 7.5", "1/0", "import os; os._exit(1)"]);
    let run = forkpy.call("run_branches", json!({"codes": codes})).data;
    let status = |index: usize| run["branches"][index]["outcome"]["status"].clone();
    assert_eq!([status(0), status(1), status(2), status(3)], ["ok", "ok", "error", "died"], "{run}");
    assert_eq!((&run["kept"], forkpy.eval("len(data)")), (&Value::Null, "10".to_owned()));
    let run = forkpy.call("run_branches", json!({"codes": codes, "keep": "max"})).data;
    assert_eq!(run["kept"], 1, "{run}");
    assert_eq!(forkpy.eval("data[-1]"), "'b'");
    let run = forkpy.call("run_branches", json!({"codes": codes, "keep": 2})).data;
    assert_eq!(run["kept"], Value::Null);
    assert!(run["notices"][0].as_str().is_some_and(|words| words.contains("did not end well")), "{run}");
    let refused = forkpy.refused("run_branches", json!({"codes": codes, "keep": 4}));
    assert!(refused.contains("0 to 3"), "{refused}");
    let refused = forkpy.refused("run_branches", json!({"codes": []}));
    assert!(refused.contains("between 1 and"), "{refused}");
    assert_eq!(forkpy.eval("len(data)"), "11");
    assert_eq!(forkpy.call("list_sessions", json!({})).data["total_sessions"], 1);
}

#[test]
fn fifty_branches_leave_nothing_but_the_best() {
    let mut forkpy = Setup::new().args(&["--max-spares", "0", "--checkpoints", "off"]).start();
    forkpy.run("big = bytearray(10_000_000)");
    let before = forkpy.family().len();
    let codes: Vec<String> = (0..50).map(|n| format!("mine = {n}\n-abs(mine - 33)")).collect();
    let run = forkpy.call("run_branches", json!({"codes": codes, "keep": "max", "max_parallel": 4})).data;
    assert_eq!((&run["kept"], run["branches"].as_array().map(Vec::len)), (&json!(33), Some(50)), "{}", run["notices"]);
    assert_eq!(forkpy.eval("mine, len(big)"), "(33, 10000000)");
    wait_for("the branches to be gone", || forkpy.family().len() <= before);
}

#[test]
fn threads_are_named_and_refused_unless_they_may_be_lost() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import threading, _thread\nstop = threading.Event()\nlock = _thread.allocate_lock(); lock.acquire()\n\
         thread = threading.Thread(target=stop.wait, name='bee')\nthread.start()\n_thread.start_new_thread(lock.acquire, ())",
    );
    // Ours are known by their names, and a session's thread that is called as one was is none.
    let called = "import ctypes; ctypes.CDLL(None).prctl(15, b'control', 0, 0, 0)";
    forkpy.run(&format!("threading.Thread(target=lambda: (exec({called:?}), stop.wait()), name='control').start()"));
    for tool in ["checkpoint_session", "fork_session", "run_branches"] {
        let mut arguments = json!({"new_session_id": "f", "codes": ["1"]});
        let own: &[&str] = match tool {
            "checkpoint_session" => &[],
            "fork_session" => &["new_session_id"],
            _ => &["codes"],
        };
        arguments.as_object_mut().expect("an object").retain(|name, _| own.contains(&name.as_str()));
        let refused = forkpy.refused(tool, arguments);
        assert!(
            refused.contains("Python thread \"bee\", Python thread \"control\", 1 started by Python's _thread"),
            "{refused}"
        );
    }
    let reply = forkpy.call("run_python_code", json!({"code": "1", "on_error": "rollback"}));
    assert!(reply.is_error && reply.data["status"] == "refused", "{reply:?}");
    let made = forkpy.call("checkpoint_session", json!({"name": "forced", "force": true})).data;
    assert!(warnings(&made).contains("bee"), "{made}");
    assert_eq!(forkpy.eval("thread.is_alive()"), "True");
    restore(&mut forkpy, "forced");
    assert_eq!(forkpy.eval("thread.is_alive(), threading.active_count()"), "(False, 1)");
    // Completion has threads of its own, which are ours and in nobody's way.
    forkpy.call("code_completion", json!({"code": "threading.", "cursor_pos": 10}));
    checkpoint(&mut forkpy, "after-completion");
}

#[test]
fn what_a_checkpoint_does_not_hold_is_said() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import asyncio, socket, sqlite3, subprocess, threading\n\
         memory = sqlite3.connect(':memory:')\nmemory.execute('create table t (x)')\nmemory.execute('insert into t values (5)')\n\
         on_disk = sqlite3.connect('base.db')\non_disk.execute('create table t (x)')\non_disk.commit()\n\
         log = open('log.txt', 'w')\nlog.write('before')\nlog.flush()\n\
         listening = socket.create_server(('127.0.0.1', 0))\nchild = subprocess.Popen(['sleep', '60'])\n\
         held = threading.Lock()\nheld.acquire()\n\
         async def ticks():\n    global seen\n    seen = 0\n    while True:\n        await asyncio.sleep(0.001)\n        seen += 1\n\
         task = asyncio.create_task(ticks())\nawait asyncio.sleep(0.02)",
    );
    let made = checkpoint(&mut forkpy, "all");
    let said = warnings(&made);
    for words in ["base.db", "log.txt", "127.0.0.1:", " sleep", "locks are held (held)", "asyncio tasks are paused"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("threads do not survive"), "{said}");
    forkpy.run("memory.execute('delete from t')");
    restore(&mut forkpy, "all");
    assert_eq!(forkpy.eval("memory.execute('select x from t').fetchall()"), "[(5,)]");
    // The loop has a selector of its own, and the task goes on in it.
    forkpy.run("await asyncio.sleep(0.05)");
    assert_eq!(forkpy.eval("before = seen; await asyncio.sleep(0.05); seen > before"), "True");
    assert_eq!(forkpy.eval("_ = log.write(' after'); log.flush(); open('log.txt').read()"), "'before after'");
    forkpy.run("task.cancel()\nlog.close()\nlistening.close()\non_disk.close()\nheld.release()");
}

/// Workers of sessions, and those that wait to be one's.
fn workers(forkpy: &Forkpy) -> Vec<i32> {
    let mut all = processes::children(forkpy.server_pid());
    all.retain(|pid| processes::name(*pid).starts_with("fp:"));
    all
}

/// Goes back, and waits until another worker is ready for the next time: the session's worker and that one.
fn restore_and_wait(forkpy: &mut Forkpy, name: &str) -> (i32, i32) {
    let mut before = workers(forkpy);
    restore(forkpy, name);
    let worker = forkpy.pid();
    before.push(worker);
    let twin = |forkpy: &Forkpy| workers(forkpy).into_iter().find(|pid| !before.contains(pid));
    wait_for("its twin", || twin(forkpy).is_some());
    // It is of use when it answers, a moment later.
    std::thread::sleep(std::time::Duration::from_millis(100));
    (worker, twin(forkpy).expect("it stays"))
}

#[test]
fn who_went_back_once_finds_the_next_worker_ready() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("import random\nwords = iter(['one', 'two'])\nlog = open('log.txt', 'w+')");
    checkpoint(&mut forkpy, "here");
    let (mut drawn, mut ready, mut taken) = (Vec::new(), None, 0);
    // On a busy machine one comes too late now and then: the checkpoint makes another one then.
    while taken < 3 {
        assert!(drawn.len() < 60, "{taken} of {} were there already", drawn.len());
        let (worker, twin) = restore_and_wait(&mut forkpy, "here");
        taken += usize::from(ready == Some(worker));
        assert_eq!(forkpy.eval("next(words), log.write('x'), log.tell()"), "('one', 1, 1)");
        drawn.push(forkpy.eval("random.random()"));
        ready = Some(twin);
    }
    let turns = drawn.len();
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), turns, "each draws its own numbers: {drawn:?}");
    // One that died while it waited is not given to the session.
    let dead = ready.expect("there");
    processes::signal(dead, Signal::SIGKILL);
    wait_for("its end", || !workers(&forkpy).contains(&dead));
    let (worker, twin) = restore_and_wait(&mut forkpy, "here");
    assert_ne!(worker, dead);
    assert_eq!(forkpy.eval("next(words)"), "'one'");
    // It ends with its checkpoint.
    forkpy.call("delete_checkpoint", json!({"name": "here"}));
    wait_for("the end of the twin", || !workers(&forkpy).contains(&twin));
    assert_eq!(forkpy.pid(), worker);
}

/// The copy that a session keeps of itself is made behind the reply, and a crash may come before that.
#[test]
fn a_crash_right_after_going_back_goes_back_to_the_same_checkpoint() {
    let mut forkpy = Setup::new().args(&["--checkpoint-after", "60"]).start();
    forkpy.run("import os\nx = 1");
    checkpoint(&mut forkpy, "here");
    forkpy.run("x = 2");
    restore(&mut forkpy, "here");
    let reply = forkpy.run("os._exit(1)");
    assert_eq!((&reply["status"], &reply["state"]), (&json!("died"), &json!("restored")), "{reply}");
    assert_eq!(forkpy.eval("x"), "1");
    // The session has left that state by an order of its own, and the checkpoint with it.
    forkpy.call("delete_checkpoint", json!({"name": "here"}));
    let reply = forkpy.run("os._exit(1)");
    assert_eq!((&reply["status"], &reply["state"]), (&json!("died"), &json!("lost")), "{reply}");
}

#[test]
fn interrupts_completion_input_and_output_reach_a_session_that_was_restored() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import time, os, subprocess\nlong_name = 1");
    checkpoint(&mut forkpy, "a");
    for _ in 0..2 {
        restore(&mut forkpy, "a");
        let reply = forkpy.call("run_python_code", json!({"code": "time.sleep(60)", "timeout": 0.2})).data;
        assert_eq!((&reply["status"], &reply["state"]), (&json!("timeout"), &json!("kept")), "{reply}");
        let reply = forkpy.run("print('one'); os.write(2, b'two'); subprocess.run(['echo', 'three'])");
        assert_eq!((&reply["stdout"], &reply["stderr"]), (&json!("one\nthree\n"), &json!("two")), "{reply}");
        // On a machine with much other work the first answer may be `busy`.
        wait_for("a completion", || {
            let found = forkpy.call("code_completion", json!({"code": "long_n", "cursor_pos": 6})).data;
            assert!(found["status"] == "busy" || found.to_string().contains("long_name"), "{found}");
            found["status"] != "busy"
        });
        let stacks = forkpy.call("dump_stacks", json!({}));
        assert!(!stacks.is_error, "{stacks:?}");
        let check = forkpy.call("check_kernel_responsiveness", json!({})).data;
        assert_eq!(check["responsive"], true);
        let reply = forkpy.run("import ctypes; ctypes.string_at(0)");
        assert_eq!(reply["death"]["signal"], "SIGSEGV", "{reply}");
    }
}

/// A session, checkpoints and what they wake outlive the zygote.
#[test]
fn checkpoints_do_not_need_the_zygote() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1");
    checkpoint(&mut forkpy, "a");
    let zygote = forkpy.zygote_pid();
    forkpy.run("x = 2");
    processes::signal(zygote, Signal::SIGKILL);
    restore(&mut forkpy, "a");
    assert_eq!(forkpy.eval("x"), "1");
    checkpoint(&mut forkpy, "b");
    forkpy.call("fork_session", json!({"new_session_id": "f", "checkpoint": "b"}));
    assert_eq!(in_session(&mut forkpy, "f", "x + 1")["results"], json!(["2"]));
}

#[test]
fn memory_of_checkpoints_is_bounded_and_what_is_dropped_is_said() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off", "--checkpoint-memory", "60"]).start();
    forkpy.run("big = bytearray(b'x') * 80_000_000");
    checkpoint(&mut forkpy, "big");
    assert!(forkpy.call("list_checkpoints", json!({})).data["memory"].as_u64().is_some_and(|bytes| bytes < 30_000_000));
    // Each page that the session changes, the checkpoint holds alone from now on.
    let during = forkpy.run("big[:] = b'y' * len(big)");
    wait_for("it to be dropped", || forkpy.call("list_checkpoints", json!({})).data["total"] == 0);
    // A machine that is slow drops it while the cell runs.
    let told = [during, forkpy.run("1")].map(|reply| reply["notice"].as_str().unwrap_or_default().to_owned());
    assert!(told.concat().contains("\"big\" (after cell 1) was dropped"), "{told:?}");
}

#[test]
fn a_checkpoint_that_is_killed_is_told_and_costs_the_session_nothing() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("x = 1");
    let made = checkpoint(&mut forkpy, "a");
    let pid = i32::try_from(made["checkpoint"]["pid"].as_i64().expect("a pid")).expect("small");
    processes::signal(pid, Signal::SIGKILL);
    wait_for("it to be reaped", || processes::state(pid) == '-');
    let refused = forkpy.refused("restore_checkpoint", json!({"name": "a"}));
    assert!(refused.contains("it has: none"), "{refused}");
    let reply = forkpy.run("x");
    assert_eq!(reply["results"], json!(["1"]));
    assert!(reply["notice"].as_str().is_some_and(|words| words.contains("its process ended")), "{reply}");
}

#[cfg(debug_assertions)]
mod faults {
    use super::*;

    fn armed(fault: &str) -> Forkpy {
        let mut forkpy = Setup::new().env("FORKPY_FAULT", fault).start();
        forkpy.run("x = 1");
        forkpy
    }

    #[test]
    fn a_worker_that_dies_while_a_checkpoint_is_made_leaves_no_process() {
        for moment in ["worker.checkpoint:1=kill", "worker.checkpointed:1=kill"] {
            let mut forkpy = armed(moment);
            let refused = forkpy.refused("checkpoint_session", json!({"name": "a"}));
            assert!(refused.contains("SIGKILL"), "{moment}: {refused}");
            wait_for("whatever was forked to be gone", || {
                forkpy.family().iter().all(|pid| !processes::name(*pid).starts_with("fp-ckpt"))
            });
            assert_eq!(forkpy.run("1")["status"], "ok");
        }
    }

    #[test]
    fn the_checkpoint_before_is_kept_until_the_new_one_is_of_use() {
        for moment in ["checkpoint.settle:2=kill", "checkpoint.frozen:2=kill", "worker.checkpointed:2=kill"] {
            let mut forkpy = keeping_last(Some(moment));
            until_kept(&mut forkpy, 1);
            forkpy.run("kept.append(3)");
            let reply = forkpy.run("import os; os._exit(1)");
            assert_eq!(reply["recovered_from"], 1, "{moment}: {reply}");
            assert_eq!(forkpy.eval("kept"), "[1, 2]", "{moment}");
        }
    }

    #[test]
    fn a_worker_that_does_not_wake_is_woken_once_more() {
        let mut forkpy = keeping_last(Some("checkpoint.woken:1=kill"));
        until_kept(&mut forkpy, 1);
        let reply = forkpy.run("os._exit(1)");
        assert_eq!((&reply["state"], &reply["recovered_from"]), (&json!("restored"), &json!(1)), "{reply}");
        assert_eq!(forkpy.eval("kept"), "[1, 2]");
    }

    #[test]
    fn a_restore_that_fails_leaves_the_session_as_it_is() {
        for moment in ["checkpoint.wake:1=kill", "checkpoint.woken:1=kill"] {
            let mut forkpy = armed(moment);
            checkpoint(&mut forkpy, "a");
            forkpy.run("x = 2");
            let refused = forkpy.refused("restore_checkpoint", json!({"name": "a"}));
            assert!(refused.contains("checkpoint \"a\""), "{refused}");
            assert_eq!(forkpy.eval("x"), "2", "{moment}");
        }
    }
}

/// Several calls for one new name: one of them makes the session, and the workers of the others do not stay behind.
#[test]
fn a_lost_race_for_a_name_leaves_no_process() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("x = 1");
    let server = forkpy.server_pid();
    let before = processes::children(server).len();
    for round in 0..10 {
        let name = format!("copy-{round}");
        let asked: Vec<u64> =
            (0..4).map(|_| forkpy.begin_call("fork_session", json!({"new_session_id": name}))).collect();
        let made = asked.into_iter().filter(|id| !forkpy.reply(*id).is_error).count();
        assert_eq!(made, 1, "one of them");
        assert_eq!(in_session(&mut forkpy, &name, "x")["results"], json!(["1"]));
        assert!(!forkpy.call("delete_session", json!({"session_id": name})).is_error);
    }
    wait_for("no process to be left of them", || processes::children(server).len() == before);
}
