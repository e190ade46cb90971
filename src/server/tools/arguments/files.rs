//! What clients may send to the tools for files.
//!
//! Runs in: server. Pure.

use schemars::JsonSchema;
use serde::Deserialize;

/// `list_files`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListFiles {
    /// Directory, relative to the workspace; the workspace itself when left out.
    pub path: Option<String>,
    /// Also what lies below, down to max_depth. Default false.
    pub recursive: Option<bool>,
    /// A drawing under `tree`, as the program tree makes it, instead of paths under `files`; recursive. Default false.
    pub tree: Option<bool>,
    /// Levels of a recursive listing, 1 to 50. Default 3.
    pub max_depth: Option<u32>,
    /// List what is no directory. Default true.
    pub include_files: Option<bool>,
    /// List directories. Default true.
    pub include_dirs: Option<bool>,
    /// Entries to leave out at the beginning. Default 0.
    pub offset: Option<u64>,
    /// Most entries. Default 1000; fewer come when the reply would be too large.
    pub limit: Option<u64>,
}

/// `read_file`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ReadFile {
    /// File, relative to the workspace.
    pub path: String,
    /// Most bytes to read. Default 100000; at most some 400000 (300000 when it is not text).
    pub max_bytes: Option<u64>,
    /// First byte to read. Default 0.
    pub offset: Option<u64>,
    /// First line to read, counted from 1; instead of offset.
    pub start_line: Option<u64>,
    /// Last line to read.
    pub end_line: Option<u64>,
}

/// `write_file`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct WriteFile {
    /// File, relative to the workspace.
    pub path: String,
    /// All of its new content.
    pub content: String,
    /// The content is base64 of the bytes to write. Default false.
    pub binary_base64: Option<bool>,
    /// Encoding of text: utf-8, latin-1, ascii, utf-16, utf-16-le, utf-16-be. Default utf-8.
    pub encoding: Option<String>,
}

/// `delete_file`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct DeleteFile {
    /// File, relative to the workspace.
    pub path: Option<String>,
    /// Another name for path.
    pub filename: Option<String>,
    /// Delete a directory with everything in it. Default false.
    pub recursive: Option<bool>,
}

/// `save_script`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct SaveScript {
    /// Name below scripts/; `.py` is added when missing.
    pub name: String,
    /// Python source.
    pub content: String,
}
