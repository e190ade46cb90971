//! What a worker reports of a cell and of its variables.
//!
//! Runs in: worker (makes) and server (reads).

use serde::{Deserialize, Serialize};

/// What a cell came to, as far as the worker can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellReport {
    pub status: CellStatus,
    /// The last expression's value, if it had one and nothing richer: then it is among the displays.
    pub results: Vec<PlainResult>,
    /// What it displayed, in order.
    pub displays: Vec<Display>,
    /// What to know about the session, in sentences.
    pub notice: Option<String>,
    /// The exception, if one ended it.
    pub error: Option<CellError>,
    /// An interrupt was sent to it while it ran, whatever its code made of that.
    pub interrupted: bool,
    /// What its code has imported that was installed and took long.
    pub imported: Vec<Imported>,
}

/// The text of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainResult {
    /// Its `repr`; head and tail where that is too long.
    pub text: String,
    /// File with the whole, relative to the workspace, when `text` is not all of it.
    pub whole: Option<String>,
}

impl From<String> for PlainResult {
    /// Of a text that is all of it.
    fn from(text: String) -> Self {
        Self { text, whole: None }
    }
}

/// An import by a cell's code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Imported {
    pub module: String,
    /// How long it took.
    pub seconds: f64,
    /// The variables of the environment were as at the start: none had been set for it.
    pub plain: bool,
}

/// One thing that a cell displayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Display {
    /// It is the value of the last expression, and not a call of `display`.
    pub is_result: bool,
    /// The name by which `update_display` finds it.
    pub id: Option<String>,
    /// It replaces what an earlier cell displayed under this id.
    pub update: bool,
    /// Its number among the displays and clearings of this worker; the marks in the output streams have it too.
    pub serial: u64,
    /// It was displayed when the cell's code had ended: a figure that was still open.
    pub late: bool,
    /// What can be read of it without a screen.
    pub text: String,
    /// A JSON object, as Jupyter's messages have it.
    pub metadata: String,
    /// Its representations, in the order of the mime bundle.
    pub data: Vec<Representation>,
}

/// One representation of what a cell displayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Representation {
    /// `image/png` and so on.
    pub mime: String,
    /// Where it was saved, relative to the workspace; plain text is not.
    pub file: Option<String>,
    /// Text as UTF-8, pictures as they are; empty when it is too large to be sent.
    pub bytes: Vec<u8>,
}

/// How a cell ended inside a living worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CellStatus {
    /// To its last line.
    Ok,
    Error,
    /// By `SystemExit`, with the code a script would exit with.
    Exited(i32),
    Interrupted,
}

/// An exception, in parts a client can use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellError {
    pub kind: String,
    pub message: String,
    /// Line of the cell, from 1.
    pub line: Option<u32>,
    /// The traceback as printed.
    pub traceback: String,
    /// What can be done about it, when that is known.
    pub hint: Option<String>,
}

/// A variable of a session, as far as it can be told without running much of its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    /// Its class, with the module unless that is `builtins`.
    pub kind: String,
    /// Its value in short.
    pub value: String,
    /// Of arrays and tables.
    pub shape: Option<Vec<u64>>,
    /// Type of the elements; of tables, of the columns.
    pub dtype: Option<String>,
    /// `len()`, of what has it at no cost.
    pub length: Option<u64>,
    /// Memory it takes, without what it refers to unless it knows that itself.
    pub bytes: Option<u64>,
}

/// What was carried over, and what not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    pub names: Vec<String>,
    /// Names left out, with the reason.
    pub skipped: Vec<(String, String)>,
    /// Names that stood for something else before.
    pub replaced: Vec<String>,
}
