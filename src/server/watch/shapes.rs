//! The shapes in which health is told: what the tools give back, and what `health://` resources hold.
//!
//! Runs in: server. Pure data.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    protocol::WorkerExit,
    server::{
        health::{
            HealthStatus, RecoveryPolicy, State,
            alerts::{Alert, Kind},
            evidence::Stacks,
            recovery::Taken,
        },
        sessions::{
            crashes::CrashReport,
            handle::Session,
            outcome::{Death, signal_name},
        },
    },
    settings::policy::Automatic,
    sys::{
        groups::{Controller, Group},
        layers::Layers,
    },
};

/// `get_kernel_health`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Health {
    /// `healthy`: the process lives; `dead`: there is none; `zombie`: it has ended and is not reaped.
    pub status: HealthStatus,
    /// Process id; null when dead.
    pub pid: Option<i32>,
    /// Resident memory, bytes; null unless healthy, as the next three.
    pub memory_usage: Option<u64>,
    /// Percent of one processor, over the last second or so.
    pub cpu_percent: Option<f64>,
    /// Threads of the process.
    pub num_threads: Option<u64>,
    /// Seconds since the process began.
    pub uptime: Option<f64>,
    /// The session.
    pub session_id: String,
    /// What it is doing: `starting`, `idle`, `busy`, `blocked` (waits in a system call), `hung`, `stopped`,
    /// `zombie`, `dead`.
    pub state: State,
    /// Why that is the state, in words.
    pub reason: String,
    /// The cell that runs.
    pub cell: Option<u64>,
    /// Seconds it has run.
    pub cell_running_for: Option<f64>,
    /// Highest resident memory so far, bytes.
    pub memory_peak: Option<u64>,
    /// Workers the session has had beyond the first.
    pub restarts: u64,
    /// How the worker before this one ended.
    pub last_exit: Option<Exit>,
    /// Why the last attempt to make a worker failed.
    pub trouble: Option<String>,
    /// Why it was not put to sleep when it had been without use for `--sleep-after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stays_awake: Option<String>,
    /// Memory with pages shared with other processes counted in part, bytes, as of a moment ago.
    pub proportional_memory: Option<u64>,
    /// Memory in swap, bytes.
    pub swapped_memory: Option<u64>,
    /// Living processes that the session started.
    pub subprocesses: Option<u64>,
    /// Their resident memory together, bytes.
    pub subprocess_memory: Option<u64>,
    /// Alerts that are up.
    pub alerts: Vec<Kind>,
    /// What is being done about it.
    pub recovery: Recovery,
    /// Its thresholds.
    pub thresholds: Thresholds,
    /// Limits it is kept to.
    pub limits: LimitsInForce,
    /// Checkpoints of the session.
    pub checkpoints: HeldCheckpoints,
    /// The past, when asked for.
    pub history: Option<Series>,
    /// Where its threads are, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stacks: Option<Stacks>,
}

/// Checkpoints of a session, and what they take.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct HeldCheckpoints {
    /// How many.
    pub count: u64,
    /// Bytes that they hold alone, as of the last look, some seconds ago at most.
    pub memory: u64,
    /// The cell after which policy `last` has kept one; null when it has none.
    pub last: Option<u64>,
    /// Why policy `last` could make none after the latest cell.
    pub unkept: Option<String>,
    /// Whether what there is now can be copied, as far as it was tried.
    pub can: bool,
    /// Why it cannot; null when it can, or was not tried.
    pub why: Option<String>,
    /// Where it cannot: whether its variables are kept by value, as save_session does it.
    pub by_value: bool,
    /// The last cell whose effects are kept by value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_value_cell: Option<u64>,
    /// Names of variables that are not kept by value, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, String>,
}

/// What is being done about a session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Recovery {
    /// `manual`, `on-demand`, `auto`.
    pub policy: RecoveryPolicy,
    /// `none`, `waiting` (for the next restart), `recovering`, `parked` (given up until restart_kernel).
    pub state: &'static str,
    /// Restarts that count against the budget.
    pub restarts_counted: u64,
    /// Restarts within the window after which it is parked.
    pub restart_budget: u32,
    /// Seconds to the next restart.
    pub next_restart_in: Option<f64>,
    /// Why nothing more is tried.
    pub parked: Option<String>,
    /// Steps taken lately, the newest last. A step is `verified` when a ping and an evaluation came back after it.
    pub steps: Vec<Taken>,
}

/// Thresholds in force.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Thresholds {
    /// Resident memory from which an alert is raised, bytes; 0 is never.
    pub memory_alert: u64,
    /// Resident memory from which garbage is collected, bytes; 0 is never.
    pub memory_cleanup: u64,
    /// Percent of one processor from which an alert is raised; 0 is never.
    pub cpu_alert: f64,
    /// Seconds without an answer after which an interpreter counts as hung.
    pub hung_after: f64,
    /// Seconds between two looks at an idle session; also what the mean of `cpu_alert` is taken over.
    pub interval: f64,
    /// What is done about a dead or hung session.
    pub recovery: RecoveryPolicy,
    /// Restarts within the window after which it is parked.
    pub restart_budget: u32,
    /// Seconds.
    pub restart_window: f64,
    /// Checkpoints that are made without being asked for.
    pub checkpoints: Automatic,
}

/// The past of a session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Series {
    /// Seconds asked for.
    pub span: f64,
    /// The last minutes, the oldest first.
    pub samples: Vec<SeriesSample>,
    /// What lies before them, in buckets of five minutes, the oldest first.
    pub buckets: Vec<SeriesBucket>,
}

/// One look.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SeriesSample {
    /// When (RFC 3339).
    pub time: String,
    /// As judged then.
    pub state: State,
    /// The worker then.
    pub pid: i32,
    /// Resident memory, bytes.
    pub memory_usage: u64,
    /// Percent of one processor since the look before.
    pub cpu_percent: f64,
    /// Threads.
    pub num_threads: u64,
    /// Memory with shared pages counted in part, bytes; not at every look.
    pub proportional_memory: Option<u64>,
    /// Processes that the session had started; not at every look.
    pub subprocesses: Option<u64>,
}

/// Five minutes in one line.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SeriesBucket {
    /// Its first look (RFC 3339).
    pub from: String,
    /// Its last look.
    pub to: String,
    /// Looks in it.
    pub samples: u64,
    /// Mean resident memory, bytes.
    pub memory_mean: f64,
    /// Highest resident memory, bytes.
    pub memory_max: u64,
    /// Mean percent of one processor.
    pub cpu_mean: f64,
    /// Highest percent.
    pub cpu_max: f64,
}

/// `dump_stacks`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DumpedStacks {
    /// The session.
    pub session_id: String,
    /// As in get_kernel_health.
    pub status: HealthStatus,
    /// As in get_kernel_health.
    pub state: State,
    /// Why that is the state, in words.
    pub reason: String,
    /// Process id.
    pub pid: Option<i32>,
    /// The cell that runs.
    pub cell: Option<u64>,
    /// The stacks; null when there is no process.
    pub stacks: Option<Stacks>,
    /// When (RFC 3339).
    pub timestamp: String,
}

impl DumpedStacks {
    /// For people and models.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("session {:?} is {}: {}\n", self.session_id, self.state.word(), self.reason);
        let Some(stacks) = &self.stacks else { return text };
        if stacks.python.is_empty() {
            text.push_str("no Python stacks: the process does not get to run\n");
        } else {
            let _ = write!(text, "--- Python stacks (by {}) ---\n{}", stacks.route, stacks.python);
        }
        text.push_str("--- threads of the process ---\n");
        for thread in &stacks.threads {
            let call = thread.syscall.as_deref().unwrap_or("no system call");
            let place = thread.wait_channel.as_deref().map_or_else(String::new, |name| format!(", waits in {name}"));
            let _ = writeln!(text, "{} {:?}: {}, {call}{place}", thread.tid, thread.name, thread.state);
        }
        text
    }
}

/// `list_crashes`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct CrashList {
    /// The newest first.
    pub crashes: Vec<CrashEntry>,
    /// The whole report, when one was asked for by id.
    pub report: Option<CrashReport>,
}

/// One death in a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct CrashEntry {
    /// Name of the report; the file is `outputs/crashes/ID.json`.
    pub id: String,
    /// The session.
    pub session_id: String,
    /// When (RFC 3339).
    pub when: String,
    /// Why, in a word.
    pub reason: String,
    /// All of it in a sentence.
    pub description: String,
    /// Name of the signal that ended it.
    pub signal: Option<String>,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The cell that was running.
    pub cell: Option<u64>,
    /// The report, relative to the workspace.
    pub path: String,
}

impl CrashEntry {
    /// The short form of a report.
    #[must_use]
    pub(crate) fn of(report: &CrashReport) -> Self {
        Self {
            id: report.id.clone(),
            session_id: report.session_id.clone(),
            when: report.when.clone(),
            reason: report.reason.clone(),
            description: report.description.clone(),
            signal: report.signal.clone(),
            exit_code: report.exit_code,
            cell: report.cell.as_ref().map(|cell| cell.number),
            path: format!("outputs/crashes/{}.json", report.id),
        }
    }
}

/// `configure_health`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ConfiguredHealth {
    /// The session.
    pub session_id: String,
    /// What is in force now.
    pub thresholds: Thresholds,
}

/// `get_health_report`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct HealthReport {
    /// Health of every session, as get_kernel_health gives it.
    pub sessions: BTreeMap<String, Health>,
    /// Sessions whose status is `healthy`.
    pub healthy: u64,
    /// Sessions that are `dead` or `zombie`, by name.
    pub unhealthy: Vec<String>,
    /// Alerts that are up, of all sessions.
    pub alerts: Vec<Alert>,
    /// Alerts that are over, the newest first, at most 20.
    pub past_alerts: Vec<Alert>,
    /// Sessions whose interpreter does not answer, by name.
    pub hung: Vec<String>,
    /// Resident memory of all workers together, bytes; pages they share are counted for each.
    pub total_memory: u64,
    /// What the process that makes workers is doing: `warm`, `starting`, or why it failed.
    pub zygote: String,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `check_kernel_responsiveness`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Responsiveness {
    /// The interpreter evaluated something within the time, also if a cell is running.
    pub responsive: bool,
    /// Seconds to the answer, or seconds waited.
    pub response_time: f64,
    /// What it evaluated; null when it did not.
    pub test_result: Option<String>,
    /// Seconds it was given.
    pub timeout: f64,
    /// The session.
    pub session_id: String,
    /// As in get_kernel_health.
    pub state: State,
    /// Why that is the state, in words.
    pub reason: String,
}

/// How a worker process ended.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Exit {
    /// `died`, `stack_overflow`, `out_of_memory`, `unresponsive`, `hung`, `unverified`, `protocol_broken`, `restart`,
    /// `delete`, `memory_limit`, `cpu_limit`, `process_limit`, `disk_limit`, `idle`, `age`.
    pub reason: &'static str,
    /// Name of the signal, `SIGSEGV` say.
    pub signal: Option<String>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// The cell that was running.
    pub cell: Option<u64>,
    /// All of it in words.
    pub description: String,
    /// When it was seen (RFC 3339).
    pub when: Option<String>,
    /// The crash report, relative to the workspace.
    pub report: Option<String>,
}

/// Limits that a session is kept to; null where there is none.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct LimitsInForce {
    /// MiB of memory beyond what the interpreter starts with.
    pub memory_mb: Option<u64>,
    /// Who counts it: `cgroup` (the kernel, all of it), or `processes` (forkpy, by what the session's processes have; a file in
    /// /dev/shm that no process has open may be missed).
    pub memory_counted_by: Option<&'static str>,
    /// Seconds of processor time of one cell.
    pub cpu_seconds: Option<f64>,
    /// Processors at a time, all its processes together.
    pub cpus: Option<f64>,
    /// Who keeps that: `cgroup`, or `none` where the system gives no cgroup.
    pub cpus_kept_by: Option<&'static str>,
    /// Seconds for which its processes have waited because they had used that up.
    pub throttled_seconds: Option<f64>,
    /// Processes beside the interpreter.
    pub processes: Option<u32>,
    /// Who keeps that: `cgroup` (the kernel refuses to start far more, and forkpy ends a session that stays beyond), or `processes`
    /// (forkpy ends a session that has more).
    pub processes_kept_by: Option<&'static str>,
    /// MiB of the workspace and its own directory.
    pub disk_mb: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u32>,
    /// Longest time of a cell.
    pub cell_seconds: Option<f64>,
    /// Deleted when unused for so long.
    pub idle_seconds: Option<f64>,
    /// Deleted when so old and at rest.
    pub age_seconds: Option<f64>,
    /// Its sandbox: off, workspace or strict.
    pub sandbox: &'static str,
    /// What confines its processes on this machine; known once it has one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sandbox_layers: Vec<String>,
}

impl LimitsInForce {
    /// Of a session.
    pub(crate) fn of(session: &Session) -> Self {
        let limits = &session.limits;
        let status = session.shared.get();
        let group = status.group.as_deref();
        let by = |controller, other| if group.is_some_and(|group| group.keeps(controller)) { "cgroup" } else { other };
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            memory_mb: limits.memory.map(|bytes| bytes >> 20),
            memory_counted_by: limits.memory.map(|_| by(Controller::Memory, "processes")),
            cpu_seconds: seconds(limits.cpu),
            cpus: limits.processors(),
            cpus_kept_by: limits.cpus.map(|_| by(Controller::Cpus, "none")),
            throttled_seconds: group.and_then(Group::throttled).map(|time| time.as_secs_f64()),
            processes: limits.processes,
            processes_kept_by: limits.processes.map(|_| by(Controller::Processes, "processes")),
            disk_mb: limits.disk.map(|bytes| bytes >> 20),
            open_files: limits.open_files,
            cell_seconds: seconds(limits.cell_time),
            idle_seconds: seconds(limits.idle),
            age_seconds: seconds(limits.age),
            sandbox: limits.confinement.word(),
            sandbox_layers: status.worker.and_then(|view| view.layers()).map_or_else(Vec::new, name_layers),
        }
    }
}

/// Layers of a sandbox, in words.
pub(crate) fn name_layers(layers: Layers) -> Vec<String> {
    let landlock = (layers.landlock > 0).then(|| format!("Landlock {}", layers.landlock));
    let others = [
        (layers.seccomp, "seccomp"),
        (layers.network, "network namespace"),
        (layers.messages, "IPC namespace"),
        (layers.users, "user namespace"),
        (layers.code, "no code from written memory"),
    ];
    let others = others.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_owned());
    landlock.into_iter().chain(others).collect()
}

/// A worker's end, for a reply.
#[must_use]
pub(crate) fn exit(death: &Death, when: Option<String>) -> Exit {
    Exit {
        reason: death.reason.word(),
        signal: match death.exit {
            WorkerExit::Signal(number) => Some(signal_name(number)),
            _ => None,
        },
        exit_code: exit_code(death.exit),
        cell: death.cell,
        description: death.describe(),
        when,
        report: death.report.clone(),
    }
}

pub(crate) fn exit_code(exit: WorkerExit) -> Option<i32> {
    match exit {
        WorkerExit::Code(code) => Some(code),
        WorkerExit::Signal(_) | WorkerExit::Unknown => None,
    }
}
