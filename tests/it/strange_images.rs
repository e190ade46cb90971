//! Images that are not what they were, or not where they were: of another program, version, Python, kernel or user, with a
//! library that was replaced, or far too long. Each is refused with the reason, nothing changes, and the variables by value
//! are there instead.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::{
    sleeping::works,
    support::{Forkpy, Setup, python, zygote},
};

/// A session that has a library of its own in its workspace.
const OWN_LIBRARY: &str = "import ctypes, glob, shutil, sysconfig\n\
    shutil.copy(glob.glob(sysconfig.get_path('platstdlib') + '/lib-dynload/*.so')[0], 'own.so')\n\
    own = ctypes.CDLL('./own.so')";

/// Where servers follow each other: a workspace, and a folder for their sessions.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("workspace")).expect("made");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn setup(&self, begin: Setup) -> Setup {
        let setup = begin.in_workspace(&self.path("workspace")).env("FORKPY_ERRAND_LIMIT", "40");
        setup.args(&["--state-dir", self.path("state").to_str().expect("UTF-8"), "--checkpoints", "off"])
    }

    fn server(&self) -> Setup {
        self.setup(Setup::new())
    }

    /// A server that has a session with a value and ends, so that the session sleeps.
    fn leave(&self, code: &str) {
        works(&mut self.server().start(), &format!("kept = {{'a': [1, 2]}}; rows = (n for n in 'abc')\n{code}"));
    }

    /// The session's image.
    fn image(&self) -> PathBuf {
        let below = |path: &Path| -> Vec<PathBuf> {
            fs::read_dir(path).expect("there").map(|entry| entry.expect("readable").path()).collect()
        };
        let servers = below(&self.path("state")).into_iter().filter(|path| path.is_dir());
        let mut images: Vec<PathBuf> = servers.flat_map(|server| below(&server)).collect();
        images.retain(|path| path.extension().is_some_and(|end| end == "image"));
        assert_eq!(images.len(), 1, "{images:?}");
        images.remove(0)
    }
}

/// The session does not wake, for a reason with these words, sleeps on, and its variables are had by value.
fn is_refused(forkpy: &mut Forkpy, why: &[&str]) {
    let words = forkpy.run("kept").to_string();
    for part in why.iter().chain(&["could not be woken", "preserve_state: true", "rows ("]) {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(forkpy.health()["state"], "asleep");
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true}));
    assert!(!restarted.is_error && restarted.text.contains("could not be woken"), "{}", restarted.text);
    assert_eq!(forkpy.eval("kept"), "{'a': [1, 2]}");
}

#[test]
fn of_a_program_that_was_replaced() {
    let place = Place::new();
    let program = place.path("forkpy");
    let install = || {
        let _ = fs::remove_file(&program);
        fs::copy(zygote::program(), &program).expect("copied");
    };
    install();
    works(&mut place.server().program(&program).start(), "kept = {'a': [1, 2]}; rows = (n for n in 'abc')");
    install();
    let why = [program.to_str().expect("UTF-8"), "has been replaced or changed since the image was made"];
    is_refused(&mut place.server().program(&program).start(), &why);
}

#[test]
fn with_a_library_that_was_replaced() {
    let place = Place::new();
    place.leave(OWN_LIBRARY);
    let library = place.path("workspace/own.so");
    let bytes = fs::read(&library).expect("read");
    fs::remove_file(&library).expect("removed");
    fs::write(&library, bytes).expect("written");
    let mut next = place.server().start();
    is_refused(&mut next, &["own.so has been replaced or changed since the image was made"]);
}

/// Size, place and time are the old ones: its build id tells.
#[test]
fn with_a_library_that_was_changed_and_whose_time_was_set_back() {
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let place = Place::new();
    place.leave(OWN_LIBRARY);
    let library = place.path("workspace/own.so");
    let whole = fs::read(&library).expect("read");
    let note = whole.windows(NOTE.len()).position(|window| window == NOTE).expect("Debian's linkers write one");
    let file = File::options().write(true).open(&library).expect("ours");
    let time = file.metadata().and_then(|status| status.modified()).expect("a time");
    file.write_all_at(b"another build of it!", (note + NOTE.len()) as u64).expect("written");
    file.set_modified(time).expect("ours");
    is_refused(&mut place.server().start(), &["own.so has been replaced or changed since the image was made"]);
}

/// uv links one file into many environments.
#[test]
fn a_library_that_has_got_another_link_is_the_same() {
    let place = Place::new();
    place.leave(OWN_LIBRARY);
    fs::hard_link(place.path("workspace/own.so"), place.path("workspace/other.so")).expect("linked");
    let mut next = place.server().start();
    assert_eq!(next.eval("next(rows), own.__class__.__name__"), "('a', 'CDLL')");
}

#[test]
fn with_a_library_that_is_gone() {
    let place = Place::new();
    place.leave(OWN_LIBRARY);
    fs::remove_file(place.path("workspace/own.so")).expect("removed");
    is_refused(&mut place.server().start(), &["own.so could not be opened again"]);
}

#[test]
fn of_another_python_environment() {
    let place = Place::new();
    place.leave("");
    let other = place.path("other");
    let made = Command::new(python()).args(["-m", "venv", "--without-pip"]).arg(&other).status().expect("a Python");
    assert!(made.success());
    let begin = Setup::without_python().args(&["--venv", other.to_str().expect("UTF-8")]);
    let why = ["it ran with the Python environment of", "and this server has that of", "other/bin/python", "--venv"];
    is_refused(&mut place.setup(begin).start(), &why);
}

#[test]
fn of_another_kernel() {
    let place = Place::new();
    let version = "/proc/sys/kernel/version";
    let other = place.path("version");
    fs::write(&other, "#1 SMP of another day\n").expect("written");
    // Says so where it cannot be tested.
    let Some(next) = place.server().with_file(&other, version) else { return };
    place.leave("");
    is_refused(&mut next.start(), &["the kernel is another than when the image was made"]);
}

#[test]
#[expect(clippy::print_stderr, reason = "what is not tested is said")]
fn of_another_user() {
    let place = Place::new();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: an image that another user owns; these tests are not root's");
        return;
    }
    let mut forkpy = place.server().start();
    works(&mut forkpy, "kept = {'a': [1, 2]}; rows = (n for n in 'abc')");
    crate::sleeping::asleep(&mut forkpy);
    chown(place.image(), Some(65534), None).expect("root may do this");
    is_refused(&mut forkpy, &["the file belongs to another user"]);
}

#[test]
fn of_another_version_or_far_too_long() {
    let place = Place::new();
    let mut forkpy = place.server().start();
    works(&mut forkpy, "kept = {'a': [1, 2]}; rows = (n for n in 'abc')");
    crate::sleeping::asleep(&mut forkpy);
    let file = File::options().read(true).write(true).open(place.image()).expect("ours");
    let length = file.metadata().expect("there").len();
    let mut begin = [0; 16];
    file.read_exact_at(&mut begin, 0).expect("read");
    file.write_all_at(b"forkpy image 0\r\n", 0).expect("written");
    let words = forkpy.run("kept").to_string();
    assert!(words.contains("written by another version of forkpy"), "{words}");
    file.write_all_at(&begin, 0).expect("written");
    file.set_len(10 << 30).expect("a file with a hole");
    let words = forkpy.run("kept").to_string();
    assert!(words.contains("changed, cut short or replaced"), "{words}");
    // As it was, it is right.
    file.set_len(length).expect("cut");
    assert_eq!(forkpy.eval("kept, next(rows)"), "({'a': [1, 2]}, 'a')");
}
