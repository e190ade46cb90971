//! The Python package `python/forkpy_worker`, as text: embedded in release builds, read from disk in debug builds, so
//! that an edit shows at the next start without a compile.
//!
//! Runs in: zygote, once. Knows no Python function names; `worker/python.rs` does.

use std::path::Path;

/// Name of the package.
pub const PACKAGE: &str = "forkpy_worker";

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/forkpy_worker");
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// One module of the package.
#[derive(Debug, Clone)]
pub struct Source {
    /// Dotted name.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What tracebacks show as its file.
    pub origin: String,
    /// Whether it is the package itself.
    pub is_package: bool,
}

/// All modules of the package.
#[must_use]
pub fn sources() -> Vec<Source> {
    EMBEDDED.iter().map(|(file, text)| source(file, text)).collect()
}

fn source(file: &str, embedded: &str) -> Source {
    let stem = file.trim_end_matches(".py");
    let is_package = stem == "__init__";
    let name = if is_package { PACKAGE.to_owned() } else { format!("{PACKAGE}.{stem}") };
    let text = from_disk(file).unwrap_or_else(|| embedded.to_owned());
    Source { name, text, origin: format!("<{PACKAGE}>/{file}"), is_package }
}

fn from_disk(file: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::fs::read_to_string(Path::new(FOLDER).join(file)).ok() } else { None }
}
