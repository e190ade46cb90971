//! Sessions written to files of the workspace and read back: what comes along, what does not, and what is refused whole.
//!
//! Without cloudpickle, which the code hides where it is; `tests/clients/test_checkpoints.py` is about cloudpickle.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup};

fn save(forkpy: &mut Forkpy, path: &str) -> Value {
    let reply = forkpy.call("save_session", json!({"path": path}));
    assert!(!reply.is_error, "{reply:?}");
    reply.data
}

fn load(forkpy: &mut Forkpy, path: &str) -> Value {
    let reply = forkpy.call("load_session", json!({"path": path}));
    assert!(!reply.is_error, "{reply:?}");
    reply.data
}

fn names(list: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        list.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name")).collect();
    names.sort_unstable();
    names
}

#[test]
fn variables_outlive_the_server() {
    let mut forkpy = Forkpy::start();
    forkpy.run(
        "import collections, math as m, sys\nsys.modules['cloudpickle'] = None\na = [1]; b = {'a': a}; c = collections.Counter('abca')\nf = open('x.txt', 'w')\n\
         gen = (n for n in range(3))\nclass Bad:\n    def __reduce__(self): raise RuntimeError('no, thank you')\n\
         bad = Bad()\ndeep = []\nfor _ in range(100_000): deep = [deep]\nlast = 7",
    );
    let saved = save(&mut forkpy, "state/one.forkpy");
    assert_eq!(saved["path"], "state/one.forkpy");
    assert_eq!(names(&saved["saved"]), ["a", "b", "c", "collections", "last", "m", "sys"], "{saved}");
    for (name, why) in
        [("f", "TextIOWrapper"), ("gen", "generator"), ("bad", ""), ("Bad", "class"), ("deep", "ecursion")]
    {
        let reason = saved["skipped"][name].as_str().unwrap_or_else(|| panic!("{name} was not refused: {saved}"));
        assert!(reason.contains(why), "{name}: {reason}");
    }
    let bytes = fs::read(forkpy.file("state/one.forkpy")).expect("written");
    assert_eq!(saved["size"], bytes.len());
    drop(forkpy);

    let mut forkpy = Forkpy::start();
    fs::write(forkpy.file("one.forkpy"), bytes).expect("writable");
    forkpy.run("last = 'mine'; own = 1");
    let loaded = load(&mut forkpy, "one.forkpy");
    assert_eq!(names(&loaded["loaded"]), ["a", "b", "c", "collections", "last", "m", "sys"]);
    assert_eq!((&loaded["replaced"], &loaded["skipped"]), (&json!(["last"]), &Value::Null));
    assert_eq!(forkpy.eval("b['a'] is a, c['a'], m.pi > 3, last, own"), "(True, 2, True, 7, 1)");
}

/// Every bit counts: whatever is changed, cut off or added, the session stays as it was.
#[test]
fn damaged_and_foreign_files_are_refused_before_anything_is_changed() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = list(range(2000)); y = 'text' * 500");
    save(&mut forkpy, "good");
    let good = fs::read(forkpy.file("good")).expect("written");
    forkpy.run("x = 'untouched'");
    let mut bad: Vec<(String, Vec<u8>)> = Vec::new();
    for place in (0..good.len()).step_by(good.len() / 40) {
        let mut flipped = good.clone();
        flipped[place] ^= 0x10;
        bad.push((format!("byte {place} changed"), flipped));
    }
    for length in [0, 1, 12, 20, good.len() / 2, good.len() - 1] {
        bad.push((format!("cut to {length}"), good[..length].to_vec()));
    }
    bad.push(("longer".to_owned(), [&good[..], b"x"].concat()));
    bad.push(("a pickle".to_owned(), b"\x80\x04K\x05.".to_vec()));
    bad.push(("a picture".to_owned(), b"\x89PNG\r\n\x1a\n".repeat(20)));
    for (what, bytes) in bad {
        fs::write(forkpy.file("bad"), bytes).expect("writable");
        let refused = forkpy.refused("load_session", json!({"path": "bad"}));
        let known = ["incomplete or damaged", "no saved session state", "of format", "was saved by Python"];
        assert!(known.iter().any(|words| refused.contains(words)), "{what}: {refused}");
        assert!(refused.contains("\"bad\" was not loaded") && refused.contains("\"default\""), "{refused}");
        assert_eq!(forkpy.eval("x"), "'untouched'", "{what}");
    }
    load(&mut forkpy, "good");
    assert_eq!(forkpy.eval("len(x)"), "2000");
}

#[test]
fn a_file_of_another_python_is_refused_by_name() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1");
    let other = "import forkpy_worker.variables.statefile as f\nold, f.PYTHON = f.PYTHON, '2.7'";
    forkpy.run(other);
    save(&mut forkpy, "old");
    forkpy.run("f.PYTHON = old");
    let refused = forkpy.refused("load_session", json!({"path": "old"}));
    assert!(refused.contains("it was saved by Python 2.7, and this session has 3."), "{refused}");
}

#[test]
fn paths_stay_in_the_workspace_and_a_full_disk_loses_nothing() {
    let mut forkpy = Setup::new().start();
    forkpy.run("x = 1");
    for path in ["../out", "/etc/out", ""] {
        let refused = forkpy.refused("save_session", json!({"path": path}));
        assert!(refused.contains("path"), "{refused}");
        forkpy.refused("load_session", json!({"path": path}));
    }
    std::os::unix::fs::symlink("/etc", forkpy.file("etc")).expect("a link");
    forkpy.refused("save_session", json!({"path": "etc/out"}));
    assert!(!Path::new("/etc/out").exists());
    let refused = forkpy.refused("load_session", json!({"path": "nothing"}));
    assert!(refused.contains("nothing") && refused.contains("No such file"), "{refused}");
    save(&mut forkpy, "kept");
    let before = fs::read(forkpy.file("kept")).expect("written");
    // A limit of file sizes is what a full disk looks like to whoever writes.
    forkpy.run(
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n\
         resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\nbig = bytes(1_000_000)",
    );
    let refused = forkpy.refused("save_session", json!({"path": "kept"}));
    assert!(refused.contains("File too large"), "{refused}");
    assert_eq!(fs::read(forkpy.file("kept")).expect("still there"), before);
    assert_eq!(forkpy.eval("x"), "1");
}
