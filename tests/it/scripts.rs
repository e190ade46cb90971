//! Scripts of the workspace, each in a process of its own: what it finds there, how it ends, and that nothing is left.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_for};

fn script(forkpy: &Forkpy, name: &str, text: &str) {
    let file = forkpy.file(name);
    fs::create_dir_all(file.parent().expect("a parent")).expect("made");
    fs::write(file, text).expect("written");
}

fn run(forkpy: &mut Forkpy, arguments: Value) -> Value {
    forkpy.call("run_script", arguments).data
}

/// Writes a script and runs it.
fn run_text(forkpy: &mut Forkpy, text: &str) -> Value {
    script(forkpy, "x.py", text);
    run(forkpy, json!({"path": "x.py"}))
}

/// A file that a script makes when it has come to that line.
fn wait_for_file(forkpy: &Forkpy, name: &str) {
    wait_for(name, || forkpy.file(name).exists());
}

#[test]
fn a_script_finds_what_python_would_give_it() {
    let mut forkpy = Forkpy::start();
    script(&forkpy, "tools/helper.py", "value = 7\n");
    script(
        &forkpy,
        "tools/main.py",
        "\"\"\"Doc.\"\"\"\nimport sys, os, helper, __main__, inspect\n\
         print(__name__, __doc__, __package__, __spec__, helper.value)\n\
         print(sys.argv)\nprint(os.path.relpath(__file__), os.path.relpath(sys.path[0]), os.getcwd() == os.path.realpath('.'))\n\
         print(__main__.__dict__ is globals(), [n for n in globals() if not n.startswith('__')])\n\
         def f(): return 1\nprint(inspect.getsource(f).strip(), os.getpgrp() == os.getpid(), sys.orig_argv[1:])\n\
         print(open(0).read() == '', sys.flags.safe_path if hasattr(sys.flags, 'safe_path') else False)\n",
    );
    let done = run(&mut forkpy, json!({"path": "tools/main.py", "args": ["--n", "5", "ä b"]}));
    assert_eq!(done["status"], "ok", "{done}");
    let lines: Vec<&str> = done["stdout"].as_str().expect("text").lines().collect();
    assert_eq!(lines[0], "__main__ Doc. None None 7");
    assert_eq!(lines[1], "['tools/main.py', '--n', '5', 'ä b']");
    assert_eq!(lines[2], "tools/main.py tools True");
    assert_eq!(lines[3], "True ['sys', 'os', 'helper', 'inspect']");
    assert_eq!(lines[4], "def f(): return 1 True ['tools/main.py', '--n', '5', 'ä b']");
    assert_eq!(lines[5], "True False");
    assert_eq!((&done["returncode"], &done["stderr"], &done["timed_out"]), (&json!(0), &json!(""), &Value::Null));
    assert_eq!((&done["script"], &done["new_files"]), (&json!("tools/main.py"), &json!([])));
}

#[test]
fn a_saved_script_is_found_by_its_name_and_the_workspace_comes_first() {
    let mut forkpy = Forkpy::start();
    forkpy.call("save_script", json!({"name": "job", "content": "print('saved')"}));
    for path in ["job.py", "job", "scripts/job.py"] {
        let done = run(&mut forkpy, json!({"path": path}));
        assert_eq!((&done["stdout"], &done["script"]), (&json!("saved\n"), &json!("scripts/job.py")), "{path}");
    }
    script(&forkpy, "job.py", "print('top')");
    assert_eq!(run(&mut forkpy, json!({"path": "job.py"}))["stdout"], "top\n");
    symlink("job.py", forkpy.file("link.py")).expect("a link");
    assert_eq!(run(&mut forkpy, json!({"path": "link.py"}))["stdout"], "top\n");
}

#[test]
fn exit_codes_are_those_of_python() {
    let mut forkpy = Forkpy::start();
    let cases = [
        ("import sys; sys.exit(3)", "error", 3, ""),
        ("import sys; sys.exit()", "ok", 0, ""),
        ("import sys; sys.exit('out of cheese')", "error", 1, "out of cheese\n"),
        ("raise SystemExit(300)", "error", 300 % 256, ""),
        ("def f():\n    1/0\nf()", "error", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os._exit(9)", "error", 9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "died", -9, ""),
        ("import ctypes; ctypes.string_at(0)", "died", -11, ""),
        ("raise KeyboardInterrupt", "died", -2, "KeyboardInterrupt\n"),
        ("x = (", "error", 1, "SyntaxError: '(' was never closed\n"),
    ];
    for (text, status, code, ending) in cases {
        let done = run_text(&mut forkpy, text);
        let stderr = done["stderr"].as_str().expect("text");
        assert_eq!((&done["status"], &done["returncode"]), (&json!(status), &json!(code)), "{text}: {done}");
        assert!(stderr.ends_with(ending) && !stderr.contains("forkpy"), "{text}: {stderr}");
    }
    let done = run_text(&mut forkpy, "def f():\n    1/0\nf()\n");
    let stderr = done["stderr"].as_str().expect("text");
    assert!(stderr.contains("x.py\", line 3, in <module>\n    f()\n"), "{stderr}");
    assert_eq!(forkpy.eval("1 + 1"), "2");
}

#[test]
fn source_that_is_not_utf8_needs_a_coding_line_and_gets_it() {
    let mut forkpy = Forkpy::start();
    fs::write(forkpy.file("x.py"), b"# coding: latin-1\nprint('\xe9')\n").expect("written");
    assert_eq!(run(&mut forkpy, json!({"path": "x.py"}))["stdout"], "é\n");
    fs::write(forkpy.file("x.py"), b"\xef\xbb\xbfprint('bom')\r\n").expect("written");
    assert_eq!(run(&mut forkpy, json!({"path": "x.py"}))["stdout"], "bom\n");
    fs::write(forkpy.file("x.py"), b"print('\xe9')\n").expect("written");
    let done = run(&mut forkpy, json!({"path": "x.py"}));
    assert_eq!(done["returncode"], 1);
    assert!(done["stderr"].as_str().expect("text").contains("SyntaxError"), "{done}");
    fs::write(forkpy.file("x.py"), b"print(1)\0").expect("written");
    assert_eq!(run(&mut forkpy, json!({"path": "x.py"}))["returncode"], 1);
    fs::write(forkpy.file("x.py"), b"").expect("written");
    assert_eq!(run(&mut forkpy, json!({"path": "x.py"}))["status"], "ok");
}

#[test]
fn the_end_is_that_of_python_threads_callbacks_destructors_and_open_files() {
    let mut forkpy = Forkpy::start();
    let done = run_text(
        &mut forkpy,
        "import atexit, threading, time\n\
         atexit.register(print, 'callback')\n\
         class Last:\n    def __del__(self): print('destructor')\n\
         last = Last()\n\
         kept = open('kept.txt', 'w'); kept.write('not flushed by hand')\n\
         threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n\
         print('main')\n",
    );
    assert_eq!(done["stdout"], "main\nthread\ncallback\ndestructor\n", "{done}");
    assert_eq!(fs::read_to_string(forkpy.file("kept.txt")).expect("there"), "not flushed by hand");
    assert_eq!(done["new_files"], json!(["kept.txt"]));
}

#[test]
fn multiprocessing_and_subprocesses_work_from_a_script() {
    let mut forkpy = Forkpy::start();
    let done = run_text(
        &mut forkpy,
        "import multiprocessing, subprocess, sys, os\n\
         def double(n): return 2 * n\n\
         if __name__ == '__main__':\n\
         \x20   for way in ('fork', 'spawn'):\n\
         \x20       with multiprocessing.get_context(way).Pool(2) as pool:\n\
         \x20           print(way, pool.map(double, [1, 2, 3]))\n\
         \x20   print(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout)\n\
         \x20   if os.fork() == 0:\n        sys.exit(4)\n\
         \x20   print(os.waitstatus_to_exitcode(os.wait()[1]))\n",
    );
    assert_eq!(done["stdout"], "fork [2, 4, 6]\nspawn [2, 4, 6]\n42\n\n4\n", "{done}");
    assert_eq!(done["status"], "ok", "{done}");
}

#[test]
fn an_endless_script_is_interrupted_and_one_that_will_not_hear_is_killed() {
    let mut forkpy = Setup::new().args(&["--grace", "1.5"]).start();
    script(&forkpy, "x.py", "print('begun')\ntry:\n    while True:\n        y = 1\nfinally:\n    print('tidied')\n");
    let reply = forkpy.call("run_script", json!({"path": "x.py", "timeout": 1.5}));
    let done = reply.data;
    assert!(reply.is_error);
    assert_eq!((&done["status"], &done["timed_out"]), (&json!("timeout"), &json!(true)), "{done}");
    assert_eq!((&done["returncode"], &done["stdout"]), (&json!(-2), &json!("begun\ntidied\n")), "{done}");
    let words = ", in <module>\n    ";
    assert!(done["stderr"].as_str().expect("text").contains(words), "{done}");
    assert!(done["notice"].as_str().expect("words").contains("limit of 1.5 s was over: it was interrupted"));
    script(
        &forkpy,
        "x.py",
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun')\ntime.sleep(300)\n",
    );
    let done = run(&mut forkpy, json!({"path": "x.py", "timeout": 1.5}));
    assert_eq!(
        (&done["status"], &done["returncode"], &done["signal"]),
        (&json!("timeout"), &json!(-9), &json!("SIGKILL"))
    );
    assert_eq!(done["stdout"], "begun\n");
    assert!(done["notice"].as_str().expect("words").contains("killed"));
    script(&forkpy, "x.py", "while True: print('y' * 1000)\n");
    let done = run(&mut forkpy, json!({"path": "x.py", "timeout": 1.5}));
    assert_eq!(done["status"], "timeout");
    assert!(done["stdout"].as_str().expect("text").len() < 50_000);
    let whole = forkpy.file(done["stdout_file"].as_str().expect("a file"));
    assert_eq!(fs::metadata(whole).expect("there").len(), done["stdout_bytes"].as_u64().expect("a number"));
    assert_eq!(done["new_files"], json!([]), "our own file is none of the script's");
}

#[test]
fn what_a_script_leaves_running_ends_with_it() {
    let mut forkpy = Forkpy::start();
    let daemons = "import os, subprocess\n\
         subprocess.Popen(['sleep', '300'])\n\
         subprocess.Popen('sleep 300 & sleep 300', shell=True)\n\
         if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n\
         \x20       print('daemon', flush=True)\n        open('ready', 'w').close()\n\
         \x20       os.execvp('sleep', ['sleep', '301'])\n    os._exit(0)\n\
         while not os.path.exists('ready'): pass\n";
    let done = run_text(&mut forkpy, daemons);
    assert_eq!((&done["status"], &done["stdout"]), (&json!("ok"), &json!("daemon\n")), "{done}");
    // Killed before the reply, and dead as soon as the system gets to it.
    let sleepers = || forkpy.family().into_iter().filter(|pid| processes::name(*pid) == "sleep").count();
    wait_for("the end of what it left", || sleepers() == 0);
    assert_eq!(forkpy.health()["status"], "healthy");
}

#[test]
fn sessions_and_scripts_leave_each_other_alone() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os; x = 'session'; os.environ['MINE'] = '1'");
    let busy = forkpy.begin_run("import time\nwhile not os.path.exists('done'): time.sleep(0.01)\nx");
    forkpy.until_state("busy");
    let pid = forkpy.pid();
    let done = run_text(&mut forkpy, "import os\nprint('x' in globals(), 'MINE' in os.environ)\nx = 1\nos._exit(5)");
    assert_eq!((&done["stdout"], &done["returncode"]), (&json!("False False\n"), &json!(5)), "{done}");
    assert_eq!(forkpy.health()["state"], "busy");
    let sessions = forkpy.call("list_sessions", json!({})).data;
    assert_eq!(
        (&sessions["total_sessions"], &sessions["sessions"]["default"]["execution_count"]),
        (&json!(1), &json!(2))
    );
    fs::write(forkpy.file("done"), "").expect("written");
    assert_eq!(forkpy.reply(busy).data["results"], json!(["'session'"]));
    assert_eq!(forkpy.pid(), pid);
    // Two processes draw different numbers.
    let draw = "import random, os; print(random.random(), os.getpid())";
    assert_ne!(run_text(&mut forkpy, draw)["stdout"], run_text(&mut forkpy, draw)["stdout"]);
}

#[test]
fn a_cancelled_script_ends_with_its_children() {
    let mut forkpy = Forkpy::start();
    script(
        &forkpy,
        "x.py",
        "import subprocess\nchild = subprocess.Popen(['sleep', '300'])\nopen('begun', 'w')\nchild.wait()\n",
    );
    let id = forkpy.begin_call("run_script", json!({"path": "x.py"}));
    wait_for_file(&forkpy, "begun");
    forkpy.forget(id);
    forkpy.tolerate(id);
    forkpy.notify("notifications/cancelled", json!({"requestId": id, "reason": "test"}));
    let left = |forkpy: &Forkpy| {
        forkpy
            .family()
            .into_iter()
            .filter(|pid| {
                let name = processes::name(*pid);
                name == "sleep" || name.starts_with("fp-run")
            })
            .count()
    };
    wait_for("its end", || left(&forkpy) == 0);
}

#[test]
fn scripts_beyond_the_limit_wait_and_beyond_the_queue_are_refused() {
    let mut forkpy = Setup::new().args(&["--max-scripts", "1", "--queue", "1"]).start();
    script(
        &forkpy,
        "hold.py",
        "import os, time\nopen('begun', 'w')\nwhile not os.path.exists('go'): time.sleep(0.01)\n",
    );
    script(&forkpy, "mark.py", "import sys\nopen(sys.argv[1], 'w')\n");
    let first = forkpy.begin_call("run_script", json!({"path": "hold.py"}));
    wait_for_file(&forkpy, "begun");
    let asked = Instant::now();
    let rest = ["a", "b"].map(|name| forkpy.begin_call("run_script", json!({"path": "mark.py", "args": [name]})));
    // One of the two waits, the other finds the queue full; which of them is not said.
    wait_for("a refusal", || rest.iter().any(|id| forkpy.has_answer(*id)));
    let refused = usize::from(forkpy.has_answer(rest[1]));
    let reply = forkpy.reply(rest[refused]);
    assert!(reply.is_error && reply.text.contains("1 scripts run, which is the limit (--max-scripts)"), "{reply:?}");
    // Long enough to be worth a word in the reply.
    wait_for("a while", || asked.elapsed() > Duration::from_millis(700));
    fs::write(forkpy.file("go"), "").expect("written");
    assert_eq!(forkpy.reply(first).data["status"], "ok");
    let done = forkpy.reply(rest[1 - refused]).data;
    assert_eq!(done["status"], "ok", "{done}");
    assert!(done["queued_time"].as_f64().expect("a number") >= 0.5);
    assert_eq!([forkpy.file("a").exists(), forkpy.file("b").exists()], [refused == 1, refused == 0]);
}

#[test]
fn a_script_taken_back_while_it_waits_never_runs() {
    let mut forkpy = Setup::new().args(&["--max-scripts", "1"]).start();
    script(
        &forkpy,
        "hold.py",
        "import os, time\nopen('begun', 'w')\nwhile not os.path.exists('go'): time.sleep(0.01)\n",
    );
    script(&forkpy, "mark.py", "open('never', 'w')\n");
    let first = forkpy.begin_call("run_script", json!({"path": "hold.py"}));
    wait_for_file(&forkpy, "begun");
    let id = forkpy.begin_call("run_script", json!({"path": "mark.py"}));
    forkpy.call("ping", json!({}));
    forkpy.forget(id);
    forkpy.tolerate(id);
    forkpy.notify("notifications/cancelled", json!({"requestId": id}));
    forkpy.call("ping", json!({}));
    fs::write(forkpy.file("go"), "").expect("written");
    assert_eq!(forkpy.reply(first).data["status"], "ok");
    script(&forkpy, "after.py", "print('after')\n");
    assert_eq!(run(&mut forkpy, json!({"path": "after.py"}))["stdout"], "after\n");
    assert!(!forkpy.file("never").exists());
}

#[test]
fn bad_calls_are_refused_in_words() {
    let mut forkpy = Forkpy::start();
    fs::create_dir(forkpy.file("dir.py")).expect("made");
    nix::unistd::mkfifo(&forkpy.file("fifo.py"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    script(&forkpy, "x.py", "print(1)");
    let outside = forkpy.workspace.parent().expect("a parent").join("outside.py");
    fs::write(&outside, "print('outside')").expect("written");
    symlink(&outside, forkpy.file("link.py")).expect("a link");
    symlink("/dev/zero", forkpy.file("zero.py")).expect("a link");
    fs::File::create(forkpy.file("big.py")).and_then(|file| file.set_len(17 << 20)).expect("made");
    let long = "n".repeat(300);
    let absolute = outside.to_str().expect("UTF-8").to_owned();
    let cases = [
        (json!({"path": "nowhere.py"}), "no script \"nowhere.py\""),
        (json!({"path": "dir.py"}), "a directory"),
        (json!({"path": "fifo.py"}), "named pipe"),
        (json!({"path": "../outside.py"}), "out of the workspace"),
        (json!({"path": absolute}), "out of the workspace"),
        (json!({"path": "link.py"}), "out of the workspace"),
        (json!({"path": "zero.py"}), "out of the workspace"),
        (json!({"path": ""}), "empty"),
        (json!({"path": "a\0b"}), "NUL"),
        (json!({"path": long}), "too long"),
        (json!({"path": "big.py"}), "17825792 bytes"),
        (json!({}), "missing field `path`"),
        (json!({"path": "x.py", "args": {"one": 1}}), "`args`"),
        (json!({"path": "x.py", "args": ["a", 5]}), "`args[1]`"),
        (json!({"path": "x.py", "args": ["a\0"]}), "NUL"),
        (json!({"path": "x.py", "args": ["a".repeat(70_000)]}), "65536"),
        (json!({"path": "x.py", "timeout": 0}), "above 0"),
        (json!({"path": "x.py", "session_id": "default"}), "session_id"),
    ];
    for (arguments, words) in cases {
        let said = forkpy.refused("run_script", arguments);
        assert!(said.contains(words) && said.len() < 600, "{words}: {said}");
    }
    assert_eq!(run(&mut forkpy, json!({"path": "x.py"}))["stdout"], "1\n");
}

#[test]
fn a_script_outlives_the_zygote_and_nothing_outlives_the_server() {
    let mut forkpy = Forkpy::start();
    let text = "import os, subprocess, time\nsubprocess.Popen(['sleep', '300'])\nopen('begun', 'w')\n\
                while not os.path.exists('go'): time.sleep(0.01)\nprint('done')\n";
    script(&forkpy, "x.py", text);
    let id = forkpy.begin_call("run_script", json!({"path": "x.py"}));
    wait_for_file(&forkpy, "begun");
    let zygote = forkpy.zygote_pid();
    processes::signal(zygote, Signal::SIGKILL);
    wait_for("the zygote's end", || processes::state(zygote) == '-');
    fs::write(forkpy.file("go"), "").expect("written");
    let done = forkpy.reply(id).data;
    assert_eq!((&done["status"], &done["stdout"]), (&json!("ok"), &json!("done\n")), "{done}");
    fs::remove_file(forkpy.file("go")).expect("there");
    fs::remove_file(forkpy.file("begun")).expect("there");
    let id = forkpy.begin_call("run_script", json!({"path": "x.py"}));
    wait_for_file(&forkpy, "begun");
    forkpy.forget(id);
    let zygote = forkpy.zygote_pid();
    processes::signal(zygote, Signal::SIGKILL);
    forkpy.kill();
    wait_for("the end of all it started", || forkpy.family().is_empty());
}

#[test]
fn a_server_that_ends_takes_its_scripts_along() {
    let mut forkpy = Forkpy::start();
    let text = "import signal, subprocess, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n\
                subprocess.Popen(['sleep', '300'])\nopen('begun', 'w')\ntime.sleep(300)\n";
    script(&forkpy, "x.py", text);
    let id = forkpy.begin_call("run_script", json!({"path": "x.py"}));
    wait_for_file(&forkpy, "begun");
    forkpy.forget(id);
    forkpy.tolerate(id);
    processes::signal(forkpy.server_pid(), Signal::SIGTERM);
    // The drop asserts the rest.
}

#[test]
fn a_hundred_scripts_leave_no_trace() {
    // Processes and descriptors are counted, and a spare worker or a copy may come at any time.
    let mut forkpy = Setup::new().args(&["--max-spares", "0", "--checkpoints", "off"]).start();
    script(&forkpy, "x.py", "print('x')\n");
    forkpy.eval("1");
    let (server, zygote) = (forkpy.server_pid(), forkpy.zygote_pid());
    let look = || [processes::open_files(server), processes::open_files(zygote), processes::children(zygote).len()];
    for _ in 0..4 {
        assert_eq!(run(&mut forkpy, json!({"path": "x.py"}))["stdout"], "x\n");
    }
    let (before, began) = (look(), Instant::now());
    for _ in 0..100 {
        assert_eq!(run(&mut forkpy, json!({"path": "x.py"}))["stdout"], "x\n");
    }
    assert!(began.elapsed() < Duration::from_secs(90), "{:?} for a hundred", began.elapsed());
    wait_for("the same as before", || look().iter().zip(before).all(|(now, before)| *now <= before));
}
