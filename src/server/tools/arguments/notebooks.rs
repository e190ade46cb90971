//! What clients may send about notebooks.
//!
//! Runs in: server. Pure.

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::Deserialize;

/// `export_notebook`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ExportNotebook {
    /// File to write, relative to the workspace; replaced when it exists. Default `outputs/SESSION.ipynb`.
    pub path: Option<String>,
    /// Session whose cells are written; the active one when left out.
    pub session_id: Option<String>,
    /// `ipynb`, or `html` for a page that needs nothing else. By the ending of path when left out, else ipynb.
    pub format: Option<Format>,
}

/// Of an exported notebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// nbformat 4.5.
    Ipynb,
    /// One page.
    Html,
}

/// `run_notebook`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunNotebook {
    /// Notebook (.ipynb), relative to the workspace.
    pub path: String,
    /// Session to run it in; the active one when left out.
    pub session_id: Option<String>,
    /// Values by name, set in a cell behind the one tagged `parameters`, or at the beginning.
    pub parameters: Option<JsonObject>,
    /// What to do when a cell raises: `stop` (default), or `continue` with the next.
    pub on_error: Option<OnError>,
    /// Where the notebook is written with its outputs. Default: over itself.
    pub output_path: Option<String>,
    /// Seconds each cell may run. The server's default when left out.
    pub timeout: Option<f64>,
}

/// What a cell that raises means for those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnError {
    /// They are not run.
    Stop,
    /// They are.
    Continue,
}
