//! What tools for notebooks give back.
//!
//! Runs in: server. Pure data.

use schemars::JsonSchema;
use serde::Serialize;

use super::CellException;

/// `export_notebook`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ExportedNotebook {
    /// Relative to the workspace.
    pub path: String,
    /// Absolute.
    pub full_path: String,
    /// `ipynb` or `html`.
    pub format: &'static str,
    /// The session.
    pub session_id: String,
    /// Cells in it.
    pub cells: u64,
    /// Older cells of the session that are no longer kept.
    pub cells_left_out: u64,
    /// Bytes.
    pub size: u64,
}

/// `run_notebook`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NotebookRun {
    /// `ok`: all cells were run; `error`: one raised (the first, unless on_error is `continue`); else how the last cell
    /// ended: `exited`, `timeout`, `died`, `cancelled`, `interrupted`, `refused`.
    pub status: &'static str,
    /// The notebook.
    pub path: String,
    /// Where it was written with its outputs, relative to the workspace.
    pub output_path: String,
    /// The session it ran in.
    pub session_id: String,
    /// Code cells that were run.
    pub executed: u64,
    /// Code cells that there were to run.
    pub total: u64,
    /// Cells that did not end well, in order; at most 20.
    pub failures: Vec<NotebookFailure>,
    /// Seconds.
    pub execution_time: f64,
    /// What to know about it, in sentences.
    pub notice: Option<String>,
}

/// One cell of a notebook that did not end well.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NotebookFailure {
    /// Its place among all cells of the notebook, from 0.
    pub index: u64,
    /// How it ended, as in run_python_code.
    pub status: &'static str,
    /// The exception.
    pub error: Option<CellException>,
}
