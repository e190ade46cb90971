//! What tools for packages give back.
//!
//! Runs in: server. Pure data.

use schemars::JsonSchema;
use serde::Serialize;

/// `install_dependencies`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Installed {
    /// `ok`, `error` (the tool failed, see stderr), `timeout`, `cancelled`.
    pub status: &'static str,
    /// Exit code of the tool; -N when signal N ended it.
    pub returncode: Option<i32>,
    /// What the tool wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Packages that were asked for and are there now, as `name==version`.
    pub installed_packages: Vec<String>,
    /// All that is not as it was before, dependencies included.
    pub changes: Vec<PackageChange>,
    /// Sessions that have imported a package which has changed: they keep the old one until restart_kernel.
    pub stale: Vec<StalePackage>,
    /// `uv` or `pip`.
    pub tool: &'static str,
    /// Seconds the tool ran.
    pub execution_time: f64,
    /// What to know about it, in sentences.
    pub notice: Option<String>,
    /// File with the whole standard output, relative to the workspace, when `stdout` is not all of it.
    pub stdout_file: Option<String>,
    /// File with the whole standard error, when `stderr` is not all of it.
    pub stderr_file: Option<String>,
}

/// One package that has changed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PackageChange {
    /// Its name.
    pub name: String,
    /// Version before; null when it was not there.
    pub before: Option<String>,
    /// Version now; null when it is gone.
    pub after: Option<String>,
}

/// One session that has imported an older version.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct StalePackage {
    /// The session.
    pub session_id: String,
    /// The package.
    pub package: String,
    /// The version that the session has.
    pub imported: Option<String>,
    /// The version that is installed.
    pub installed: Option<String>,
}

/// `list_packages`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PackageList {
    /// By name.
    pub packages: Vec<PackageEntry>,
    /// How many there are.
    pub total: u64,
    /// `sys.executable` of sessions.
    pub python: Option<String>,
}

/// One installed package.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PackageEntry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}
