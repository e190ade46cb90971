//! What clients may send about packages.
//!
//! Runs in: server. Pure.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{MAX_SECONDS, ToolError, seconds};

const DEFAULT_LIMIT: Duration = Duration::from_secs(600);

/// `install_dependencies`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct InstallDependencies {
    /// One requirement each: `numpy`, `numpy>=2,<3`, `requests[socks]`, a wheel in the workspace (`dist/x-1.0-py3-none-any.whl`),
    /// `-r requirements.txt` of the workspace. Also `--upgrade`, `--pre`, `--no-deps`, `--force-reinstall`.
    pub packages: Vec<String>,
    /// Seconds it may take. Default 600.
    pub timeout: Option<f64>,
}

/// `list_packages`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListPackages {
    /// Only packages with this in their name.
    pub filter: Option<String>,
}

impl InstallDependencies {
    /// The time limit.
    ///
    /// # Errors
    /// When it is no sensible time.
    pub(crate) fn limit(&self) -> Result<Duration, ToolError> {
        Ok(seconds(self.timeout, MAX_SECONDS)?.unwrap_or(DEFAULT_LIMIT))
    }
}
