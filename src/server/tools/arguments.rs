//! What clients may send: one struct a tool, its schema, and words for what is wrong with what they sent.
//!
//! Runs in: server. Pure.

mod checkpoints;
mod files;
mod health;
mod lookup;
mod notebooks;
mod packages;
mod saved;
mod scripts;

use std::time::Duration;

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub(crate) use self::{
    checkpoints::{
        CheckpointSession, DeleteCheckpoint, ForkSession, Keep, KeepRule, ListCheckpoints, OnCellError,
        RestoreCheckpoint, RunBranches,
    },
    files::{DeleteFile, ListFiles, ReadFile, SaveScript, WriteFile},
    health::{CheckResponsiveness, ConfigureHealth, GetKernelHealth, ListCrashes},
    lookup::{CodeCompletion, InspectObject, cursor},
    notebooks::{ExportNotebook, Format, OnError, RunNotebook},
    packages::{InstallDependencies, ListPackages},
    saved::{LoadSession, SaveSession},
    scripts::RunScript,
};
use super::ToolError;
use crate::settings::{
    bounds::{MAX_CODE, MAX_SECONDS},
    limits::Wished,
    policy::PolicyChange,
};

/// Longest limit of a responsiveness check, seconds.
const MAX_CHECK: f64 = 300.0;

/// For tools that take nothing.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Nothing {}

/// For tools that are about one session.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct OfSession {
    /// Session to look at; the active one when left out.
    pub session_id: Option<String>,
}

/// `run_python_code`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunPythonCode {
    /// Python source. Variables, imports and functions of earlier calls in the same session are there. The value of a
    /// last expression comes back in `results`; `await` works at top level.
    pub code: String,
    /// Seconds the code may run before it is interrupted (variables survive). The server's default when left out.
    pub timeout: Option<f64>,
    /// Session to run in; the active one when left out.
    pub session_id: Option<String>,
    /// `rollback`: when the code raises, times out or kills its worker, the session is as before it; files and the outside
    /// world are not rolled back. `keep` (default): it stays as the code left it.
    pub on_error: Option<OnCellError>,
}

/// `restart_kernel`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RestartKernel {
    /// Carry over every variable that can be pickled; the reply names the others. Default false.
    pub preserve_state: Option<bool>,
    /// Session to restart; the active one when left out.
    pub session_id: Option<String>,
}

/// `create_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CreateSession {
    /// Name: up to 64 letters, digits, '_', '-', '.'. Made up when left out.
    pub session_id: Option<String>,
    /// What it is for, shown by list_sessions.
    pub description: Option<String>,
    /// Thresholds and recovery policy of its own; the server's where left out.
    pub health: Option<PolicyChange>,
    /// Limits of this session; the server's when left out. They can be tighter than the server's, not looser.
    pub limits: Option<SessionLimits>,
}

/// Limits of one session.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionLimits {
    /// MiB of memory beyond what the interpreter starts with: MemoryError for code that asks for more; killed when all
    /// processes of the session together take more.
    pub memory_mb: Option<f64>,
    /// Seconds of processor time of one cell, which is interrupted then.
    pub cpu_seconds: Option<f64>,
    /// Processes beside the interpreter; the session is killed when it has more.
    pub processes: Option<u32>,
    /// Open files of each process.
    pub open_files: Option<u32>,
    /// Longest time of a cell, whatever `timeout` says.
    pub cell_seconds: Option<f64>,
    /// The session is deleted when nobody has used it for so long.
    pub idle_seconds: Option<f64>,
    /// The session is deleted when it is so old and at rest.
    pub age_seconds: Option<f64>,
}

impl From<SessionLimits> for Wished {
    fn from(asked: SessionLimits) -> Self {
        let SessionLimits { memory_mb, cpu_seconds, processes, open_files, cell_seconds, idle_seconds, age_seconds } =
            asked;
        Self { memory_mb, cpu_seconds, processes, open_files, cell_seconds, idle_seconds, age_seconds }
    }
}

/// `switch_session` and `delete_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NamedSession {
    /// Name of an existing session.
    pub session_id: String,
}

impl RunPythonCode {
    /// The code, if it can be run at all.
    ///
    /// # Errors
    /// In words for whoever wrote it.
    pub(crate) fn checked_code(self) -> Result<String, ToolError> {
        checked_code(&self.code)?;
        Ok(self.code)
    }
}

/// Whether code can be run at all.
///
/// # Errors
/// In words for whoever wrote it.
pub(crate) fn checked_code(code: &str) -> Result<(), ToolError> {
    let refuse = |words: String| Err(ToolError::Argument(words));
    if code.trim().is_empty() {
        return refuse("`code` is empty: there is nothing to run".to_owned());
    }
    if let Some(place) = code.find('\0') {
        return refuse(format!("`code` holds a NUL character (at byte {place}), which Python source cannot"));
    }
    if code.len() > MAX_CODE {
        let (size, most) = (code.len() >> 20, MAX_CODE >> 20);
        return refuse(format!(
            "`code` has {size} MiB and may have {most}: write the data to a file in the workspace and read it from there"
        ));
    }
    Ok(())
}

/// A time in seconds as a client gave it.
///
/// # Errors
/// When it is not above 0, or beyond `most`.
fn seconds(value: Option<f64>, most: f64) -> Result<Option<Duration>, ToolError> {
    match value {
        None => Ok(None),
        Some(value) if value > 0.0 && value <= most => Ok(Some(Duration::from_secs_f64(value))),
        Some(value) => {
            Err(ToolError::Argument(format!("`timeout` is {value} and must be above 0 and at most {most} seconds")))
        }
    }
}

/// The limit of a cell.
///
/// # Errors
/// When it is no sensible time.
pub(crate) fn cell_limit(value: Option<f64>) -> Result<Option<Duration>, ToolError> {
    seconds(value, MAX_SECONDS)
}

/// The limit of a responsiveness check.
///
/// # Errors
/// When it is no sensible time.
pub(crate) fn check_limit(value: Option<f64>) -> Result<Duration, ToolError> {
    Ok(seconds(value, MAX_CHECK)?.unwrap_or(Duration::from_secs(5)))
}

/// Reads the arguments of a call.
///
/// # Errors
/// Names the argument that is wrong and lists those that the tool takes.
pub(crate) fn read<T: DeserializeOwned>(
    tool: &str,
    schema: &JsonObject,
    given: Option<JsonObject>,
) -> Result<T, ToolError> {
    let given = given.unwrap_or_default();
    let properties = schema.get("properties").and_then(Value::as_object);
    let takes = || describe(tool, schema);
    if let Some(unknown) = given.keys().find(|name| !properties.is_some_and(|known| known.contains_key(*name))) {
        return Err(ToolError::Argument(format!("{tool} has no argument {unknown:?}; {}", takes())));
    }
    serde_path_to_error::deserialize(Value::Object(given)).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!(" `{path}`") };
        ToolError::Argument(format!("{tool}: wrong argument{place}: {}; {}", error.inner(), takes()))
    })
}

fn describe(tool: &str, schema: &JsonObject) -> String {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let names: Vec<String> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|properties| properties.keys())
        .map(|name| if required.contains(&name.as_str()) { format!("{name} (required)") } else { name.clone() })
        .collect();
    if names.is_empty() { format!("{tool} takes no arguments") } else { format!("it takes: {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::tools::call::schema;

    fn run(given: Value) -> Result<RunPythonCode, String> {
        let Value::Object(given) = given else { unreachable!("tests pass objects") };
        read("run_python_code", &schema::input::<RunPythonCode>(), Some(given)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_argument_is_named_with_those_that_exist() {
        let error = run(json!({"kode": "1"})).expect_err("unknown");
        assert!(
            error.contains("\"kode\"") && error.contains("code (required)") && error.contains("timeout"),
            "{error}"
        );
        let error = run(json!({"code": 5})).expect_err("a number");
        assert!(error.contains("`code`") && error.contains("integer `5`"), "{error}");
        let error = run(json!({})).expect_err("missing");
        assert!(error.contains("missing field `code`"), "{error}");
        let error = run(json!({"code": "1", "timeout": "soon"})).expect_err("a string");
        assert!(error.contains("`timeout`"), "{error}");
    }

    #[test]
    fn code_that_cannot_be_run_is_refused_with_the_reason() {
        let refused = |code: String| {
            RunPythonCode { code, timeout: None, session_id: None, on_error: None }
                .checked_code()
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(" \n".to_owned()).contains("empty"));
        assert!(refused("a\0b".to_owned()).contains("NUL"));
        assert!(refused("#".repeat(MAX_CODE + 1)).contains("16"));
    }

    #[test]
    fn times_must_be_sensible() {
        for bad in [0.0, -1.0, 1e12, f64::INFINITY, f64::NAN] {
            assert!(cell_limit(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(cell_limit(Some(0.5)).expect("fine"), Some(Duration::from_millis(500)));
        assert_eq!(check_limit(None).expect("fine"), Duration::from_secs(5));
    }
}
