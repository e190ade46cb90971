//! `GET /files/download/<path>`: a file of the workspace, streamed, whole or one range of it.
//!
//! Runs in: server; the disk is read on blocking threads. What a path may be is `server/workspace/handle.rs`'s.
//!
//! A file comes as a download and never as a page: a script in it would have this server's own origin.

use std::{
    fs::{File, Metadata},
    io::{Seek, SeekFrom},
    ops::RangeInclusive,
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::{Shelf, failures::failure};
use crate::server::{
    mcp::identity::Known,
    workspace::{handle::FileError, uri::mime_of},
};

/// Read at a time.
const CHUNK: usize = 128 << 10;

/// What the handler sends.
struct Found {
    file: File,
    metadata: Metadata,
}

pub(crate) async fn download(
    State(shelf): State<Arc<Shelf>>,
    Path(path): Path<String>,
    headers: HeaderMap,
    known: Option<Extension<Known>>,
) -> Response {
    let files = match shelf.files(known) {
        Ok(files) => files,
        Err(error) => return failure(&error),
    };
    let name = path.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let file = files.open_regular(&name)?;
        let metadata = file.metadata().map_err(|error| FileError::reading(&name, error))?;
        Ok(Found { file, metadata })
    });
    match opened.await.map_err(FileError::Lost).and_then(|opened| opened) {
        Ok(found) => answer(found, &path, &headers).unwrap_or_else(|error| failure(&FileError::reading(&path, error))),
        Err(error) => failure(&error),
    }
}

fn answer(found: Found, path: &str, headers: &HeaderMap) -> std::io::Result<Response> {
    let Found { mut file, metadata } = found;
    let size = metadata.len();
    let (tag, modified) = (tag(&metadata), seconds(metadata.modified()?));
    let mut answer = Response::new(Body::empty());
    describe(answer.headers_mut(), path, &tag, modified);
    if is_known(headers, &tag, modified) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(answer);
    }
    let part = match part(headers, size, &tag, modified) {
        Ok(part) => part,
        Err(RangeUnsatisfiableError::Unsatisfiable) => {
            let words = format!("the file has {size} bytes: the range is beyond them\n");
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range, words).into_response());
        }
        // What is no range is not there.
        Err(_) => None,
    };
    let length = match &part {
        Some(range) => {
            let (first, last) = (*range.start(), *range.end());
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(answer.headers_mut(), header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
            file.seek(SeekFrom::Start(first))?;
            last - first + 1
        }
        None => size,
    };
    set(answer.headers_mut(), header::CONTENT_LENGTH, &length.to_string());
    let reader = tokio::fs::File::from_std(file).take(length);
    *answer.body_mut() = Body::from_stream(ReaderStream::with_capacity(reader, CHUNK));
    Ok(answer)
}

/// The headers of every answer about the file.
fn describe(headers: &mut HeaderMap, path: &str, tag: &str, modified: SystemTime) {
    let kind = mime_of(path).unwrap_or("application/octet-stream");
    let charset = if kind.starts_with("text/") { "; charset=utf-8" } else { "" };
    set(headers, header::CONTENT_TYPE, &format!("{kind}{charset}"));
    set(headers, header::CONTENT_DISPOSITION, &disposition(path));
    set(headers, header::ETAG, tag);
    set(headers, header::LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    set(headers, header::ACCEPT_RANGES, "bytes");
    // Workspaces change: ask again, and get 304 when it has not.
    set(headers, header::CACHE_CONTROL, "private, no-cache");
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
    set(headers, HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
}

/// Sets what is ASCII by its making.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The name twice: as old clients read it, and all of it.
fn disposition(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let plain = |character: char| match character {
        ' '..='~' if !matches!(character, '"' | '\\' | '%') => character,
        _ => '_',
    };
    let plain: String = name.chars().map(plain).collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

/// Another one for every content that a file has had, as far as its times tell.
fn tag(metadata: &Metadata) -> String {
    let (ino, size) = (metadata.ino(), metadata.size());
    format!("\"{ino:x}-{size:x}-{:x}-{:x}\"", metadata.mtime(), metadata.mtime_nsec())
}

/// HTTP knows whole seconds.
fn seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the client has it already.
fn is_known(headers: &HeaderMap, tag: &str, modified: SystemTime) -> bool {
    if let Some(tags) = text(headers, header::IF_NONE_MATCH) {
        return tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag);
    }
    let since = text(headers, header::IF_MODIFIED_SINCE).and_then(|date| httpdate::parse_http_date(date).ok());
    since.is_some_and(|since| modified <= since)
}

/// The one range that is wanted. Several at once are served as the whole, which the protocol permits.
fn part(
    headers: &HeaderMap,
    size: u64,
    tag: &str,
    modified: SystemTime,
) -> Result<Option<RangeInclusive<u64>>, RangeUnsatisfiableError> {
    let Some(range) = text(headers, header::RANGE) else { return Ok(None) };
    if let Some(condition) = text(headers, header::IF_RANGE) {
        let holds = if condition.starts_with(['"', 'W']) && !condition.starts_with("We") {
            condition == tag
        } else {
            httpdate::parse_http_date(condition).is_ok_and(|date| date == modified)
        };
        if !holds {
            return Ok(None);
        }
    }
    let ranges = parse_range_header(range)?.validate(size)?;
    Ok(if let [range] = &*ranges { Some(range.clone()) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_header() {
        assert_eq!(disposition("d/a.txt"), "attachment; filename=\"a.txt\"; filename*=UTF-8''a%2Etxt");
        let odd = disposition("ü\"\r\n\\%.x");
        assert_eq!(odd, "attachment; filename=\"______.x\"; filename*=UTF-8''%C3%BC%22%0D%0A%5C%25%2Ex");
        assert!(HeaderValue::from_str(&odd).is_ok());
    }

    #[test]
    fn a_range_is_served_while_its_condition_holds() {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let date = httpdate::fmt_http_date(modified);
        let wanted = |range: &str, condition: Option<&str>| {
            let mut headers = HeaderMap::new();
            set(&mut headers, header::RANGE, range);
            if let Some(condition) = condition {
                set(&mut headers, header::IF_RANGE, condition);
            }
            part(&headers, 10, "\"t\"", modified)
        };
        for (range, expected) in [
            ("bytes=0-4", 0..=4),
            ("bytes=5-", 5..=9),
            ("bytes=-3", 7..=9),
            ("bytes=0-99", 0..=9),
            ("bytes=-99", 0..=9),
        ] {
            assert_eq!(wanted(range, None), Ok(Some(expected)), "{range}");
        }
        for beyond in ["bytes=10-", "bytes=-0"] {
            assert_eq!(wanted(beyond, None), Err(RangeUnsatisfiableError::Unsatisfiable), "{beyond}");
        }
        for none in ["bytes=0-1,3-4", "lines=1-2", "bytes=x", "bytes=4-2"] {
            assert!(!matches!(wanted(none, None), Ok(Some(_)) | Err(RangeUnsatisfiableError::Unsatisfiable)), "{none}");
        }
        for holds in ["\"t\"", &date] {
            assert_eq!(wanted("bytes=1-2", Some(holds)), Ok(Some(1..=2)), "{holds}");
        }
        // A weak tag never is a condition for a part; the Wednesday is another day.
        for fails in ["\"u\"", "W/\"t\"", "Wed, 15 Nov 2023 22:13:20 GMT", "nonsense"] {
            assert_eq!(wanted("bytes=1-2", Some(fails)), Ok(None), "{fails}");
        }
    }
}
