//! Owners by token (`--tokens`): who comes in, whose sessions are whose, what each may take, and a file that changes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
    Setup,
    http::{Answer, HttpForkpy},
};

/// A file of tokens, and the tokens.
struct Keys {
    place: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        Self { place: tempfile::tempdir().expect("a directory") }
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("tokens.toml")
    }

    /// A new token, by the command.
    fn give(&self, owner: &str) -> String {
        let made = token(&["new", owner, "--tokens", path(&self.file())]);
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Adds to the entry that was made last.
    fn add(&self, text: &str) {
        let before = fs::read_to_string(self.file()).expect("there");
        fs::write(self.file(), before + text).expect("written");
    }

    fn server(&self, args: &[&str]) -> HttpForkpy {
        HttpForkpy::start(Setup::new().args(&["--tokens", path(&self.file())]).args(args))
    }
}

fn token(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_forkpy"))
        .arg("token")
        .args(args)
        .env_remove("FORKPY_TOKENS")
        .output()
        .expect("it runs")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn ask(server: &HttpForkpy, token: &str, tool: &str, arguments: &Value) -> Answer {
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let bearer = format!("Bearer {token}");
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", tool),
        ("Authorization", &*bearer),
    ];
    server.post(&headers, &call.to_string())
}

fn call(server: &HttpForkpy, token: &str, tool: &str, arguments: &Value) -> Value {
    let answer = ask(server, token, tool, arguments);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str::<Value>(&answer.body).expect("JSON")["result"].clone()
}

fn run(server: &HttpForkpy, token: &str, code: &str) -> Value {
    call(server, token, "run_python_code", &json!({"code": code}))["structuredContent"].clone()
}

fn refused(server: &HttpForkpy, token: &str, tool: &str, arguments: &Value) -> String {
    let result = call(server, token, tool, arguments);
    assert_eq!(result["isError"], true, "{result}");
    result["content"][0]["text"].as_str().expect("a text").to_owned()
}

#[test]
fn each_owner_has_its_own_sessions_and_strangers_none() {
    let keys = Keys::new();
    let (ann, bob) = (keys.give("ann"), keys.give("bob@example.org"));
    assert_eq!(fs::metadata(keys.file()).expect("there").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(keys.file()).expect("there");
    assert!(!text.contains(&ann) && !text.contains(&bob), "the file has hashes only: {text}");
    let server = keys.server(&[]);
    assert_eq!(run(&server, &ann, "x = 'of ann'; x")["results"], json!(["'of ann'"]));
    assert_eq!(run(&server, &bob, "'x' in globals()")["results"], json!(["False"]));
    assert_eq!(run(&server, &ann, "x")["results"], json!(["'of ann'"]));
    call(&server, &ann, "create_session", &json!({"session_id": "work"}));
    let words = refused(&server, &bob, "run_python_code", &json!({"code": "1", "session_id": "work"}));
    assert!(words.contains("does not exist") && !words.contains("ann"), "{words}");
    let listed = call(&server, &bob, "list_sessions", &json!({}));
    assert!(!listed.to_string().contains("work"), "{listed}");
    for wrong in ["", "forkpy_", &ann[..ann.len() - 1], &format!("{ann}x"), &ann.to_uppercase()] {
        assert_eq!(ask(&server, wrong, "ping", &json!({})).status, 401, "{wrong:?}");
    }
    assert_eq!(server.get("/metrics").status, 401);
    let bearer = format!("Bearer {ann}");
    let metrics = server.get_with("/metrics", &[("Authorization", &bearer)]);
    assert_eq!(metrics.status, 403, "it tells of all owners: {metrics:?}");
    let order = server.exchange("POST", "/admin/drain", &[("Authorization", &bearer)], b"");
    assert_eq!(order.status, 403, "it concerns them all: {order:?}");
}

#[test]
fn a_file_that_changes_counts_at_once_and_a_broken_one_locks_out_none() {
    let keys = Keys::new();
    let ann = keys.give("ann");
    let server = keys.server(&[]);
    assert_eq!(ask(&server, &ann, "ping", &json!({})).status, 200);
    let eve = keys.give("eve");
    assert_eq!(ask(&server, &eve, "ping", &json!({})).status, 200, "a new one");
    keys.add("admin = true\n");
    let bearer = format!("Bearer {eve}");
    assert_eq!(server.get_with("/metrics", &[("Authorization", &bearer)]).status, 200, "it is an administrator now");
    let whole = fs::read_to_string(keys.file()).expect("there");
    keys.add("nonsense");
    assert_eq!(ask(&server, &ann, "ping", &json!({})).status, 200, "what was there before still counts");
    let without = whole.split("\n[[token]]").next().expect("the first").to_owned();
    fs::write(keys.file(), without).expect("written");
    assert_eq!(ask(&server, &eve, "ping", &json!({})).status, 401, "taken out");
    assert_eq!(ask(&server, &ann, "ping", &json!({})).status, 200);
    fs::set_permissions(keys.file(), PermissionsExt::from_mode(0o644)).expect("ours");
    assert_eq!(ask(&server, &ann, "ping", &json!({})).status, 401, "all users may read it");
    fs::set_permissions(keys.file(), PermissionsExt::from_mode(0o600)).expect("ours");
    assert_eq!(ask(&server, &ann, "ping", &json!({})).status, 200);
    fs::remove_file(keys.file()).expect("there");
    assert_eq!(ask(&server, &ann, "ping", &json!({})).status, 401, "it is gone");
}

#[test]
fn an_owner_takes_no_more_than_its_quota_and_others_are_not_touched() {
    let keys = Keys::new();
    let bob = keys.give("bob");
    let ann = keys.give("ann");
    keys.add("[token.quota]\nsessions = 2\ncells = 1\ncell-seconds-a-day = 0.2\n");
    let server = keys.server(&[]);
    assert_eq!(run(&server, &ann, "1")["results"], json!(["1"]));
    call(&server, &ann, "create_session", &json!({"session_id": "a"}));
    let words = refused(&server, &ann, "create_session", &json!({"session_id": "b"}));
    assert!(words.contains("\"ann\"") || words.contains("ann"), "{words}");
    assert!(words.contains("it has 2 sessions, which is its quota (sessions)"), "{words}");
    call(&server, &ann, "delete_session", &json!({"session_id": "a"}));
    assert_eq!(call(&server, &ann, "create_session", &json!({"session_id": "b"}))["isError"], false);
    // One cell at a time, in whatever session.
    // It runs longer than its owner has left.
    let code = "import os, time\nbegan = time.monotonic()\n\
                while not os.path.exists('go') or time.monotonic() - began < 0.3: time.sleep(0.01)";
    call(&server, &ann, "run_python_code", &json!({"code": code, "background": true}));
    let words = refused(&server, &ann, "run_python_code", &json!({"code": "1", "session_id": "b"}));
    assert!(words.contains("1 of its cells run or wait, and its quota is 1 (cells)"), "{words}");
    for session in ["one", "two", "three"] {
        assert_eq!(call(&server, &bob, "create_session", &json!({"session_id": session}))["isError"], false);
    }
    assert_eq!(run(&server, &bob, "2")["results"], json!(["2"]));
    fs::write(server.workspace().join("go"), "").expect("written");
    let words = loop {
        let result = call(&server, &ann, "run_python_code", &json!({"code": "1", "session_id": "b"}));
        let words = result["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        if !words.contains("(cells)") {
            break words;
        }
    };
    assert!(words.contains("its quota is 0.2 s a day (cell-seconds-a-day); try again after 20"), "{words}");
    assert_eq!(run(&server, &bob, "3")["results"], json!(["3"]));
}

#[test]
fn an_owner_may_be_confined_where_others_are_not() {
    let keys = Keys::new();
    let bob = keys.give("bob");
    let ann = keys.give("ann");
    keys.add("sandbox = \"workspace\"\n");
    let server = keys.server(&["--sandbox", "off"]);
    let outside = keys.place.path().join("outside");
    fs::write(&outside, "treasure").expect("written");
    let look = format!("try:\n    print(open({outside:?}).read())\nexcept PermissionError:\n    print('kept')");
    assert_eq!(run(&server, &bob, &look)["stdout"], "treasure\n");
    assert_eq!(run(&server, &ann, &look)["stdout"], "kept\n");
    let words = refused(&server, &ann, "create_session", &json!({"session_id": "wide", "sandbox": "off"}));
    assert!(words.contains("wider"), "{words}");
    fs::write(server.workspace().join("look.py"), &look).expect("written");
    for (token, expected) in [(&bob, "treasure\n"), (&ann, "kept\n")] {
        let done = call(&server, token, "run_script", &json!({"path": "look.py"}));
        assert_eq!(done["structuredContent"]["stdout"], expected, "{done}");
    }
}

#[test]
fn tokens_that_are_none_are_refused_at_the_start() {
    let keys = Keys::new();
    let file = keys.file();
    let start = |args: &[&str]| {
        let options = ["--transport", "http", "--port", "0", "--tokens", path(&file)];
        let (code, log) = Setup::new().args(&options).args(args).run_to_end();
        assert_eq!(code, Some(1), "{log}");
        log
    };
    assert!(start(&[]).contains("No such file"));
    for (text, expected) in [
        ("", "there is no [[token]] in it"),
        ("nonsense", "not as it should be"),
        ("[[token]]\nowner = \"a\"\nsha256 = \"12\"\n", "64 hexadecimal digits"),
        ("[[token]]\nowner = \"a\"\n", "sha256"),
        ("[[tokens]]\nowner = \"a\"\n", "tokens"),
    ] {
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("ours");
        let log = start(&[]);
        assert!(log.contains(expected), "{text}: {log}");
    }
    fs::remove_file(&file).expect("there");
    keys.give("ann");
    assert!(start(&["--share-sessions"]).contains("take one of them"));
    fs::set_permissions(&file, PermissionsExt::from_mode(0o604)).expect("ours");
    assert!(start(&[]).contains("chmod 600"));
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("ours");
    let again = token(&["new", "ann", "--tokens", path(&file)]);
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && again.stdout.is_empty() && words.contains("has a token"), "{words}");
    for name in ["", "a b", "../x", "-a", &"a".repeat(65)] {
        assert!(!token(&["new", "--tokens", path(&file), "--", name]).status.success(), "{name:?}");
    }
    let alone = token(&["new", "eve"]);
    let entry = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(entry.contains("[[token]]\nowner = \"eve\"") && alone.stdout.starts_with(b"forkpy_"), "{entry}");
    // Sessions must not be able to give themselves a token.
    let setup = Setup::new();
    fs::create_dir_all(&setup.workspace).expect("made");
    let within = setup.workspace.join("tokens.toml");
    fs::copy(&file, &within).expect("copied");
    let (code, log) = setup.args(&["--transport", "http", "--port", "0", "--tokens", path(&within)]).run_to_end();
    assert!(code == Some(1) && log.contains("sessions may change"), "{log}");
}
