//! No orphans, no leaks: whoever ends, and however, what it started ends too.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::support::{Forkpy, PATIENCE, Setup, processes, wait_for};

/// A child, a grandchild, and a daemon that has detached itself twice.
const FAMILY: &str = "\
import os, subprocess
subprocess.Popen(['sleep', '300'])
subprocess.Popen('sleep 300 & sleep 300', shell=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp('sleep', ['sleep', '301'])
    os._exit(0)
";

fn sleepers(forkpy: &Forkpy) -> usize {
    forkpy.family().into_iter().filter(|pid| processes::name(*pid) == "sleep").count()
}

#[test]
fn sigkill_of_the_server_ends_everything() {
    let mut forkpy = Forkpy::start();
    forkpy.run(FAMILY);
    wait_for("the family", || sleepers(&forkpy) == 4);
    let busy = forkpy.begin_run("import ctypes; ctypes.PyDLL(None).sleep(300)");
    forkpy.until_state("busy");
    forkpy.forget(busy);
    forkpy.kill();
    wait_for("the end of all it started", || forkpy.family().is_empty());
}

#[test]
fn sigkill_of_server_and_zygote_together_ends_everything() {
    let mut forkpy = Forkpy::start();
    forkpy.run(FAMILY);
    wait_for("the family", || sleepers(&forkpy) == 4);
    let zygote = forkpy.zygote_pid();
    processes::signal(zygote, Signal::SIGKILL);
    forkpy.kill();
    wait_for("the end of all it started", || forkpy.family().is_empty());
}

/// Whoever ended the others stopped them first, and could be killed before it came to the end: they stood for ever.
#[test]
fn a_server_that_is_killed_leaves_nothing_running_and_nothing_stopped() {
    for turn in 0..50_u32 {
        // The kernel kills the zygote when its server dies, sooner or later than it notices itself.
        let fault = if turn.is_multiple_of(2) { "" } else { "zygote.ending:0=kill" };
        // No other copy than the one that is asked for is just being made: a process that is stopped before it has a lifeline
        // of its own would stand.
        let mut forkpy = Setup::new().args(&["--checkpoint-after", "86400000"]).env("FORKPY_FAULT", fault).start();
        forkpy.run("1");
        forkpy.call("checkpoint_session", json!({"name": "a"}));
        forkpy.run(FAMILY);
        wait_for("the family", || sleepers(&forkpy) == 4);
        let server = forkpy.server_pid();
        let others = || forkpy.family().into_iter().filter(|pid| *pid != server).collect::<Vec<_>>();
        match turn % 5 {
            0 => processes::signal(forkpy.pid(), Signal::SIGSTOP),
            // What is on its way out may be gone.
            1 => others().into_iter().for_each(|pid| {
                let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            }),
            2 => {
                // It goes on forking to the end: `wait` with a limit would raise, and the cell would be over.
                let busy = forkpy.begin_run("import subprocess\nwhile True: kept = subprocess.Popen(['sleep', '300'])");
                forkpy.forget(busy);
                forkpy.tolerate(busy);
            }
            3 => {
                let restart = forkpy.begin_call("restart_kernel", json!({}));
                forkpy.forget(restart);
                forkpy.tolerate(restart);
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(u64::from(turn % 7)));
        forkpy.kill();
        let deadline = Instant::now() + PATIENCE;
        while let left = forkpy.family()
            && !left.is_empty()
        {
            let seen = || left.iter().map(|pid| processes::told(*pid)).collect::<Vec<_>>().join("\n");
            assert!(Instant::now() < deadline, "turn {turn}: these are left:\n{}", seen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// It is in the zygote's group then, which was the server's, and the kernel was asked to start another one.
#[cfg(debug_assertions)]
#[test]
fn a_process_that_is_stopped_as_soon_as_it_is_born_ends_with_the_server() {
    let setup = Setup::new().args(&["--max-spares", "0"]).env("FORKPY_FAULT", "zygote.born:2=stop");
    let mut forkpy = setup.start();
    forkpy.run("1");
    let made = forkpy.begin_call("create_session", json!({"session_id": "a"}));
    forkpy.forget(made);
    forkpy.tolerate(made);
    wait_for("its birth", || forkpy.family().into_iter().any(|pid| processes::state(pid) == 'T'));
    forkpy.kill();
    wait_for("the end of all it started", || forkpy.family().is_empty());
}

/// A worker that is killed goes last: where server and zygote are killed right behind it, no process would end its family.
#[cfg(debug_assertions)]
#[test]
fn a_worker_that_is_killed_leaves_no_family_when_the_server_and_the_zygote_die_at_once() {
    let faults = "server.killed:0=kill,zygote.ending:0=kill";
    for how in ["restart_kernel", "delete_session"] {
        let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).env("FORKPY_FAULT", faults).start();
        forkpy.call("create_session", json!({"session_id": "a"}));
        forkpy.call("run_python_code", json!({"code": FAMILY, "session_id": "a"}));
        wait_for("the family", || sleepers(&forkpy) == 4);
        let busy = json!({"code": "import ctypes; ctypes.PyDLL(None).sleep(300)", "session_id": "a"});
        let busy = forkpy.begin_call("run_python_code", busy);
        wait_for("the cell", || forkpy.call("get_kernel_health", json!({"session_id": "a"})).data["state"] == "busy");
        let killing = forkpy.begin_call(how, json!({"session_id": "a"}));
        for call in [busy, killing] {
            forkpy.forget(call);
            forkpy.tolerate(call);
        }
        let server = forkpy.server_pid();
        wait_for("its end by the fault", || processes::state(server) == 'Z');
        forkpy.kill();
        wait_for("the end of all it started", || forkpy.family().is_empty());
    }
}

#[test]
fn deleting_a_session_ends_what_it_started_and_nothing_else() {
    let mut forkpy = Forkpy::start();
    forkpy.run(FAMILY);
    forkpy.call("create_session", json!({"session_id": "a"}));
    forkpy.call("run_python_code", json!({"code": FAMILY, "session_id": "a"}));
    wait_for("both families", || sleepers(&forkpy) == 8);
    assert_eq!(forkpy.call("delete_session", json!({"session_id": "a"})).data["status"], "deleted");
    wait_for("the end of one family", || sleepers(&forkpy) == 4);
    forkpy.call("restart_kernel", json!({}));
    wait_for("the end of the other", || sleepers(&forkpy) == 0);
}

/// The kernel gives such a child to the process that the worker comes from. It is neither among those that the worker has nor
/// among those that fall to the server.
#[test]
fn what_a_session_starts_as_its_own_sibling_ends_with_it() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import ctypes, os, signal\n\
         CLONE_PARENT, SYS_clone = 0x8000, {'x86_64': 56, 'aarch64': 220}[os.uname().machine]\n\
         child = ctypes.CDLL(None).syscall(SYS_clone, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)\n\
         if child == 0: os.execvp('sleep', ['sleep', '300'])",
    );
    wait_for("the sibling", || sleepers(&forkpy) == 1);
    let sibling = forkpy.family().into_iter().find(|pid| processes::name(*pid) == "sleep").expect("it runs");
    assert!(processes::children(forkpy.zygote_pid()).contains(&sibling));
    forkpy.call("restart_kernel", json!({}));
    wait_for("its end", || processes::state(sibling) == '-');
}

#[test]
fn a_worker_that_dies_takes_its_children_along() {
    let mut forkpy = Forkpy::start();
    forkpy.run(FAMILY);
    wait_for("the family", || sleepers(&forkpy) == 4);
    let worker = forkpy.pid();
    processes::signal(worker, Signal::SIGKILL);
    wait_for("its end", || sleepers(&forkpy) == 0);
}

#[test]
fn an_idle_session_runs_its_exit_callbacks() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import atexit; atexit.register(lambda: open('bye', 'w').write('x'))");
    forkpy.call("restart_kernel", json!({}));
    assert!(forkpy.file("bye").exists());
}

#[test]
fn a_client_gone_in_the_middle_of_a_cell_leaves_nothing() {
    let mut forkpy = Forkpy::start();
    let cell = forkpy.begin_run("import time\ntime.sleep(300)");
    forkpy.until_state("busy");
    // It may still be told that its cell was cancelled.
    forkpy.forget(cell);
    forkpy.tolerate(cell);
    processes::signal(forkpy.server_pid(), Signal::SIGTERM);
    // The drop asserts the rest: the server ends in time and all it started with it.
}

#[test]
fn hundreds_of_sessions_made_and_deleted_leave_no_trace() {
    // One spare worker, there before and after: more would come and go with the need.
    let mut forkpy = Setup::new().args(&["--max-spares", "1", "--checkpoints", "off"]).start();
    let round = |forkpy: &mut Forkpy, number: usize| {
        let session = format!("s{number}");
        forkpy.call("create_session", json!({"session_id": session}));
        if number.is_multiple_of(4) {
            let reply = forkpy.call("run_python_code", json!({"code": "1", "session_id": session})).data;
            assert_eq!(reply["status"], "ok");
        }
        forkpy.call("delete_session", json!({"session_id": session}));
    };
    for number in 0..100 {
        round(&mut forkpy, number);
    }
    // The zygote imports more while it is idle, and has grown to its size when the last of it is there.
    wait_for("the zygote's own imports", || {
        forkpy.call("restart_kernel", json!({}));
        forkpy.eval("import sys; 'forkpy_worker.variables.statepickle' in sys.modules") == "True"
    });
    wait_for("a spare worker", || forkpy.family().into_iter().any(|pid| processes::name(pid) == "fp-spare"));
    let (server, zygote) = (forkpy.server_pid(), forkpy.zygote_pid());
    let look = |forkpy: &Forkpy| {
        let descriptors = [processes::open_files(server), processes::open_files(zygote)];
        (descriptors, [processes::children(server).len(), processes::children(zygote).len(), forkpy.family().len()])
    };
    let (before, memory) = (look(&forkpy), (processes::memory(server), processes::memory(zygote)));
    for number in 100..500 {
        round(&mut forkpy, number);
    }
    // Fewer is fine: the first look may have seen the last session on its way out. A few descriptors that the server opens
    // once, at need, are fine too; one for each session would be hundreds.
    let settled = |now: ([usize; 2], [usize; 3])| {
        now.0.iter().zip(before.0).all(|(now, before)| *now <= before + 4)
            && now.1.iter().zip(before.1).all(|(now, before)| *now <= before)
    };
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !settled(look(&forkpy)) {
        let now = look(&forkpy);
        assert!(std::time::Instant::now() < deadline, "before {before:?}, now {now:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for (pid, before) in [(server, memory.0), (zygote, memory.1)] {
        let grown = processes::memory(pid).saturating_sub(before);
        assert!(grown < 8 << 20, "{} grew by {grown} bytes", processes::name(pid));
    }
}
