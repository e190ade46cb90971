//! `--audit FILE`: a line of JSON for each call of a tool, when it has ended: who, what, for how long, and what came of it.
//!
//! Runs in: server. Owns the file, which is only ever appended to. It may be renamed or emptied at any time, as programs that
//! rotate logs do: a line goes to the file that has the name then. Code is in it only where `--audit-code` says so.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Instant,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use rmcp::model::{CallToolResponse, JsonObject};
use serde::Serialize;
use serde_json::Value;

use super::texts::size_of_json;
use crate::server::owner::Owner;

/// The file of all calls.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    with_code: bool,
    file: Mutex<File>,
}

/// A call that has begun. Dropped before its end, it was given up: its client has gone.
#[derive(Debug)]
pub(crate) struct Began<'a> {
    audit: &'a Audit,
    is_over: bool,
    when: Timestamp,
    since: Instant,
    owner: String,
    tool: &'static str,
    session: Option<String>,
    code: Option<String>,
    bytes: usize,
}

/// A line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// When it was asked for.
    time: String,
    owner: &'a str,
    tool: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cell: Option<u64>,
    /// The reply's own status where it has one; else `error` or `answered`. `asking` is a call that goes on when
    /// its client answers, `abandoned` one whose client has gone.
    outcome: &'a str,
    seconds: f64,
    bytes_in: usize,
    bytes_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
}

impl Audit {
    /// Opens the file, for its user alone where it is made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(path: &Path, with_code: bool) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), with_code, file: Mutex::new(append(path)?) })
    }

    /// A call begins.
    #[must_use]
    pub(crate) fn begin(&self, owner: &Owner, tool: &'static str, arguments: Option<&JsonObject>) -> Began<'_> {
        let word = |name: &str| arguments.and_then(|all| all.get(name)).and_then(Value::as_str).map(str::to_owned);
        Began {
            audit: self,
            is_over: false,
            when: Timestamp::now(),
            since: Instant::now(),
            owner: owner.mark().unwrap_or_else(|| "user".to_owned()),
            tool,
            session: word("session_id"),
            code: if self.with_code { word("code") } else { None },
            bytes: arguments.map_or(0, size_of_json),
        }
    }

    fn write(&self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = self.file.lock();
        let is_there = |found: std::fs::Metadata| {
            file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        };
        if !std::fs::metadata(&self.path).is_ok_and(is_there) {
            *file = append(&self.path)?;
        }
        // In one piece, so that no line of another process comes in between.
        file.write_all(&text)
    }
}

impl Began<'_> {
    /// It has ended.
    pub(crate) fn end(mut self, answer: &CallToolResponse) {
        let outcome = outcome_of(answer);
        match answer {
            CallToolResponse::Complete(result) => {
                self.tell(outcome, result.structured_content.as_ref(), size_of_json(result));
            }
            _ => self.tell(outcome, None, 0),
        }
        self.is_over = true;
    }

    fn tell(&self, outcome: &str, structured: Option<&Value>, bytes_out: usize) {
        let told = |name: &str| structured.and_then(|all| all.get(name));
        let line = Line {
            time: self.when.to_string(),
            owner: &self.owner,
            tool: self.tool,
            session: told("session_id").and_then(Value::as_str).or(self.session.as_deref()),
            cell: told("cell").and_then(Value::as_u64),
            outcome,
            seconds: self.since.elapsed().as_secs_f64(),
            bytes_in: self.bytes,
            bytes_out,
            code: self.code.as_deref(),
        };
        if let Err(error) = self.audit.write(&line) {
            tracing::error!("a call was not written to {}: {error}", self.audit.path.display());
        }
    }
}

impl Drop for Began<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.tell("abandoned", None, 0);
        }
    }
}

/// A word for what came of a call.
#[must_use]
pub(crate) fn outcome_of(answer: &CallToolResponse) -> &str {
    match answer {
        CallToolResponse::Complete(result) => {
            let structured = result.structured_content.as_ref();
            let status = structured.and_then(|all| all.get("status")).and_then(Value::as_str);
            status.unwrap_or(if result.is_error == Some(true) { "error" } else { "answered" })
        }
        CallToolResponse::Task(_) => "task",
        _ => "asking",
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}
