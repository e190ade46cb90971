//! What `run_python_code` gives back: keys as the ancestor's clients read them, further ones beside them.
//!
//! Runs in: server. Pure data; `reply.rs` makes it from a cell's outcome.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::server::watch::shapes::Exit;

/// `run_python_code`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Cell {
    /// `ok`, `error` (the code raised), `exited` (`sys.exit`), `interrupted`, `timeout`, `cancelled`, `died` (the worker
    /// process ended), `refused` (not run). `running` and `queued`: it goes on without this call, see `notice`; what it has
    /// written since the last look is there, the rest comes with wait_for_cell.
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
