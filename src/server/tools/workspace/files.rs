//! Tools for files of the workspace: what they take, what they give, what they do.
//!
//! Runs in: server. Checks, sends the work to a blocking thread and shapes the reply; what may be done with a path is in
//! `server/workspace/handle.rs`.

use base64::{Engine, engine::general_purpose::STANDARD};
use rmcp::model::ContentBlock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drawing::Drawing;
use crate::server::{
    tools::call::{
        error::{ToolError, refuse},
        reply::Reply,
        request::Call,
        server::{Server, blocking},
    },
    workspace::{
        list::{Entry, Listing, MAX_DEPTH, MAX_WALK, Survey},
        read::{Content, Piece, REPLY_BUDGET, Selection, json_cost},
        write::Body,
    },
};

const DEFAULT_DEPTH: u32 = 3;

const DEFAULT_LIMIT: u64 = 1000;

/// What a path takes in a reply beside its letters, bytes.
const PATH_FRAME: usize = 16;

/// `list_files`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListFiles {
    /// Directory. Default: the workspace.
    pub(crate) path: Option<String>,
    /// Also what lies below, to max_depth.
    pub(crate) recursive: Option<bool>,
    /// A drawing instead of paths; recursive.
    pub(crate) tree: Option<bool>,
    /// Levels of a recursive listing, 1 to 50. Default 3.
    pub(crate) max_depth: Option<u32>,
    /// Default true.
    pub(crate) include_files: Option<bool>,
    /// Default true.
    pub(crate) include_dirs: Option<bool>,
    /// Entries to leave out.
    pub(crate) offset: Option<u64>,
    /// Most entries. Default 1000.
    pub(crate) limit: Option<u64>,
}

/// `read_file`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ReadFile {
    /// File, relative to the workspace.
    pub(crate) path: String,
    /// Most bytes. Default 30000, at most 400000.
    pub(crate) max_bytes: Option<u64>,
    /// First byte.
    pub(crate) offset: Option<u64>,
    /// First line, from 1; instead of offset.
    pub(crate) start_line: Option<u64>,
    /// Last line.
    pub(crate) end_line: Option<u64>,
}

/// `write_file`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct WriteFile {
    /// File, relative to the workspace.
    pub(crate) path: String,
    /// Its whole content.
    pub(crate) content: String,
    /// The content is base64.
    pub(crate) binary_base64: Option<bool>,
    /// utf-8 (default), latin-1, ascii, utf-16, utf-16-le, utf-16-be.
    pub(crate) encoding: Option<String>,
}

/// `delete_file`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct DeleteFile {
    /// File, relative to the workspace.
    pub(crate) path: Option<String>,
    /// Another name for path.
    pub(crate) filename: Option<String>,
    /// A directory with everything in it.
    pub(crate) recursive: Option<bool>,
}

/// `save_script`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct SaveScript {
    /// Name below scripts/; `.py` is added when missing.
    pub(crate) name: String,
    /// Python source.
    pub(crate) content: String,
}

/// `list_files`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct FilesPage {
    /// The directory, relative to the workspace; `.` is the workspace.
    pub(crate) root: String,
    /// Paths relative to the workspace; directories end in '/'. Absent when a tree was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Vec<String>>,
    /// The directory as a drawing: one line for each entry, directories first and with '/' at their end. Absent unless
    /// asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tree: Option<String>,
    /// Entries that there are, on all pages.
    pub(crate) total: u64,
    /// Entries left out at the beginning.
    pub(crate) offset: u64,
    /// There are entries after these.
    pub(crate) truncated: bool,
    /// Where the next page begins, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_offset: Option<u64>,
    /// Directories not looked into because they lie deeper than max_depth; 0 unless recursive.
    pub(crate) too_deep: u64,
    /// Directories that could not be read.
    pub(crate) unreadable: u64,
    /// What to know about the listing, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
}

/// `read_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct FilePiece {
    /// The file, as it was asked for.
    pub(crate) path: String,
    /// The contents, when they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// The contents, when they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
    /// The contents are in `base64`.
    pub(crate) binary: bool,
    /// `utf-8` or `base64`.
    pub(crate) encoding: &'static str,
    /// Bytes of the whole file.
    pub(crate) size: u64,
    /// First byte of these contents.
    pub(crate) offset: u64,
    /// Bytes of the file that these contents are.
    pub(crate) bytes_read: u64,
    /// There is more of what was asked for.
    pub(crate) truncated: bool,
    /// Where to read on, when there is more of what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_offset: Option<u64>,
    /// First line in these contents, when lines were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_line: Option<u64>,
    /// Last line in these contents, perhaps cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) end_line: Option<u64>,
    /// Type of the image that comes with this reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<&'static str>,
}

/// `write_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct WrittenFile {
    /// Relative to the workspace.
    pub(crate) path: String,
    /// Absolute.
    pub(crate) full_path: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// `delete_file`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DeletedFile {
    /// True.
    pub(crate) deleted: bool,
    /// True.
    pub(crate) success: bool,
    /// Relative to the workspace.
    pub(crate) path: String,
}

/// `save_script`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SavedScript {
    /// Relative to the workspace.
    pub(crate) script: String,
    /// Absolute.
    pub(crate) full_path: String,
    /// Bytes.
    pub(crate) size: u64,
}

pub(crate) async fn list(server: &Server, call: &Call, asked: ListFiles) -> Result<Reply<FilesPage>, ToolError> {
    let max_depth = asked.max_depth.unwrap_or(DEFAULT_DEPTH);
    if !(1..=MAX_DEPTH).contains(&max_depth) {
        return refuse(format!("`max_depth` is {max_depth} and must be 1 to {MAX_DEPTH}"));
    }
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 {
        return refuse("`limit` is 0 and must be at least 1");
    }
    let offset = asked.offset.unwrap_or(0);
    let tree = asked.tree.unwrap_or(false);
    let recursive = tree || asked.recursive.unwrap_or(false);
    let survey = Survey {
        directories_first: tree,
        // Clients send an empty path for the workspace as well as none.
        path: asked.path.filter(|path| !path.is_empty()).unwrap_or_else(|| ".".to_owned()),
        depth: if recursive { max_depth } else { 1 },
        files: asked.include_files.unwrap_or(true),
        directories: asked.include_dirs.unwrap_or(true),
        skip: usize::try_from(offset).unwrap_or(usize::MAX),
        take: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let (files, cancel) = (server.files(call)?, call.context.ct.clone());
    let root = files.root().to_owned();
    let listing = blocking(move || files.list(&survey, &cancel)).await?;
    let drawing = tree.then(|| Drawing::new(&root, &listing.root));
    Ok(Reply::of(page(listing, offset, recursive, drawing)))
}

pub(crate) async fn read(server: &Server, call: &Call, asked: ReadFile) -> Result<Reply<FilePiece>, ToolError> {
    if asked.max_bytes == Some(0) {
        return refuse("`max_bytes` is 0 and must be at least 1");
    }
    let selection = Selection {
        lines: lines(&asked)?,
        path: asked.path.clone(),
        offset: asked.offset.unwrap_or(0),
        max_bytes: asked.max_bytes,
    };
    let (files, cancel) = (server.files(call)?, call.context.ct.clone());
    let found = blocking(move || files.read(&selection, &cancel)).await?;
    piece(asked.path, found)
}

pub(crate) async fn write(server: &Server, call: &Call, asked: WriteFile) -> Result<Reply<WrittenFile>, ToolError> {
    let WriteFile { path, content, binary_base64, encoding } = asked;
    let body = Body { content, base64: binary_base64.unwrap_or(false), encoding };
    let files = server.files_with_room(call)?;
    let written = blocking(move || files.write(&path, &body)).await?;
    let full_path = written.full_path.to_string_lossy().into_owned();
    let file = written.path.clone();
    Ok(Reply::of(WrittenFile { path: written.path, full_path, size: written.size }).files([&file]))
}

pub(crate) async fn delete(server: &Server, call: &Call, asked: DeleteFile) -> Result<Reply<DeletedFile>, ToolError> {
    let path = match (asked.path, asked.filename) {
        (Some(path), Some(filename)) if path != filename => {
            return refuse("`path` and `filename` are two names for the same argument: give one of them");
        }
        (Some(path), _) | (None, Some(path)) => path,
        (None, None) => return refuse("`path` is missing: which file is to be deleted?".to_owned()),
    };
    let (files, recursive) = (server.files(call)?, asked.recursive.unwrap_or(false));
    let path = blocking(move || files.delete(&path, recursive)).await?;
    Ok(Reply::of(DeletedFile { deleted: true, success: true, path }))
}

pub(crate) async fn save_script(
    server: &Server,
    call: &Call,
    asked: SaveScript,
) -> Result<Reply<SavedScript>, ToolError> {
    let files = server.files_with_room(call)?;
    let written = blocking(move || files.save_script(&asked.name, &asked.content)).await?;
    let full_path = written.full_path.to_string_lossy().into_owned();
    let file = written.path.clone();
    Ok(Reply::of(SavedScript { script: written.path, full_path, size: written.size }).files([&file]))
}

fn lines(asked: &ReadFile) -> Result<Option<(u64, Option<u64>)>, ToolError> {
    if asked.start_line.is_none() && asked.end_line.is_none() {
        return Ok(None);
    }
    if asked.offset.is_some() {
        return refuse("`offset` counts bytes and `start_line`, `end_line` count lines: give one or the other");
    }
    let first = asked.start_line.unwrap_or(1);
    if first == 0 {
        return refuse("`start_line` is 0: lines are counted from 1");
    }
    match asked.end_line {
        Some(last) if last < first => {
            refuse(format!("`end_line` is {last} and must not come before `start_line`, {first}"))
        }
        last => Ok(Some((first, last))),
    }
}

fn page(listing: Listing, offset: u64, recursive: bool, mut drawing: Option<Drawing>) -> FilesPage {
    let Listing { root, entries, total, too_deep, unreadable, incomplete } = listing;
    let total = total as u64;
    let mut cost = 0;
    let shown: Vec<Entry> = entries
        .into_iter()
        .take_while(|entry| {
            cost += match &mut drawing {
                Some(drawing) => drawing.add(&entry.path),
                None => json_cost(&entry.path) + PATH_FRAME,
            };
            cost <= REPLY_BUDGET
        })
        .collect();
    let next = offset.saturating_add(shown.len() as u64);
    let truncated = next < total;
    let (files, tree) = match drawing {
        Some(drawing) => (None, Some(drawing.finish(shown.len()))),
        None => (Some(shown.into_iter().map(|entry| entry.path).collect()), None),
    };
    FilesPage {
        root,
        files,
        tree,
        total,
        offset,
        truncated,
        next_offset: truncated.then_some(next),
        too_deep: if recursive { too_deep } else { 0 },
        unreadable,
        notice: incomplete.then(|| {
            format!("only the first {MAX_WALK} entries were looked at: list a directory further down for the others")
        }),
    }
}

fn piece(path: String, piece: Piece) -> Result<Reply<FilePiece>, ToolError> {
    let Piece { content, size, offset, length, truncated, lines, image } = piece;
    let (text, base64) = match content {
        Content::Text(text) => (Some(text), None),
        Content::Bytes(bytes) => (None, Some(STANDARD.encode(bytes))),
    };
    let mut value = FilePiece {
        path,
        binary: base64.is_some(),
        encoding: if base64.is_some() { "base64" } else { "utf-8" },
        text,
        base64,
        size,
        offset,
        bytes_read: length,
        truncated,
        next_offset: truncated.then(|| offset.saturating_add(length)),
        start_line: lines.map(|(first, _)| first),
        end_line: lines.map(|(_, last)| last),
        image: image.as_ref().map(|image| image.mime),
    };
    let Some(image) = image else {
        let text = value.text.as_deref().map(|text| shown(text, &value));
        let reply = Reply::of(value);
        return Ok(match text {
            // Of what was asked for nothing is left out in the middle.
            Some(text) => reply.text(text).at_most(usize::MAX),
            None => reply,
        });
    };
    // The picture itself is in its own block: the text need not repeat it.
    let base64 = value.base64.take();
    let text = serde_json::to_string(&value)?;
    value.base64 = base64;
    Ok(Reply::of(value).text(text).pictures([ContentBlock::image(STANDARD.encode(image.bytes), image.mime)]))
}

/// The text itself, and how to go on when there is more. An empty text alone would not say why it is empty.
fn shown(text: &str, piece: &FilePiece) -> String {
    match piece.next_offset {
        _ if piece.size == 0 => "[the file is empty]".to_owned(),
        _ if piece.offset >= piece.size => {
            format!("[nothing at offset {}: the file has {} bytes]", piece.offset, piece.size)
        }
        Some(next) => format!(
            "{text}\n[bytes {} to {} of {}; pass offset {next} to read on]",
            piece.offset,
            next.saturating_sub(1),
            piece.size
        ),
        None => text.to_owned(),
    }
}
