//! What the tools for files give back.
//!
//! Runs in: server. Pure data.

use schemars::JsonSchema;
use serde::Serialize;

/// `list_files`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Files {
    /// The directory, relative to the workspace; `.` is the workspace.
    pub root: String,
    /// Paths relative to the workspace; directories end in '/'. Absent when a tree was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// The directory as a drawing: one line for each entry, directories first and with '/' at their end. Absent unless
    /// asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// Entries that there are, on all pages.
    pub total: u64,
    /// Entries left out at the beginning.
    pub offset: u64,
    /// There are entries after these.
    pub truncated: bool,
    /// Where the next page begins; null on the last.
    pub next_offset: Option<u64>,
    /// Directories not looked into because they lie deeper than max_depth; 0 unless recursive.
    pub too_deep: u64,
    /// Directories that could not be read.
    pub unreadable: u64,
    /// What to know about the listing, in a sentence.
    pub notice: Option<String>,
}

/// `read_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct FilePiece {
    /// The file, as it was asked for.
    pub path: String,
    /// The contents, when they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The contents, when they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The contents are in `base64`.
    pub binary: bool,
    /// `utf-8` or `base64`.
    pub encoding: &'static str,
    /// Bytes of the whole file.
    pub size: u64,
    /// First byte of these contents.
    pub offset: u64,
    /// Bytes of the file that these contents are.
    pub bytes_read: u64,
    /// There is more of what was asked for.
    pub truncated: bool,
    /// Where to read on; null when there is no more of what was asked for.
    pub next_offset: Option<u64>,
    /// First line in these contents; null unless lines were asked for.
    pub start_line: Option<u64>,
    /// Last line in these contents, perhaps cut.
    pub end_line: Option<u64>,
    /// Type of the image that comes with this reply.
    pub image: Option<&'static str>,
}

/// `write_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct WrittenFile {
    /// Relative to the workspace.
    pub path: String,
    /// Absolute.
    pub full_path: String,
    /// Bytes.
    pub size: u64,
}

/// `delete_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DeletedFile {
    /// True.
    pub deleted: bool,
    /// True.
    pub success: bool,
    /// Relative to the workspace.
    pub path: String,
}

/// `save_script`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SavedScript {
    /// Relative to the workspace.
    pub script: String,
    /// Absolute.
    pub full_path: String,
    /// Bytes.
    pub size: u64,
}
