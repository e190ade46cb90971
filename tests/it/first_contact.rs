//! What a person meets first: the guide on a terminal, mistakes on the command line, a pipe that closes, a client that goes.
//! Each mistake is told once, with what to do, and without a backtrace.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::json;

use crate::support::{Setup, terminal::OnTerminal};

fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkpy"));
    command.args(args).env("HOME", home).env("RUST_BACKTRACE", "1").env("TERM", "xterm-256color");
    for name in ["NO_COLOR", "PAGER", "FORKPY_PAGER", "LESS", "XDG_CONFIG_HOME", "VIRTUAL_ENV", "MCP_WORKSPACE_DIR"] {
        command.env_remove(name);
    }
    command
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a home")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command that cannot be followed, and all that it said: once, and without a backtrace.
fn refused(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("it runs");
    let said = text(&stderr);
    assert!(!status.success() && stdout.is_empty(), "{said}");
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    assert!(!said.contains("backtrace") && !said.contains("panicked") && !said.contains("Caused by"), "{said}");
    said
}

/// A text without what a terminal takes for style.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain += before;
        rest = after.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        rest = rest.get(1..).unwrap_or_default();
    }
    (plain + rest).replace('\r', "")
}

#[test]
fn the_guide_is_shown_with_style_and_fits_any_width() {
    let home = home();
    for (columns, chapter) in [(100, "health"), (40, "sessions"), (40, "settings")] {
        let mut shown = command(home.path(), &["guide", chapter]);
        shown.env("PAGER", "cat");
        let (status, screen) = OnTerminal::start(shown, columns).end();
        assert!(status.success() && screen.contains("\u{1b}[38;5;") && screen.contains("\u{1b}[1m"), "{screen}");
        for line in plain(&screen).lines() {
            assert!(line.chars().count() <= usize::from(columns), "{columns}: {line:?}");
        }
        assert!(!screen.contains("]("), "a link is shown raw: {screen}");
    }
}

#[test]
fn the_guide_does_without_colors_style_pager_or_terminal() {
    let home = home();
    let on_terminal = |name: &str, value: &str| {
        let mut shown = command(home.path(), &["guide", "limits"]);
        // One that waits for keys has no one here to press them.
        shown.env("PAGER", "cat").env(name, value);
        let (status, screen) = OnTerminal::start(shown, 80).end();
        assert!(status.success() && plain(&screen).contains("Limits are no sandbox"), "{screen}");
        screen
    };
    let colorless = on_terminal("NO_COLOR", "1");
    assert!(!colorless.contains("\u{1b}[38") && colorless.contains("\u{1b}[1m"), "{colorless}");
    assert!(!on_terminal("TERM", "dumb").contains('\u{1b}'));
    let missing = on_terminal("PAGER", "/nowhere/pager -x");
    assert!(!missing.contains("/nowhere"), "{missing}");
    // One that is there gets all of it.
    let paged = on_terminal("PAGER", "sed 's/^/> /'");
    assert!(paged.lines().all(|line| line.starts_with("> ")), "{paged}");

    let piped = command(home.path(), &["guide", "limits"]).output().expect("it runs");
    assert!(text(&piped.stdout).starts_with("# Limits and security\n"), "{piped:?}");
    let mut homeless = command(home.path(), &["guide", "LIMITS"]);
    assert_eq!(homeless.env_remove("HOME").output().expect("it runs").stdout, piped.stdout);
    let unknown = refused(command(home.path(), &["guide", "nothing"]));
    assert!(unknown.contains("no chapter \"nothing\"; there are: sessions, files, "), "{unknown}");
}

#[test]
fn a_chapter_is_found_by_its_beginning_and_in_any_letters() {
    let home = home();
    let first = |name: &str| {
        let done = command(home.path(), &["guide", name]).output().expect("it runs");
        assert!(done.status.success(), "{name}");
        text(&done.stdout).lines().next().unwrap_or_default().to_owned()
    };
    for name in ["LONG-WORK", "long_work", "Long Work", "long"] {
        assert_eq!(first(name), "# Long work", "{name}");
    }
    for name in ["nope", "s", ""] {
        let said = refused(command(home.path(), &["guide", name]));
        assert!(said.contains("sessions, files, notebooks"), "{name}: {said}");
    }
}

#[test]
fn agents_read_the_guide_as_resources() {
    let mut forkpy = Setup::new().start();
    let listed = forkpy.request("resources/list", json!({}))["result"]["resources"].clone();
    let uris: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|one| one["uri"].as_str()).collect();
    assert!(uris.contains(&"forkpy://guide/checkpoints"), "{uris:?}");
    let read = forkpy.request("resources/read", json!({"uri": "forkpy://guide/checkpoints"}))["result"].clone();
    assert_eq!(read["contents"][0]["mimeType"], "text/markdown");
    assert!(read["contents"][0]["text"].as_str().expect("text").starts_with("# Checkpoints and branches"), "{read}");
    let unknown = forkpy.request("resources/read", json!({"uri": "forkpy://guide/nothing"}))["error"].clone();
    assert!(unknown["message"].as_str().expect("words").contains("checkpoints"), "{unknown}");
}

/// A client of a desktop starts its servers in `/`: there the workspace is below the home.
#[test]
fn a_workspace_is_found_where_the_current_directory_is_of_no_use() {
    let home = home();
    let mut server = command(home.path(), &["--python", env!("FORKPY_BUILD_PYTHON")]);
    let ended = server.current_dir("/").stdin(Stdio::null()).output().expect("it runs");
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    assert!(home.path().join("forkpy/outputs").is_dir());
    // Configurations have no shell: what one would expand is expanded.
    for (word, folder) in [("~/tilde", "tilde"), ("$HOME/dollar", "dollar"), ("${HOME}/braces", "braces")] {
        let args = ["--python", env!("FORKPY_BUILD_PYTHON"), "--workspace", word];
        let ended = command(home.path(), &args).current_dir(home.path()).stdin(Stdio::null()).status();
        assert!(ended.expect("it runs").success() && home.path().join(folder).join("outputs").is_dir(), "{word}");
    }
    assert!(!home.path().join("~").exists() && !home.path().join("$HOME").exists());
}

#[test]
fn a_workspace_that_cannot_be_is_told_once_with_the_option() {
    let home = home();
    fs::write(home.path().join("file"), "").expect("written");
    for (word, reason) in [
        ("file", "is a file"),
        ("file/below", "is a file"),
        ("/proc/forkpy", "No such file"),
        ("~no_such_user_/x", "no user \"no_such_user_\""),
        ("$NO_SUCH_VARIABLE_/x", "NO_SUCH_VARIABLE_ is not set"),
    ] {
        let mut server = command(home.path(), &["--workspace", word]);
        server.current_dir(home.path());
        let said = refused(server);
        assert!(said.contains(reason) && said.contains("--workspace"), "{word}: {said}");
        assert!(!said.contains("os error"), "{said}");
    }
}

#[test]
fn a_port_that_is_taken_is_told_with_who_has_it() {
    let home = home();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let workspace = home.path().join("w");
    let workspace = workspace.to_str().expect("UTF-8");
    let python = ["--python", env!("FORKPY_BUILD_PYTHON"), "--workspace", workspace, "--transport", "http"];
    let said = refused_log(command(home.path(), &[&python[..], &["--port", &port]].concat()));
    let holder = format!("(process {}) listens there", std::process::id());
    assert!(said.contains(&holder) && said.contains("--port 0"), "{said}");
    let elsewhere = ["--host", "192.0.2.1", "--port", "0", "--sandbox", "off"];
    let mut far = command(home.path(), &[&python[..], &elsewhere].concat());
    far.env("FORKPY_TOKEN", "secret");
    let said = refused_log(far);
    assert!(said.contains("192.0.2.1:0") && said.contains("--host"), "{said}");
}

/// As [`refused`], of a server that has begun to log.
fn refused_log(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().expect("it runs");
    let said = text(&stderr);
    assert!(!status.success() && said.matches("error:").count() == 1, "{said}");
    assert!(!said.contains("backtrace") && !said.contains("os error") && !said.contains(" ERROR "), "{said}");
    said.lines().find(|line| line.starts_with("error:")).unwrap_or_default().to_owned()
}

#[test]
fn a_bad_value_in_the_settings_file_is_told_once() {
    let home = home();
    let file = home.path().join("forkpy.toml");
    let path = file.to_str().expect("UTF-8");
    for (line, option) in [
        ("memory-alert = -5", "--memory-alert"),
        ("transport = \"htp\"", "--transport"),
        ("workspace = \"~nobody_/\"", "--workspace"),
    ] {
        fs::write(&file, line).expect("written");
        for args in [&["--config", path][..], &["attach", "--config", path]] {
            let said = refused(command(home.path(), args));
            assert_eq!((said.matches(option).count(), said.matches(path).count()), (1, 1), "{said}");
            assert!(!said.contains("Usage"), "{said}");
        }
    }
}

/// `forkpy man | head`: who reads has read enough, and nothing is to be said about it.
#[test]
fn a_reader_who_leaves_early_is_no_error() {
    let home = home();
    for args in [
        &["man"][..],
        &["completions", "bash"],
        &["guide"],
        &["guide", "tools"],
        &["install", "--client", "cursor", "--dry-run"],
        &["install", "--client", "codex", "--print"],
        &["bench", "--explain"],
        &["status"],
        &["--help"],
    ] {
        let mut piped = command(home.path(), args);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = piped.stdout(writer).stderr(Stdio::piped()).output().expect("it runs");
        let said = text(&ended.stderr);
        assert!(ended.status.success() && !said.contains("error") && !said.contains("panic"), "{args:?}: {said}");
    }
}

/// Clients come and go: what they leave half done is no error of the server's.
#[test]
fn an_orderly_end_and_a_cancellation_log_no_error() {
    let home = home();
    let workspace = home.path().join("w");
    for way in ["cancels", "stops to read", "goes"] {
        let mut server = command(home.path(), &["--python", env!("FORKPY_BUILD_PYTHON"), "--workspace"]);
        server.arg(&workspace).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = server.spawn().expect("it starts");
        let mut input = server.stdin.take().expect("piped");
        let mut output = BufReader::new(server.stdout.take().expect("piped"));
        let mut line = String::new();
        let mut say = |message: serde_json::Value| writeln!(input, "{message}").expect("written");
        say(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
            "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}}));
        output.read_line(&mut line).expect("an answer");
        say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        let code = "import pathlib, time; pathlib.Path('begun').touch(); time.sleep(1); pathlib.Path('begun').unlink()";
        say(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
            "params": {"name": "run_python_code", "arguments": {"code": code}}}));
        crate::support::wait_for("the cell to begin", || workspace.join("begun").exists());
        match way {
            "cancels" => {
                say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}))
            }
            "stops to read" => {
                drop(output);
                crate::support::wait_for("the cell to end", || !workspace.join("begun").exists());
            }
            _ => drop(output),
        }
        drop(input);
        let ended = server.wait_with_output().expect("it ends");
        let log = text(&ended.stderr);
        assert!(ended.status.success() && !log.contains("ERROR"), "{way}: {log}");
    }
}

#[test]
fn a_person_who_types_the_bare_command_is_told_what_to_try() {
    let home = home();
    let workspace = home.path().join("w");
    let args = ["--python", env!("FORKPY_BUILD_PYTHON"), "--workspace", workspace.to_str().expect("UTF-8")];
    let mut person = OnTerminal::start(command(home.path(), &args), 80);
    person.until("forkpy guide");
    person.press("\u{4}");
    let (status, screen) = person.end();
    assert!(status.success() && screen.contains("speaks MCP") && screen.contains("forkpy doctor"), "{screen}");
    assert!(!screen.contains("ERROR"), "{screen}");
    // Programs are told nothing.
    let quiet = command(home.path(), &args).stdin(Stdio::null()).output().expect("it runs");
    assert!(!text(&quiet.stderr).contains("speaks MCP"), "{quiet:?}");
}

/// The last checks take seconds: what the first ones found is on the screen before.
#[test]
fn doctor_speaks_while_it_works() {
    let home = home();
    let mut person = OnTerminal::start(command(home.path(), &["--python", env!("FORKPY_BUILD_PYTHON"), "doctor"]), 100);
    person.until("pidfd");
    assert!(!person.shown.contains("checkpoint"), "{}", person.shown);
    let (status, screen) = person.end();
    assert!(status.success(), "{screen}");
    let shown = plain(&screen);
    for words in [
        "a session is frozen, changed, and taken back",
        "imports       ",
        "plot          ",
        "index         ",
        "clients       ",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

/// An active environment of another Python: sessions do not use it, and doctor says so, and why; one that fits is named.
#[test]
fn doctor_says_which_environment_sessions_use_and_why_not_the_active_one() {
    let home = home();
    let environment = |active: &str| {
        let venv = home.path().join("venv");
        fs::create_dir_all(venv.join("bin")).expect("made");
        fs::write(venv.join("bin/python"), "#!/bin/sh\nexit 3\n").expect("written");
        fs::write(venv.join("pyvenv.cfg"), format!("version = {active}\n")).expect("written");
        let mut doctor = command(home.path(), &["doctor", "--json"]);
        let done = doctor.env("VIRTUAL_ENV", &venv).output().expect("it runs");
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&done.stdout).expect("JSON");
        findings.into_iter().find(|finding| finding["check"] == "environment").expect("the check")
    };
    let refused = environment("3.6.15");
    let seen = refused["seen"].as_str().expect("words");
    assert_eq!(refused["grade"], "warning", "{refused}");
    for words in ["managed, in ", "the active one is not used: ", "venv is Python 3.6 ", "-m venv"] {
        assert!(seen.contains(words), "{words}: {seen}");
    }
    assert!(refused["remedy"].as_str().expect("words").contains("--venv"), "{refused}");
}

/// The active environment is taken where it fits: doctor names it, and the session that it tries runs in it.
#[test]
fn doctor_takes_an_active_environment_that_fits() {
    let home = home();
    let venv = home.path().join("venv");
    let options = ["-m", "venv", "--without-pip", "--system-site-packages"];
    let made = Command::new(env!("FORKPY_BUILD_PYTHON")).args(options).arg(&venv).status().expect("Python runs");
    assert!(made.success());
    let done = command(home.path(), &["doctor", "--json"]).env("VIRTUAL_ENV", &venv).output().expect("it runs");
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&done.stdout).expect("JSON");
    let found = |check: &str| findings.iter().find(|finding| finding["check"] == check).expect("the check");
    let environment = found("environment");
    assert_eq!(environment["grade"], "ok", "{environment}");
    assert_eq!(environment["seen"], format!("{}, as VIRTUAL_ENV says", venv.display()));
    assert_eq!(found("session")["grade"], "ok", "{findings:?}");
    assert!(!home.path().join(".local/share/forkpy/envs").exists(), "and no other one is made");
}

#[test]
fn doctor_reads_the_configurations_of_clients() {
    let home = home();
    let python = ["--python", env!("FORKPY_BUILD_PYTHON")];
    for client in ["cursor", "codex", "goose"] {
        assert!(command(home.path(), &["install", "--client", client]).output().expect("it runs").status.success());
    }
    let clients = |home: &Path| {
        let done = command(home, &[&python[..], &["doctor", "--json"]].concat()).output().expect("it runs");
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&done.stdout).expect("JSON");
        findings.into_iter().find(|finding| finding["check"] == "clients").expect("the check")
    };
    let well = clients(home.path());
    assert_eq!(well["seen"], "forkpy is entered in codex (forkpy), cursor (forkpy), goose (forkpy)");
    let broken = json!({"mcpServers": {
        "gone": {"command": "/nowhere/forkpy", "args": []},
        "old": {"command": env!("CARGO_BIN_EXE_forkpy"), "args": ["--no-such-option"]},
    }});
    fs::write(home.path().join(".cursor/mcp.json"), broken.to_string()).expect("written");
    fs::write(home.path().join(".claude.json"), "{").expect("written");
    let ill = clients(home.path());
    let seen = ill["seen"].as_str().expect("words");
    assert_eq!(ill["grade"], "warning");
    for words in ["claude-code: ", "no program /nowhere/forkpy", "--no-such-option"] {
        assert!(seen.contains(words), "{words}: {seen}");
    }
    assert!(ill["remedy"].as_str().expect("words").contains("forkpy install --client"));
}
