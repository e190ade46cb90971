//! What an interrupt reaches besides the cell: the processes in the foreground with it, as Ctrl-C in a terminal.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, wait_for};

/// Processes of this server's that run `sleep SECONDS`.
fn sleepers(forkpy: &mut Forkpy, seconds: u32) -> usize {
    let count = format!(
        "import glob, os\nsum(open(p, 'rb').read() == b'sleep\\x00{seconds}\\x00' for p in glob.glob('/proc/[0-9]*/cmdline') \
         if os.path.exists(p))"
    );
    loop {
        // A process may end between the listing and the reading.
        let reply = forkpy.run(&count);
        if reply["status"] == "ok" {
            return reply["results"][0].as_str().and_then(|text| text.parse().ok()).expect("a number");
        }
    }
}

fn timed_out(forkpy: &mut Forkpy, code: &str, seconds: f64) -> (Value, Duration) {
    let began = Instant::now();
    let reply = forkpy.call("run_python_code", json!({"code": code, "timeout": seconds})).data;
    (reply, began.elapsed())
}

/// Each cell waits for `sleep NUMBER`, and would print "went on" if it went on.
fn ends_with_its_children(forkpy: &mut Forkpy, waits: &[&str]) {
    for (code, seconds) in waits.iter().zip(28_100..) {
        let code = format!("{}\nprint('went on')", code.replace("SECONDS", &seconds.to_string()));
        let (reply, _) = timed_out(forkpy, &code, 0.7);
        assert_eq!((&reply["status"], &reply["state"]), (&json!("timeout"), &json!("kept")), "{code}: {reply}");
        assert!(reply["stdout"].as_str().is_none_or(|text| !text.contains("went on")), "{code}: {reply}");
        wait_for(&format!("the children of {code:?}"), || sleepers(forkpy, seconds) == 0);
        assert_eq!(forkpy.eval("keep"), "1", "{code}");
    }
}

/// `system(3)` ignores SIGINT while its child runs: the worker was killed, and all variables were lost.
#[test]
fn a_time_out_reaches_what_os_system_waits_for() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os, threading, time\nkeep = 1");
    ends_with_its_children(
        &mut forkpy,
        &[
            "os.system('sleep SECONDS')",
            "os.system('sleep SECONDS; echo more')",
            "os.system('sleep SECONDS | cat')",
            "while True: os.system('sleep SECONDS')",
            "t = threading.Thread(target=os.system, args=('sleep SECONDS',)); t.start(); t.join()",
            "t = threading.Thread(target=os.system, args=('sleep SECONDS',)); t.start(); time.sleep(30)",
        ],
    );
}

/// The cell was interrupted, and what it had waited for went on.
#[test]
fn a_time_out_reaches_what_subprocess_and_its_kin_wait_for() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import asyncio, os, subprocess, multiprocessing as mp\nfrom concurrent import futures\nkeep = 1");
    ends_with_its_children(
        &mut forkpy,
        &[
            "subprocess.run('sleep SECONDS; echo more', shell=True)",
            "subprocess.check_output('sleep SECONDS | cat', shell=True)",
            "p = subprocess.Popen(['sleep', 'SECONDS']); p.wait()",
            "os.popen('sleep SECONDS').read()",
            "os.waitpid(os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', 'SECONDS'), 0)",
            "p = await asyncio.create_subprocess_shell('sleep SECONDS; echo more'); await p.wait()",
            "with futures.ThreadPoolExecutor() as pool: pool.submit(subprocess.run, ['sleep', 'SECONDS']).result()",
        ],
    );
}

#[test]
fn a_time_out_reaches_the_workers_of_a_pool() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import os, multiprocessing as mp, subprocess\nkeep = 1\n\
         def wait(seconds):\n    subprocess.run(['sleep', str(seconds)])\n\
         def system(seconds):\n    os.system(f'sleep {seconds}')",
    );
    ends_with_its_children(
        &mut forkpy,
        &[
            "with mp.get_context('fork').Pool(2) as pool: pool.map(wait, [SECONDS] * 2)",
            "pool = mp.get_context('fork').Pool(2); pool.map(system, [SECONDS] * 2)",
            "p = mp.get_context('fork').Process(target=system, args=(SECONDS,)); p.start(); p.join()",
        ],
    );
}

/// `trap '' INT` and `timeout` (which leaves the group): rather these children than the worker with all variables.
#[test]
fn children_that_no_interrupt_reaches_are_ended_before_the_worker_is() {
    let mut forkpy = Setup::new().args(&["--grace", "1.5"]).start();
    forkpy.run("import os\nkeep = 1");
    ends_with_its_children(
        &mut forkpy,
        &[
            "os.system(\"trap '' INT; sleep SECONDS\")",
            "os.system(\"trap '' INT TERM; sleep SECONDS\")",
            "os.system('timeout 100 sleep SECONDS')",
            "os.system('setsid -w sleep SECONDS')",
        ],
    );
}

/// As in a terminal: the foreground group is one, whichever cell a process is from; what left the group lives.
#[test]
fn background_processes_live_if_they_have_left_the_group() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import subprocess, time\nstays = subprocess.Popen(['sleep', '28501'], start_new_session=True)\n\
         quiet = subprocess.Popen(\"trap '' INT; sleep 28502\", shell=True)\nends = subprocess.Popen(['sleep', '28503'])",
    );
    wait_for("all to run", || [28_501, 28_502, 28_503].iter().all(|seconds| sleepers(&mut forkpy, *seconds) == 1));
    let (reply, took) = timed_out(&mut forkpy, "time.sleep(60)", 0.3);
    assert_eq!(reply["status"], "timeout", "{reply}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(forkpy.eval("ends.wait(10)"), "-2");
    assert_eq!(forkpy.eval("stays.poll(), quiet.poll()"), "(None, None)");
}

#[test]
fn a_cancellation_reaches_them_too() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os\nkeep = 1");
    let id = forkpy.begin_run("os.system('sleep 28601')\nprint('went on')");
    forkpy.tolerate(id);
    forkpy.forget(id);
    let began = Instant::now();
    forkpy.until("the shell", |seen| seen["subprocesses"].as_u64().is_some_and(|count| count > 0));
    forkpy.notify("notifications/cancelled", json!({"requestId": id}));
    forkpy.until_state("idle");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!((sleepers(&mut forkpy, 28_601), forkpy.eval("keep")), (0, "1".to_owned()));
}

/// `restart_kernel(preserve_state)` interrupts the cell first.
#[test]
fn a_restart_that_keeps_variables_gets_them_from_a_cell_that_waits_for_a_shell() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os\nkeep = 1");
    let id = forkpy.begin_run("os.system('sleep 28701')");
    forkpy.until("the shell", |seen| seen["subprocesses"].as_u64().is_some_and(|count| count > 0));
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true}));
    assert!(!restarted.is_error, "{restarted:?}");
    let cut = forkpy.reply(id);
    assert_eq!(cut.data["status"], "cancelled", "{cut:?}");
    assert_eq!(forkpy.eval("keep"), "1");
}
