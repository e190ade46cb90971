//! What a person sees who types the command.

use std::process::Command;

use serde_json::json;

use crate::support::{Forkpy, Setup, wait_for};

fn forkpy(argument: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_forkpy")).arg(argument).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn help_names_every_option_with_its_variable_and_no_hidden_role() {
    let help = forkpy("--help");
    for part in [
        "--workspace",
        "MCP_WORKSPACE_DIR",
        "--transport",
        "--host",
        "--port",
        "--python",
        "--venv",
        "--pythonpath",
        "--preload",
        "--token-file",
        "--max-sessions",
    ] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
    assert!(!help.contains("__zygote"), "{help}");
}

#[test]
fn version_is_the_crates() {
    assert_eq!(forkpy("--version"), format!("forkpy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn options_that_make_no_sense_are_refused_with_their_name() {
    for (arguments, expected) in [
        (&["--timeout=-1"][..], "--timeout"),
        (&["--max-sessions=0"], "--max-sessions"),
        (&["--log", "=,,="], "--log"),
        (&["--token-file", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--no-such-option"], "--no-such-option"),
    ] {
        let (code, log) = Setup::new().args(arguments).run_to_end();
        assert_ne!(code, Some(0), "{arguments:?}");
        assert!(log.contains(expected), "{arguments:?}: {log}");
    }
}

#[test]
fn a_workspace_that_cannot_be_made_is_a_clear_error() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let output =
        Command::new(env!("CARGO_BIN_EXE_forkpy")).arg("--workspace").arg(file.path()).output().expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && log.contains("failed to prepare the workspace"), "{log}");
}

#[test]
fn preloaded_modules_are_there_and_those_that_cannot_be_are_left_out() {
    let mut forkpy = Setup::new().args(&["--preload", "xml.dom.minidom,no_such_module"]).start();
    assert_eq!(forkpy.eval("import sys; 'xml.dom.minidom' in sys.modules"), "True");
}

#[test]
fn directories_of_pythonpath_come_first() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("own_module.py"), "answer = 42\n").expect("written");
    let mut forkpy = Setup::new().args(&["--pythonpath", directory.path().to_str().expect("UTF-8")]).start();
    assert_eq!(forkpy.eval("import own_module; own_module.answer"), "42");
}

#[test]
fn the_processor_use_of_a_busy_session_is_known_at_the_first_call() {
    let mut forkpy = Forkpy::start();
    let code = "\
import time
def use(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
use(0.3)
open('used', 'w').close()
while True: use(1)";
    let cell = forkpy.begin_call("run_python_code", json!({"code": code, "timeout": 60}));
    wait_for("the processor to be used", || forkpy.file("used").exists());
    let health = forkpy.health();
    // Whatever else this machine does meanwhile, it is not nothing.
    assert!(health["cpu_percent"].as_f64().expect("a number") > 1.0, "{health}");
    assert_eq!(health["state"], "busy");
    forkpy.notify("notifications/cancelled", json!({"requestId": cell}));
    forkpy.forget(cell);
}

/// What is typed wins over the environment, which wins over the file, which wins over the defaults.
#[test]
fn settings_come_from_a_file_under_the_same_names() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "memory_alert = 77\nmemory-cleanup = 88\nhung-after = 1.5\nrecovery = \"auto\"\npreload = [\"json\", \"wave\"]\n\
                restart-budget = 3\n";
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let options = ["--config", path, "--memory-cleanup", "99"];
    let mut forkpy = Setup::new().args(&options).env("FORKPY_RESTART_BUDGET", "4").unset("FORKPY_PRELOAD").start();
    let seen = forkpy.health()["thresholds"].clone();
    assert_eq!((&seen["memory_alert"], &seen["hung_after"]), (&json!(77 << 20), &json!(1.5)));
    assert_eq!((&seen["recovery"], &seen["cpu_alert"]), (&json!("auto"), &json!(80.0)));
    assert_eq!((&seen["memory_cleanup"], &seen["restart_budget"]), (&json!(99 << 20), &json!(4)));
    assert_eq!(forkpy.eval("import sys; 'wave' in sys.modules"), "True");
}

#[test]
fn a_settings_file_that_is_wrong_is_told_with_its_name_and_the_option() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8").to_owned();
    for (text, expected) in [
        ("no_such = 1", "\"no_such\"; there are: log, workspace"),
        ("memory-alert = -5", "--memory-alert"),
        ("recovery = \"often\"", "on-demand"),
        ("recovery = { a = 1 }", "recovery cannot be a table"),
        ("config = \"x\"", "no option \"config\""),
        ("memory-alert = ", "is not TOML"),
    ] {
        std::fs::write(&path, text).expect("written");
        let (code, log) = Setup::new().args(&["--config", &path]).run_to_end();
        assert!(code != Some(0) && log.contains(expected) && log.contains(&path), "{text}: {log}");
    }
    let (code, log) = Setup::new().args(&["--config", "/nowhere/at/all"]).run_to_end();
    assert!(code != Some(0) && log.contains("failed to read the settings file /nowhere/at/all"), "{log}");
}
