//! What tools give back: one struct a tool, keys as the ancestor's clients read them, further ones beside them.
//!
//! Runs in: server. Pure data; `schema.rs` makes the published schemas from it.

use crate::server::watch::shapes::{Exit, LimitsInForce};

mod checkpoints;
mod files;
mod lookup;
mod notebooks;
mod packages;
mod saved;
mod scripts;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use self::{
    checkpoints::{
        Branch, Branches, CheckpointEntry, CheckpointList, DeletedCheckpoint, ForkedSession, MadeCheckpoint,
        RestoredCheckpoint,
    },
    files::{DeletedFile, FilePiece, Files, SavedScript, WrittenFile},
    lookup::{Completion, Found, Inspection, Matches},
    notebooks::{ExportedNotebook, NotebookFailure, NotebookRun},
    packages::{Installed, PackageChange, PackageEntry, PackageList, StalePackage},
    saved::{LoadedSession, SavedSession},
    scripts::ScriptRun,
};
pub(crate) use crate::server::watch::shapes::{
    ConfiguredHealth, CrashEntry, CrashList, DumpedStacks, Health, HealthReport, Responsiveness,
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
    /// `restored`: the worker is gone, and the session has gone on from a checkpoint, see `recovered_from`. `rolled_back`:
    /// they are as before this cell.
    pub state: &'static str,
    /// The worker is gone, and the session has gone on from a checkpoint: the last cell whose effects are there.
    pub recovered_from: Option<u64>,
    /// First and last of the cells whose effects are not there any more.
    pub lost_cells: Option<(u64, u64)>,
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

/// `list_variables`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Variables {
    /// Name to `type: summary`; no modules, no names that begin with `_`.
    pub variables: BTreeMap<String, String>,
    /// The same in parts.
    pub details: BTreeMap<String, VariableDetails>,
    /// The session.
    pub session_id: String,
    /// `lost` or `restored` when something has happened to the variables that no cell's reply has told this client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// A variable, in parts.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct VariableDetails {
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
pub(crate) struct Restart {
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
pub(crate) struct CreatedSession {
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

/// Facts about a session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Metadata {
    /// Workers it has had beyond the first.
    pub restarts: u64,
    /// Calls that wait for their turn.
    pub waiting: u64,
}

/// `switch_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SwitchedSession {
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
pub(crate) struct Sessions {
    /// All of them by name.
    pub sessions: BTreeMap<String, SessionEntry>,
    /// The one that calls of this client go to; it may have ended, see `notice`.
    pub active_session: String,
    /// What became of the active session, when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// How many there are.
    pub total_sessions: u64,
    /// How many there may be.
    pub max_sessions: u64,
}

/// One session in a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SessionEntry {
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
pub(crate) struct DeletedSession {
    /// Its name.
    pub session_id: String,
    /// `deleted`.
    pub status: &'static str,
    /// It was this client's active session.
    pub was_active: bool,
    /// The active session now, when that has changed.
    pub new_active_session: Option<String>,
}

/// `ping`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Pong {
    /// `pong`.
    pub status: &'static str,
    /// True.
    pub ok: bool,
    /// When (RFC 3339).
    pub timestamp: String,
}

/// `get_workspace_info`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct WorkspaceInfo {
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
