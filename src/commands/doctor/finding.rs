//! What a check found.
//!
//! Runs in: a process of its own. Pure data.

use serde::Serialize;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// As it should be.
    Ok,
    /// Sessions run, but something is missing.
    Warning,
    /// Sessions do not run.
    Failed,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it went.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do about it; none where nothing is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, seen: seen.into(), remedy: None }
    }

    pub(super) fn warning(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warning, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn failed(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Failed, seen: seen.into(), remedy: Some(remedy.into()) }
    }
}
