//! The session environment, made by the real binary with the real tools. Fetches psutil and jedi from the index.

use std::path::Path;

use crate::support::{Forkpy, Setup};

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

#[test]
fn the_first_start_makes_an_environment_and_the_next_one_finds_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut forkpy = managed(directory.path()).start();
    let prefix = forkpy.eval("import psutil, jedi, sys; sys.prefix");
    assert!(prefix.contains(directory.path().to_str().expect("UTF-8")), "{prefix}");
    assert_eq!(child_says(&mut forkpy, "import psutil, sys; print(sys.prefix)"), prefix);
    assert_eq!(forkpy.eval("import os, sys; os.environ['VIRTUAL_ENV'] == sys.prefix"), "True");
    assert!(child_says(&mut forkpy, "import pip; print(pip.__name__)").contains("pip"));
    drop(forkpy);
    let began = std::time::Instant::now();
    let mut again = managed(directory.path()).start();
    assert_eq!(again.eval("import psutil, sys; sys.prefix"), prefix);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "it was made anew");
}

#[test]
fn offline_it_serves_all_the_same_and_says_what_is_missing() {
    let directory = tempfile::tempdir().expect("a directory");
    let nowhere = "http://127.0.0.1:9/simple";
    let mut forkpy = managed(directory.path())
        .env("PIP_INDEX_URL", nowhere)
        .env("UV_DEFAULT_INDEX", nowhere)
        .env("PIP_FIND_LINKS", "")
        .env("PIP_NO_CACHE_DIR", "1")
        .env("UV_NO_CACHE", "1")
        .keep_log()
        .start();
    assert_eq!(forkpy.eval("1 + 1"), "2");
    let log = forkpy.log();
    assert!(
        log.contains("without psutil, jedi and cloudpickle") || log.contains("psutil, jedi and cloudpickle"),
        "{log}"
    );
    let words = forkpy.run("import psutil")["stderr"].as_str().expect("text").to_owned();
    assert!(words.contains("ModuleNotFoundError"), "{words}");
}

#[test]
fn an_environment_that_is_none_is_an_error_in_every_reply_and_the_server_stays() {
    let mut forkpy = Setup::without_python().args(&["--venv", "/nowhere/venv"]).start();
    let reply = forkpy.call("run_python_code", serde_json::json!({"code": "1"}));
    assert!(reply.is_error && reply.text.contains("no virtual environment in /nowhere/venv"), "{reply:?}");
    assert_eq!(forkpy.health()["status"], "dead");
    assert_eq!(forkpy.call("ping", serde_json::json!({})).data["status"], "pong");
}
