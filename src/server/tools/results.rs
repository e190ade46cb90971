//! What tools give back: one struct a tool, keys as the ancestor's clients read them, further ones beside them.
//!
//! Runs in: server. Pure data; `schema.rs` makes the published schemas from it.

mod scripts;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::scripts::ScriptRun;
use crate::server::health::{HealthStatus, State};

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
    /// New files may be missing from the list: too much happened at once, or the watch was not ready.
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
}

/// How a worker process ended.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Exit {
    /// `died`, `stack_overflow`, `out_of_memory`, `unresponsive`, `protocol_broken`, `restart`, `delete`.
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
}

/// `list_variables`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Variables {
    /// Name to `type: summary`; no modules, no names that begin with `_`.
    pub variables: BTreeMap<String, String>,
    /// The session.
    pub session_id: String,
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
    /// When (RFC 3339).
    pub timestamp: String,
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
    /// What it is doing: `starting`, `idle`, `busy`, `hung`, `stopped`, `zombie`, `dead`.
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
