//! What `run_python_code` gives back: keys as the ancestor's clients read them, always there; further ones when they say
//! something.
//!
//! Runs in: server. Pure data; `reply.rs` makes it from a cell's outcome.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::server::{
    tools::call::schema::{is_false, is_zero},
    watch::shapes::Exit,
};

/// `run_python_code`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Cell {
    /// `ok`, `error` (the code raised), `exited` (`sys.exit`), `interrupted`, `timeout`, `cancelled`, `died` (the worker
    /// process ended), `refused` (not run). `running` and `queued`: it goes on without this call, see `notice`; what it has
    /// written since the last look is there, the rest comes with wait_for_cell.
    pub status: &'static str,
    /// The session it ran in.
    pub session_id: String,
    /// Number of the cell within its session; left out when it was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// Displays that have files or a name, a rich last value included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub displays: Vec<Shown>,
    /// Files that appeared in the workspace while it ran, relative to it. Cells of other sessions that ran at the same
    /// time cannot be told apart.
    pub new_files: Vec<String>,
    /// New files that are not listed, because there were too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub new_files_omitted: u64,
    /// New files may be missing from the list: too much happened at once, the watch was not ready, or the workspace has
    /// more directories than are watched (4096, or the user's limit of inotify watches).
    #[serde(skip_serializing_if = "is_false")]
    pub new_files_incomplete: bool,
    /// Seconds it ran.
    pub execution_time: f64,
    /// Seconds it waited for its turn, when that was more than a moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_time: Option<f64>,
    /// The exception that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CellException>,
    /// Code of a `sys.exit`, or of the worker process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why and how the worker process ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub death: Option<Exit>,
    /// `kept`: the session's variables are as this cell left them. `lost`: those of earlier cells are gone, see `notice`.
    /// `restored`: the worker is gone, and the session has gone on from a checkpoint, see `recovered_from`. `rolled_back`:
    /// they are as before this cell.
    pub state: &'static str,
    /// The worker is gone, and the session has gone on from a checkpoint: the last cell whose effects are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_from: Option<u64>,
    /// First and last of the cells whose effects are not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_cells: Option<(u64, u64)>,
    /// What to know about the session, in sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// What the supervisor has to say about the session since its last reply: thresholds crossed, steps taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<String>,
    /// Output of background threads and processes that came since the cell before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<String>,
    /// Bytes written to standard output in all, when `stdout` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_bytes: Option<u64>,
    /// Bytes written to standard error in all, when `stderr` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_bytes: Option<u64>,
    /// File with the whole standard output (again with bars in their last state), relative to the workspace, when
    /// `stdout` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_file: Option<String>,
    /// File with the whole standard error, when `stderr` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_file: Option<String>,
}

/// Something that a cell displayed; its text is among the `results`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Shown {
    /// It is the value of the last expression.
    #[serde(skip_serializing_if = "is_false")]
    pub is_result: bool,
    /// Its name for `update_display`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_id: Option<String>,
    /// It replaces what an earlier cell displayed under this name.
    #[serde(skip_serializing_if = "is_false")]
    pub update: bool,
    /// Mime type to file, relative to the workspace.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The traceback; empty where `stderr` holds it.
    pub traceback: String,
    /// What can be done about it, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
