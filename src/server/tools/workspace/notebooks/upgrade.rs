//! Notebooks of older formats, upgraded by nbformat in the session's environment.
//!
//! Runs in: server; nbformat runs in a process of its own, a fork of the zygote.

use std::{io, path::Path};

use tempfile::TempDir;

use crate::server::{output::numbers, tools::call::server::Server};

const SOURCE: &str = "source.ipynb";
const TARGET: &str = "target.ipynb";
/// Source and target are its arguments. Without nbformat there is no target, and the notebook is refused as what it is.
const UPGRADE: &str = "import sys
try:
    import nbformat
except ImportError:
    sys.exit()
nbformat.write(nbformat.read(sys.argv[1], as_version=4), sys.argv[2])
";

/// The text of a notebook, in format 4 if it was of an older one and can be upgraded.
pub(super) async fn upgraded(server: &Server, text: String) -> String {
    // Nearly all are of format 4 and write it so; a look is cheaper than to read the whole twice.
    if text.contains("\"nbformat\": 4") || !is_old(&text) {
        return text;
    }
    let (scratch, copy) = (server.around.scratch.clone(), text.clone());
    let prepared = tokio::task::spawn_blocking(move || prepare(&scratch, &copy)).await;
    let Ok(Ok(place)) = prepared else { return text };
    let file = |name| place.path().join(name);
    let arguments = [file(SOURCE), file(TARGET)].map(|path| path.to_string_lossy().into_owned()).to_vec();
    if let Err(error) = server.scripts.errand(UPGRADE, arguments).await {
        tracing::info!("nbformat could not upgrade a notebook: {error}");
        return text;
    }
    let target = file(TARGET);
    let upgraded = tokio::task::spawn_blocking(move || std::fs::read_to_string(target)).await;
    upgraded.ok().and_then(Result::ok).unwrap_or(text)
}

fn is_old(text: &str) -> bool {
    let version = numbers::read(text).ok().and_then(|root| root.get("nbformat")?.as_u64());
    version.is_some_and(|version| version < 4)
}

fn prepare(scratch: &Path, text: &str) -> io::Result<TempDir> {
    let place = tempfile::tempdir_in(scratch)?;
    std::fs::write(place.path().join(SOURCE), text)?;
    Ok(place)
}
