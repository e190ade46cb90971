//! What clients may send to `run_script`.
//!
//! Runs in: server. Pure.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{MAX_SECONDS, ToolError, seconds};

const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// Bytes of all arguments together; they travel in one frame.
const MAX_ARGS: usize = 64 << 10;

/// `run_script`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunScript {
    /// File, relative to the workspace; a script in scripts/ also by its name alone.
    pub path: String,
    /// Arguments, in sys.argv after the script's name.
    pub args: Option<Vec<String>>,
    /// Seconds it may run before it is interrupted, and killed when that does not end it. Default 120.
    pub timeout: Option<f64>,
}

impl RunScript {
    /// The time limit.
    ///
    /// # Errors
    /// When it is no sensible time.
    pub(crate) fn limit(&self) -> Result<Duration, ToolError> {
        Ok(seconds(self.timeout, MAX_SECONDS)?.unwrap_or(DEFAULT_LIMIT))
    }

    /// The arguments, if a process can have them.
    ///
    /// # Errors
    /// In words for whoever sent them.
    pub(crate) fn checked_args(&mut self) -> Result<Vec<String>, ToolError> {
        let args = self.args.take().unwrap_or_default();
        if let Some(place) = args.iter().position(|arg| arg.contains('\0')) {
            let words = format!("`args[{place}]` holds a NUL character, which no argument can");
            return Err(ToolError::Argument(words));
        }
        let size: usize = args.iter().map(|arg| arg.len() + 1).sum();
        if size > MAX_ARGS {
            let words = format!(
                "`args` has {size} bytes and may have {MAX_ARGS}: write the data to a file in the workspace and pass its name"
            );
            return Err(ToolError::Argument(words));
        }
        Ok(args)
    }
}
