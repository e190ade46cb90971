//! What a person sees who types the command.

use std::process::Command;

use crate::support::{Forkpy, Setup};

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
    let cell = forkpy.begin_run("import time\nend = time.time() + 1\nwhile time.time() < end: pass");
    std::thread::sleep(std::time::Duration::from_millis(600));
    let health = forkpy.health();
    assert!(health["cpu_percent"].as_f64().expect("a number") > 10.0, "{health}");
    assert_eq!(health["state"], "busy");
    forkpy.reply(cell);
}
