//! Servers that share a store (`--store`): sessions are put away into it and taken up by whichever server is asked for them next. No
//! session ever has two servers, nothing that was put away is lost, and what is lost is told.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Barrier,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{Setup, http::HttpForkpy, wait_for};

const TOKEN: &str = "treasure";
const KEY: &str = "0123456789abcdef0123456789abcdef";
/// Seconds between two signs of life: twelve times that, and a silent server counts as ended.
const BEAT: &str = "0.2";

/// What servers share: a store, its key, a workspace.
pub struct Fleet {
    folder: tempfile::TempDir,
    store: String,
    pub variables: Vec<(String, String)>,
}

/// What came of a call: the status of HTTP, and the whole answer.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub body: Value,
}

impl Told {
    pub fn data(&self) -> &Value {
        &self.body["result"]["structuredContent"]
    }

    pub fn is_refused(&self) -> bool {
        self.status != 200 || self.body["result"]["isError"] == json!(true)
    }

    /// What it says, wherever it says it.
    pub fn words(&self) -> String {
        self.body.to_string().replace("\\\"", "\"")
    }
}

impl Fleet {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("workspace")).expect("made");
        let fleet = Self {
            store: folder.path().join("store").to_str().expect("UTF-8").to_owned(),
            folder,
            variables: Vec::new(),
        };
        fleet.write_key("key", KEY);
        fleet
    }

    /// One whose store is elsewhere.
    pub fn at(store: &str, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { store: store.to_owned(), variables, ..Self::new() }
    }

    fn write_key(&self, name: &str, text: &str) {
        let mut file =
            fs::File::options().write(true).create_new(true).mode(0o600).open(self.path(name)).expect("a file");
        writeln!(file, "{text}").expect("written");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn setup(&self, name: &str, more: &[&str]) -> Setup {
        let key = self.path("key");
        let setup = Setup::new().in_workspace(&self.path("workspace")).env("FORKPY_TOKEN", TOKEN);
        let mut setup = setup.env("FORKPY_STORE_BEAT", BEAT).env("FORKPY_ERRAND_LIMIT", "40");
        for (name, value) in &self.variables {
            setup = setup.env(name, value);
        }
        setup = setup.env("FORKPY_STORE_KEY", key.to_str().expect("UTF-8"));
        setup.args(&["--store", &self.store, "--server-name", name]).args(&["--checkpoints", "off"]).args(more)
    }

    pub fn server(&self, name: &str, more: &[&str]) -> HttpForkpy {
        HttpForkpy::start(self.setup(name, more))
    }

    /// One that puts sessions away as soon as they rest.
    pub fn eager(&self, name: &str) -> HttpForkpy {
        self.server(name, &["--put-away-after", "0.3"])
    }

    /// One that does so when it ends.
    pub fn lazy(&self, name: &str) -> HttpForkpy {
        self.server(name, &["--put-away-after", "0"])
    }

    fn faulty(&self, name: &str, fault: &str) -> HttpForkpy {
        let setup = self.setup(name, &["--put-away-after", "0.3"]).env("FORKPY_FAULT", fault);
        HttpForkpy::start(setup)
    }

    /// Files in a folder of the store.
    pub fn stored(&self, below: &str) -> Vec<PathBuf> {
        fn files(folder: &Path) -> Vec<PathBuf> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
        }
        files(&Path::new(&self.store).join(below))
    }
}

pub fn ask(server: &HttpForkpy, tool: &str, arguments: &Value) -> Told {
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", tool),
        ("Authorization", "Bearer treasure"),
    ];
    let answer = server.post(&headers, &call.to_string());
    Told { status: answer.status, body: serde_json::from_str(&answer.body).unwrap_or(json!(answer.body)) }
}

pub fn run(server: &HttpForkpy, code: &str) -> Told {
    ask(server, "run_python_code", &json!({"code": code, "session_id": "work"}))
}

/// Runs code that ends well; its value.
pub fn value(server: &HttpForkpy, code: &str) -> String {
    let told = run(server, code);
    assert!(!told.is_refused() && told.data()["status"] == "ok", "{code}: {told:?}");
    told.data()["results"][0].as_str().unwrap_or_default().to_owned()
}

pub fn made(server: &HttpForkpy) {
    let told = ask(server, "create_session", &json!({"session_id": "work", "description": "the work"}));
    assert_eq!(told.data()["status"], "created", "{told:?}");
}

/// Where a server says that the session is, when it is not there.
pub fn place(server: &HttpForkpy) -> String {
    let listed = ask(server, "list_sessions", &json!({}));
    listed.data()["elsewhere"]["work"].as_str().unwrap_or_default().to_owned()
}

pub fn is_away(server: &HttpForkpy) {
    wait_for("it is in the store", || place(server).starts_with("in the store"));
}

fn killed(server: HttpForkpy) {
    kill(Pid::from_raw(server.server_pid()), Signal::SIGKILL).expect("it runs");
    drop(server);
}

#[test]
fn a_session_that_rests_is_put_away_and_the_next_server_that_is_asked_has_all_of_it() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.eager("one"), fleet.lazy("two"));
    made(&one);
    value(&one, "n = 1; rows = iter('abc'); next(rows)");
    is_away(&two);
    is_away(&one);
    let looked = ask(&two, "get_kernel_health", &json!({"session_id": "work"}));
    assert!(looked.is_refused() && looked.words().contains("was not woken"), "{looked:?}");
    assert!(place(&two).contains("by server \"one\""), "still: {}", place(&two));
    let told = run(&two, "n += 1; n, next(rows)");
    assert_eq!((&told.data()["status"], &told.data()["results"][0]), (&json!("ok"), &json!("(2, 'b')")), "{told:?}");
    let words = told.words();
    assert!(words.contains("comes out of the store") && words.contains("All its variables are there"), "{words}");
    assert!(words.contains("\"state\":\"kept\""), "{words}");
    assert!(!run(&two, "n").words().contains("comes out of the store"), "once");
    // It lives there now.
    wait_for("one knows", || place(&one) == "on server \"two\"");
    let refused = run(&one, "n += 1");
    assert_eq!((refused.status, &refused.body["error"]["data"]["server"]), (421, &json!("two")), "{refused:?}");
    assert!(refused.words().contains("lives on server \"two\"") && refused.body["id"] == 2, "{refused:?}");
    let refused = ask(&one, "create_session", &json!({"session_id": "work"}));
    assert!(refused.is_refused() && refused.words().contains("lives on server \"two\""), "{refused:?}");
    assert_eq!(value(&two, "n"), "2");
    // What ends, ends everywhere.
    let deleted = ask(&two, "delete_session", &json!({"session_id": "work"}));
    assert_eq!(deleted.data()["status"], "deleted", "{deleted:?}");
    wait_for("nothing of it is left", || fleet.stored("images").is_empty() && place(&one).is_empty());
    assert!(run(&one, "n").words().contains("does not exist"));
    made(&one);
    assert!(run(&one, "n").words().contains("NameError"), "another one");
}

#[test]
fn of_two_servers_that_are_asked_at_the_same_moment_one_has_the_session() {
    let fleet = Fleet::new();
    let servers = [fleet.eager("one"), fleet.eager("two")];
    made(&servers[0]);
    value(&servers[0], "n = 0");
    // Each looks at all that the session maps, which takes a debug build seconds.
    let rounds = 15;
    for round in 1..=rounds {
        is_away(&servers[round % 2]);
        let barrier = Barrier::new(2);
        let told: Vec<Told> = std::thread::scope(|scope| {
            let ask = |server| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    run(server, "n += 1; n")
                })
            };
            let asked: Vec<_> = servers.iter().map(ask).collect();
            asked.into_iter().map(|asked| asked.join().expect("answered")).collect()
        });
        let (good, bad): (Vec<&Told>, Vec<&Told>) = told.iter().partition(|told| !told.is_refused());
        assert_eq!((good.len(), bad.len()), (1, 1), "round {round}: {told:?}");
        assert_eq!(good[0].data()["results"][0], json!(round.to_string()), "round {round}: {told:?}");
        let words = bad[0].words();
        assert!(words.contains("lives on server") || words.contains("on its way"), "round {round}: {words}");
    }
    assert_eq!(fleet.stored("images").len(), 1, "the last one only");
}

#[test]
fn killing_a_server_loses_nothing_that_was_put_away_and_the_rest_is_told() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.eager("one"), fleet.lazy("two"));
    made(&one);
    value(&one, "n = 1");
    is_away(&two);
    killed(one);
    assert_eq!(value(&two, "n += 1; n"), "2");
    // It has been put away once, has gone on, and its server is killed.
    let fresh = ask(&two, "create_session", &json!({"session_id": "fresh"}));
    assert_eq!(fresh.data()["status"], "created", "{fresh:?}");
    killed(two);
    let three = fleet.lazy("three");
    let first = run(&three, "n");
    assert!(first.is_refused() && first.words().contains("lives on server \"two\""), "it may live: {first:?}");
    let mut last = first;
    wait_for("the silent server counts as ended", || {
        last = run(&three, "n");
        !last.is_refused()
    });
    let words = last.words();
    assert_eq!(last.data()["results"][0], "1", "as it was put away: {words}");
    assert!(words.contains("Server \"two\" has had it since") && words.contains("\"state\":\"restored\""), "{words}");
    let lost = ask(&three, "run_python_code", &json!({"code": "1", "session_id": "fresh"}));
    assert!(lost.is_refused() && lost.words().contains("is lost: server \"two\" had it"), "{lost:?}");
    let again = ask(&three, "create_session", &json!({"session_id": "fresh"}));
    assert_eq!(again.data()["status"], "created", "{again:?}");
}

#[test]
fn a_server_that_ends_puts_its_sessions_away() {
    let fleet = Fleet::new();
    let one = fleet.lazy("one");
    made(&one);
    value(&one, "n = 41");
    ask(&one, "create_session", &json!({"session_id": "busy"}));
    let code =
        "import threading\nx = 5\nstop = threading.Event()\nthreading.Thread(target=stop.wait, daemon=True).start()";
    ask(&one, "run_python_code", &json!({"code": code, "session_id": "busy"}));
    kill(Pid::from_raw(one.server_pid()), Signal::SIGTERM).expect("it runs");
    let two = fleet.lazy("two");
    is_away(&two);
    assert_eq!(value(&two, "n + 1"), "42");
    // What could not go whole has come by value, and what is missing is named.
    wait_for("busy is away", || {
        let listed = ask(&two, "list_sessions", &json!({}));
        listed.data()["elsewhere"]["busy"].as_str().is_some_and(|words| words.starts_with("in the store"))
    });
    let told = ask(&two, "run_python_code", &json!({"code": "x", "session_id": "busy"}));
    let words = told.words();
    assert!(told.data()["results"][0] == "5" && words.contains("not there are stop"), "{words}");
    drop(one);
}

#[test]
fn a_server_that_is_killed_at_any_step_leaves_one_owner_and_no_half_session() {
    for (fault, then) in [("store.uploaded:0=kill", "lost"), ("store.away:0=kill", "kept")] {
        let fleet = Fleet::new();
        let (one, two) = (fleet.faulty("one", fault), fleet.lazy("two"));
        made(&one);
        value(&one, "n = 1");
        wait_for("it is killed", || std::net::TcpStream::connect(&one.address).is_err());
        drop(one);
        let mut told = run(&two, "n");
        wait_for("it is decided", || {
            told = run(&two, "n");
            !told.words().contains("lives on server")
        });
        match then {
            "kept" => assert_eq!(told.data()["results"][0], "1", "{fault}: {told:?}"),
            _ => assert!(
                told.words().contains("does not exist") || told.words().contains("is lost"),
                "{fault}: {told:?}"
            ),
        }
    }
    // Killed between lease and image: the next one has it.
    let fleet = Fleet::new();
    let (one, two) = (fleet.eager("one"), fleet.faulty("two", "store.taken:0=kill"));
    made(&one);
    value(&one, "n = 1");
    is_away(&one);
    let call = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&two, "n")));
    assert!(call.is_err() || call.is_ok_and(|told| told.is_refused()));
    drop(two);
    let mut told = run(&one, "n += 1; n");
    wait_for("the killed one counts as ended", || {
        if told.is_refused() {
            told = run(&one, "n += 1; n");
        }
        !told.is_refused()
    });
    assert_eq!(told.data()["results"][0], "2", "{told:?}");
}

#[test]
fn a_store_that_is_gone_for_a_while_costs_time_and_no_session() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.lazy("one"), fleet.eager("two"));
    made(&one);
    value(&one, "n = 1");
    let (here, hidden) = (fleet.path("store"), fleet.path("hidden"));
    fs::rename(&here, &hidden).expect("gone");
    let refused = ask(&two, "create_session", &json!({"session_id": "new"}));
    assert!(refused.is_refused() && refused.words().contains("not mounted"), "{refused:?}");
    // A server without signs of life may be counted as ended by others: it does not go on by itself.
    let mut told = run(&one, "n");
    wait_for("it is in doubt", || {
        told = run(&one, "n");
        told.is_refused()
    });
    assert!(told.words().contains("call again"), "{told:?}");
    assert!(!here.join("sessions").exists(), "no session is written into the empty place");
    // A sign may have been on its way.
    let _ = fs::remove_dir_all(&here);
    fs::rename(&hidden, &here).expect("back");
    wait_for("it goes on", || !run(&one, "n").is_refused());
    assert_eq!(value(&one, "n"), "1");
    // An image that is damaged is told, stays, and can be given up.
    let made_there = ask(&two, "create_session", &json!({"session_id": "other"}));
    assert_eq!(made_there.data()["status"], "created", "{made_there:?}");
    wait_for("it is put away", || {
        let listed = ask(&one, "list_sessions", &json!({}));
        listed.data()["elsewhere"]["other"].as_str().is_some_and(|words| words.starts_with("in the store"))
    });
    let image = fleet.stored("images").pop().expect("one");
    let mut bytes = fs::read(&image).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, bytes).expect("written");
    let call = json!({"code": "1", "session_id": "other"});
    for _ in 0..2 {
        let refused = ask(&one, "run_python_code", &call);
        assert!(refused.is_refused() && refused.words().contains("cut short"), "{refused:?}");
    }
    assert_eq!(ask(&one, "delete_session", &json!({"session_id": "other"})).data()["status"], "deleted");
    wait_for("it is removed", || fleet.stored("images").is_empty());
}

/// What the command says that does not start.
fn refusal(setup: Setup) -> String {
    let output = setup.args(&["--transport", "http", "--port", "0"]).command().output().expect("it runs");
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_store_needs_a_name_and_the_right_key_which_sessions_cannot_read() {
    let fleet = Fleet::new();
    let one = fleet.lazy("one");
    fleet.write_key("another", &KEY.replace('0', "1"));
    fleet.write_key("workspace/within", KEY);
    let with = |key: &str| fleet.setup("two", &["--store-key", fleet.path(key).to_str().expect("UTF-8")]);
    assert!(refusal(with("another")).contains("another than that with which this store was begun"));
    assert!(refusal(with("workspace/within")).contains("elsewhere than below the workspace"));
    fs::set_permissions(fleet.path("another"), fs::Permissions::from_mode(0o644)).expect("ours");
    assert!(refusal(with("another")).contains("chmod 600"));
    assert!(refusal(fleet.setup("", &[])).contains("--server-name"));
    let state = fleet.path("state");
    assert!(refusal(fleet.setup("two", &["--state-dir", state.to_str().expect("UTF-8")])).contains("--state-dir"));
    drop(one);
}

#[test]
fn two_servers_that_believe_they_have_a_session_are_not_for_long() {
    let fleet = Fleet::new();
    let (one, two, three) = (fleet.eager("one"), fleet.lazy("two"), fleet.lazy("three"));
    made(&one);
    value(&one, "n = 1");
    is_away(&two);
    assert_eq!(value(&two, "n += 1; n"), "2");
    // It stands still for longer than its silence is borne, and then goes on as if nothing had been. A cell runs all the while.
    let pid = Pid::from_raw(two.server_pid());
    let code = "import time\nwhile True:\n    open('alive', 'a').write('.')\n    time.sleep(0.05)";
    let cell = std::thread::scope(|scope| {
        let cell = scope.spawn(|| run(&two, code));
        let alive = || fs::metadata(fleet.path("workspace/alive")).map_or(0, |file| file.len());
        wait_for("the cell runs", || alive() > 0);
        kill(pid, Signal::SIGSTOP).expect("it runs");
        let began = Instant::now();
        wait_for("another has it", || !run(&three, "n").is_refused());
        assert!(began.elapsed() > Duration::from_secs(1), "not at once");
        let before = alive();
        wait_for("the cell runs on", || alive() > before);
        kill(pid, Signal::SIGCONT).expect("it stands still");
        cell.join().expect("answered")
    });
    assert!(
        cell.is_refused() && cell.words().contains("another server has taken the session up"),
        "nothing that is asked of it ends it: {cell:?}"
    );
    let told = run(&two, "n += 1; n");
    assert!(
        told.is_refused() && told.words().contains("lives on server \"three\""),
        "before it runs anything: {told:?}"
    );
    assert_eq!(value(&three, "n"), "1");
}
