//! What a session is born with: a fork of the zygote that shares with all others what it need not write, and is a process of
//! its own in all that can be seen.

use std::fs;

use serde_json::json;

use crate::support::{Forkpy, Setup, wait_for};

/// The standard library's fork hooks rest at a session's birth. In its own forks they do not.
#[test]
fn a_session_is_a_process_of_its_own_to_threading_and_so_are_its_forks() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import logging, os, threading, random");
    assert_eq!(forkpy.eval("threading.main_thread().native_id == os.getpid(), threading.active_count()"), "(True, 1)");
    forkpy.run(
        "stop = threading.Event()\nthread = threading.Thread(target=stop.wait); thread.start()\n\
         inside, outside = os.pipe()\n\
         number = random.random\n\
         if os.fork() == 0:\n\
         \x20   logging.getLogger('child').error('it can log')\n\
         \x20   seen = threading.active_count(), threading.main_thread() is threading.current_thread()\n\
         \x20   os.write(outside, repr((*seen, number())).encode()); os._exit(0)\n\
         os.wait(); stop.set(); thread.join()\n\
         child = eval(os.read(inside, 1000))",
    );
    assert_eq!(forkpy.eval("child[:2], child[2] != number()"), "((1, True), True)");
}

#[test]
fn scripts_and_their_forks_are_too() {
    let mut forkpy = Forkpy::start();
    let code = "import os, sys, threading\n\
                print(threading.main_thread().native_id == os.getpid(), sys.stdout.seekable(), type(sys.stdin.buffer.raw).__name__, flush=True)\n\
                stop = threading.Event()\nthread = threading.Thread(target=stop.wait); thread.start()\n\
                if os.fork() == 0:\n    print(threading.active_count(), flush=True); os._exit(0)\n\
                os.wait(); stop.set()";
    fs::write(forkpy.file("script.py"), code).expect("written");
    let ran = forkpy.call("run_script", json!({"path": "script.py"}));
    assert_eq!(ran.data["stdout"], "True False FileIO\n1\n", "{}", ran.text);
}

/// A folder of a hundred thousand files took tens of milliseconds of each birth.
#[test]
fn what_lies_in_the_workspace_is_not_read_at_a_birth() {
    let mut forkpy = Forkpy::start();
    assert_eq!(forkpy.eval("__import__('os').getcwd() in __import__('sys').path_importer_cache"), "False");
    fs::write(forkpy.file("mine.py"), "x = 5").expect("written");
    assert_eq!(forkpy.eval("__import__('mine').x"), "5");
}

/// Its pages are shared with the zygote until it writes to them. Python counts references in them, so some it writes.
#[test]
fn a_session_writes_to_few_pages_before_its_first_cell() {
    const MOST: u64 = 1600;
    let mut forkpy = Setup::new().args(&["--max-spares", "0", "--checkpoints", "off"]).start();
    let mut number = 0;
    // A session that the zygote makes before it has imported all has pages of its own when it goes on.
    wait_for("a session that wrote little", || {
        let session = format!("s{number}");
        number += 1;
        forkpy.call("create_session", json!({"session_id": session}));
        let pid = forkpy.call("get_kernel_health", json!({"session_id": session})).data["pid"].clone();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it lives");
        let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).expect("there");
        let own: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        forkpy.call("delete_session", json!({"session_id": session}));
        own <= MOST
    });
}
