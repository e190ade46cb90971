//! A few lines of forkpy's own that look at the environment and answer by a file.
//!
//! Runs in: server; the lines run in a fork of the zygote, which sees what sessions see and is not confined.

use serde::de::DeserializeOwned;

use super::error::PackageError;
use crate::server::{
    scripts::{ScriptError, Scripts},
    sessions::context::Surroundings,
};

/// Has a few lines of our own look at something and write the answer into a file, whose path is their first argument.
///
/// # Errors
/// When they did not run to their end.
pub(super) async fn errand<T: DeserializeOwned>(
    (around, scripts): (&Surroundings, &Scripts),
    lines: &str,
    args: &[&str],
) -> Result<T, PackageError> {
    let file = tempfile::NamedTempFile::new_in(&around.scratch).map_err(|error| failed(&error))?;
    let place = file.path().to_string_lossy().into_owned();
    scripts.errand(lines, std::iter::once(place).chain(args.iter().map(ToString::to_string)).collect()).await?;
    let text = std::fs::read(file.path()).map_err(|error| failed(&error))?;
    serde_json::from_slice(&text).map_err(|error| failed(&error))
}

pub(super) fn failed(error: &dyn std::fmt::Display) -> PackageError {
    PackageError::Script(ScriptError::Errand(error.to_string()))
}
