//! The Python package `python/forkpy_worker`, as text and compiled: embedded in release builds, the text read from disk in
//! debug builds, so that an edit shows at the next start without a compile.
//!
//! Runs in: zygote, once. Knows no Python function names; `worker/python.rs` does.

use std::path::Path;

/// Name of the package.
pub(crate) const PACKAGE: &str = "forkpy_worker";

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/forkpy_worker");
/// File below the package's folder, text, and what the Python of the build compiled it to, marshalled.
const EMBEDDED: &[(&str, &str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// Which Pythons can read the compiled code: `importlib.util.MAGIC_NUMBER`.
pub(crate) const MAGIC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/magic"));

/// One module of the package.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub name: String,
    pub text: String,
    /// The text compiled and marshalled, for a Python of [`MAGIC`]; none where the text is newer.
    pub code: Option<&'static [u8]>,
    /// What tracebacks show as its file.
    pub origin: String,
    /// Whether it has modules of its own: the package itself and each room of it.
    pub is_package: bool,
}

/// All modules of the package.
#[must_use]
pub(crate) fn sources() -> Vec<Source> {
    EMBEDDED.iter().map(|(file, text, code)| source(file, text, code)).collect()
}

/// Files that the modules are read from: those of a debug build.
pub(crate) fn files() -> Vec<String> {
    let path = |(file, ..): &(&str, &str, &[u8])| format!("{FOLDER}/{file}");
    if cfg!(debug_assertions) { EMBEDDED.iter().map(path).collect() } else { Vec::new() }
}

fn source(file: &str, embedded: &str, code: &'static [u8]) -> Source {
    let path = format!("{PACKAGE}/{}", file.trim_end_matches(".py"));
    let folder = path.strip_suffix("/__init__");
    let is_package = folder.is_some();
    let name = folder.unwrap_or(&path).replace('/', ".");
    let text = from_disk(file).unwrap_or_else(|| embedded.to_owned());
    let code = (text == embedded).then_some(code);
    Source { name, text, code, origin: format!("<{PACKAGE}>/{file}"), is_package }
}

fn from_disk(file: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::fs::read_to_string(Path::new(FOLDER).join(file)).ok() } else { None }
}
