//! Four clients in four sessions, while workers and the zygote are killed at random: no reply says a wrong word.
//!
//! Each cell adds a token of its own to a list in its session and prints the list. So a client can hold each reply against
//! what it saw last: what is `kept` is all there; what is missing was said to be lost, by state or by number; nothing is
//! there twice. The sessions have the policies `off` and `last`, and `manual` and `auto`, in all four pairs.
//!
//! ```text
//! FORKPY_CHAOS_SECONDS=300 FORKPY_CHAOS_SEED=7 cargo it chaos:: -- --nocapture
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Write,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::{Value, json};

use crate::support::{Setup, browser::Browser, http::HttpForkpy, processes};

const CLIENTS: usize = 4;
const SESSIONS: [(&str, &str, &str); 4] =
    [("om", "off", "manual"), ("oa", "off", "auto"), ("lm", "last", "manual"), ("la", "last", "auto")];

/// What all clients know together.
#[derive(Default)]
struct Shared {
    /// The number of the cell in which a token was added.
    cells: HashMap<String, u64>,
    tally: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

struct Client<'a> {
    number: usize,
    browser: Browser<'a>,
    random: fastrand::Rng,
    shared: &'a Mutex<Shared>,
    next: u64,
    /// The list in each session as it was last seen; `None` after what leaves it open.
    seen: HashMap<&'static str, Option<Vec<String>>>,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_reply_says_a_wrong_word() {
    let time = Duration::from_secs(setting("FORKPY_CHAOS_SECONDS").unwrap_or(6));
    let seed = setting("FORKPY_CHAOS_SEED").unwrap_or(20_261_127);
    let options = ["--grace", "0.6", "--max-spares", "0", "--restart-budget", "50", "--share-sessions"];
    let server = HttpForkpy::start(Setup::new().args(&options));
    let maker = Browser::new(&server);
    for (name, checkpoints, recovery) in SESSIONS {
        let health = json!({"checkpoints": checkpoints, "recovery": recovery});
        maker.call("create_session", json!({"session_id": name, "health": health}));
    }
    let (shared, over) = (Mutex::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = Client {
                number,
                browser: Browser::new(&server),
                random: fastrand::Rng::with_seed(seed + number as u64),
                shared: &shared,
                next: 0,
                seen: HashMap::new(),
            };
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    client.step();
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(seed + 100);
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(random.u64(20..150)));
            kill_one(&server, &mut random, &shared);
        }
        over.store(true, Ordering::Relaxed);
    });
    let shared = shared.into_inner().expect("no panic");
    let text = format!("chaos: seed {seed}, {} s: {:?}\n", time.as_secs(), shared.tally);
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(shared.wrong.is_empty(), "{} wrong replies, the first: {}", shared.wrong.len(), shared.wrong[0]);
    assert!(shared.tally.contains_key("ok"), "{text}");
}

/// A worker, or now and then the zygote.
fn kill_one(server: &HttpForkpy, random: &mut fastrand::Rng, shared: &Mutex<Shared>) {
    let wanted = if random.u32(..20) == 0 {
        "forkpy:zygote".to_owned()
    } else {
        format!("fp:{}", SESSIONS[random.usize(..SESSIONS.len())].0)
    };
    // Workers are the zygote's children, or the server's when a checkpoint woke them.
    let server = server.server_pid();
    let children = processes::children(server);
    let grandchildren: Vec<i32> = children.iter().flat_map(|child| processes::children(*child)).collect();
    let found = children.into_iter().chain(grandchildren).find(|pid| processes::name(*pid) == wanted);
    if let Some(pid) = found
        && nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
    {
        shared.lock().expect("no panic").count(&format!("killed {wanted}"));
    }
}

impl Shared {
    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }
}

impl Client<'_> {
    fn step(&mut self) {
        let session = SESSIONS[self.random.usize(..SESSIONS.len())].0;
        match self.random.u32(..100) {
            0..3 => self.restart(session, false),
            3..5 => self.restart(session, true),
            5..9 => self.look(session),
            _ => self.cell(session),
        }
    }

    fn restart(&mut self, session: &'static str, preserve: bool) {
        let reply = self.browser.ask("restart_kernel", json!({"session_id": session, "preserve_state": preserve}));
        let failed = reply["isError"] == true;
        self.shared.lock().expect("no panic").count(if failed { "restart failed" } else { "restart" });
        // What a plain restart leaves is plain; another one is open until the next reply.
        self.seen.insert(session, (!preserve && !failed).then(Vec::new));
    }

    /// Tells nothing that a cell's reply would not tell again.
    fn look(&self, session: &str) {
        let reply = self.browser.ask("list_variables", json!({"session_id": session}));
        self.shared.lock().expect("no panic").count(if reply["isError"] == true { "look failed" } else { "look" });
    }

    fn cell(&mut self, session: &'static str) {
        self.next += 1;
        let token = format!("{}-{}", self.number, self.next);
        let after = match self.random.u32(..100) {
            0..4 => "import os; os._exit(3)",
            4..6 => "import os; os.register_at_fork(before=lambda: os.kill(os.getpid(), 9))",
            6..8 => "1 / 0",
            _ => "",
        };
        let code = format!("tokens = globals().get('tokens', [])\ntokens.append('{token}')\nprint(*tokens)\n{after}");
        let on_error = if self.random.u32(..20) == 0 { "rollback" } else { "keep" };
        let cell = json!({"code": code, "session_id": session, "on_error": on_error});
        let reply = self.browser.ask("run_python_code", cell)["structuredContent"].take();
        let wrong = self.judge(session, &token, on_error == "rollback", &reply);
        let mut shared = self.shared.lock().expect("no panic");
        shared.count(reply["status"].as_str().unwrap_or("no status"));
        shared.count(&format!("state {}", reply["state"].as_str().unwrap_or("none")));
        if let Some(wrong) = wrong {
            shared.wrong.push(format!("client {}, session {session}: {wrong}: {reply}", self.number));
        }
        drop(shared);
        if reply["status"] == "refused" {
            self.restart(session, false);
        }
    }

    /// What is wrong with a reply.
    fn judge(&mut self, session: &'static str, token: &str, rollback: bool, reply: &Value) -> Option<String> {
        let status = reply["status"].as_str().unwrap_or_default();
        if status == "refused" {
            return None;
        }
        let state = reply["state"].as_str().unwrap_or_default();
        let seen = self.seen.get(session).cloned().unwrap_or(None);
        let shared = self.shared.lock().expect("no panic");
        let said = Said { state, from: reply["recovered_from"].as_u64(), lost: range(&reply["lost_cells"]) };
        let remains = |tokens: Vec<String>| -> Option<Vec<String>> {
            match state {
                "kept" => Some(tokens),
                "lost" => Some(Vec::new()),
                _ => Some(tokens.into_iter().filter(|token| !said.is_lost(shared.cells.get(token).copied())).collect()),
            }
        };
        let printed: Vec<String> =
            reply["stdout"].as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if status != "ok" && status != "error" {
            // It died: what it printed is from before; what is left was said.
            let left = if status == "died" { seen.and_then(remains) } else { None };
            drop(shared);
            self.seen.insert(session, left);
            return None;
        }
        let wrong = said.wrong(seen.as_deref().unwrap_or_default(), &printed, token, &shared.cells);
        drop(shared);
        let mut now = printed;
        if rollback && status == "error" {
            now.pop();
        } else if let Some(cell) = reply["cell"].as_u64() {
            self.shared.lock().expect("no panic").cells.insert(token.to_owned(), cell);
        }
        self.seen.insert(session, Some(now));
        wrong
    }
}

fn range(value: &Value) -> Option<(u64, u64)> {
    Some((value[0].as_u64()?, value[1].as_u64()?))
}

/// What a reply says of the variables.
struct Said<'a> {
    state: &'a str,
    from: Option<u64>,
    lost: Option<(u64, u64)>,
}

impl Said<'_> {
    /// Whether a cell's effects are said not to be there.
    fn is_lost(&self, cell: Option<u64>) -> bool {
        let within = |cell: u64| self.lost.is_some_and(|(first, last)| (first..=last).contains(&cell));
        match (self.state, cell) {
            ("lost", _) => true,
            ("restored", Some(cell)) => self.from.is_none_or(|from| cell > from) || within(cell),
            ("restored", None) => true,
            _ => false,
        }
    }

    fn wrong(&self, seen: &[String], now: &[String], own: &str, cells: &HashMap<String, u64>) -> Option<String> {
        let there: BTreeSet<&String> = now.iter().collect();
        if there.len() != now.len() {
            return Some("a cell was run twice".to_owned());
        }
        if now.last().map(String::as_str) != Some(own) {
            return Some(format!("{own} is not there"));
        }
        let missing: Vec<&String> = seen.iter().filter(|token| !there.contains(token)).collect();
        if let Some(token) = missing.iter().find(|token| !self.is_lost(cells.get(**token).copied())) {
            return Some(format!(
                "{token} (cell {:?}) is missing and was not said to be: saw {seen:?}",
                cells.get(*token)
            ));
        }
        if self.state == "lost" && seen.iter().any(|token| there.contains(token)) {
            return Some(format!("said to be lost and is there: saw {seen:?}"));
        }
        None
    }
}
