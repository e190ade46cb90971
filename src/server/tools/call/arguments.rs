//! Reading what clients send: arguments that several tools have, and words for what is wrong with what was sent.
//!
//! Runs in: server. Pure.

use std::{path::Path, time::Duration};

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    error::{ToolError, refuse},
    forgiving,
};
use crate::settings::bounds::{MAX_CODE, MAX_SECONDS};

/// Longest description of a session, characters.
const MAX_DESCRIPTION: usize = 2000;

/// For tools that take nothing.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Nothing {}

/// For tools that are about one session.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct OfSession {
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

/// What a session is for, if it can be shown in a list.
pub(crate) fn checked_description(given: Option<String>) -> Result<String, ToolError> {
    let description = given.unwrap_or_default();
    if description.chars().count() > MAX_DESCRIPTION {
        return refuse(format!("`description` may have {MAX_DESCRIPTION} characters"));
    }
    Ok(description)
}

/// Whether code can be run at all.
///
/// # Errors
/// In words for the caller.
pub(crate) fn checked_code(code: &str) -> Result<(), ToolError> {
    if code.trim().is_empty() {
        return refuse("`code` is empty: there is nothing to run");
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
pub(crate) fn seconds(value: Option<f64>, most: f64) -> Result<Option<Duration>, ToolError> {
    match value {
        None => Ok(None),
        Some(value) if value > 0.0 && value <= most => Ok(Some(Duration::from_secs_f64(value))),
        Some(value) => refuse(format!("`timeout` is {value} and must be above 0 and at most {most} seconds")),
    }
}

/// How long a call is to wait, as a client gave it.
///
/// # Errors
/// When it is below 0, or longer than any wait.
pub(crate) fn wait(name: &str, value: Option<f64>) -> Result<Option<Duration>, ToolError> {
    match value {
        None => Ok(None),
        Some(value) if (0.0..=MAX_SECONDS).contains(&value) => Ok(Some(Duration::from_secs_f64(value))),
        Some(value) => refuse(format!("`{name}` is {value} and must be at least 0 and at most {MAX_SECONDS} seconds")),
    }
}

/// The limit of a cell.
///
/// # Errors
/// When it is no sensible time.
pub(crate) fn cell_limit(value: Option<f64>) -> Result<Option<Duration>, ToolError> {
    seconds(value, MAX_SECONDS)
}

/// Reads the arguments of a call.
///
/// # Errors
/// Names the argument that is wrong and lists those that the tool takes.
pub(crate) fn read<T: DeserializeOwned>(
    tool: &str,
    schema: &JsonObject,
    given: Option<JsonObject>,
    root: &Path,
) -> Result<T, ToolError> {
    let mut given = given.unwrap_or_default();
    let properties = schema.get("properties").and_then(Value::as_object);
    let takes = || describe(tool, schema);
    if let Some(unknown) = given.keys().find(|name| !properties.is_some_and(|known| known.contains_key(*name))) {
        return refuse(format!("{tool} has no argument {unknown:?}; {}", takes()));
    }
    if let Err(wrong) = forgiving::understand(&mut given, schema, root) {
        return refuse(format!("{tool}: {wrong}; {}", takes()));
    }
    serde_path_to_error::deserialize(Value::Object(given)).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!(" `{path}`") };
        let words = in_plain_words(&error.inner().to_string());
        ToolError::Argument(format!("{tool}: wrong argument{place}: {words}; {}", takes()))
    })
}

/// An error of reading, without the names that this program's language has for whole numbers.
fn in_plain_words(words: &str) -> String {
    match words.rsplit_once(", expected ") {
        Some((given, "u8")) => format!("{given}, expected a whole number, 0 to {}", u8::MAX),
        Some((given, "u32")) => format!("{given}, expected a whole number, 0 to {}", u32::MAX),
        Some((given, "u64" | "usize")) => format!("{given}, expected a whole number, 0 or more"),
        _ => words.to_owned(),
    }
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
    use crate::server::tools::{call::schema, cells::run::RunPythonCode};

    fn run(given: Value) -> Result<RunPythonCode, String> {
        let Value::Object(given) = given else { unreachable!("tests pass objects") };
        read("run_python_code", &schema::input::<RunPythonCode>(), Some(given), Path::new("/ws"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_argument_is_named_with_those_that_exist() {
        let error = run(json!({"kode": "1"})).expect_err("unknown");
        assert!(
            error.contains("\"kode\"") && error.contains("code (required)") && error.contains("timeout"),
            "{error}"
        );
        let error = run(json!({"code": 5})).expect_err("a number");
        assert!(error.contains("`code` is 5, expected a string"), "{error}");
        let error = run(json!({})).expect_err("missing");
        assert!(error.contains("missing field `code`"), "{error}");
        let error = run(json!({"code": "1", "timeout": "soon"})).expect_err("a string");
        assert!(error.contains("`timeout` is \"soon\", expected a number"), "{error}");
    }

    #[test]
    fn code_that_cannot_be_run_is_refused_with_the_reason() {
        let refused = |code: String| checked_code(&code).expect_err("refused").to_string();
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
    }
}
