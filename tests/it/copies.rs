//! What the copies of a session share, and what each has for itself: files, locks, timers, processes, temporary files.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_for, who::Who};

const LINES: usize = 100_000;
/// How many lines are left of a file that was opened before the checkpoint, and where its descriptor's twin stands.
const REST: &str = "sum(1 for _ in f)";

fn checkpoint(forkpy: &mut Forkpy, name: &str) -> String {
    let reply = forkpy.call("checkpoint_session", json!({"name": name}));
    assert!(!reply.is_error, "{reply:?}");
    words(&reply.data["warnings"])
}

fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(|words| words.as_str().expect("words")).collect::<Vec<_>>().join("\n")
}

fn restore(forkpy: &mut Forkpy, name: &str) {
    let reply = forkpy.call("restore_checkpoint", json!({"name": name}));
    assert!(!reply.is_error && reply.data["status"] == "restored", "{reply:?}");
}

fn in_session(forkpy: &mut Forkpy, session: &str, code: &str) -> Value {
    let reply = forkpy.call("run_python_code", json!({"code": code, "session_id": session})).data;
    if reply["error"].is_null() { reply["results"][0].clone() } else { reply["error"]["message"].clone() }
}

fn with_big_file(setup: Setup) -> Forkpy {
    let text: String = (0..LINES).map(|number| format!("{number}\n")).collect();
    let forkpy = setup.start();
    std::fs::write(forkpy.file("big.txt"), text).expect("written");
    forkpy
}

/// A file that was open was read by all copies together: the second one found what the first had left.
#[test]
fn each_copy_reads_a_file_from_where_it_stood() {
    let mut forkpy = with_big_file(Setup::new());
    forkpy.run("import os\nf = open('big.txt'); next(f); twin = os.dup(f.fileno())");
    assert_eq!(checkpoint(&mut forkpy, "a"), "", "nothing is shared, so nothing is said");
    let rest = (LINES - 1).to_string();
    assert_eq!(forkpy.eval(REST), rest, "the session itself");
    for turn in 0..3 {
        restore(&mut forkpy, "a");
        assert_eq!(forkpy.eval(REST), rest, "restore {turn}");
        assert_eq!(forkpy.eval("os.lseek(twin, 0, 1) == os.lseek(f.fileno(), 0, 1)"), "True", "twins stay twins");
    }
    restore(&mut forkpy, "a");
    let run = forkpy.call("run_branches", json!({"codes": [REST, REST, REST], "max_parallel": 3})).data;
    for index in 0..3 {
        assert_eq!(run["branches"][index]["outcome"]["results"], json!([rest]), "branch {index}: {run}");
    }
    for name in ["x", "y"] {
        forkpy.call("fork_session", json!({"new_session_id": name, "checkpoint": "a"}));
        assert_eq!(in_session(&mut forkpy, name, REST), json!(rest), "fork {name}");
    }
    assert_eq!(forkpy.eval(REST), rest, "and the session again, that all of them are copies of");
}

/// A reader that is laid over a file, and a temporary file, go on in each copy from where they stood.
#[test]
fn each_copy_reads_on_through_whatever_is_laid_over_a_file() {
    let mut forkpy = with_big_file(Setup::new());
    forkpy.run(
        "import bz2, csv, gzip, io, lzma, tarfile, tempfile, zipfile\nraw = open('big.txt', 'rb').read()\n\
         for module, name in (gzip, 'z.gz'), (bz2, 'z.bz2'), (lzma, 'z.xz'):\n    with module.open(name, 'wb') as f: f.write(raw)\n\
         with zipfile.ZipFile('z.zip', 'w', zipfile.ZIP_DEFLATED) as f: f.write('big.txt')\n\
         with tarfile.open('z.tar', 'w') as f: f.add('big.txt')\n\
         def written(file):\n    file.write(raw); file.flush(); file.seek(0); return file\n\
         archive = zipfile.ZipFile('z.zip'); tar = tarfile.open('z.tar')\n\
         named = tempfile.NamedTemporaryFile('w+b'); spooled = tempfile.SpooledTemporaryFile(max_size=9, mode='w+b')\n\
         readers = [gzip.open('z.gz'), bz2.open('z.bz2'), lzma.open('z.xz'), archive.open('big.txt'),\n    \
         tar.extractfile('big.txt'), csv.reader(open('big.txt')), io.TextIOWrapper(gzip.open('z.gz')),\n    \
         written(named), written(tempfile.TemporaryFile()), written(spooled), written(tempfile.SpooledTemporaryFile())]\n\
         def skip(reader): return reader.readline() if hasattr(reader, 'readline') else next(reader)\n\
         for reader in readers:\n    for _ in range(1000): skip(reader)",
    );
    let said = checkpoint(&mut forkpy, "a");
    assert!(said.contains("a deleted file, as TemporaryFile makes"), "{said}");
    let rest = format!("'{}'", vec![(LINES - 1000).to_string(); 11].join(" "));
    let read = "' '.join(str(sum(1 for _ in reader)) for reader in readers)";
    assert_eq!(forkpy.eval(read), rest, "the session itself");
    let run = forkpy.call("run_branches", json!({"codes": [read, read], "max_parallel": 2})).data;
    assert_ne!(
        run["branches"][0]["outcome"]["results"],
        json!([rest]),
        "they are copies of one that has read all: {run}"
    );
    for turn in 0..2 {
        restore(&mut forkpy, "a");
        assert_eq!(forkpy.eval(read), rest, "restore {turn}");
    }
    restore(&mut forkpy, "a");
    let run = forkpy.call("run_branches", json!({"codes": [read, read, read], "max_parallel": 3})).data;
    for index in 0..3 {
        assert_eq!(run["branches"][index]["outcome"]["results"], json!([rest]), "branch {index}: {run}");
    }
}

/// Flags come along, nothing is truncated or made, and a file that is deleted or replaced stays the one it was.
#[test]
fn a_file_is_the_same_file_in_a_copy() {
    let mut forkpy = with_big_file(Setup::new());
    forkpy.run(
        "import os, fcntl\nlog = open('log', 'a'); log.write('one '); log.flush()\n\
         made = open('made', 'x+'); made.write('0123456789'); made.flush(); made.seek(3)\n\
         gone = open('gone', 'w+'); gone.write('deleted'); gone.seek(0); os.remove('gone')\n\
         old = open('replaced', 'w+'); old.write('old'); old.seek(0)\n\
         open('new', 'w').write('new'); os.replace('new', 'replaced')\n\
         shared = os.open('big.txt', os.O_RDONLY); os.set_inheritable(shared, True)\n\
         def flags(fd): return fcntl.fcntl(fd, fcntl.F_GETFL), os.get_inheritable(fd)\n\
         before = [flags(fd) for fd in (log.fileno(), made.fileno(), shared)]",
    );
    let said = checkpoint(&mut forkpy, "a");
    assert!(said.contains("open for writing") && said.contains("/log") && said.contains("/made"), "{said}");
    assert!(said.contains("a deleted file"), "{said}");
    let seen =
        "[flags(fd) for fd in (log.fileno(), made.fileno(), shared)] == before, made.read(), gone.read(), old.read()";
    let expected = "(True, '3456789', 'deleted', 'old')";
    assert_eq!(forkpy.eval(seen), expected, "the session itself");
    for turn in 0..2 {
        restore(&mut forkpy, "a");
        assert_eq!(forkpy.eval(seen), expected, "restore {turn}");
        forkpy.run("log.write('more '); log.flush()");
    }
    assert_eq!(forkpy.eval("open('log').read()"), "'one more more '");
}

/// A checkpoint is of the moment at which it was made, however soon the session reads on.
#[test]
fn the_next_cell_does_not_move_the_files_of_a_checkpoint() {
    let mut forkpy = with_big_file(Setup::new().args(&["--checkpoints", "last"]));
    forkpy.run("f = open('big.txt')");
    for turn in 0..20 {
        forkpy.run("before = f.tell(); f.read(100)");
        let reply = forkpy.run("f.read(5000); import os; os._exit(1)");
        assert_eq!(reply["state"], "restored", "{reply}");
        assert_eq!(forkpy.eval("f.tell() - before"), "100", "turn {turn}");
    }
}

/// A crash half way through a file was followed by the other half, and no word.
#[test]
fn what_is_read_again_after_a_crash_is_whole() {
    let mut forkpy = with_big_file(Setup::new().args(&["--checkpoints", "last"]));
    forkpy.run("import csv, os\nrows = csv.reader(open('big.txt'))\nlog = open('log', 'w')");
    let reply = forkpy.run("seen = 0\nfor row in rows:\n    seen += 1\n    if seen == 50_000: os._exit(1)");
    assert_eq!(reply["state"], "restored", "{reply}");
    let notice = reply["notice"].as_str().expect("a notice");
    assert!(notice.contains("does not hold everything") && notice.contains("/log"), "{notice}");
    assert_eq!(forkpy.eval("sum(1 for _ in rows)"), LINES.to_string());
}

#[test]
fn a_lock_is_held_by_all_copies_together_and_that_is_said() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import fcntl, os\nwhole = open('whole', 'w'); fcntl.flock(whole, fcntl.LOCK_EX)\n\
         part = open('part', 'w'); fcntl.lockf(part, fcntl.LOCK_EX)\n\
         def is_free(name):\n    with open(name) as file:\n        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
         \x20       except BlockingIOError: return False\n    return True",
    );
    let said = checkpoint(&mut forkpy, "a");
    let line = said.lines().find(|line| line.starts_with("a file lock is held")).expect("it is said");
    assert!(line.contains("/whole") && line.contains("/part, by fcntl: not in a copy"), "{line}");
    restore(&mut forkpy, "a");
    assert_eq!(forkpy.eval("is_free('whole')"), "False", "a session that goes back has not lost its lock");
    forkpy.run("whole.close()");
    forkpy.call("delete_checkpoint", json!({"name": "a"}));
    wait_for("the last copy to let it go", || forkpy.eval("is_free('whole')") == "True");
}

/// What cannot be copied is named, each kind of it.
#[test]
fn everything_that_is_shared_is_named() {
    let mut forkpy = Forkpy::start();
    for (code, expected) in [
        ("import multiprocessing as mp\nx = mp.Value('i', 1)", "multiprocessing.Value or Array"),
        ("", "variables lie in shared memory (x)"),
        ("x = None; import mmap; x = mmap.mmap(-1, 4096)", "an anonymous shared mapping"),
        ("import os; x = os.memfd_create('mine')", "memfd:mine"),
        (
            "os.close(x); from multiprocessing.shared_memory import SharedMemory\nx = SharedMemory(create=True, size=9)",
            "SharedMemory psm_",
        ),
        (
            "x.close(); x.unlink(); f = open('m', 'w+b'); f.truncate(4096); x = mmap.mmap(f.fileno(), 4096)",
            "/m, mapped for writing",
        ),
        ("import tempfile; x = tempfile.TemporaryFile()", "a deleted file, as TemporaryFile makes, is open"),
        ("x = tempfile.TemporaryDirectory()", "temporary folders are in use ("),
        ("x = os.pipe()", "a pipe is open (descriptor "),
        ("os.mkfifo('fifo'); y = os.open('fifo', os.O_RDWR)", "/fifo"),
        ("import socket; x = socket.socketpair()", "a socket pair is open (descriptor "),
        ("import pty; x = pty.openpty()", "a terminal is open (/dev/p"),
        ("import select; x = select.epoll()", "eventpoll, descriptor "),
        ("import ctypes; libc = ctypes.CDLL(None); x = libc.inotify_init()", "inotify, descriptor "),
        ("x = libc.timerfd_create(1, 0)", "timerfd, descriptor "),
        ("x = libc.eventfd(0, 0)", "eventfd, descriptor "),
        ("import signal; signal.signal(signal.SIGALRM, lambda *_: None); signal.alarm(500)", "an alarm in "),
        ("signal.alarm(0); signal.setitimer(signal.ITIMER_PROF, 500)", "an itimer of processor time in "),
        ("import threading; x = {'a': [threading.Lock()]}; x['a'][0].acquire()", "locks are held (x['a'][0])"),
        ("x = threading.Condition(); x.acquire()", "locks are held (x)"),
        ("class Job: pass\nx = Job(); x.lock = threading.RLock(); x.lock.acquire()", "locks are held (x.lock)"),
        ("x = mp.Lock(); x.acquire()", "locks are held (x)"),
        ("", "locks and counters of multiprocessing"),
    ] {
        if !code.is_empty() {
            let reply = forkpy.run(code);
            assert_eq!(reply["status"], "ok", "{code}: {reply}");
        }
        let said = checkpoint(&mut forkpy, "a");
        assert!(said.contains(expected), "{code}\nexpected {expected:?} in\n{said}");
        forkpy.call("delete_checkpoint", json!({"name": "a"}));
    }
}

/// Nothing is said of what is nobody's concern: the session's own loop, harmless devices, locks that are free.
#[test]
fn nothing_is_said_of_a_session_that_shares_nothing() {
    let mut forkpy = with_big_file(Setup::new());
    forkpy.run(
        "import asyncio, threading, queue, os, tempfile, mmap\nawait asyncio.sleep(0)\nnull = open('/dev/null', 'w')\n\
         free = [threading.Lock(), threading.Condition(), queue.Queue(), threading.Event(), threading.Semaphore(2)]\n\
         f = open('big.txt'); mapped = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
         private = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); folder = os.open('.', os.O_RDONLY)",
    );
    assert_eq!(checkpoint(&mut forkpy, "a"), "");
}

/// A copy that closed a NamedTemporaryFile removed the original's file.
#[test]
fn temporary_files_belong_to_the_session_that_made_them() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import os, tempfile\nfile, folder = tempfile.NamedTemporaryFile(), tempfile.TemporaryDirectory()\n\
         def there(): return os.path.exists(file.name), os.path.exists(folder.name)",
    );
    checkpoint(&mut forkpy, "a");
    let close = "file.close(); folder.cleanup(); there()";
    forkpy.call("fork_session", json!({"new_session_id": "copy"}));
    assert_eq!(in_session(&mut forkpy, "copy", close), json!("(True, True)"), "the copy leaves them alone");
    let own = "mine = tempfile.NamedTemporaryFile(); here = tempfile.TemporaryDirectory()\nmine.close(); here.cleanup()\n\
               os.path.exists(mine.name), os.path.exists(here.name)";
    assert_eq!(in_session(&mut forkpy, "copy", own), json!("(False, False)"), "and removes its own");
    forkpy.call("fork_session", json!({"new_session_id": "other"}));
    forkpy.call("delete_session", json!({"session_id": "other"}));
    let run = forkpy.call("run_branches", json!({"codes": ["del file, folder"], "keep": "none"})).data;
    assert_eq!(run["branches"][0]["outcome"]["status"], "ok", "{run}");
    assert_eq!(forkpy.eval("there()"), "(True, True)", "nor does the end of a copy remove them");
    restore(&mut forkpy, "a");
    assert_eq!(forkpy.eval(close), "(False, False)", "a session that went back is still the one that made them");
}

/// `poll()` said 0, which is success, for a child that ran.
#[test]
fn nothing_is_invented_of_the_children_of_another_process() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import subprocess, multiprocessing\nchild = subprocess.Popen(['sleep', '300'])\n\
         worker = multiprocessing.get_context('fork').Process(target=__import__('time').sleep, args=(300,), daemon=True)\n\
         worker.start()",
    );
    let said = checkpoint(&mut forkpy, "a");
    assert!(said.contains("child processes run ("), "{said}");
    forkpy.call("fork_session", json!({"new_session_id": "copy"}));
    assert_eq!(in_session(&mut forkpy, "copy", "child.poll(), worker.exitcode"), json!("(None, None)"), "they run");
    let late = in_session(&mut forkpy, "copy", "child.wait(timeout=0.1)");
    assert!(late.as_str().is_some_and(|words| words.contains("timed out after 0.1")), "{late}");
    // The end of a copy is not that of children which are not its own.
    forkpy.call("fork_session", json!({"new_session_id": "other"}));
    forkpy.call("delete_session", json!({"session_id": "other"}));
    assert_eq!(forkpy.eval("child.poll(), worker.is_alive()"), "(None, True)");
    assert_eq!(
        forkpy.eval("worker.terminate(); worker.join(); child.terminate(); child.wait(), worker.exitcode"),
        "(-15, -15)"
    );
    for code in ["child.poll()", "child.wait()", "child.communicate()", "worker.exitcode"] {
        let told = in_session(&mut forkpy, "copy", code);
        assert!(
            told.as_str().is_some_and(|words| words.contains("its exit status is not known here")),
            "{code}: {told}"
        );
    }
    assert_eq!(in_session(&mut forkpy, "copy", "child.terminate(); str(child.returncode)"), json!("'None'"));
    let own = "subprocess.run(['sh', '-c', 'exit 3']).returncode, multiprocessing.active_children()";
    assert_eq!(in_session(&mut forkpy, "copy", own), json!("(3, [])"));
    restore(&mut forkpy, "a");
    wait_for("the children of the worker before to be gone", || {
        in_session(&mut forkpy, "default", "child.poll()")
            .as_str()
            .is_some_and(|words| words.contains("not known here"))
    });
    // Going back ended what ran: that is known.
    forkpy.run("later = subprocess.Popen(['sleep', '300'])");
    checkpoint(&mut forkpy, "b");
    restore(&mut forkpy, "b");
    wait_for("the end of a child of the worker before", || {
        in_session(&mut forkpy, "default", "later.poll()") == json!("-9")
    });
    assert_eq!(in_session(&mut forkpy, "default", "later.wait()"), json!("-9"));
}

/// A session that has taken nearly all the descriptors it is allowed has copies with files of their own too.
#[test]
fn a_session_with_hardly_a_descriptor_left_is_copied() {
    let mut forkpy = with_big_file(Setup::new().args(&["--open-files-limit", "64"]));
    forkpy.run(
        "files = []\ntry:\n    while True: files.append(open('big.txt'))\nexcept OSError: pass\n\
         for _ in range(16): files.pop().close()\nfor number, file in enumerate(files): file.seek(number)",
    );
    let said = checkpoint(&mut forkpy, "a");
    assert_eq!(said, "");
    let moved = "here = [file.seek(file.tell() + 1) - 1 for file in files]; here == list(range(len(files)))";
    assert_eq!(forkpy.eval(moved), "True");
    for _ in 0..2 {
        restore(&mut forkpy, "a");
        assert_eq!(forkpy.eval(moved), "True");
    }
}

/// A file that may not be opened again stays shared, and that is said. Root may open everything.
#[test]
fn a_file_that_cannot_be_opened_anew_is_named() {
    for who in Who::every().into_iter().filter(|who| who.is_ordinary()) {
        let mut forkpy = Setup::new().run_by(who).start();
        forkpy.run("import os\nf = open('once', 'w'); os.chmod('once', 0)");
        let said = checkpoint(&mut forkpy, "a");
        assert!(said.contains("could not be opened anew") && said.contains("/once, permission denied"), "{said}");
    }
}

#[test]
fn a_worker_that_another_signal_ends_leaves_its_files_where_they_stood() {
    let mut forkpy = with_big_file(Setup::new().args(&["--checkpoints", "last"]));
    forkpy.run("f = open('big.txt'); f.read(1000)");
    wait_for("the automatic checkpoint", || forkpy.call("list_checkpoints", json!({})).data["total"] == 1);
    let worker = forkpy.pid();
    processes::signal(worker, Signal::SIGKILL);
    forkpy.until("another worker", |seen| seen["pid"].as_i64().is_some_and(|pid| pid != i64::from(worker)));
    assert_eq!(forkpy.eval("f.tell()"), "1000");
}
