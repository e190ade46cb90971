//! Tools for files of the workspace.
//!
//! Runs in: server. Checks, sends the work to a blocking thread and shapes the reply; what may be done with a path is in
//! `server/workspace/handle.rs`.

use base64::{Engine, engine::general_purpose::STANDARD};
use rmcp::model::{CallToolResult, ContentBlock};

use super::drawing::Drawing;
use crate::server::{
    tools::{
        Call, ToolError,
        arguments::{DeleteFile, ListFiles, ReadFile, SaveScript, WriteFile},
        call::{links, server::Server},
        reply, reply_with_text,
        results::{DeletedFile, FilePiece, Files as FilesPage, SavedScript, WrittenFile},
    },
    workspace::{
        handle::FileError,
        list::{Entry, Listing, MAX_DEPTH, MAX_WALK, Survey},
        read::{Content, Piece, REPLY_BUDGET, Selection, json_cost},
        write::Body,
    },
};

const DEFAULT_DEPTH: u32 = 3;
const DEFAULT_LIMIT: u64 = 1000;
/// What a path takes in a reply beside its letters, bytes.
const PATH_FRAME: usize = 16;

pub(in crate::server) async fn list(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ListFiles = call.read("list_files")?;
    let max_depth = asked.max_depth.unwrap_or(DEFAULT_DEPTH);
    if !(1..=MAX_DEPTH).contains(&max_depth) {
        return refuse(format!("`max_depth` is {max_depth} and must be 1 to {MAX_DEPTH}"));
    }
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 {
        return refuse("`limit` is 0 and must be at least 1".to_owned());
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
    let (files, cancel) = (server.files.clone(), call.context.ct.clone());
    let listing = blocking(move || files.list(&survey, &cancel)).await?;
    let drawing = tree.then(|| Drawing::new(server.files.root(), &listing.root));
    reply(&page(listing, offset, recursive, drawing))
}

pub(in crate::server) async fn read(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ReadFile = call.read("read_file")?;
    if asked.max_bytes == Some(0) {
        return refuse("`max_bytes` is 0 and must be at least 1".to_owned());
    }
    let selection = Selection {
        lines: lines(&asked)?,
        path: asked.path.clone(),
        offset: asked.offset.unwrap_or(0),
        max_bytes: asked.max_bytes,
    };
    let (files, cancel) = (server.files.clone(), call.context.ct.clone());
    blocking(move || Ok(piece(asked.path, files.read(&selection, &cancel)?))).await?
}

pub(in crate::server) async fn write(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let WriteFile { path, content, binary_base64, encoding } = call.read("write_file")?;
    let body = Body { content, base64: binary_base64.unwrap_or(false), encoding };
    let files = server.files.clone();
    let written = blocking(move || files.write(&path, &body)).await?;
    let full_path = written.full_path.to_string_lossy().into_owned();
    let reply = reply(&WrittenFile { path: written.path.clone(), full_path, size: written.size })?;
    Ok(linked(server, call, reply, &written.path))
}

pub(in crate::server) async fn delete(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: DeleteFile = call.read("delete_file")?;
    let path = match (asked.path, asked.filename) {
        (Some(path), Some(filename)) if path != filename => {
            return refuse("`path` and `filename` are two names for the same argument: give one of them".to_owned());
        }
        (Some(path), _) | (None, Some(path)) => path,
        (None, None) => return refuse("`path` is missing: which file is to be deleted?".to_owned()),
    };
    let (files, recursive) = (server.files.clone(), asked.recursive.unwrap_or(false));
    let path = blocking(move || files.delete(&path, recursive)).await?;
    reply(&DeletedFile { deleted: true, success: true, path })
}

pub(in crate::server) async fn save_script(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: SaveScript = call.read("save_script")?;
    let files = server.files.clone();
    let written = blocking(move || files.save_script(&asked.name, &asked.content)).await?;
    let full_path = written.full_path.to_string_lossy().into_owned();
    let reply = reply(&SavedScript { script: written.path.clone(), full_path, size: written.size })?;
    Ok(linked(server, call, reply, &written.path))
}

/// A result with a link to the file it is about.
fn linked(server: &Server, call: &Call, mut result: CallToolResult, path: &str) -> CallToolResult {
    links::add(&mut result, &call.context, server.files.root(), [path]);
    result
}

/// The server's one thread waits for no disk.
pub(in crate::server) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, ToolError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(FileError::Lost)??)
}

fn refuse<T>(words: String) -> Result<T, ToolError> {
    Err(ToolError::Argument(words))
}

fn lines(asked: &ReadFile) -> Result<Option<(u64, Option<u64>)>, ToolError> {
    if asked.start_line.is_none() && asked.end_line.is_none() {
        return Ok(None);
    }
    if asked.offset.is_some() {
        return refuse(
            "`offset` counts bytes and `start_line`, `end_line` count lines: give one or the other".to_owned(),
        );
    }
    let first = asked.start_line.unwrap_or(1);
    if first == 0 {
        return refuse("`start_line` is 0: lines are counted from 1".to_owned());
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

fn piece(path: String, piece: Piece) -> Result<CallToolResult, ToolError> {
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
    let Some(image) = image else { return reply(&value) };
    // The picture itself is in its own block: the text need not repeat it.
    let base64 = value.base64.take();
    let text = serde_json::to_string(&value)?;
    value.base64 = base64;
    let mut result = reply_with_text(&value, text, false)?;
    result.content.push(ContentBlock::image(STANDARD.encode(image.bytes), image.mime));
    Ok(result)
}
