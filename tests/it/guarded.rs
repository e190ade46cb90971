//! The server keeps its own from sessions, sandbox or not: its token, its memory, its descriptors, its variables.

use serde_json::json;

use crate::support::{Setup, http::HttpForkpy, processes, who::Who};

#[test]
fn the_token_is_in_no_environment_that_a_session_can_read() {
    let server = HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", "open-sesame").env("FORKPY_QUEUE", "9"));
    let environment = std::fs::read(format!("/proc/{}/environ", server.server_pid())).expect("the tests may look");
    let text = String::from_utf8_lossy(&environment);
    assert!(!text.contains("open-sesame"), "what the process was started with is overwritten");
    assert!(text.contains("FORKPY_QUEUE=9"), "this is its environment: {text}");
    let command = std::fs::read(format!("/proc/{}/cmdline", server.server_pid())).expect("the tests may look");
    assert!(!String::from_utf8_lossy(&command).contains("sesame"));
}

#[test]
fn nothing_that_runs_for_a_session_has_a_variable_of_ours() {
    let mut forkpy = Setup::new().env("FORKPY_QUEUE", "9").env("FORKPY_FAULT", "zygote.fork:999=fail").start();
    let look = "import os, subprocess, sys\n\
        own = open('/proc/self/environ').read() + str(dict(os.environ))\n\
        child = subprocess.run(['env'], capture_output=True, text=True).stdout\n\
        print('FORKPY_' in own, 'FORKPY_' in child)";
    assert_eq!(forkpy.run(look)["stdout"], "False False\n");
    forkpy.call("create_session", json!({"session_id": "spare"}));
    let reply = forkpy.call("run_python_code", json!({"session_id": "spare", "code": look}));
    assert_eq!(reply.data["stdout"], "False False\n");
    std::fs::write(forkpy.file("look.py"), look).expect("written");
    let reply = forkpy.call("run_script", json!({"path": "look.py"}));
    assert_eq!(reply.data["stdout"], "False False\n", "{reply:?}");
}

/// Reads what only a tracer may read, of each process named by number.
fn readable(pids: &[i32]) -> String {
    format!(
        "def tried(path):\n\
         \x20   try:\n\
         \x20       open(path, 'rb').read(1)\n\
         \x20       return path\n\
         \x20   except OSError as error:\n\
         \x20       return type(error).__name__\n\
         print([tried(f'/proc/{{pid}}/{{file}}') for pid in {pids:?} for file in ('environ', 'mem', 'maps', 'auxv', 'io')])"
    )
}

#[test]
fn an_ordinary_users_session_reads_neither_server_nor_zygote_and_both_still_know_it() {
    for who in Who::every().into_iter().filter(|who| who.is_ordinary()) {
        let mut forkpy = Setup::new().run_by(who).start();
        let own = forkpy.eval("open('/proc/self/environ').read() != ''");
        assert_eq!(own, "True", "a session may look at itself, as any program may");
        let pids = [forkpy.server_pid(), forkpy.zygote_pid()];
        let seen = forkpy.run(&readable(&pids))["stdout"].as_str().unwrap_or_default().to_owned();
        assert!(seen.matches("PermissionError").count() == 10, "{seen}");
        let health = forkpy.health();
        assert!(health["memory_usage"].as_u64().is_some_and(|bytes| bytes > 0), "{health}");
        let list = forkpy.call("list_sessions", json!({}));
        assert!(!list.is_error, "{list:?}");
    }
}

#[test]
fn no_program_that_the_server_starts_inherits_its_descriptors() {
    let server = HttpForkpy::start(Setup::new());
    server.run("1");
    let zygote = server.zygote_pid();
    for pid in [server.server_pid(), zygote] {
        let folder = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the tests may look");
        for entry in folder.flatten() {
            let number: i32 = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
            let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0").trim().to_owned();
            let flags = u32::from_str_radix(&flags, 8).expect("octal");
            // One that is closed by now was open for a moment only.
            let Ok(target) = std::fs::read_link(format!("/proc/{pid}/fd/{number}")) else { continue };
            let is_closed = number <= 2 || flags & 0o2_000_000 != 0;
            assert!(is_closed, "{pid}: {number} ({}) stays open in programs", target.display());
        }
    }
    assert!(processes::open_files(zygote) > 0);
}
