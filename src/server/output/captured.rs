//! What became of the output of a process, and how forkpy ended it.
//!
//! Runs in: server. Pure data.

use serde::{Deserialize, Serialize};

use super::marks::Mark;

/// One stream of a cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedText {
    /// At most the cap, head and tail.
    pub text: String,
    /// Bytes written in all.
    pub total: u64,
    /// File with the whole, relative to the workspace, when `text` is not all.
    pub file: Option<String>,
    /// Where in `text` something was displayed or taken back: byte offsets, ascending.
    pub marks: Vec<(usize, Mark)>,
    /// Where each of them is in the file; none when there is no file.
    pub marks_in_file: Vec<u64>,
    /// Bytes in the file.
    pub file_size: u64,
}

/// How forkpy ended a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// It had not begun.
    NotStarted,
    /// KeyboardInterrupt; the worker lives on.
    Interrupt,
    /// The same, but the code caught it, or made something else of it, and came to an end of its own.
    Caught,
    /// SIGKILL after the interrupt had not arrived within the grace time.
    Kill,
}
