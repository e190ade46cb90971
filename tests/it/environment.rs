//! The session environment, made by the real binary. Nothing is fetched.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, wait_for};

fn managed(directory: &Path) -> Setup {
    let mut setup = Setup::without_python().args(&["--env-dir", directory.to_str().expect("UTF-8")]);
    setup.command().env_remove("VIRTUAL_ENV");
    setup
}

fn child_says(forkpy: &mut Forkpy, code: &str) -> String {
    forkpy.eval(&format!(
        "import subprocess, sys; subprocess.run([sys.executable, '-c', {code:?}], capture_output=True, text=True).stdout.strip()"
    ))
}

/// An index that is not there, and no program that could make an environment.
fn offline(setup: Setup) -> Setup {
    let nowhere = "http://127.0.0.1:9/simple";
    setup
        .env("PIP_INDEX_URL", nowhere)
        .env("UV_DEFAULT_INDEX", nowhere)
        .env("PIP_FIND_LINKS", "")
        .env("PATH", "/nowhere")
}

/// The first cell came after 5 to 20 s: an environment was made before it, by programs, from the network.
#[test]
fn a_first_start_needs_no_network_and_the_next_one_finds_its_environment() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut forkpy = offline(managed(directory.path())).start();
    let prefix = forkpy.eval("import psutil, jedi, cloudpickle, sys; sys.prefix");
    assert!(prefix.contains(directory.path().to_str().expect("UTF-8")), "{prefix}");
    assert_eq!(child_says(&mut forkpy, "import psutil, sys; print(sys.prefix)"), prefix);
    assert_eq!(forkpy.eval("import os, sys; os.environ['VIRTUAL_ENV'] == sys.prefix"), "True");
    // It waits for what comes behind, and says so where that takes long.
    let mut listed = Value::Null;
    wait_for("the environment to be filled", || {
        listed = forkpy.call("list_packages", json!({})).data;
        listed["incomplete"].is_null()
    });
    let names: Vec<&str> =
        listed["packages"].as_array().expect("a list").iter().filter_map(|package| package["name"].as_str()).collect();
    assert_eq!(names, ["cloudpickle", "jedi", "parso", "pip", "psutil"]);
    assert!(child_says(&mut forkpy, "import pip; print(pip.__name__)").contains("pip"));
    let by_its_program = "import os, subprocess, sys; \
                          subprocess.run([os.path.dirname(sys.executable) + '/pip', 'check'], capture_output=True, text=True).stdout";
    assert!(forkpy.eval(by_its_program).contains("No broken requirements"));
    drop(forkpy);
    let written = || {
        let config = std::path::Path::new(prefix.trim_matches('\'')).join("pyvenv.cfg");
        config.metadata().and_then(|found| found.modified()).expect("an environment")
    };
    let before = written();
    let mut again = managed(directory.path()).start();
    assert_eq!(again.eval("import psutil, sys; sys.prefix"), prefix);
    assert_eq!(written(), before, "it was made anew");
}

/// Two clients start at the same moment on a machine where forkpy is new.
#[test]
fn two_first_starts_share_one_environment_and_both_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut both = [(); 2].map(|()| offline(managed(directory.path())).start());
    for forkpy in &mut both {
        assert_eq!(forkpy.eval("import psutil, cloudpickle; psutil.__name__"), "'psutil'");
    }
    let prefixes = both.each_mut().map(|forkpy| {
        // It waits until all is there that it asks for.
        let done = forkpy.call("install_dependencies", json!({"packages": ["jedi>0.1", "pip"]})).data;
        let told = (&done["status"], &done["changes"], &done["tool"]);
        assert_eq!(told, (&json!("ok"), &Value::Null, &json!("pip")), "{done}");
        forkpy.eval("import sys; sys.prefix")
    });
    assert_eq!(prefixes[0], prefixes[1]);
    let left: Vec<_> =
        fs::read_dir(directory.path()).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("new")), "{left:?}");
}

#[test]
fn an_environment_that_is_none_is_an_error_in_every_reply_and_the_server_stays() {
    let mut forkpy = Setup::without_python().args(&["--venv", "/nowhere/venv"]).start();
    let reply = forkpy.call("run_python_code", serde_json::json!({"code": "1"}));
    assert!(reply.is_error && reply.text.contains("no virtual environment in /nowhere/venv"), "{reply:?}");
    assert_eq!(forkpy.health()["status"], "dead");
    assert_eq!(forkpy.call("ping", serde_json::json!({})).data["status"], "pong");
}

/// Another installation of the same version, whose standard library lacks what this one's interpreter loads from files, and
/// an environment made by it. `interpreter` is copied, or written if it is text.
fn of_another_installation(place: &Path, interpreter: Option<&str>) -> PathBuf {
    let version = env!("FORKPY_PYTHON_VERSION");
    let (other, venv) = (place.join("other"), place.join("venv"));
    let library = other.join(format!("lib/python{version}"));
    fs::create_dir_all(other.join("bin")).expect("made");
    fs::create_dir_all(&library).expect("made");
    let asked = Command::new(env!("FORKPY_BUILD_PYTHON"))
        .args([
            "-I",
            "-c",
            "import sys, os; print(os.path.dirname(os.__file__)); print(os.path.realpath(sys.executable))",
        ])
        .output()
        .expect("runs");
    let asked = String::from_utf8(asked.stdout).expect("text");
    let (own, executable) = asked.trim().split_once('\n').expect("two lines");
    for entry in fs::read_dir(own).expect("a library").flatten() {
        if !["lib-dynload", "site-packages", "dist-packages"].contains(&entry.file_name().to_str().expect("text")) {
            symlink(entry.path(), library.join(entry.file_name())).expect("linked");
        }
    }
    let python = other.join(format!("bin/python{version}"));
    match interpreter {
        Some(text) => fs::write(&python, text).expect("written"),
        None => drop(fs::copy(executable, &python).expect("copied")),
    }
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("ours");
    let packages = venv.join(format!("lib/python{version}/site-packages"));
    fs::create_dir_all(&packages).expect("made");
    fs::create_dir_all(venv.join("bin")).expect("made");
    symlink(&python, venv.join("bin/python")).expect("linked");
    let config = format!(
        "home = {}\ninclude-system-site-packages = false\nversion = {version}.0\n",
        other.join("bin").display()
    );
    fs::write(venv.join("pyvenv.cfg"), config).expect("written");
    fs::write(packages.join("of_the_venv.py"), "x = 7").expect("written");
    venv
}

/// A bundle in the environment of a system's Python had that one's standard library: `math` was missing, and health said
/// healthy.
#[test]
fn an_environment_of_another_installation_gives_packages_and_no_standard_library() {
    let place = tempfile::tempdir().expect("a directory");
    let venv = of_another_installation(&place.path().canonicalize().expect("known"), None);
    let mut forkpy = Setup::without_python().args(&["--venv", venv.to_str().expect("UTF-8")]).start();
    assert_eq!(forkpy.eval("import math, _struct, select, zlib, sqlite3, of_the_venv; of_the_venv.x"), "7");
    let seen = forkpy.run("import sys, os\nprint(sys.executable, sys.prefix, os.__file__, *sys.path, sep='\\n')");
    let lines: Vec<&str> = seen["stdout"].as_str().expect("text").lines().collect();
    assert_eq!(lines[..2], [venv.join("bin/python").to_str().expect("UTF-8"), venv.to_str().expect("UTF-8")]);
    let other = venv.with_file_name("other");
    assert!(lines.iter().all(|line| !line.starts_with(other.to_str().expect("UTF-8"))), "{lines:?}");
    assert!(lines.iter().skip(3).all(|line| !line.ends_with("-packages") || line.starts_with(lines[1])), "{lines:?}");
}

#[test]
fn an_environment_whose_compiled_packages_do_not_fit_is_refused_in_words() {
    let version = env!("FORKPY_PYTHON_VERSION");
    let debug = format!(
        "#!/bin/sh\nprintf 'forkpy\\t{version}\\tcpython\\t%s\\t.cpython-{0}d-x86_64-linux-gnu.so\\t/x\\n' \"$0\"\n",
        version.replace('.', "")
    );
    let pypy = format!("#!/bin/sh\nprintf 'forkpy\\t{version}\\tpypy\\t%s\\t.pypy.so\\t/x\\n' \"$0\"\n");
    for (script, expected) in [(debug, "compiled packages end in"), (pypy, "(pypy)")] {
        let place = tempfile::tempdir().expect("a directory");
        let venv = of_another_installation(&place.path().canonicalize().expect("known"), Some(&script));
        let mut forkpy = Setup::without_python().args(&["--venv", venv.to_str().expect("UTF-8")]).start();
        let words = forkpy.refused("run_python_code", json!({"code": "1"}));
        assert!(words.contains(expected) && words.contains(venv.to_str().expect("UTF-8")), "{words}");
    }
}
