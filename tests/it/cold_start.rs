//! Servers that begin from an image of Python's start: nothing is another than after an ordinary start but the time it takes, and what
//! does not agree any more is an ordinary start.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::support::{Forkpy, Reply, Setup, processes, python, wait_for};

/// A place for images, and an environment in which no code runs that is not CPython's.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let made =
            Command::new(python()).args(["-m", "venv", "--without-pip"]).arg(folder.path().join("venv")).status();
        assert!(made.expect("Python starts").success());
        Self { folder }
    }

    fn venv(&self) -> PathBuf {
        self.folder.path().join("venv")
    }

    fn site_packages(&self) -> PathBuf {
        let libraries = fs::read_dir(self.venv().join("lib")).expect("there").flatten();
        libraries.map(|entry| entry.path().join("site-packages")).find(|path| path.is_dir()).expect("one")
    }

    fn images(&self) -> PathBuf {
        self.folder.path().join("cache/forkpy/zygotes")
    }

    fn setup(&self) -> Setup {
        let venv = self.venv();
        Setup::without_python()
            .args(&["--venv", venv.to_str().expect("UTF-8")])
            .env("XDG_CACHE_HOME", self.folder.path().join("cache").to_str().expect("UTF-8"))
            .env("HOME", self.folder.path().to_str().expect("UTF-8"))
            .env("FORKPY_ZYGOTE_IMAGE", "on")
            .keep_log()
    }

    fn kept(&self, end: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.images()).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|found| found == end)).collect()
    }

    /// A server leaves an image.
    fn prepare(&self) {
        let server = self.setup().start();
        wait_for("an image", || server.log().contains("the zygote's image is kept"));
        assert_eq!((self.kept("zygote").len(), self.kept("pages").len()), (1, 1));
    }
}

fn ok(reply: Reply) -> Value {
    assert!(!reply.is_error, "{}", reply.text);
    reply.data
}

/// How the zygote of a server has started, and why not from an image.
fn start_of(server: &mut Forkpy) -> (String, String) {
    server.eval("1");
    let mut started = Value::Null;
    // A spare worker of the zygote before may have served that.
    wait_for("a warm zygote", || {
        started = ok(server.call("get_workspace_info", json!({})))["python_start"].clone();
        started["from"].is_string()
    });
    let word = |name: &str| started[name].as_str().unwrap_or_default().to_owned();
    (word("from"), word("why"))
}

fn assert_from_image(server: &mut Forkpy) {
    assert_eq!(start_of(server), ("image".to_owned(), String::new()), "{}", server.log());
}

/// An ordinary start, for this reason.
fn assert_ordinary(server: &mut Forkpy, why: &str) {
    let (from, said) = start_of(server);
    assert_eq!(from, "start");
    assert!(said.contains(why), "{said}");
    assert_eq!(server.eval("6 * 7"), "42");
}

const ALL: &str = r#"
import asyncio, ctypes, decimal, hashlib, json, multiprocessing, os, pathlib, random, re, secrets, signal, sqlite3, ssl, subprocess
import sys, tempfile, threading, time, uuid, zoneinfo
seen = []
threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert sorted(seen) == list(range(8))
assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout == "42\n"
with multiprocessing.get_context("fork").Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
async def later():
    await asyncio.sleep(0.01)
    return await asyncio.to_thread(lambda: 7)
assert await later() == 7
hits = []
signal.signal(signal.SIGUSR1, lambda *_: hits.append(1)); os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0); assert hits == [1]
signal.setitimer(signal.ITIMER_REAL, 0.01); signal.signal(signal.SIGALRM, lambda *_: hits.append(2)); time.sleep(0.2); assert hits[-1] == 2
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
assert ctypes.CDLL(None).getpid() == os.getpid() and ssl.create_default_context()
assert sum(x for x in range(10**6)) == 499999500000
assert os.path.realpath(os.getcwd()) == os.path.realpath(WORKSPACE)
assert sys.flags.no_site == 0 and sys.prefix != sys.base_prefix
assert abs(time.time() - NOW) < 600 and time.monotonic() < float(open("/proc/uptime").read().split()[0]) + 600
(random.random(), secrets.token_hex(8), uuid.uuid4().hex, next(tempfile._get_candidate_names()))
"#;

fn all(server: &mut Forkpy) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().expect("a time").as_secs();
    server.run(&format!("WORKSPACE, NOW = {:?}, {now}", server.file("")));
    server.eval(ALL)
}

#[test]
fn the_second_server_begins_from_what_the_first_has_written() {
    let place = Place::new();
    place.prepare();
    let mut drawn = Vec::new();
    for round in ["one", "two"] {
        let mut server = place.setup().env("ROUND", round).env("ONLY_IN", round).start();
        assert_from_image(&mut server);
        assert_eq!(
            server.eval("import os; os.environ['ROUND'], os.getenv('ONLY_IN')"),
            format!("('{round}', '{round}')")
        );
        drawn.push(all(&mut server));
        ok(server.call("create_session", json!({"session_id": "other"})));
        let other =
            server.call("run_python_code", json!({"code": "import random; random.random()", "session_id": "other"}));
        drawn.push(ok(other)["results"].to_string());
    }
    let before = drawn.len();
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), before, "no two have drawn the same: {drawn:?}");
}

#[test]
fn nothing_of_the_variables_of_the_server_before_is_left() {
    let place = Place::new();
    let first = place.setup().env("PASSWORD_OF_THE_FIRST", "correct-horse-battery").start();
    wait_for("an image", || first.log().contains("the zygote's image is kept"));
    drop(first);
    let mut server = place.setup().env("OF_THE_SECOND", "here").env("PATH", "/usr/bin:/bin:/second").start();
    assert_from_image(&mut server);
    assert_eq!(
        server.eval("import os; 'PASSWORD_OF_THE_FIRST' in os.environ, os.environ['OF_THE_SECOND']"),
        "(False, 'here')"
    );
    let bin = place.venv().join("bin");
    assert_eq!(server.eval("os.environ['PATH']"), format!("'{}:/usr/bin:/bin:/second'", bin.display()));
    let child =
        "import subprocess; subprocess.run(['env'], capture_output=True, text=True).stdout.count('PASSWORD_OF')";
    assert_eq!(server.eval(child), "0");
    // What the kernel shows of worker and zygote, and what lies in the worker's memory.
    let shown = "[open(f'/proc/{pid}/environ', 'rb').read() for pid in (os.getpid(), os.getppid())]";
    assert_eq!(
        server.eval(&format!("[b'OF_THE_SECOND=here' in shown and b'battery' not in shown for shown in {shown}]")),
        "[True, True]"
    );
    let line = server.eval("open(f'/proc/{os.getppid()}/cmdline', 'rb').read().split(b'\\0')[1:]");
    assert!(line.contains("__zygote") && line.contains(&format!("--server={}", server.server_pid())), "{line}");
    let search = r#"
import re
def found(pattern):
    count = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            place, access = line.split()[:2]
            begin, end = (int(part, 16) for part in place.split("-"))
            if "r" in access and "[v" not in line:
                memory.seek(begin)
                try: count += len(re.findall(pattern, memory.read(end - begin)))
                except OSError: pass
    return count
found(b"correct[-]horse[-]battery"), found(b"OF_THE_SECOND[=]here") > 0
"#;
    assert_eq!(server.eval(search), "(0, True)");
}

#[test]
fn sessions_of_a_woken_zygote_go_back_sleep_and_wake() {
    let place = Place::new();
    place.prepare();
    let state = place.folder.path().join("state");
    let with_state =
        || place.setup().args(&["--state-dir", state.to_str().expect("UTF-8")]).env("XDG_CACHE_HOME", "/nowhere");
    // Images lie there then.
    let server = with_state().start();
    wait_for("an image", || server.log().contains("the zygote's image is kept"));
    assert!(state.join("zygotes/key").exists());
    drop(server);
    let workspace = place.folder.path().join("workspace");
    for round in 0..3 {
        let mut server = with_state().in_workspace(&workspace).start();
        assert_from_image(&mut server);
        if round == 0 {
            server.run("def squares():\n    n = 0\n    while True:\n        n += 1\n        yield n * n\ngen = squares(); x = []");
        }
        ok(server.call("checkpoint_session", json!({"name": "before"})));
        server.run("x.append(1000)");
        ok(server.call("restore_checkpoint", json!({"name": "before"})));
        server.run(&format!("x.append({round})"));
        ok(server.call("sleep_session", json!({"session_id": "default"})));
        assert_eq!(server.health()["state"], "asleep");
        let expected: Vec<i32> = (0..=round).collect();
        assert_eq!(server.eval("x, next(gen)"), format!("({expected:?}, {})", (round + 1) * (round + 1)));
        assert!(server.log().contains("woke up"), "{}", server.log());
    }
}

#[test]
fn a_zygote_that_dies_comes_again_from_the_image_and_sessions_are_restarted_by_it() {
    let place = Place::new();
    place.prepare();
    let mut server = place.setup().start();
    assert_from_image(&mut server);
    server.run("kept = 1");
    let before = server.zygote_pid();
    kill(nix::unistd::Pid::from_raw(before), Signal::SIGKILL).expect("killed");
    wait_for("another zygote", || {
        processes::children(server.server_pid())
            .iter()
            .any(|pid| *pid != before && processes::name(*pid) == "forkpy:zygote")
    });
    assert_eq!(server.eval("kept"), "1");
    ok(server.call("restart_kernel", json!({"session_id": "default"})));
    assert_eq!(server.eval("'kept' in globals()"), "False");
    assert_from_image(&mut server);
    assert_eq!(server.log().matches("from=\"image\"").count(), 2);
    server.kill();
    wait_for("the end of all it started", || server.family().is_empty());
}

#[test]
fn an_image_that_was_changed_is_an_ordinary_start_and_is_written_anew() {
    let place = Place::new();
    let changes: [(&str, Change); 6] = [
        ("zygote", |path| change(path, |bytes| bytes[3000] ^= 1)),
        ("zygote", |path| change(path, |bytes| bytes[200] ^= 1)),
        ("pages", |path| {
            change(path, |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
            })
        }),
        ("pages", |path| change(path, |bytes| bytes.truncate(bytes.len() - 1))),
        ("zygote", |path| change(path, |bytes| bytes.truncate(100))),
        ("pages", |path| fs::remove_file(path).expect("removed")),
    ];
    place.prepare();
    for (round, (end, change)) in changes.into_iter().enumerate() {
        change(&place.kept(end)[0]);
        let mut server = place.setup().start();
        assert_ordinary(&mut server, "the image is of no use");
        wait_for("another image", || server.log().contains("the zygote's image is kept"));
        drop(server);
        assert_eq!(place.kept("zygote").len(), 1, "round {round}");
        assert_from_image(&mut place.setup().start());
        // Pages that belong to none any more go after a while.
        for old in place.kept("pages") {
            fs::remove_file(old).expect("removed");
        }
        fs::remove_file(&place.kept("zygote")[0]).expect("removed");
        place.prepare();
    }
}

/// What is done to a file.
type Change = fn(&Path);

fn change(path: &Path, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("read");
    how(&mut bytes);
    fs::write(path, bytes).expect("written");
}

#[test]
fn an_environment_that_changed_is_an_ordinary_start() {
    let place = Place::new();
    place.prepare();
    fs::create_dir(place.site_packages().join("installed-1.0.dist-info")).expect("made");
    let mut server = place.setup().start();
    assert_ordinary(&mut server, "site-packages has changed since");
    wait_for("another image", || server.log().contains("the zygote's image is kept"));
    drop(server);
    // A variable that Python reads is another image's.
    let mut server = place.setup().env("TZ", "Asia/Tokyo").start();
    assert_ordinary(&mut server, "there is no image yet");
    assert_eq!(server.eval("import time; time.timezone"), "-32400");
    drop(server);
    let mut server = place.setup().start();
    assert_from_image(&mut server);
    assert_ne!(server.eval("import time; time.timezone"), "-32400");
    drop(server);
    assert_ordinary(&mut place.setup().args(&["--preload", "json"]).start(), "--preload");
    assert_ordinary(
        &mut place.setup().args(&["--sandbox", "workspace", "--sandbox-best-effort"]).start(),
        "no image yet",
    );
    let mut server = place.setup().args(&["--zygote-image", "off"]).start();
    assert_eq!(start_of(&mut server), ("start".to_owned(), String::new()));
}

#[test]
fn code_that_may_have_looked_at_anything_is_in_no_image() {
    let place = Place::new();
    fs::write(place.site_packages().join("sitecustomize.py"), "import os; FOUND = os.environ.get('ANYTHING')")
        .expect("written");
    let mut server = place.setup().env("ANYTHING", "1").start();
    assert_eq!(server.eval("import sitecustomize; sitecustomize.FOUND"), "'1'");
    wait_for("the reason", || {
        server.log().contains("there is no image of the zygote for the next start: code runs in it")
    });
    assert!(server.log().contains("sitecustomize"));
    assert_eq!(place.kept("zygote").len(), 0);
}

#[test]
fn a_confined_zygote_has_an_image_too() {
    let place = Place::new();
    let setup = || place.setup().args(&["--sandbox", "workspace", "--sandbox-best-effort"]);
    let first = setup().start();
    wait_for("an image", || first.log().contains("the zygote's image is kept"));
    drop(first);
    let mut server = setup().start();
    assert_from_image(&mut server);
    assert_eq!(server.eval("open('here', 'w').write('x')"), "1");
    let refused = server.run("open('/etc/shadow').read()");
    assert_eq!(refused["status"], "error");
}

#[test]
fn death_on_the_way_is_an_ordinary_start_and_the_image_is_not_used_again() {
    for (fault, why) in
        [("zygote.wake:0=kill", "it ended on the way"), ("zygote.woken:0=kill", "it ended once it was woken")]
    {
        let place = Place::new();
        place.prepare();
        let mut server = place.setup().env("FORKPY_FAULT", fault).start();
        assert_ordinary(&mut server, why);
        assert_eq!(place.kept("zygote").len(), 0);
    }
    // One that dies over its first fork has been of no use either.
    let place = Place::new();
    place.prepare();
    let mut server = place.setup().env("FORKPY_FAULT", "zygote.fork:1=kill").args(&["--max-spares", "0"]).start();
    wait_for("another zygote", || server.log().contains("the zygote's image is given up"));
    assert_eq!(place.kept("zygote").len(), 0);
    server.kill();
    wait_for("the end of all it started", || server.family().is_empty());
    // One that dies before its image is written leaves none.
    let server = place.setup().env("FORKPY_FAULT", "zygote.image:0=kill").start();
    wait_for("the reason", || {
        server.log().contains("there is no image of the zygote for the next start: its process ended")
    });
}

#[test]
fn two_servers_at_once_write_and_begin() {
    let place = Place::new();
    let (one, two) = (place.setup().start(), place.setup().start());
    for server in [&one, &two] {
        wait_for("an image", || server.log().contains("the zygote's image is kept"));
    }
    drop((one, two));
    assert_eq!(place.kept("zygote").len(), 1);
    let (mut one, mut two) = (place.setup().start(), place.setup().start());
    assert_from_image(&mut one);
    assert_from_image(&mut two);
}

#[test]
fn a_folder_that_cannot_be_written_or_vanishes_keeps_nobody_from_starting() {
    let place = Place::new();
    fs::create_dir_all(place.images().parent().expect("above")).expect("made");
    fs::write(place.images(), "a file").expect("written");
    let mut server = place.setup().start();
    assert_ordinary(&mut server, "the image is of no use");
    wait_for("the reason", || server.log().contains("there is no image of the zygote for the next start"));
    drop(server);
    fs::remove_file(place.images()).expect("removed");
    place.prepare();
    // Others may write there.
    fs::set_permissions(place.images(), fs::Permissions::from_mode(0o777)).expect("ours");
    assert_ordinary(&mut place.setup().start(), "other users may write there");
    fs::set_permissions(place.images(), fs::Permissions::from_mode(0o700)).expect("ours");
    assert_from_image(&mut place.setup().start());
    let mut server = place.setup().start();
    // At once: the server may write there meanwhile.
    fs::rename(place.images(), place.images().with_extension("gone")).expect("away");
    assert_eq!(server.eval("1 + 1"), "2");
}

/// What a worker has for itself is no more than after an ordinary start.
#[test]
fn a_worker_of_a_woken_zygote_has_no_more_memory_for_itself() {
    let place = Place::new();
    place.prepare();
    let private = |server: &mut Forkpy, session: usize| -> u64 {
        let session = json!({"session_id": format!("s{session}"), "code": "1"});
        server.call("create_session", json!({"session_id": session["session_id"]}));
        server.call("run_python_code", session.clone());
        let pid = server.call("get_kernel_health", json!({"session_id": session["session_id"]})).data["pid"].clone();
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("told");
        let of = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0)
        };
        of("Private_Dirty:") + of("Private_Clean:")
    };
    // What the zygote writes to meanwhile is each one's own for the time: the least of several counts.
    let least = |server: &mut Forkpy| (0..4).map(|session| private(server, session)).min();
    let mut ordinary = place.setup().args(&["--zygote-image", "off", "--checkpoints", "off"]).start();
    let mut woken = place.setup().args(&["--checkpoints", "off"]).start();
    assert_from_image(&mut woken);
    let [ordinary, woken] = [&mut ordinary, &mut woken].map(|server| least(server).expect("some"));
    assert!(woken < ordinary + 500, "{woken} kB, {ordinary} kB after an ordinary start");
}
