//! What tools give back: one struct a tool, keys as the ancestor's clients read them, further ones beside them.
//!
//! Runs in: server. Pure data; `schema.rs` makes the published schemas from it.

mod lookup;
mod notebooks;
mod packages;
mod scripts;

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

pub use self::{
    lookup::{Completion, Found, Inspection, Matches},
    notebooks::{ExportedNotebook, NotebookFailure, NotebookRun},
    packages::{Installed, PackageChange, PackageEntry, PackageList, StalePackage},
    scripts::ScriptRun,
};
use crate::{
    limits::Limits,
    server::health::{
        HealthStatus, RecoveryPolicy, State,
        alerts::{Alert, Kind},
        crashes::CrashReport,
        recovery::Taken,
        stacks::Stacks,
    },
};

/// `run_python_code`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Cell {
    /// `ok`, `error` (the code raised), `exited` (`sys.exit`), `interrupted`, `timeout`, `cancelled`, `died` (the worker
    /// process ended), `refused` (not run).
    pub status: &'static str,
    /// The session it ran in.
    pub session_id: String,
    /// Number of the cell within its session; null when it was not run.
    pub cell: Option<u64>,
    /// What it wrote to standard output; head and tail when that was too much, and of progress bars (lines overwritten by
    /// carriage returns) the last state.
    pub stdout: String,
    /// What it wrote to standard error, the traceback of an exception included.
    pub stderr: String,
    /// Text of what it displayed, then `repr` of a last expression.
    pub results: Vec<String>,
    /// Files with what it displayed (PNG, SVG, HTML, JSON, ...), relative to the workspace. The first pictures also come
    /// as images, scaled down when they are large.
    pub outputs: Vec<String>,
    /// What it displayed, a rich last value included.
    pub displays: Vec<Shown>,
    /// Files that appeared in the workspace while it ran, relative to it. Cells of other sessions that ran at the same
    /// time cannot be told apart.
    pub new_files: Vec<String>,
    /// New files that are not listed, because there were too many.
    pub new_files_omitted: u64,
    /// New files may be missing from the list: too much happened at once, the watch was not ready, or the workspace has
    /// more directories than are watched (4096, or the user's limit of inotify watches).
    pub new_files_incomplete: bool,
    /// Seconds it ran.
    pub execution_time: f64,
    /// Seconds it waited for its turn.
    pub queued_time: f64,
    /// The exception that ended it.
    pub error: Option<CellException>,
    /// Code of a `sys.exit`, or of the worker process.
    pub exit_code: Option<i32>,
    /// Why and how the worker process ended.
    pub death: Option<Exit>,
    /// `kept`: the session's variables are as this cell left them. `lost`: those of earlier cells are gone, see `notice`.
    pub state: &'static str,
    /// What to know about the session, in sentences.
    pub notice: Option<String>,
    /// What the supervisor has to say about the session since its last reply: thresholds crossed, steps taken.
    pub alerts: Vec<String>,
    /// Output of background threads and processes that came since the cell before.
    pub background: Option<String>,
    /// Bytes written to standard output in all.
    pub stdout_bytes: u64,
    /// Bytes written to standard error in all.
    pub stderr_bytes: u64,
    /// File with the whole standard output (again with bars in their last state), relative to the workspace, when
    /// `stdout` is not all of it.
    pub stdout_file: Option<String>,
    /// File with the whole standard error, when `stderr` is not all of it.
    pub stderr_file: Option<String>,
}

/// Something that a cell displayed; its text is among the `results`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Shown {
    /// It is the value of the last expression.
    pub is_result: bool,
    /// Its name for `update_display`.
    pub display_id: Option<String>,
    /// It replaces what an earlier cell displayed under this name.
    pub update: bool,
    /// Mime type to file, relative to the workspace.
    pub files: BTreeMap<String, String>,
}

/// An exception.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CellException {
    /// Class name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its words.
    pub message: String,
    /// Line of the cell, from 1.
    pub line: Option<u32>,
    /// The cell.
    pub cell: u64,
    /// The traceback.
    pub traceback: String,
    /// What can be done about it, when that is known.
    pub hint: Option<String>,
}

/// How a worker process ended.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Exit {
    /// `died`, `stack_overflow`, `out_of_memory`, `unresponsive`, `hung`, `unverified`, `protocol_broken`, `restart`,
    /// `delete`, `memory_limit`, `cpu_limit`, `process_limit`, `idle`, `age`.
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

/// `list_variables`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Variables {
    /// Name to `type: summary`; no modules, no names that begin with `_`.
    pub variables: BTreeMap<String, String>,
    /// The same in parts.
    pub details: BTreeMap<String, VariableDetails>,
    /// The session.
    pub session_id: String,
}

/// A variable, in parts.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct VariableDetails {
    /// Its class, with the module unless that is `builtins` or the session's own.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its value in short.
    pub value: String,
    /// Of arrays and tables.
    pub shape: Option<Vec<u64>>,
    /// Type of the elements; of tables, of the columns.
    pub dtype: Option<String>,
    /// `len()`, of what has it at no cost.
    pub length: Option<u64>,
    /// Memory it takes, bytes; what a container holds is not counted.
    pub bytes: Option<u64>,
}

/// `restart_kernel`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Restart {
    /// Always true; a restart that failed is an error.
    pub restarted: bool,
    /// The session.
    pub session_id: String,
    /// As asked.
    pub preserve_state: bool,
    /// Variables that the old interpreter saved.
    pub preserved_vars: Vec<String>,
    /// Variables that the new interpreter has again.
    pub restored_vars: Vec<String>,
    /// Variables that were not carried over, with the reason.
    pub lost_vars: BTreeMap<String, String>,
    /// Process id of the new worker.
    pub pid: Option<i32>,
    /// What to know about it.
    pub notice: Option<String>,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `create_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CreatedSession {
    /// Its name.
    pub session_id: String,
    /// `created`, or `exists` when there was one of this name.
    pub status: &'static str,
    /// What it is for.
    pub description: String,
    /// Further facts.
    pub metadata: Metadata,
    /// Limits it is kept to.
    pub limits: LimitsInForce,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// Limits that a session is kept to; null where there is none.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LimitsInForce {
    /// MiB of memory beyond what the interpreter starts with.
    pub memory_mb: Option<u64>,
    /// Seconds of processor time of one cell.
    pub cpu_seconds: Option<f64>,
    /// Processes beside the interpreter.
    pub processes: Option<u32>,
    /// Open files of each process.
    pub open_files: Option<u32>,
    /// Longest time of a cell.
    pub cell_seconds: Option<f64>,
    /// Deleted when unused for so long.
    pub idle_seconds: Option<f64>,
    /// Deleted when so old and at rest.
    pub age_seconds: Option<f64>,
}

impl From<&Limits> for LimitsInForce {
    fn from(limits: &Limits) -> Self {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            memory_mb: limits.memory.map(|bytes| bytes >> 20),
            cpu_seconds: seconds(limits.cpu),
            processes: limits.processes,
            open_files: limits.open_files,
            cell_seconds: seconds(limits.cell_time),
            idle_seconds: seconds(limits.idle),
            age_seconds: seconds(limits.age),
        }
    }
}

/// Facts about a session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Metadata {
    /// Workers it has had beyond the first.
    pub restarts: u64,
    /// Calls that wait for their turn.
    pub waiting: u64,
}

/// `switch_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SwitchedSession {
    /// The session that was active.
    pub previous_session: String,
    /// The one that is now, for this client.
    pub current_session: String,
    /// `switched`, or `unchanged`.
    pub status: &'static str,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `list_sessions`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Sessions {
    /// All of them by name.
    pub sessions: BTreeMap<String, SessionEntry>,
    /// The one that calls of this client go to.
    pub active_session: String,
    /// How many there are.
    pub total_sessions: u64,
    /// How many there may be.
    pub max_sessions: u64,
}

/// One session in a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SessionEntry {
    /// It has a worker, or is getting one.
    pub active: bool,
    /// It is this client's active session.
    pub current: bool,
    /// What it is for.
    pub description: String,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// When it was last used (RFC 3339).
    pub last_activity: String,
    /// Cells run.
    pub execution_count: u64,
    /// Seconds since it was made.
    pub uptime: f64,
    /// Further facts.
    pub metadata: Metadata,
    /// As get_kernel_health.
    pub health: Health,
}

/// `delete_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DeletedSession {
    /// Its name.
    pub session_id: String,
    /// `deleted`.
    pub status: &'static str,
    /// It was this client's active session.
    pub was_active: bool,
    /// The active session now, when that has changed.
    pub new_active_session: Option<String>,
}

/// `get_kernel_health`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Health {
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
    /// The past, when asked for.
    pub history: Option<Series>,
}

/// What is being done about a session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Recovery {
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
pub struct Thresholds {
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
}

/// The past of a session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Series {
    /// Seconds asked for.
    pub span: f64,
    /// The last minutes, the oldest first.
    pub samples: Vec<SeriesSample>,
    /// What lies before them, in buckets of five minutes, the oldest first.
    pub buckets: Vec<SeriesBucket>,
}

/// One look.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SeriesSample {
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
pub struct SeriesBucket {
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
pub struct DumpedStacks {
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
    pub fn text(&self) -> String {
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
pub struct CrashList {
    /// The newest first.
    pub crashes: Vec<CrashEntry>,
    /// The whole report, when one was asked for by id.
    pub report: Option<CrashReport>,
}

/// One death in a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CrashEntry {
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
    pub fn of(report: &CrashReport) -> Self {
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
pub struct ConfiguredHealth {
    /// The session.
    pub session_id: String,
    /// What is in force now.
    pub thresholds: Thresholds,
}

/// `get_health_report`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HealthReport {
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
pub struct Responsiveness {
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

/// `ping`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Pong {
    /// `pong`.
    pub status: &'static str,
    /// True.
    pub ok: bool,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `get_workspace_info`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WorkspaceInfo {
    /// Directory that sessions work in.
    pub workspace: String,
    /// Saved scripts.
    pub scripts: String,
    /// Files made on behalf of sessions.
    pub outputs: String,
    /// Files that clients sent.
    pub uploads: String,
    /// The same as `workspace`.
    pub workspace_dir: String,
    /// The same as `scripts`.
    pub scripts_dir: String,
    /// The same as `outputs`.
    pub outputs_dir: String,
    /// The same as `uploads`.
    pub uploads_dir: String,
    /// `sys.executable` of sessions; null until Python has started.
    pub python: Option<String>,
    /// Python's version; null until Python has started.
    pub python_version: Option<String>,
    /// forkpy's version.
    pub server_version: &'static str,
}

/// `list_files`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Files {
    /// The directory, relative to the workspace; `.` is the workspace.
    pub root: String,
    /// Paths relative to the workspace; directories end in '/'. Absent when a tree was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// The directory as nested nodes: `name`, `type` (`file`, `directory`, `symlink`, `other`), and in directories
    /// `children`. Absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<serde_json::Value>,
    /// Entries that there are, on all pages.
    pub total: u64,
    /// Entries left out at the beginning.
    pub offset: u64,
    /// There are entries after these.
    pub truncated: bool,
    /// Where the next page begins; null on the last.
    pub next_offset: Option<u64>,
    /// Directories not looked into because they lie deeper than max_depth; 0 unless recursive.
    pub too_deep: u64,
    /// Directories that could not be read.
    pub unreadable: u64,
    /// What to know about the listing, in a sentence.
    pub notice: Option<String>,
}

/// `read_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FilePiece {
    /// The file, as it was asked for.
    pub path: String,
    /// The contents, when they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The contents, when they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The contents are in `base64`.
    pub binary: bool,
    /// `utf-8` or `base64`.
    pub encoding: &'static str,
    /// Bytes of the whole file.
    pub size: u64,
    /// First byte of these contents.
    pub offset: u64,
    /// Bytes of the file that these contents are.
    pub bytes_read: u64,
    /// There is more of what was asked for.
    pub truncated: bool,
    /// Where to read on; null when there is no more of what was asked for.
    pub next_offset: Option<u64>,
    /// First line in these contents; null unless lines were asked for.
    pub start_line: Option<u64>,
    /// Last line in these contents, perhaps cut.
    pub end_line: Option<u64>,
    /// Type of the image that comes with this reply.
    pub image: Option<&'static str>,
}

/// `write_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WrittenFile {
    /// Relative to the workspace.
    pub path: String,
    /// Absolute.
    pub full_path: String,
    /// Bytes.
    pub size: u64,
}

/// `delete_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DeletedFile {
    /// True.
    pub deleted: bool,
    /// True.
    pub success: bool,
    /// Relative to the workspace.
    pub path: String,
}

/// `save_script`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SavedScript {
    /// Relative to the workspace.
    pub script: String,
    /// Absolute.
    pub full_path: String,
    /// Bytes.
    pub size: u64,
}
