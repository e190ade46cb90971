//! An earlier run, to hold this one against.
//!
//! Runs in: bench.

use std::{fs, path::Path};

use super::{
    BenchError,
    report::{FORMAT, Report},
};

/// Reads what `--json` printed.
pub(crate) fn read(path: &Path) -> Result<Report, BenchError> {
    let fail = |reason: String| BenchError::Compare { path: path.display().to_string(), reason };
    let text = fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| fail(format!("it is not what `forkpy bench --json` prints: {error}")))?;
    if report.format == FORMAT {
        Ok(report)
    } else {
        Err(fail(format!("its format is {} and this forkpy writes {FORMAT}: measure again", report.format)))
    }
}
