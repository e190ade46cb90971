//! What the zygote imports so that workers need not: first the least, later and behind the common rest.
//!
//! Runs in: zygote.

use std::collections::VecDeque;

use pyo3::{PyResult, Python, types::PyAnyMethods};

use crate::sys::processes;

/// Imports what a first plain cell needs and what `--preload` names; returns the modules that could not be, with reasons.
///
/// # Errors
/// When the embedded package itself fails.
pub fn stage_one(py: Python<'_>, modules: &[String]) -> PyResult<Vec<(String, String)>> {
    let warm = py.import("forkpy_worker.session.warm")?;
    let mut rejected = Vec::new();
    for module in modules {
        let reason: Option<String> = warm.getattr("preload")?.call1((module,))?.extract()?;
        if let Some(reason) = reason {
            rejected.push((module.clone(), reason));
        }
        let threads = processes::other_thread_names();
        if !threads.is_empty() {
            let words = format!(
                "preloading {module:?} started threads {threads:?}, which do not survive a fork; leave it out of --preload"
            );
            return Err(pyo3::exceptions::PyRuntimeError::new_err(words));
        }
    }
    warm.getattr("stage_one")?.call0()?;
    Ok(rejected)
}

/// What to import when nobody is waiting.
///
/// # Errors
/// When the embedded package itself fails.
pub fn second_stage(py: Python<'_>) -> PyResult<VecDeque<String>> {
    Ok(py.import("forkpy_worker.session.warm")?.getattr("COMMON")?.extract::<Vec<String>>()?.into())
}

/// Imports one of them; after the last one the collector is told that all this is here to stay. A Python built without
/// one of them goes on without: whoever needs it will be told.
pub fn import_behind(py: Python<'_>, module: &str, last: bool) {
    let _ = py.import(module);
    if last {
        let _ = py.import("forkpy_worker.session.warm").and_then(|warm| warm.getattr("settle")?.call0());
    }
}
