//! Who comes in, what they are told, and what of theirs others may see.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::Path,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::{Value, json};

use crate::support::{Forkpy, PATIENCE, Setup, http::HttpForkpy, processes, wait_for};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
const ROUTES: [(&str, &str); 5] = [
    ("POST", "/mcp"),
    ("GET", "/metrics"),
    ("GET", "/readyz"),
    ("GET", "/files/download/a.txt"),
    ("POST", "/files/upload"),
];

#[test]
fn every_route_but_healthz_is_behind_host_and_origin() {
    let server = HttpForkpy::start(Setup::new());
    for (method, route) in ROUTES {
        for foreign in [("Host", "evil.example"), ("Origin", "http://evil.example"), ("Origin", "null")] {
            let answer = server.exchange(method, route, &[foreign], b"");
            assert_eq!(answer.status, 403, "{method} {route} {foreign:?}: {answer:?}");
        }
        let line = server.exchange(method, &format!("http://evil.example{route}"), &[], b"");
        assert_eq!(line.status, 403, "{method} {route}: {line:?}");
    }
    for foreign in [("Host", "evil.example"), ("Origin", "http://evil.example")] {
        assert_eq!(server.exchange("GET", "/healthz", &[foreign], b"").status, 200, "a probe may call it anything");
    }
    for route in ["/metrics", "/readyz"] {
        wait_for("the route to be open to friends", || server.get(route).status == 200);
    }
}

#[test]
fn two_of_what_there_is_one_of_are_a_bad_request() {
    let server = HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", "open-sesame"));
    let host = server.address.clone();
    let pairs: [[(&str, &str); 2]; 3] = [
        [("Host", &host), ("Host", "evil.example")],
        [("Origin", "http://localhost"), ("Origin", "http://evil.example")],
        [("Authorization", "Bearer open-sesame"), ("Authorization", "Bearer x")],
    ];
    for (method, route) in ROUTES.into_iter().chain([("GET", "/healthz")]) {
        for pair in pairs {
            let answer = server.exchange(method, route, &pair, b"");
            assert_eq!(answer.status, 400, "{method} {route} {pair:?}: {answer:?}");
        }
    }
}

#[test]
fn refusals_at_mcp_are_in_json_rpcs_words() {
    let server = HttpForkpy::start(Setup::new());
    let cases: [(&str, i64, Value, &str); 10] = [
        ("", -32700, Value::Null, "not valid JSON"),
        ("garbage", -32700, Value::Null, "not valid JSON"),
        ("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":", -32700, json!(7), "not valid JSON"),
        ("{\n  \"jsonrpc\": \"2.0\",\n  \"id\": 8,\n  oops}", -32700, json!(8), "line 4"),
        ("\u{feff}x", -32700, Value::Null, "not valid JSON"),
        ("[]", -32600, Value::Null, "batches are not supported"),
        ("{\"jsonrpc\":\"2.0\"}", -32600, Value::Null, "not a JSON-RPC 2.0"),
        (
            "{\n \"jsonrpc\": \"1.0\",\n \"id\": \"a\",\n \"method\": \"ping\"\n}",
            -32600,
            json!("a"),
            "not a JSON-RPC 2.0",
        ),
        (
            "{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"ping\",\"params\":\"\\ud800\"}",
            -32602,
            json!(9),
            "lone surrogate",
        ),
        ("{\"jsonrpc\":\"2.0\",\"method\":5}", -32600, Value::Null, "not a JSON-RPC 2.0"),
    ];
    for (body, code, id, words) in cases {
        let answer = server.post(&[], body);
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/json"), "{body:?}: {answer:?}");
        let said = answer.json();
        assert_eq!(
            (&said["jsonrpc"], &said["id"], &said["error"]["code"]),
            (&json!("2.0"), &id, &json!(code)),
            "{body:?}: {said}"
        );
        assert!(said["error"]["message"].as_str().is_some_and(|message| message.contains(words)), "{body:?}: {said}");
    }
    // Whoever refuses: the door, rmcp, nobody at home.
    let gone = [("Mcp-Session-Id", "00000000-0000-0000-0000-000000000000")];
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (answer, status) in [
        (server.post(&[("Host", "evil.example")], INITIALIZE), 403),
        (server.post(&gone, ping), 404),
        (server.post(&[], ping), 400),
        (server.post(&[("MCP-Protocol-Version", "2026-07-28")], &"x".repeat(70_000)), 400),
        (server.exchange("PUT", "/mcp", &[], b""), 405),
        (server.exchange("POST", "/mcp", &[("Content-Type", "text/plain")], b"{}"), 406),
    ] {
        let said = answer.json();
        assert_eq!((answer.status, &said["jsonrpc"]), (status, &json!("2.0")), "{answer:?}");
        assert!(said["error"]["message"].as_str().is_some_and(|words| !words.is_empty()), "{answer:?}");
    }
    assert_eq!(server.post(&[], INITIALIZE).status, 200);
}

fn forks(server: &HttpForkpy) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("forkpy_forks_total "));
    line.and_then(|number| number.parse::<f64>().ok()).map_or(0, |number| number as u64)
}

/// Whoever asks and goes away before the answer has not asked for nothing.
#[test]
fn probes_in_a_loop_fork_once_a_second_also_when_nobody_waits_for_the_answer() {
    let server = HttpForkpy::start(Setup::new().args(&["--max-spares", "0"]));
    wait_for("readiness", || server.get("/readyz").status == 200);
    let (before, began) = (forks(&server), Instant::now());
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    // On a busy machine a probe may be gone before it is read: until one was.
    while began.elapsed() < Duration::from_secs(3) || forks(&server) == before {
        assert!(began.elapsed() < PATIENCE, "no probe was heard");
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).expect("sent");
    }
    let (forked, seconds) = (forks(&server) - before, began.elapsed().as_secs() + 1);
    assert!(forked <= seconds + 1, "{forked} forks in {seconds} s");
}

#[test]
fn no_level_of_the_log_shows_tokens() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let secret = "tok\"en-4711";
    let mut setup =
        Setup::new().env("FORKPY_TOKEN", secret).args(&["--log", "trace", "--transport", "http", "--port", "0"]);
    let mut process = setup.command().stderr(fs::File::create(&log).expect("a file")).spawn().expect("it starts");
    let text = || fs::read_to_string(&log).expect("a log");
    let address = || Some(text().split_once("listening on http://")?.1.split_once("/mcp")?.0.to_owned());
    wait_for("the address", || address().is_some());
    let address = address().expect("seen");
    let ask = |headers: &str, body: &str| {
        let mut stream = std::net::TcpStream::connect(&address).expect("it listens");
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nAuthorization: Bearer {secret}\r\n{headers}"
        );
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut bytes).expect("answered");
        crate::support::http::Answer::read(&bytes)
    };
    let session = ask("", INITIALIZE).header("mcp-session-id").to_owned();
    let client = "0123456789abcdef0123456789abcdef";
    let headers = format!("Mcp-Session-Id: {session}\r\nCookie: forkpy_client={client}\r\n");
    let code = format!("token = {secret:?}; url = 'https://me:geheim@pypi.example/simple'; 1 + 1");
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
                      "params": {"name": "run_python_code", "arguments": {"code": code}}});
    let answer = ask(&headers, &call.to_string());
    assert!(answer.body.contains("\"results\":[\"2\"]"), "{answer:?}");
    assert_eq!(ask(&headers, "{\"id\": 3").status, 400);
    processes::signal(i32::try_from(process.id()).expect("a pid"), Signal::SIGTERM);
    process.wait().expect("it ends");
    let text = text();
    assert!(text.contains("run_python_code"), "what was asked for is in the log");
    for shown in [secret, "tok\\\"en-4711", "en-4711", &session, client, "geheim"] {
        assert!(!text.contains(shown), "{shown} is in the log:\n{text}");
    }
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn what_is_written_for_a_session_is_its_users_alone() {
    let temporary = tempfile::tempdir().expect("a directory");
    let tmp = temporary.path().to_str().expect("UTF-8");
    let mut forkpy = Setup::new().args(&["--max-output", "1000"]).env("TMPDIR", tmp).start();
    forkpy.run("import os; os.umask(0); secret = 'x' * 10");
    let saved = forkpy.call("save_session", json!({"path": "saved/state"})).data;
    assert_eq!(saved["status"], "saved", "{saved}");
    assert_eq!(mode(forkpy.file("saved/state")), 0o600);
    // The user's own choice is kept.
    fs::set_permissions(forkpy.file("saved/state"), fs::Permissions::from_mode(0o640)).expect("ours");
    forkpy.call("save_session", json!({"path": "saved/state"}));
    assert_eq!(mode(forkpy.file("saved/state")), 0o640);
    forkpy.run("print('y' * 100_000)");
    forkpy.run("'z' * 300_000");
    let written: Vec<_> =
        fs::read_dir(forkpy.file("outputs")).expect("there").flatten().map(|entry| entry.path()).collect();
    assert!(written.len() >= 2, "{written:?}");
    for path in written {
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
    let scratch: Vec<_> = fs::read_dir(temporary.path()).expect("there").flatten().collect();
    let scratch: Vec<_> =
        scratch.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with("forkpy-")).collect();
    assert_eq!(scratch.len(), 1);
    assert_eq!(mode(scratch[0].path()), 0o700);
}

#[test]
fn outputs_replaced_by_a_link_is_not_followed() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let mut forkpy = Setup::new().args(&["--max-output", "1000"]).start();
    let outputs = forkpy.file("outputs");
    for target in [elsewhere.path().to_owned(), forkpy.file("scripts")] {
        let _ = fs::remove_dir_all(&outputs);
        let _ = fs::remove_file(&outputs);
        symlink(&target, &outputs).expect("a link");
        let printed = forkpy.run("print('y' * 100_000)");
        assert_eq!(printed["status"], "ok", "{printed}");
        assert!(printed.to_string().contains("symbolic link"), "it says why the whole is not kept: {printed}");
        forkpy.run("'z' * 300_000");
        assert_eq!(forkpy.run("import os; os._exit(3)")["status"], "died");
        forkpy.call("list_crashes", json!({}));
        assert_eq!(fs::read_dir(&target).expect("there").count(), 0, "{target:?}");
    }
    fs::remove_file(&outputs).expect("a link");
    forkpy.run("print('y' * 100_000)");
    assert_eq!(fs::read_dir(&outputs).expect("made again").count(), 1);
}

/// What a managed environment holds is run by its user: nobody else may have put it there.
#[test]
fn an_environment_below_what_another_may_write_is_not_run() {
    let temporary = tempfile::tempdir().expect("a directory");
    let tmp = temporary.path();
    fs::set_permissions(tmp, fs::Permissions::from_mode(0o1777)).expect("ours");
    let planted = tmp.join(".local/share/forkpy/envs");
    fs::DirBuilder::new().recursive(true).mode(0o777).create(&planted).expect("made");
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o777)).expect("ours");
    if geteuid().is_root() {
        for part in [".local", ".local/share", ".local/share/forkpy", ".local/share/forkpy/envs"] {
            chown(tmp.join(part), Some(12_345), None).expect("root may");
        }
    }
    let home = tmp.to_str().expect("UTF-8");
    let bad = || Setup::without_python().env("HOME", home).env("XDG_DATA_HOME", "").env("TMPDIR", home).keep_log();
    // Named by hand it is refused, with the reason.
    let mut forkpy = bad().args(&["--env-dir", planted.to_str().expect("UTF-8")]).start();
    let refused = forkpy.refused("run_python_code", json!({"code": "1"}));
    assert!(refused.contains("belongs to user 12345") || refused.contains("others may write"), "{refused}");
    drop(forkpy);
    // Found by itself it is passed over, for a place of one's own.
    let forkpy = bad().env("PATH", "/nonexistent").start();
    wait_for("the choice to be logged", || forkpy.log().contains("making the session environment in"));
    let log = forkpy.log();
    assert!(
        log.contains(&format!("forkpy-{}/envs", geteuid())) && fs::read_dir(&planted).expect("there").count() == 0,
        "{log}"
    );
    assert_eq!(mode(tmp.join(format!("forkpy-{}", geteuid()))), 0o700);
    drop(forkpy);
}

/// A server that was killed leaves its scratch directory; the next one removes it, and none of a server that lives.
#[test]
fn what_a_killed_server_left_is_removed_by_the_next() {
    let temporary = tempfile::tempdir().expect("a directory");
    let tmp = temporary.path().to_str().expect("UTF-8");
    let left = || {
        let names = fs::read_dir(temporary.path()).expect("there").flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("forkpy-")).collect();
        names.sort();
        names
    };
    let start = || Setup::new().env("TMPDIR", tmp).start();
    let mut living = start();
    let of_living = left();
    let mut dead: Vec<Forkpy> = (0..2).map(|_| start()).collect();
    assert_eq!(left().len(), 3);
    dead.iter_mut().for_each(Forkpy::kill);
    assert_eq!(left().len(), 3, "killed, and left");
    let next = start();
    wait_for("what was left to be removed", || left().len() == 2);
    assert!(left().contains(&of_living[0]), "a living server keeps its own");
    living.run("kept = 1");
    assert_eq!(living.call("save_session", json!({"path": "state"})).data["status"], "saved");
    drop((next, dead));
    drop(living);
    assert!(left().is_empty());
}
