//! What the zygote imports so that workers need not: first the least, later and behind the common rest.
//!
//! Runs in: zygote.

use std::collections::VecDeque;

use pyo3::{PyResult, Python, types::PyAnyMethods};

use super::fork;
use crate::sys::forks::Bystanders;

/// How the modules of `--preload` fared.
pub(crate) enum Preloaded {
    /// All that could be imported are; the others, with reasons.
    Without(Vec<(String, String)>),
    /// One has started threads that a fork would lose, named here: this process can fork no session any more.
    Unforkable { module: String, threads: Vec<String> },
}

/// Imports what a first plain cell needs and what `--preload` names, in the environment as it is: libraries count the
/// processors, and read variables, as in any program. `announce` is told of each module before it is imported.
///
/// # Errors
/// When the embedded package itself fails.
pub(crate) fn stage_one(
    py: Python<'_>,
    modules: &[String],
    bystanders: &mut Bystanders,
    announce: impl Fn(&str),
) -> PyResult<Preloaded> {
    let warm = py.import("forkpy_worker.session.warm")?;
    let mut rejected = Vec::new();
    for module in modules {
        announce(module);
        let reason: Option<String> = warm.getattr("preload")?.call1((module,))?.extract()?;
        if let Some(reason) = reason {
            rejected.push((module.clone(), reason));
        }
        let threads = bystanders.lost();
        if !threads.is_empty() {
            return Ok(Preloaded::Unforkable { module: module.clone(), threads });
        }
    }
    warm.getattr("stage_one")?.call0()?;
    if !modules.is_empty() {
        fork::rehearse(py);
    }
    Ok(Preloaded::Without(rejected))
}

/// What to import while no request waits.
///
/// # Errors
/// When the embedded package itself fails.
pub(crate) fn second_stage(py: Python<'_>) -> PyResult<VecDeque<String>> {
    Ok(py.import("forkpy_worker.session.warm")?.getattr("COMMON")?.extract::<Vec<String>>()?.into())
}

/// Imports one of them; after the last one the collector is told that all this is here to stay. A Python built without
/// one of them goes on without: the code that needs it will be told.
pub(crate) fn import_behind(py: Python<'_>, module: &str, last: bool) {
    let _ = py.import(module);
    if last {
        let _ = py.import("forkpy_worker.session.warm").and_then(|warm| warm.getattr("settle")?.call0());
    }
}
