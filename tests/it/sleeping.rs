//! Sessions that sleep on disk: everything is there when they wake, looking does not wake them, and what would not be the same is
//! refused before it happens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_for};

/// Everything that is hard to write down: closures, half-used generators, C objects, a database in memory, an open file.
pub const STATE: &str = r#"
import collections, contextvars, decimal, functools, gc, hashlib, itertools, os, random, re, signal, sqlite3, subprocess
import sys, threading, weakref, zlib
def counter():
    n = 0
    def up():
        nonlocal n
        n += 1
        return n
    return up
def squares():
    for i in itertools.count(): yield i * i
class Point:
    __slots__ = ("x", "y", "__weakref__")
    def __init__(self, x, y): self.x, self.y = x, y
    def norm(self): return self.x ** 2 + self.y ** 2
class Tall(Point):
    def norm(self): return super().norm() + 1
@functools.lru_cache(None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
up, gen, points, cycle = counter(), squares(), [Tall(i, i + 1) for i in range(1000)], []
cycle.append(cycle); watched = weakref.ref(points[0]); fib(200)
db = sqlite3.connect(":memory:"); db.execute("create table t(a, b)")
db.executemany("insert into t values(?, ?)", [(i, f"row{i}") for i in range(1000)])
cursor = db.execute("select a, b from t order by a")
pattern = re.compile(r"(?P<w>\w+)-(\d{2,4})"); decimal.getcontext().prec = 50
random.seed(42); twin = random.Random(42)
digest, packer = hashlib.sha256(b"abc"), zlib.compressobj(); packed = packer.compress(b"hello" * 100)
variable = contextvars.ContextVar("variable"); variable.set(11); lock = threading.Lock()
file = open("lines.txt", "w+"); file.write("".join(f"line {i}\n" for i in range(1000))); file.flush(); file.seek(0)
hits = []; signal.signal(signal.SIGUSR1, lambda *_: hits.append(1)); os.umask(0o27)
big = {i: str(i) for i in range(20000)}; place = id(points[0])
"#;

/// What is to be so in round `N`, from 0.
pub const CHECK: &str = r#"
assert (up(), next(gen), file.readline()) == (N + 1, N * N, f"line {N}\n")
assert cursor.fetchone() == (N, f"row{N}") and db.execute("select count(*) from t").fetchone()[0] == 1000
assert points[3].norm() == 26 and watched() is points[0] and id(points[0]) == place and cycle[0] is cycle
assert fib.cache_info().currsize == 201 and pattern.match("ab-123").group("w") == "ab"
assert str(decimal.Decimal(1) / 3) == "0." + "3" * 50 and random.random() == twin.random()
assert digest.hexdigest()[:8] == "ba7816bf" and zlib.decompress(packed + packer.copy().flush()) == b"hello" * 100
assert variable.get() == 11 and not lock.locked() and len(big) == 20000 and big[777] == "777"
assert os.umask(0o27) == 0o27
os.kill(os.getpid(), signal.SIGUSR1)
assert len(hits) == N + 1, hits
"#;

/// The process is one like any other: it can do what is new to it.
pub const LIVE: &str = r#"
import concurrent.futures, csv, multiprocessing, tempfile, time, uuid, xml.dom.minidom
sums = []
threads = [threading.Thread(target=lambda i=i: sums.append(sum(range(i * 1000)))) for i in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
assert len(sums) == 8; del threads
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
assert subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout == "hi\n"
child = os.fork()
if child == 0: os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
with multiprocessing.get_context("fork").Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
pool.join(); del pool
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
assert deep(900) == 900
try: 1 / 0
except ZeroDivisionError: pass
many = [bytearray(1 << 20) for _ in range(20)]; del many; gc.collect()
assert threading.get_native_id() == os.getpid()
import asyncio; await asyncio.sleep(0.001)
"#;

pub fn asleep(forkpy: &mut Forkpy) -> Value {
    let reply = forkpy.call("sleep_session", json!({}));
    assert!(!reply.is_error && reply.data["status"] == "asleep", "{reply:?}");
    reply.data
}

pub fn works(forkpy: &mut Forkpy, code: &str) {
    let reply = forkpy.run(code);
    assert_eq!(reply["status"], "ok", "{reply}");
}

/// The only image that lies there.
fn image(folder: &Path) -> PathBuf {
    let below = fs::read_dir(folder).expect("there").map(|entry| entry.expect("readable").path());
    let files = below.filter(|path| path.is_dir()).flat_map(|server| fs::read_dir(server).expect("a folder"));
    let mut images: Vec<PathBuf> = files.map(|entry| entry.expect("readable").path()).collect();
    images.retain(|path| path.extension().is_some_and(|end| end == "image"));
    assert_eq!(images.len(), 1, "{images:?}");
    images.remove(0)
}

fn with_folder(args: &[&str]) -> (tempfile::TempDir, Setup) {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().to_str().expect("UTF-8").to_owned();
    (folder, Setup::new().args(&["--state-dir", &state, "--checkpoints", "off"]).args(args))
}

#[test]
fn everything_is_there_after_each_of_many_sleeps() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    works(&mut forkpy, STATE);
    for round in 0..8 {
        let before = forkpy.pid();
        asleep(&mut forkpy);
        wait_for("the end of its worker", || processes::state(before) == '-');
        works(&mut forkpy, &CHECK.replace('N', &round.to_string()));
        assert_ne!(forkpy.pid(), before);
        if round % 4 == 0 {
            works(&mut forkpy, LIVE);
        }
    }
    assert_eq!(forkpy.health()["restarts"], 0, "a sleep is no restart");
}

#[test]
fn a_session_that_is_left_alone_sleeps_and_a_look_does_not_wake_it() {
    let mut forkpy = Setup::new().args(&["--sleep-after", "0.3"]).start();
    let began = forkpy.pid();
    works(&mut forkpy, "kept = list(range(100))");
    let health = forkpy.until_state("asleep");
    let told = |name: &str| health[name].clone();
    assert_eq!((told("status"), told("pid"), told("memory_usage")), (json!("healthy"), Value::Null, json!(0)));
    assert_eq!((told("cpu_percent"), told("num_threads")), (json!(0.0), json!(0)));
    let uptime = told("uptime").as_f64().expect("it goes on");
    wait_for("the end of its worker", || processes::state(began) == '-');
    for tool in ["get_health_report", "list_sessions", "list_checkpoints", "check_kernel_responsiveness"] {
        let reply = forkpy.call(tool, json!({}));
        assert!(!reply.is_error, "{reply:?}");
    }
    let listed = forkpy.call("list_checkpoints", json!({})).data;
    assert_eq!((&listed["total"], &listed["asleep"][0]["after_cell"]), (&json!(0), &json!(1)));
    let still = forkpy.health();
    assert_eq!((&still["state"], &still["alerts"]), (&json!("asleep"), &json!([])));
    let reply = forkpy.run("kept[-1]");
    assert_eq!((&reply["results"], &reply["state"], &reply["alerts"]), (&json!(["99"]), &json!("kept"), &Value::Null));
    assert!(forkpy.health()["uptime"].as_f64().expect("known") >= uptime, "it has been up all the time");
}

#[test]
fn every_call_that_needs_the_session_wakes_it() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    works(&mut forkpy, "kept = [1, 2, 3]");
    for (tool, arguments, word) in [
        ("list_variables", json!({}), "kept"),
        ("code_completion", json!({"code": "kept.app", "cursor_pos": 8}), "append"),
        ("checkpoint_session", json!({"name": "here"}), "here"),
        ("fork_session", json!({"new_session_id": "other"}), "other"),
        ("save_session", json!({"path": "x.forkpy"}), "kept"),
        ("run_branches", json!({"codes": ["len(kept)"]}), "3"),
        ("restart_kernel", json!({"preserve_state": true}), "kept"),
        ("restore_checkpoint", json!({"name": "here"}), "here"),
    ] {
        asleep(&mut forkpy);
        let reply = forkpy.call(tool, arguments);
        assert!(!reply.is_error && reply.data.to_string().contains(word), "{tool}: {reply:?}");
        assert_eq!(forkpy.eval("kept"), "[1, 2, 3]", "{tool}");
    }
    // Without its state it begins anew, and says so.
    asleep(&mut forkpy);
    let reply = forkpy.call("restart_kernel", json!({}));
    assert!(!reply.is_error, "{reply:?}");
    assert_eq!(forkpy.run("kept")["error"]["type"], "NameError");
}

#[test]
fn what_would_not_be_the_same_is_refused_and_the_session_is_as_it_was() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    for (code, word) in [
        ("import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", "threads"),
        ("import mmap; m = mmap.mmap(-1, 4096); m[0] = 7", "memory is shared"),
        ("import multiprocessing; v = multiprocessing.Value('i', 3)", "memory is shared"),
        ("import socket; s = socket.socket()", "a socket"),
        ("import os; p = os.pipe()", "a pipe"),
        ("import os; p = os.openpty()", "a terminal"),
        ("import os; p = os.memfd_create('x')", "memory is shared"),
        ("import os; p = os.eventfd(1)", "an object of the kernel"),
        ("import tempfile; t = tempfile.TemporaryFile()", "a deleted file"),
        ("import sqlite3; d = sqlite3.connect('x.db'); d.execute('create table t(a)')", "a SQLite file"),
        ("import subprocess; p = subprocess.Popen(['sleep', '99'])", "child processes"),
        ("import signal; signal.setitimer(signal.ITIMER_REAL, 99)", "a timer"),
        ("import fcntl; f = open('l', 'w'); fcntl.flock(f, fcntl.LOCK_EX)", "a file lock"),
        ("import threading; l = threading.Lock(); l.acquire()", "locks are held"),
        ("import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", "is another"),
        (
            "import ctypes; b = ctypes.create_string_buffer(1 << 20); assert ctypes.CDLL(None).mlock(b, 1 << 20) == 0",
            "locked",
        ),
    ] {
        forkpy.call("create_session", json!({"session_id": "s"}));
        let ran = forkpy.call("run_python_code", json!({"code": code, "session_id": "s"}));
        // Not every Python has all of them.
        if ran.data["status"] == "ok" {
            let words = forkpy.refused("sleep_session", json!({"session_id": "s"}));
            assert!(words.contains("is as it was") && words.contains(word), "{code}: {words}");
            let health = forkpy.call("get_kernel_health", json!({"session_id": "s"})).data;
            assert_eq!((&health["status"], &health["state"]), (&json!("healthy"), &json!("idle")), "{code}");
        }
        forkpy.call("delete_session", json!({"session_id": "s"}));
    }
}

#[test]
fn an_image_that_was_changed_is_refused_and_the_right_one_still_wakes() {
    let (folder, setup) = with_folder(&[]);
    let mut forkpy = setup.start();
    works(&mut forkpy, "kept = [1, 2, 3]");
    asleep(&mut forkpy);
    let path = image(folder.path());
    let whole = fs::read(&path).expect("readable");
    let changed = |place: usize| {
        let mut bytes = whole.clone();
        bytes[place] ^= 4;
        bytes
    };
    let (middle, last) = (whole.len() / 2, whole.len() - 1);
    for bad in [changed(20), changed(60), changed(middle), changed(last), whole[..middle].to_vec(), Vec::new()] {
        fs::write(&path, bad).expect("written");
        let reply = forkpy.run("kept");
        let words = reply.to_string();
        assert!(words.contains("could not be woken") && words.contains("changed, cut short or replaced"), "{words}");
        assert_eq!(forkpy.health()["state"], "asleep");
    }
    fs::remove_file(&path).expect("removed");
    assert!(forkpy.run("kept").to_string().contains("could not be woken"));
    let beside = path.with_extension("values");
    let values = fs::read(&beside).expect("by value");
    fs::remove_file(&beside).expect("removed");
    let kept = forkpy.refused("restart_kernel", json!({"preserve_state": true}));
    assert!(kept.contains("not restarted"), "{kept}");
    fs::write(&beside, &values).expect("written");
    fs::write(&path, &whole).expect("written");
    assert_eq!(forkpy.eval("kept"), "[1, 2, 3]");
    assert!(!path.exists() && !beside.exists(), "they are of a state that the session has left");
}

#[test]
fn where_the_image_does_not_wake_there_are_the_variables_by_value() {
    let (folder, setup) = with_folder(&[]);
    let mut forkpy = setup.start();
    works(&mut forkpy, "kept = {'a': [1, 2]}; again = kept; rows = (n for n in 'abc'); next(rows)");
    asleep(&mut forkpy);
    let path = image(folder.path());
    fs::write(&path, "nonsense").expect("written");
    let words = forkpy.run("kept").to_string();
    for part in ["could not be woken", "preserve_state: true", "kept, again", "not there would be rows ("] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(forkpy.health()["state"], "asleep");
    let reply = forkpy.call("restart_kernel", json!({"preserve_state": true}));
    assert!(!reply.is_error, "{reply:?}");
    assert_eq!(reply.data["restored_vars"], json!(["again", "kept"]), "{reply:?}");
    assert!(reply.data["lost_vars"]["rows"].is_string() && reply.text.contains("could not be woken"), "{reply:?}");
    assert_eq!(forkpy.eval("kept is again and kept"), "{'a': [1, 2]}");
    assert!(!path.exists() && !path.with_extension("values").exists());
}

#[test]
fn a_session_that_cannot_sleep_as_it_is_does_so_by_value_when_that_is_wished() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    works(
        &mut forkpy,
        "import threading; kept = [1, 2]; thread = threading.Thread(target=threading.Event().wait, daemon=True); \
         thread.start()",
    );
    let pid = forkpy.pid();
    let words = forkpy.refused("sleep_session", json!({}));
    assert!(words.contains("threads") && words.contains("by_value: true"), "{words}");
    assert_eq!(forkpy.pid(), pid);
    let told = forkpy.call("sleep_session", json!({"by_value": true}));
    assert!(!told.is_error, "{told:?}");
    let told = told.data;
    let mut names: Vec<_> = told["by_value"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.sort_unstable();
    assert_eq!((names.as_slice(), &told["status"]), (["kept", "threading"].as_slice(), &json!("asleep")), "{told}");
    assert!(told["left_out"]["thread"].is_string() && told["why"][0].to_string().contains("threads"), "{told}");
    assert_eq!(forkpy.health()["state"], "asleep");
    let reply = forkpy.run("kept");
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["[1, 2]"]), &json!("restored")), "{reply}");
    let notice = reply["notice"].as_str().expect("told");
    assert!(notice.contains("variables alone") && notice.contains("thread ("), "{notice}");
    assert_eq!(forkpy.run("thread")["error"]["type"], "NameError");
    // It is one like any other again, and needs no such wish.
    let told = forkpy.call("sleep_session", json!({"by_value": true})).data;
    assert_eq!((&told["status"], &told["by_value"]), (&json!("asleep"), &Value::Null), "{told}");
    assert_eq!(forkpy.eval("kept"), "[1, 2]");
}

#[test]
fn there_is_a_way_on_without_the_image() {
    let (folder, setup) = with_folder(&[]);
    let mut forkpy = setup.start();
    works(&mut forkpy, "kept = 1");
    asleep(&mut forkpy);
    let path = image(folder.path());
    fs::write(&path, "nonsense").expect("written");
    assert!(forkpy.run("kept").to_string().contains("restart_kernel"), "it says what can be done");
    forkpy.call("restart_kernel", json!({}));
    assert_eq!(forkpy.run("kept")["error"]["type"], "NameError");
    assert!(!path.exists(), "the image is gone");
}

#[test]
fn where_there_is_no_room_the_session_stays_awake() {
    let (_folder, setup) = with_folder(&["--state-disk", "1", "--sleep-after", "0.2"]);
    let mut forkpy = setup.start();
    works(&mut forkpy, "import os; much = os.urandom(3 << 20); kept = 1");
    let words = forkpy.refused("sleep_session", json!({}));
    assert!(words.contains("--state-disk") && words.contains("is as it was"), "{words}");
    let health = forkpy.until("the reason", |health| health["stays_awake"].is_string());
    assert!(health["stays_awake"].as_str().expect("words").contains("--state-disk"), "{health}");
    assert_eq!(forkpy.eval("kept"), "1");
}

#[test]
fn a_death_on_the_way_down_leaves_the_session_awake() {
    for fault in ["checkpoint.image:1=kill", "image.wake:1=kill", "image.woken:1=kill", "checkpoint.woken:1=kill"] {
        let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).env("FORKPY_FAULT", fault).start();
        works(&mut forkpy, "kept = 1");
        let pid = forkpy.pid();
        let words = forkpy.refused("sleep_session", json!({}));
        assert!(words.contains("is as it was"), "{fault}: {words}");
        assert_eq!((forkpy.eval("kept"), forkpy.pid()), ("1".to_owned(), pid), "{fault}");
    }
}

#[test]
fn a_death_on_the_way_up_leaves_the_session_asleep_and_the_next_call_wakes_it() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).env("FORKPY_FAULT", "image.wake:2=kill").start();
    works(&mut forkpy, "kept = 1");
    asleep(&mut forkpy);
    let words = forkpy.run("kept").to_string();
    assert!(words.contains("could not be woken") && words.contains("the next call tries again"), "{words}");
    assert_eq!(forkpy.health()["state"], "asleep");
    assert_eq!(forkpy.eval("kept"), "1");
}

#[test]
fn a_session_wakes_in_another_zygote_too() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    works(&mut forkpy, STATE);
    for round in 0..2 {
        asleep(&mut forkpy);
        let zygote = forkpy.zygote_pid();
        processes::signal(zygote, Signal::SIGKILL);
        wait_for("the end of the zygote", || processes::state(zygote) == '-');
        works(&mut forkpy, &CHECK.replace('N', &round.to_string()));
        works(&mut forkpy, LIVE);
    }
}

#[test]
fn a_session_that_is_deleted_leaves_nothing_on_disk_and_without_a_folder_the_others_neither() {
    let (folder, setup) = with_folder(&[]);
    let mut forkpy = setup.start();
    for name in ["one", "two"] {
        forkpy.call("create_session", json!({"session_id": name}));
        forkpy.call("run_python_code", json!({"code": "x = 1", "session_id": name}));
        assert!(!forkpy.call("sleep_session", json!({"session_id": name})).is_error);
    }
    forkpy.call("delete_session", json!({"session_id": "one"}));
    let left = image(folder.path());
    forkpy.call("delete_session", json!({"session_id": "two"}));
    assert!(!left.exists());
    drop(forkpy);
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("there").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(left, ["key"]);
}

#[test]
fn an_image_is_small() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    works(&mut forkpy, "kept = list(range(1000))");
    for _ in 0..3 {
        let told = asleep(&mut forkpy);
        assert!(told["disk"].as_u64().expect("bytes") < 3 << 20, "{told}");
        assert_eq!(forkpy.eval("kept[-1]"), "999");
    }
}

#[test]
fn where_the_disk_is_full_the_session_stays_awake() {
    let (folder, setup) = with_folder(&[]);
    let mut forkpy = setup.start();
    works(&mut forkpy, "import os; much = os.urandom(3 << 20); kept = 1");
    let pid = nix::unistd::Pid::from_raw(forkpy.server_pid()).to_string();
    let limit = |bytes: &str| {
        let done = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status();
        assert!(done.expect("prlimit").success());
    };
    limit("1000000:unlimited");
    let words = forkpy.refused("sleep_session", json!({}));
    assert!(words.contains("could not be written") && words.contains("is as it was"), "{words}");
    limit("unlimited:unlimited");
    asleep(&mut forkpy);
    let _ = image(folder.path());
    assert_eq!(forkpy.eval("kept"), "1");
}

#[test]
fn a_folder_that_vanishes_is_made_again_and_what_lay_there_is_missed_in_words() {
    let (folder, setup) = with_folder(&[]);
    let mut forkpy = setup.start();
    works(&mut forkpy, "kept = 1");
    asleep(&mut forkpy);
    let server = image(folder.path()).parent().expect("one").to_owned();
    fs::remove_dir_all(&server).expect("removed");
    let words = forkpy.run("kept").to_string();
    assert!(words.contains("could not be woken") && words.contains("restart_kernel"), "{words}");
    forkpy.call("restart_kernel", json!({}));
    works(&mut forkpy, "kept = 2");
    asleep(&mut forkpy);
    assert_eq!(forkpy.eval("kept"), "2");
}

/// The base of all images was written with the first one, before the zygote had imported what comes behind its start: all
/// sessions of later had that in their own images, 2.9 MB each.
#[test]
fn images_are_small_also_where_the_first_session_falls_asleep_at_once() {
    let (folder, setup) = with_folder(&["--max-spares", "0"]);
    let mut forkpy = setup.start();
    for name in ["a", "b", "c", "d"] {
        forkpy.call("create_session", json!({"session_id": name}));
        forkpy.call("run_python_code", json!({"code": "x = 1", "session_id": name}));
        let slept = forkpy.call("sleep_session", json!({"session_id": name}));
        assert!(!slept.is_error, "{slept:?}");
    }
    let told = forkpy.call("list_checkpoints", json!({"session_id": "d"})).data;
    let disk = told["asleep"][0]["disk"].as_u64().unwrap_or_else(|| panic!("{told}"));
    assert!(disk < 1_500_000, "{told}");
    drop(folder);
}
