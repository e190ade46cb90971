//! Many sessions, random cells, random faults: at the end every session answers or says why not, and nothing is left over.
//!
//! What is done follows from the seed, which is printed; only the timing differs between two runs of one seed.
//!
//! ```text
//! cargo test                                              # the short form: 30 sessions, some 12 s
//! FORKPY_SOAK_SEED=7 cargo it soak::short                 # the same with another seed
//! FORKPY_SOAK_SECONDS=300 cargo it soak::long -- --ignored --nocapture     # 200 sessions
//! ```
//!
//! Each cell counts in a variable of its session, so a reply can be held against what is known: `kept` must go on with
//! the count, `lost` must begin anew, and nothing may be lost in a session that nobody has harmed.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, PATIENCE, Setup, processes, wait_for};

/// Cells under way at a time.
const UNDER_WAY: usize = 20;
/// Cells of one session under way.
const OF_ONE: usize = 2;
/// A process that was sent a fatal signal has ended by then.
const FAULT_SHOWS_WITHIN: Duration = Duration::from_secs(1);
/// The server's memory may have grown by so much when all sessions are gone again.
const MEMORY_SLACK: u64 = 24 << 20;

/// What a cell does, and how it may end when nothing interferes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Print,
    Raise,
    Sleep,
    Thread,
    Subprocess,
    Daemon,
    Memory,
    Exit,
    Loop,
    HoldLock,
    HoldLockTooLong,
    LeaveProcess,
    Abort,
    Segfault,
}

const KINDS: [(Kind, u32); 15] = [
    (Kind::Plain, 30),
    (Kind::Print, 8),
    (Kind::Raise, 8),
    (Kind::Sleep, 8),
    (Kind::Thread, 5),
    (Kind::Subprocess, 4),
    (Kind::Daemon, 3),
    (Kind::Memory, 5),
    (Kind::Exit, 3),
    (Kind::Loop, 4),
    (Kind::HoldLock, 2),
    (Kind::HoldLockTooLong, 1),
    (Kind::LeaveProcess, 2),
    (Kind::Abort, 2),
    (Kind::Segfault, 2),
];

impl Kind {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Print => "print('x' * 150_000)",
            Self::Raise => "1 / 0",
            Self::Sleep => "import time; time.sleep(0.15)",
            Self::Thread => {
                "import threading, time; threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()"
            }
            Self::Subprocess => "import subprocess; subprocess.run(['echo', 'hello'])",
            Self::Daemon => "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)",
            Self::Memory => "block = bytearray(b'x') * (12 << 20); del block",
            Self::Exit => "import sys; sys.exit(3)",
            Self::Loop => "while True: pass",
            Self::HoldLock => "import ctypes; ctypes.PyDLL(None).usleep(700_000)",
            Self::HoldLockTooLong => "import ctypes; ctypes.PyDLL(None).usleep(3_000_000)",
            Self::LeaveProcess => "import os; os._exit(5)",
            Self::Abort => "import os; os.abort()",
            Self::Segfault => "import ctypes; ctypes.string_at(0)",
        }
    }

    fn statuses(self) -> &'static [&'static str] {
        match self {
            Self::Raise => &["error"],
            Self::Exit => &["exited"],
            Self::Loop | Self::HoldLockTooLong => &["timeout"],
            Self::LeaveProcess | Self::Abort | Self::Segfault => &["died"],
            _ => &["ok"],
        }
    }

    /// Whether its session may lose its variables by it.
    fn is_harmful(self) -> bool {
        matches!(self, Self::Loop | Self::HoldLockTooLong | Self::LeaveProcess | Self::Abort | Self::Segfault)
    }
}

struct Pending {
    id: u64,
    kind: Kind,
    begun: Instant,
}

/// What is known of a session.
#[derive(Default)]
struct Known {
    pending: VecDeque<Pending>,
    /// The least and the most that its variable may be.
    count: (u64, u64),
    /// Something happened to it that may cost it its variables, and it has not said yet that it did.
    harmed: bool,
    /// When that was.
    harmed_at: Option<Instant>,
    /// Something happened that may end a cell otherwise than it would.
    disturbed: bool,
}

struct Soak {
    forkpy: Forkpy,
    random: fastrand::Rng,
    sessions: Vec<Known>,
    /// Processes to be let go on, and when.
    stopped: Vec<(Instant, i32)>,
    tally: BTreeMap<String, u64>,
}

fn soak(sessions: usize, time: Duration, rounds: u32, seed: u64) {
    say(&format!("seed {seed}, {sessions} sessions, {} s", time.as_secs()));
    let forkpy = Setup::new()
        .args(&["--checkpoints", "off", "--grace", "0.6", "--max-sessions", "500", "--max-spares", "0"])
        .start();
    let mut soak = Soak {
        forkpy,
        random: fastrand::Rng::with_seed(seed),
        sessions: Vec::new(),
        stopped: Vec::new(),
        tally: BTreeMap::new(),
    };
    let mut before = soak.measure();
    if rounds > 1 {
        say(&format!("at first: descriptors and memory of the server {before:?}"));
    }
    for round in 1..rounds {
        soak.round(sessions, time);
        // The first round is what fills the allocator's own stock.
        before = soak.measure();
        say(&format!("after round {round}: descriptors and memory of the server {before:?}"));
    }
    soak.round(sessions, time);
    let after = soak.measure();
    say(&format!("{:?}; descriptors and memory of the server before {before:?}, after {after:?}", soak.tally));
    assert!(after.0 <= before.0 + 4, "descriptors of the server: {} before, {} after", before.0, after.0);
    assert!(after.1 <= before.1 + MEMORY_SLACK, "memory of the server: {} before, {} after", before.1, after.1);
}

/// A worker or a zygote.
fn is_ours(pid: i32) -> bool {
    let name = processes::name(pid);
    name.starts_with("fp:") || name == "forkpy:zygote"
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "soak: {text}");
}

fn name(session: usize) -> String {
    format!("s{session}")
}

impl Soak {
    fn round(&mut self, sessions: usize, time: Duration) {
        self.sessions.clear();
        self.make(sessions);
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.step();
        }
        self.settle_all();
        self.everybody_answers();
        self.take_down();
    }

    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    /// Descriptors and memory of the server while there is only the default session, at rest.
    fn measure(&mut self) -> (usize, u64) {
        assert_eq!(self.forkpy.eval("1 + 1"), "2");
        let server = self.forkpy.server_pid();
        // What is closed is closed by tasks of their own.
        let mut least = usize::MAX;
        for _ in 0..40 {
            least = least.min(processes::open_files(server));
            std::thread::sleep(Duration::from_millis(5));
        }
        (least, processes::memory(server))
    }

    fn make(&mut self, sessions: usize) {
        for session in 0..sessions {
            let recovery = ["on-demand", "auto"][self.random.usize(..2)];
            let made = json!({"session_id": name(session), "health": {"recovery": recovery}});
            assert!(!self.forkpy.call("create_session", made).is_error);
            self.sessions.push(Known::default());
        }
    }

    fn step(&mut self) {
        self.let_go_on(Instant::now());
        let session = self.random.usize(..self.sessions.len());
        match self.random.u32(..1000) {
            0..15 => self.signal_worker(session, Signal::SIGKILL),
            15..25 => self.signal_worker(session, Signal::SIGSEGV),
            25..35 => self.signal_worker(session, Signal::SIGSTOP),
            35..37 => self.signal_zygote(Signal::SIGKILL),
            37..39 => self.signal_zygote(Signal::SIGSTOP),
            39..47 => self.restart(session),
            47..60 => drop(self.forkpy.call("list_sessions", json!({}))),
            _ => self.begin(session),
        }
    }

    fn begin(&mut self, session: usize) {
        while self.sessions[session].pending.len() >= OF_ONE {
            self.settle(session);
        }
        while let under_way = self.sessions.iter().map(|known| known.pending.len()).sum::<usize>()
            && under_way >= UNDER_WAY
        {
            let oldest = self.oldest();
            self.settle(oldest);
        }
        let total: u32 = KINDS.iter().map(|(_, weight)| weight).sum();
        let mut ticket = self.random.u32(..total);
        let kind = KINDS.iter().find(|(_, weight)| {
            let found = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            found
        });
        let kind = kind.expect("within the weights").0;
        let code = format!("count = globals().get('count', 0) + 1\n{}\ncount", kind.code());
        let timeout = if matches!(kind, Kind::Loop | Kind::HoldLockTooLong) { 0.4 } else { 60.0 };
        let cell = json!({"code": code, "session_id": name(session), "timeout": timeout});
        let id = self.forkpy.begin_call("run_python_code", cell);
        let known = &mut self.sessions[session];
        known.harmed |= kind.is_harmful();
        known.pending.push_back(Pending { id, kind, begun: Instant::now() });
    }

    fn oldest(&self) -> usize {
        let oldest =
            self.sessions.iter().enumerate().filter_map(|(session, known)| Some((known.pending.front()?.id, session)));
        oldest.min().expect("some are under way").1
    }

    /// Waits for a session's oldest cell and holds its reply against what is known.
    fn settle(&mut self, session: usize) {
        let Some(Pending { id, kind, begun }) = self.sessions[session].pending.pop_front() else { return };
        let deadline = Instant::now() + PATIENCE;
        while !self.forkpy.has_answer(id) {
            assert!(Instant::now() < deadline, "no answer of session {session} to {kind:?}: {}", self.forkpy.health());
            self.let_go_on(Instant::now());
            std::thread::sleep(Duration::from_millis(1));
        }
        let reply = self.forkpy.reply(id).data;
        self.judge(session, kind, begun, &reply);
    }

    fn judge(&mut self, session: usize, kind: Kind, begun: Instant, reply: &Value) {
        let status = reply["status"].as_str().unwrap_or_else(|| panic!("no status: {reply}"));
        self.count(status);
        let known = &mut self.sessions[session];
        let expected = kind.statuses().contains(&status);
        let by_fault = matches!(status, "died" | "refused") || (status == "timeout" && kind.is_harmful());
        // A cell that stood still for a while may have met its time limit late, or ended before it.
        assert!(expected || (known.disturbed && by_fault), "session {session}, {kind:?}: {reply}");
        let lost = reply["state"] == "lost";
        assert!(!lost || known.harmed, "an unharmed session lost its variables: session {session}, {kind:?}: {reply}");
        if status == "refused" {
            let words = reply["notice"].as_str().unwrap_or_default();
            assert!(!words.is_empty(), "refused without a reason: {reply}");
            return;
        }
        if let Some(count) = reply["results"][0].as_str().and_then(|text| text.parse::<u64>().ok()) {
            let (least, most) = if lost { (0, 0) } else { known.count };
            let fits = (least + 1..=most + 1).contains(&count);
            assert!(fits, "session {session} counts {count} and not {least} to {most} + 1: {reply}");
            known.count = (count, count);
        } else {
            let ran_on = !lost && status != "died";
            // An interrupt may come before the first line of a cell.
            known.count = if ran_on { (known.count.0, known.count.1 + 1) } else { (0, 1) };
        }
        if kind.is_harmful() {
            known.harmed_at = Some(Instant::now());
        }
        // A reply that was under way when the next fault came says nothing of that one.
        let later = known.harmed_at.is_none_or(|fault| begun > fault + FAULT_SHOWS_WITHIN);
        let quiet = later && known.pending.is_empty() && self.stopped.is_empty();
        if lost && status == "ok" && quiet {
            known.harmed = false;
            known.disturbed = false;
        }
    }

    fn worker(&mut self, session: usize) -> Option<i32> {
        let health = self.forkpy.call("get_kernel_health", json!({"session_id": name(session)})).data;
        let pid = i32::try_from(health["pid"].as_i64()?).ok()?;
        (processes::name(pid) == format!("fp:{}", name(session))).then_some(pid)
    }

    fn signal_worker(&mut self, session: usize, signal: Signal) {
        let Some(pid) = self.worker(session) else { return };
        self.count(signal.as_str());
        let known = &mut self.sessions[session];
        // Whoever stands still meets no interrupt either: its cell may be killed for its time.
        (known.harmed, known.disturbed) = (true, true);
        known.harmed_at = Some(Instant::now());
        if signal == Signal::SIGSTOP {
            let pause = Duration::from_millis(self.random.u64(50..900));
            self.stopped.push((Instant::now() + pause, pid));
        }
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }

    /// Living sessions have no part in it; calls that need a worker just then may be refused.
    fn signal_zygote(&mut self, signal: Signal) {
        let server = self.forkpy.server_pid();
        let is_zygote = |pid: &i32| processes::name(*pid) == "forkpy:zygote";
        let Some(zygote) = processes::children(server).into_iter().find(is_zygote) else { return };
        self.count(&format!("zygote {signal}"));
        self.sessions.iter_mut().for_each(|known| known.disturbed = true);
        if signal == Signal::SIGSTOP {
            self.stopped.push((Instant::now() + Duration::from_millis(self.random.u64(50..1500)), zygote));
        }
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(zygote), signal);
    }

    fn restart(&mut self, session: usize) {
        let known = &mut self.sessions[session];
        (known.harmed, known.disturbed) = (true, true);
        known.harmed_at = Some(Instant::now());
        let id = self.forkpy.begin_call("restart_kernel", json!({"session_id": name(session)}));
        let deadline = Instant::now() + PATIENCE;
        while !self.forkpy.has_answer(id) {
            assert!(Instant::now() < deadline, "no answer to restart_kernel");
            self.let_go_on(Instant::now());
            std::thread::sleep(Duration::from_millis(1));
        }
        let reply = self.forkpy.reply(id);
        self.count(if reply.is_error { "restart failed" } else { "restart" });
        while !self.sessions[session].pending.is_empty() {
            self.settle(session);
        }
        // A plain restart is no loss that is told: it was asked for.
        self.sessions[session].count = (0, 0);
    }

    fn let_go_on(&mut self, now: Instant) {
        self.stopped.retain(|(due, pid)| {
            let wait = *due > now;
            // One that was sent SIGSTOP a moment ago may not stand still yet: SIGCONT takes that back too. Another process
            // may have its number by now.
            if !wait && is_ours(*pid) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGCONT);
            }
            wait
        });
    }

    fn settle_all(&mut self) {
        self.let_go_on(Instant::now() + PATIENCE);
        for session in 0..self.sessions.len() {
            while !self.sessions[session].pending.is_empty() {
                self.settle(session);
            }
        }
    }

    /// Every session evaluates, or is parked and evaluates after a restart.
    fn everybody_answers(&mut self) {
        for session in 0..self.sessions.len() {
            let id = name(session);
            let deadline = Instant::now() + PATIENCE;
            loop {
                let cell = json!({"code": "6 * 7", "session_id": id});
                let reply = self.forkpy.call("run_python_code", cell).data;
                if reply["results"] == json!(["42"]) {
                    break;
                }
                let words = reply["notice"].as_str().unwrap_or_default();
                let refused = reply["status"] == "refused" && !words.is_empty();
                assert!(
                    refused,
                    "session {session}: {reply} {}",
                    self.forkpy.call("get_kernel_health", json!({"session_id": id})).data
                );
                if words.contains("parked") {
                    self.count("parked");
                    let restarted = self.forkpy.call("restart_kernel", json!({"session_id": id}));
                    assert!(!restarted.is_error, "{restarted:?}");
                }
                // A zygote that was killed a moment ago is being replaced.
                assert!(Instant::now() < deadline, "session {session} does not come back: {reply}");
                std::thread::sleep(Duration::from_millis(50));
            }
            let health = self.forkpy.call("get_kernel_health", json!({"session_id": id})).data;
            assert_eq!(health["status"], "healthy", "{health}");
        }
    }

    fn take_down(&mut self) {
        for session in 0..self.sessions.len() {
            let reply = self.forkpy.call("delete_session", json!({"session_id": name(session)}));
            assert!(!reply.is_error, "{reply:?}");
        }
        wait_for("every process of the sessions to be gone", || self.forkpy.family().len() == 3);
        let zygote = self.forkpy.zygote_pid();
        wait_for("every worker to be reaped", || processes::children(zygote).len() <= 1);
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn short() {
    let seed = setting("FORKPY_SOAK_SEED").unwrap_or(20_261_125);
    soak(30, Duration::from_secs(8), 1, seed);
}

/// Minutes, in three rounds with all sessions made anew; see above.
#[test]
#[ignore = "takes minutes"]
fn long() {
    let seed = setting("FORKPY_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let sessions = usize::try_from(setting("FORKPY_SOAK_SESSIONS").unwrap_or(200)).expect("a number");
    let time = Duration::from_secs(setting("FORKPY_SOAK_SECONDS").unwrap_or(300));
    soak(sessions, time / 3, 3, seed);
}
