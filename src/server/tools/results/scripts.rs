//! What `run_script` gives back.
//!
//! Runs in: server. Pure data.

use schemars::JsonSchema;
use serde::Serialize;

/// `run_script`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ScriptRun {
    /// `ok` (exit code 0), `error` (another exit code: it raised, or called sys.exit), `died` (a signal ended it),
    /// `timeout`, `cancelled`.
    pub status: &'static str,
    /// Exit code; 1 after an exception; -N when signal N ended it; null when it never began or nobody could read it.
    pub returncode: Option<i32>,
    /// The script, relative to the workspace.
    pub script: String,
    /// What it wrote to standard output; head and tail when that was too much.
    pub stdout: String,
    /// What it wrote to standard error, the traceback of an exception included.
    pub stderr: String,
    /// Seconds it ran.
    pub execution_time: f64,
    /// Seconds it waited for other scripts to end.
    pub queued_time: f64,
    /// Files that appeared in the workspace while it ran, relative to it.
    pub new_files: Vec<String>,
    /// New files that are not listed, because there were too many.
    pub new_files_omitted: u64,
    /// New files may be missing from the list.
    pub new_files_incomplete: bool,
    /// Its time was over.
    pub timed_out: bool,
    /// Name of the signal that ended it, `SIGSEGV` say.
    pub signal: Option<String>,
    /// What to know about its end, in a sentence.
    pub notice: Option<String>,
    /// Bytes written to standard output in all.
    pub stdout_bytes: u64,
    /// Bytes written to standard error in all.
    pub stderr_bytes: u64,
    /// File with the whole standard output, relative to the workspace, when `stdout` is not all of it.
    pub stdout_file: Option<String>,
    /// File with the whole standard error, when `stderr` is not all of it.
    pub stderr_file: Option<String>,
}
