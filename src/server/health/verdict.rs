//! Verdicts on a session's health: a pure function from what was seen.
//!
//! Runs in: server. No I/O, no clock: the caller brings the evidence (`metrics.rs`, `worker_link.rs`, `status.rs`).
//!
//! | status | when | pid | metrics |
//! |---|---|---|---|
//! | `healthy` | the worker process lives | its pid | numbers |
//! | `zombie` | it has ended and is not reaped | its pid | null |
//! | `dead` | there is no process | null | null |
//!
//! A session that sleeps on disk is `healthy` too: it has no process, so no pid, and its numbers are nought.
//!
//! The status is about the process, as the health document has it; `state` says what it is doing:
//!
//! | state | a cell runs | ping | heartbeat | the kernel says | processor |
//! |---|---|---|---|---|---|
//! | `starting` | | | | no process yet | |
//! | `idle` | no, or a copy is made of itself | in time | | | |
//! | `busy` | yes | in time | | runs, or sleeps | used, by it or by what it started |
//! | `waiting_input` | yes, in `input()` | in time | | | |
//! | `busy` (sleeping) | yes | in time | | its main thread sleeps until the clock wakes it | none for a second |
//! | `blocked` | yes | in time | | its main thread waits in another system call | none for a second |
//! | `hung` | | unanswered | answered, or not | runs | |
//! | `stopped` | | | | stopped by a signal | |
//! | `stopped` | | unanswered | unanswered | sleeps | none: swapped out, or no turn |
//! | `asleep` | | | | no process: an image on disk | |
//! | `zombie`, `dead` | | | | ended; gone | |

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    server::health::{
        errand::Errand,
        evidence::{Phase, Reading, Unanswered},
    },
    sys::threads::Wait,
};

/// The document's three statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HealthStatus {
    /// The worker process lives.
    Healthy,
    /// No process.
    Dead,
    /// The process has ended and is not reaped.
    Zombie,
}

/// What the session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its worker is being made.
    Starting,
    /// Waits for a cell.
    Idle,
    /// Runs a cell and answers pings.
    Busy,
    /// Runs a cell that waits for a line of input, which its client has been asked for.
    #[serde(rename = "waiting_input")]
    WaitingInput,
    /// Runs a cell whose main thread waits in a system call and uses no processor: for the network, a lock, another process.
    Blocked,
    /// Does not answer pings: native code holds the interpreter, or it is stuck.
    Hung,
    /// Nothing in it gets to run: stopped by a signal (SIGSTOP), or swapped out.
    Stopped,
    /// Ended, not reaped.
    Zombie,
    /// No process: it sleeps in a file, and the next call wakes it.
    Asleep,
    /// No process.
    Dead,
}

impl State {
    /// Every one, for counters.
    pub(crate) const ALL: [Self; 10] = [
        Self::Starting,
        Self::Idle,
        Self::Busy,
        Self::WaitingInput,
        Self::Blocked,
        Self::Hung,
        Self::Stopped,
        Self::Zombie,
        Self::Asleep,
        Self::Dead,
    ];

    /// The word that clients see.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::WaitingInput => "waiting_input",
            Self::Blocked => "blocked",
            Self::Hung => "hung",
            Self::Stopped => "stopped",
            Self::Zombie => "zombie",
            Self::Asleep => "asleep",
            Self::Dead => "dead",
        }
    }
}

/// What was seen.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    /// What the session says of itself.
    pub phase: Phase,
    /// Its worker's process, if it has one: pid, and what the kernel says of it.
    pub process: Option<(i32, Option<Reading>)>,
    /// A worker that ended a moment ago and is still in the process table as a zombie.
    pub corpse: Option<i32>,
    /// The oldest ping without an answer.
    pub unanswered: Option<Unanswered>,
    /// What it did lately.
    pub activity: Activity,
    /// From how long on an unanswered ping means that it hangs.
    pub limit: Duration,
}

/// What a worker did while its cell ran, as far as it was watched.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Activity {
    /// Percent of one processor over the last second or more; `None` while that is not known for this cell.
    pub cpu_percent: Option<f64>,
    /// Processes that it started have used the processor.
    pub subprocesses_work: bool,
    /// What its main thread waits in.
    pub(crate) waits: Option<Wait>,
}

/// A copy that a session makes of itself may take so long before it counts as work.
const AT_REST: Duration = Duration::from_secs(1);

/// Percent of a processor below which a worker does nothing.
const QUIET: f64 = 2.0;

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// One of three.
    pub status: HealthStatus,
    /// What it is doing.
    pub state: State,
    /// The process meant, if there is one.
    pub pid: Option<i32>,
    /// Why, in words.
    pub reason: String,
}

/// Judges.
#[must_use]
pub(crate) fn judge(seen: &Evidence) -> Verdict {
    let Some((pid, reading)) = seen.process else { return without_process(seen) };
    let Some(reading) = reading else {
        return verdict(HealthStatus::Dead, State::Dead, None, "its worker has just ended");
    };
    if reading.state == 'Z' || reading.state == 'X' {
        return zombie(pid);
    }
    let (state, reason) = living(seen, reading);
    verdict(HealthStatus::Healthy, state, Some(pid), reason)
}

fn without_process(seen: &Evidence) -> Verdict {
    match (seen.corpse, seen.phase) {
        (Some(pid), _) => zombie(pid),
        (None, Phase::Starting) => {
            verdict(HealthStatus::Dead, State::Starting, None, "its worker is being made: Python is starting")
        }
        (None, Phase::Serving { errand: Errand::Wake, .. }) => {
            verdict(HealthStatus::Healthy, State::Asleep, None, "it sleeps on disk, and is being woken")
        }
        (None, Phase::Asleep) => {
            let reason = "it sleeps on disk, with everything it has; the next call wakes it";
            verdict(HealthStatus::Healthy, State::Asleep, None, reason)
        }
        (None, _) => {
            let reason = "it has no worker; restart_kernel or the next cell brings a new one";
            verdict(HealthStatus::Dead, State::Dead, None, reason)
        }
    }
}

fn zombie(pid: i32) -> Verdict {
    verdict(HealthStatus::Zombie, State::Zombie, Some(pid), "its worker has ended and has not been reaped yet")
}

fn living(seen: &Evidence, reading: Reading) -> (State, String) {
    if matches!(reading.state, 'T' | 't') {
        return (State::Stopped, "its worker is stopped by a signal; SIGCONT lets it go on".to_owned());
    }
    if let Some(ping) = seen.unanswered.filter(|ping| ping.waited >= seen.limit) {
        let waited = ping.waited.as_secs_f64();
        let (state, reason) = unresponsive(seen, reading, ping.heartbeat, waited);
        return match seen.phase {
            Phase::Serving { errand, .. } => (state, format!("{reason}; meanwhile the session {}", errand.doing())),
            _ => (state, reason),
        };
    }
    match seen.phase {
        Phase::Busy { cell, .. } if sleeps(seen) && is_quiet(seen, reading) => {
            (State::Busy, format!("runs cell {cell} (sleeping): the clock ends that"))
        }
        Phase::Busy { cell, .. } if is_quiet(seen, reading) => (State::Blocked, blocked(cell, seen)),
        Phase::Busy { cell, .. } => (State::Busy, format!("runs cell {cell}")),
        Phase::WaitingInput { cell, .. } => {
            (State::WaitingInput, format!("cell {cell} waits for input, which the client has been asked for"))
        }
        // It gives way to a call, so for a caller the session is idle; one that does not end is told.
        Phase::Serving { errand: Errand::Keep, since } if since.elapsed() < AT_REST => {
            (State::Idle, "waits for a cell, and makes a copy of itself".to_owned())
        }
        Phase::Serving { errand, since } => {
            (State::Busy, format!("{} (for {:.1} s)", errand.doing(), since.elapsed().as_secs_f64()))
        }
        Phase::Starting => (State::Starting, "its worker is being made".to_owned()),
        Phase::Idle | Phase::Asleep | Phase::Dead => (State::Idle, "waits for a cell".to_owned()),
    }
}

fn unresponsive(seen: &Evidence, reading: Reading, heartbeat: bool, waited: f64) -> (State, String) {
    let quiet = seen.activity.cpu_percent.is_some_and(|percent| percent < QUIET) && reading.state != 'R';
    let call = seen.activity.waits.as_ref().map(|wait| &wait.call);
    match (heartbeat, quiet, call) {
        (true, true, Some(call)) => (
            State::Hung,
            format!("no answer to a ping for {waited:.1} s: native code holds the interpreter and waits in {call}"),
        ),
        (true, _, _) => {
            (State::Hung, format!("no answer to a ping for {waited:.1} s: native code holds the interpreter"))
        }
        (false, true, _) => (
            State::Stopped,
            format!("no answer and no heartbeat for {waited:.1} s: the process does not get to run (swapped out?)"),
        ),
        (false, false, _) => {
            (State::Hung, format!("no answer and no heartbeat for {waited:.1} s: its control thread does not run"))
        }
    }
}

/// It sleeps by its own will, for some time.
fn sleeps(seen: &Evidence) -> bool {
    seen.activity.waits.as_ref().is_some_and(|wait| wait.is_sleep)
}

fn is_quiet(seen: &Evidence, reading: Reading) -> bool {
    matches!(reading.state, 'S' | 'D')
        && seen.activity.cpu_percent.is_some_and(|percent| percent < QUIET)
        && !seen.activity.subprocesses_work
}

fn blocked(cell: u64, seen: &Evidence) -> String {
    let call = seen.activity.waits.as_ref().map_or("a system call", |wait| &wait.call);
    format!("runs cell {cell}, which waits in {call} and uses no processor")
}

fn verdict(status: HealthStatus, state: State, pid: Option<i32>, reason: impl Into<String>) -> Verdict {
    Verdict { status, state, pid, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn reading(state: char) -> Reading {
        Reading { memory: 1, threads: 2, cpu: Duration::ZERO, state }
    }

    fn seen(phase: Phase, state: char) -> Evidence {
        let process = Some((7, Some(reading(state))));
        let activity = Activity::default();
        Evidence { phase, process, corpse: None, unanswered: None, activity, limit: Duration::from_secs(5) }
    }

    fn unanswered(seconds: u64, heartbeat: bool) -> Option<Unanswered> {
        Some(Unanswered { waited: Duration::from_secs(seconds), heartbeat })
    }

    fn short(seen: &Evidence) -> (HealthStatus, State, Option<i32>) {
        let verdict = judge(seen);
        (verdict.status, verdict.state, verdict.pid)
    }

    #[test]
    fn the_table() {
        use HealthStatus as H;
        let busy = Phase::Busy { cell: 3, since: Instant::now() };
        let asking = Phase::WaitingInput { cell: 3, since: Instant::now() };
        let serving = |errand| Phase::Serving { errand, since: Instant::now() };
        let gone = |phase, corpse| Evidence { process: None, corpse, ..seen(phase, 'S') };
        let active = |state, cpu_percent, subprocesses_work| {
            let waits = Some(Wait { call: "recvfrom".to_owned(), is_sleep: false });
            Evidence { activity: Activity { cpu_percent, subprocesses_work, waits }, ..seen(busy, state) }
        };
        let mut sleeping = active('S', Some(0.0), false);
        sleeping.activity.waits = Some(Wait { call: "clock_nanosleep".to_owned(), is_sleep: true });
        let swapped = Evidence { unanswered: unanswered(9, false), ..active('D', Some(0.0), false) };
        let waiting = |phase, ping| Evidence { unanswered: ping, ..seen(phase, 'R') };
        let cases = [
            (seen(Phase::Idle, 'S'), (H::Healthy, State::Idle, Some(7))),
            (seen(busy, 'R'), (H::Healthy, State::Busy, Some(7))),
            (seen(serving(Errand::Keep), 'R'), (H::Healthy, State::Idle, Some(7))),
            (seen(serving(Errand::Save), 'R'), (H::Healthy, State::Busy, Some(7))),
            (seen(asking, 'S'), (H::Healthy, State::WaitingInput, Some(7))),
            (seen(asking, 'Z'), (H::Zombie, State::Zombie, Some(7))),
            (seen(busy, 'T'), (H::Healthy, State::Stopped, Some(7))),
            (seen(busy, 'Z'), (H::Zombie, State::Zombie, Some(7))),
            (active('S', None, false), (H::Healthy, State::Busy, Some(7))),
            (active('S', Some(0.5), false), (H::Healthy, State::Blocked, Some(7))),
            (sleeping, (H::Healthy, State::Busy, Some(7))),
            (active('S', Some(0.5), true), (H::Healthy, State::Busy, Some(7))),
            (active('S', Some(50.0), false), (H::Healthy, State::Busy, Some(7))),
            (active('R', Some(0.5), false), (H::Healthy, State::Busy, Some(7))),
            (swapped, (H::Healthy, State::Stopped, Some(7))),
            (waiting(busy, unanswered(4, true)), (H::Healthy, State::Busy, Some(7))),
            (waiting(busy, unanswered(5, true)), (H::Healthy, State::Hung, Some(7))),
            (waiting(Phase::Idle, unanswered(6, false)), (H::Healthy, State::Hung, Some(7))),
            (gone(Phase::Dead, None), (H::Dead, State::Dead, None)),
            (gone(Phase::Starting, None), (H::Dead, State::Starting, None)),
            (gone(Phase::Dead, Some(9)), (H::Zombie, State::Zombie, Some(9))),
            (Evidence { process: Some((7, None)), ..seen(busy, 'R') }, (H::Dead, State::Dead, None)),
        ];
        for (evidence, expected) in cases {
            assert_eq!(short(&evidence), expected, "{evidence:?}");
        }
    }

    #[test]
    fn a_held_interpreter_and_a_stopped_process_are_told_apart() {
        let busy = Phase::Busy { cell: 3, since: Instant::now() };
        let words = |heartbeat| judge(&Evidence { unanswered: unanswered(9, heartbeat), ..seen(busy, 'R') }).reason;
        assert!(words(true).contains("holds the interpreter") && words(false).contains("no heartbeat"));
    }
}
