//! Reads a part of a file: some bytes from an offset, or some lines, in memory that does not grow with the file.
//!
//! Owns the size of what one reply may hold, and the line between text and bytes. Opens regular files only; nothing here
//! waits for the other end of a pipe.
//!
//! Runs in: server, on its blocking threads.

use std::{io, os::unix::fs::FileExt};

use cap_fs_ext::OpenOptionsSyncExt;
use cap_std::fs::OpenOptions;
use tokio_util::sync::CancellationToken;

use crate::server::workspace::handle::{FileError, Files, Shown, checked, kind, trouble};

/// Bytes of JSON that the contents in one reply may take, all copies of them together.
pub(crate) const REPLY_BUDGET: usize = 850_000;
/// Bytes that are read when the call does not say how many.
const DEFAULT_BYTES: u64 = 30_000;
/// Text is in a reply twice: as JSON, and as a string of JSON.
const MOST_TEXT: u64 = REPLY_BUDGET as u64 / 2;
/// Largest picture that comes as one; base64 makes a third more of it.
const MOST_IMAGE: u64 = 550_000;
const CHUNK: usize = 1 << 16;

/// Which part of which file.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// Relative to the workspace.
    pub path: String,
    pub offset: u64,
    /// Most bytes.
    pub max_bytes: Option<u64>,
    /// First and last line, counted from 1; instead of `offset`.
    pub lines: Option<(u64, Option<u64>)>,
}

#[derive(Debug)]
pub(crate) struct Piece {
    pub content: Content,
    /// Size of the whole file.
    pub size: u64,
    /// Where the piece begins.
    pub offset: u64,
    /// How many bytes of the file it is.
    pub length: u64,
    /// There is more of what was asked for.
    pub truncated: bool,
    /// First and last line in it, when lines were asked for.
    pub lines: Option<(u64, u64)>,
    /// The whole file, when it is a picture and small enough.
    pub image: Option<Image>,
}

/// Text, or what is none.
#[derive(Debug)]
pub(crate) enum Content {
    /// It is UTF-8.
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
pub(crate) struct Image {
    /// `image/png` and so on.
    pub mime: &'static str,
    /// All of the file.
    pub bytes: Vec<u8>,
}

impl Files {
    /// Reads a part of a file.
    ///
    /// # Errors
    /// [`FileError`]; anything but a regular file is refused.
    pub(crate) fn read(&self, selection: &Selection, cancel: &CancellationToken) -> Result<Piece, FileError> {
        let path = &selection.path;
        let fail = |source| trouble("read", path, source);
        let file = self.open_regular(path)?;
        let size = file.metadata().map_err(fail)?.len();
        let offset = match selection.lines {
            Some((first, _)) => find_line(&file, path, first, cancel)?,
            None => selection.offset,
        };
        let most = selection.max_bytes.unwrap_or(DEFAULT_BYTES).min(MOST_TEXT);
        let mut bytes = read_at(&file, offset, most).map_err(fail)?;
        let image = match selection.lines {
            None if offset == 0 && size <= MOST_IMAGE => image_type(&bytes),
            _ => None,
        };
        let image = match image {
            Some(mime) => Some(Image { mime, bytes: read_at(&file, 0, MOST_IMAGE).map_err(fail)? }),
            None => None,
        };
        let mut at_end = offset.saturating_add(bytes.len() as u64) >= size;
        if let Some((first, Some(last))) = selection.lines
            && let Some(end) = end_of_line(&bytes, last - first + 1)
        {
            bytes.truncate(end);
            at_end = true;
        }
        let read = bytes.len();
        let (content, length) = judge(bytes, at_end, image.as_ref());
        let lines = selection.lines.map(|(first, _)| (first, first + further_lines(&content)));
        let truncated = !(at_end && length == read);
        Ok(Piece { content, size, offset, length: length as u64, truncated, lines, image })
    }

    /// Reads all of a file that has at most `limit` bytes.
    ///
    /// # Errors
    /// [`FileError`]; anything but a regular file is refused.
    pub(crate) fn read_whole(&self, path: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        let fail = |source| trouble("read", path, source);
        let file = self.open_regular(path)?;
        let size = file.metadata().map_err(fail)?.len();
        // Files of `/proc` have more than they say, and others grow: what counts is what there is.
        let bytes = read_at(&file, 0, size.max(1).min(limit) + 1).map_err(fail)?;
        if bytes.len() as u64 > limit {
            return Err(FileError::too_large(path, size.max(bytes.len() as u64), limit));
        }
        Ok(bytes)
    }

    /// Opens a file that has contents, without ever waiting for the other end of something that has none.
    ///
    /// # Errors
    /// [`FileError`]; anything but a regular file is refused.
    pub(crate) fn open_regular(&self, path: &str) -> Result<std::fs::File, FileError> {
        checked(path)?;
        let fail = |source| trouble("read", path, source);
        let refuse = |kind| Err(FileError::NotAFile { path: Shown::new(path), kind });
        // For the words alone, and so that no device is opened; what counts is asked of the open file.
        let seen = self.dir.metadata(path).map_err(fail)?;
        if !seen.is_file() {
            return refuse(kind(seen.file_type()));
        }
        let file = self.dir.open_with(path, OpenOptions::new().read(true).nonblock(true)).map_err(fail)?;
        let opened = file.metadata().map_err(fail)?;
        if !opened.is_file() {
            return refuse(kind(opened.file_type()));
        }
        Ok(file.into_std())
    }
}

fn read_at(file: &std::fs::File, offset: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(most).unwrap_or(CHUNK)];
    let mut filled = 0;
    // A file has no byte beyond `i64::MAX`, and the system calls such an offset invalid.
    while filled < bytes.len() && i64::try_from(offset).is_ok_and(|offset| offset < i64::MAX - bytes.len() as i64) {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Offset of the first byte of a line. Goes through the file up to there.
fn find_line(file: &std::fs::File, path: &str, wanted: u64, cancel: &CancellationToken) -> Result<u64, FileError> {
    let (mut offset, mut line, mut open) = (0, 1, false);
    while line < wanted {
        if cancel.is_cancelled() {
            return Err(FileError::Cancelled(Shown::new(path)));
        }
        let chunk = read_at(file, offset, CHUNK as u64).map_err(|source| trouble("read", path, source))?;
        let breaks = chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        if line + breaks >= wanted {
            let end = end_of_line(&chunk, wanted - line).unwrap_or(chunk.len());
            let begins = offset + end as u64;
            if !read_at(file, begins, 1).map_err(|source| trouble("read", path, source))?.is_empty() {
                return Ok(begins);
            }
            return Err(FileError::NoSuchLine { path: Shown::new(path), lines: wanted - 1, asked: wanted });
        }
        line += breaks;
        offset += chunk.len() as u64;
        match chunk.last() {
            Some(last) => open = *last != b'\n',
            None => {
                let lines = line - 1 + u64::from(open);
                return Err(FileError::NoSuchLine { path: Shown::new(path), lines, asked: wanted });
            }
        }
    }
    Ok(offset)
}

/// Where the `count`th line ends, its newline included.
fn end_of_line(bytes: &[u8], count: u64) -> Option<usize> {
    let nth = usize::try_from(count.checked_sub(1)?).ok()?;
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(nth).map(|(index, _)| index + 1)
}

fn further_lines(content: &Content) -> u64 {
    let bytes = match content {
        Content::Text(text) => text.as_bytes(),
        Content::Bytes(bytes) => bytes,
    };
    bytes.split_last().map_or(0, |(_, before)| before.iter().filter(|byte| **byte == b'\n').count() as u64)
}

/// Text or bytes, and how many of them a reply can hold.
fn judge(mut bytes: Vec<u8>, at_end: bool, image: Option<&Image>) -> (Content, usize) {
    if image.is_none() {
        // A character that the end of the piece cuts in half belongs to the next piece, unless there is nothing before
        // it: such a piece is bytes, since an empty one would bring no progress.
        if let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
            && !at_end
            && error.valid_up_to() > 0
        {
            bytes.truncate(error.valid_up_to());
        }
        match String::from_utf8(bytes) {
            Ok(mut text) => {
                text.truncate(affordable(&text));
                let length = text.len();
                return (Content::Text(text), length);
            }
            Err(error) => bytes = error.into_bytes(),
        }
    }
    // Base64 is in the reply twice; beside a picture, once.
    let left = match image {
        Some(image) => REPLY_BUDGET.saturating_sub(image.bytes.len().div_ceil(3) * 4),
        None => REPLY_BUDGET / 2,
    };
    bytes.truncate(left / 4 * 3);
    let length = bytes.len();
    (Content::Bytes(bytes), length)
}

/// How much of a text a reply can hold.
fn affordable(text: &str) -> usize {
    let mut cost = 0;
    for (index, character) in text.char_indices() {
        cost += character_cost(character);
        if cost > REPLY_BUDGET {
            return index;
        }
    }
    text.len()
}

/// Bytes that a string takes in a reply: in its JSON, and in the string that repeats that JSON.
#[must_use]
pub(crate) fn json_cost(text: &str) -> usize {
    text.chars().map(character_cost).sum()
}

fn character_cost(character: char) -> usize {
    match character {
        '"' | '\\' => 2 + 4,
        '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2 + 3,
        control if control < ' ' => 6 + 7,
        other => 2 * other.len_utf8(),
    }
}

/// The kinds that clients show, told by how they begin.
fn image_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_text_is_what_it_takes_as_json_twice() {
        for text in ["plain", "é漢😀", "\"\\", "\n\r\t\u{8}\u{c}", "\u{0}\u{1}\u{1f}\u{7f}"] {
            let once = serde_json::to_string(text).expect("a string");
            let twice = serde_json::to_string(&once).expect("a string");
            // Less the quotes: 2 around the first, and around the second, whose own are escaped, 2 + 4.
            assert_eq!(json_cost(text), once.len() - 2 + twice.len() - 6, "{text:?}");
        }
    }

    #[test]
    fn a_cut_character_is_left_for_the_next_piece_and_at_the_end_makes_bytes() {
        let cut = "aé".as_bytes()[..2].to_vec();
        assert!(matches!(judge(cut.clone(), false, None), (Content::Text(text), 1) if text == "a"));
        assert!(matches!(judge(cut.clone(), true, None), (Content::Bytes(_), 2)));
        assert!(matches!(judge(cut[1..].to_vec(), false, None), (Content::Bytes(_), 1)));
        let (content, length) = judge(vec![1; 425_000], false, None);
        assert!(matches!(content, Content::Text(_)) && length * 13 <= REPLY_BUDGET, "{length}");
    }
}
