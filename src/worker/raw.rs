//! What Python's functions return, as tuples, and the same as messages of the protocol.
//!
//! Runs in: worker main thread, GIL held.

use pyo3::{
    Bound, FromPyObject, PyResult,
    types::{PyBytes, PyBytesMethods},
};

use crate::protocol::{
    CellError, CellReport, CellStatus, Display, Imported, PlainResult, Representation, StateReport, Variable,
};

/// What Python's `run_cell` returns: status, results, error, exit code, displays, notice, what was imported.
pub(super) type RawReport<'py> =
    (String, Vec<RawResult>, Option<RawError>, Option<i32>, Vec<RawDisplay<'py>>, Option<String>, Vec<RawImport>);
/// The text of a value, with the file that has the whole where it is too long.
#[derive(FromPyObject)]
pub(super) enum RawResult {
    Whole(String),
    Shortened(String, String),
}
/// An import: module, seconds, whether the environment's variables were as at the start.
pub(super) type RawImport = (String, f64, bool);
/// An error: type, message, line, traceback, hint.
pub(super) type RawError = (String, String, Option<u32>, String, Option<String>);
/// A variable: name, type, value, shape, dtype, length, bytes.
pub(super) type RawVariable = (String, String, String, Option<Vec<u64>>, Option<String>, Option<u64>, Option<u64>);
/// A display: is it the result, id, is it an update, serial, is it late, text, metadata, representations (mime type,
/// file, bytes).
pub(super) type RawDisplay<'py> =
    (bool, Option<String>, bool, u64, bool, String, String, Vec<(String, Option<String>, Bound<'py, PyBytes>)>);
/// What Python's `save` and `load` return: names, (name, reason) of those left out, names that were replaced.
pub(super) type RawState = (Vec<String>, Vec<(String, String)>, Vec<String>);

/// What a cell came to.
pub(super) fn report((status, results, error, exit_code, displays, notice, imported): RawReport<'_>) -> CellReport {
    let status = match status.as_str() {
        "ok" => CellStatus::Ok,
        "exited" => CellStatus::Exited(exit_code.unwrap_or(0)),
        "interrupted" => CellStatus::Interrupted,
        _ => CellStatus::Error,
    };
    let error = error.map(|(kind, message, line, traceback, hint)| CellError { kind, message, line, traceback, hint });
    let results = results.into_iter().map(result).collect();
    let displays = displays.into_iter().map(display).collect();
    let imported = imported.into_iter().map(|(module, seconds, plain)| Imported { module, seconds, plain }).collect();
    CellReport { status, results, displays, notice, error, interrupted: false, imported }
}

fn result(raw: RawResult) -> PlainResult {
    match raw {
        RawResult::Whole(text) => text.into(),
        RawResult::Shortened(text, file) => PlainResult { text, whole: Some(file) },
    }
}

fn display((is_result, id, update, serial, late, text, metadata, data): RawDisplay<'_>) -> Display {
    let representation = |(mime, file, bytes): (String, Option<String>, Bound<'_, PyBytes>)| {
        let bytes = bytes.as_bytes().to_vec();
        Representation { mime, file, bytes }
    };
    Display {
        is_result,
        id,
        update,
        serial,
        late,
        text,
        metadata,
        data: data.into_iter().map(representation).collect(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "reads as the last step of a chain of results")]
pub(super) fn state_report((names, skipped, replaced): RawState) -> PyResult<StateReport> {
    Ok(StateReport { names, skipped, replaced })
}

pub(super) fn variable((name, kind, value, shape, dtype, length, bytes): RawVariable) -> Variable {
    Variable { name, kind, value, shape, dtype, length, bytes }
}
