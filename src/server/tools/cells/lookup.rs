//! Tools that look at code and objects without running anything: completion and inspection.
//!
//! Runs in: server. The worker answers beside the cell that runs, over its control socket; when its interpreter is held by
//! native code, the reply says `busy` and no call waits for the cell.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    protocol::Question,
    server::{
        sessions::handle::Session,
        tools::call::{
            error::{ToolError, refuse},
            reply::Reply,
            request::Call,
            schema::is_zero,
            server::Server,
        },
    },
};

/// Matches in one reply.
const MOST_MATCHES: usize = 50;
/// Longest code that is looked at, bytes; it travels in one frame.
const MAX_LOOKED_AT: usize = 400 << 10;

/// A little more than the worker takes at most, for all questions but the first.
const LIMIT: Duration = Duration::from_secs(6);

/// And for the first, as long as its interpreter answers.
const FIRST_LIMIT: Duration = Duration::from_secs(32);

/// How long jedi is waited for on a machine where forkpy is new; live objects are known without it.
const ENVIRONMENT_LIMIT: Duration = Duration::from_secs(3);

/// `code_completion`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CodeCompletion {
    /// The code as far as it is written.
    pub(crate) code: String,
    /// Characters (code points) before the cursor.
    pub(crate) cursor_pos: u64,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

/// `inspect_object`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct InspectObject {
    /// The code that names the object.
    pub(crate) code: String,
    /// Characters before the cursor, which is in or behind the name, or in its call.
    pub(crate) cursor_pos: u64,
    /// 0, or 1 for the source too. Default 0.
    pub(crate) detail_level: Option<u8>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

/// `code_completion`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Completion {
    /// What could stand between `cursor_start` and `cursor_end`, public names first.
    pub(crate) matches: Vec<String>,
    /// Matches that are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) more: u64,
    /// Where the text to be replaced begins, in characters.
    pub(crate) cursor_start: u64,
    /// Where it ends, in characters.
    pub(crate) cursor_end: u64,
    /// Types of the matches, as Jupyter's kernels give them, and `left_out`, when there are more.
    pub(crate) metadata: Map<String, Value>,
    /// `ok`, `busy` (the interpreter does not answer now), `error`.
    pub(crate) status: &'static str,
    /// What to know, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
    /// The session.
    pub(crate) session_id: String,
}

/// `inspect_object`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Inspection {
    /// There is something to tell.
    pub(crate) found: bool,
    /// By mime type; `text/plain` has signature, type, value in short, docstring and, when asked for, source.
    pub(crate) data: BTreeMap<String, String>,
    /// The name that was looked up.
    pub(crate) metadata: Map<String, Value>,
    /// `ok`, `busy` (the interpreter does not answer now), `error`.
    pub(crate) status: &'static str,
    /// What to know, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
    /// The session.
    pub(crate) session_id: String,
}

/// What a worker says to a question of completion.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Matches {
    /// As in [`Completion`].
    pub(crate) matches: Vec<String>,
    /// As in [`Completion`].
    pub(crate) cursor_start: u64,
    /// As in [`Completion`].
    pub(crate) cursor_end: u64,
    /// As in [`Completion`].
    pub(crate) metadata: Map<String, Value>,
}

/// What a worker says to a question of inspection.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Found {
    /// As in [`Inspection`].
    pub(crate) found: bool,
    /// As in [`Inspection`].
    pub(crate) data: BTreeMap<String, String>,
    /// As in [`Inspection`].
    pub(crate) metadata: Map<String, Value>,
}

/// What came of a question.
pub(super) struct Answer<T> {
    pub(super) status: &'static str,
    pub(super) notice: Option<String>,
    pub(super) told: Option<T>,
}

pub(crate) async fn complete(
    server: &Server,
    call: &Call,
    asked: CodeCompletion,
) -> Result<Reply<Completion>, ToolError> {
    let CodeCompletion { code, cursor_pos, session_id } = asked;
    let session = server.session(call, session_id.as_deref())?;
    let cursor = cursor_in(&code, cursor_pos)?;
    // jedi may just be coming.
    server.packages.filled(ENVIRONMENT_LIMIT).await;
    let Answer { status, notice, told } = ask(call, &session, Question::Complete { code, cursor }).await?;
    let nothing = Matches { cursor_start: cursor, cursor_end: cursor, ..Matches::default() };
    let Matches { mut matches, cursor_start, cursor_end, mut metadata } = told.unwrap_or(nothing);
    let more = matches.len().saturating_sub(MOST_MATCHES) as u64;
    matches.truncate(MOST_MATCHES);
    for kinds in metadata.values_mut().filter_map(Value::as_array_mut) {
        kinds.truncate(MOST_MATCHES);
    }
    let hint = metadata.get("hint").and_then(|hint| hint.as_str()).map(str::to_owned);
    let notice = notice.or(hint);
    let mut text = matches.join("\n");
    if more > 0 {
        text = format!("{text}\n... and {more} more: write a letter of the name");
    }
    if let Some(notice) = &notice {
        text = format!("{text}\n{notice}").trim_start().to_owned();
    } else if text.is_empty() {
        "(no completions)".clone_into(&mut text);
    }
    let session_id = session.id.to_string();
    let result = Completion { matches, more, cursor_start, cursor_end, metadata, status, notice, session_id };
    Ok(Reply::of(result).text(text))
}

pub(crate) async fn inspect(
    server: &Server,
    call: &Call,
    asked: InspectObject,
) -> Result<Reply<Inspection>, ToolError> {
    let InspectObject { code, cursor_pos, detail_level, session_id } = asked;
    let session = server.session(call, session_id.as_deref())?;
    let cursor = cursor_in(&code, cursor_pos)?;
    let detail = detail_level.unwrap_or(0);
    if detail > 1 {
        return refuse(format!("`detail_level` is {detail} and must be 0 or 1"));
    }
    server.packages.filled(ENVIRONMENT_LIMIT).await;
    let Answer { status, notice, told } = ask(call, &session, Question::Inspect { code, cursor, detail }).await?;
    let nothing = Found { found: false, data: BTreeMap::new(), metadata: Map::new() };
    let Found { found, data, metadata } = told.unwrap_or(nothing);
    let shown = data.get("text/plain").cloned().into_iter().chain(notice.clone());
    let text = shown.reduce(|data, notice| format!("{data}\n{notice}"));
    let text = text.unwrap_or_else(|| "(nothing is known of what is at the cursor)".to_owned());
    let session_id = session.id.to_string();
    Ok(Reply::of(Inspection { found, data, metadata, status, notice, session_id }).text(text))
}

/// Asks the worker beside the cell that runs.
pub(super) async fn ask<T: DeserializeOwned>(
    call: &Call,
    session: &Session,
    question: Question,
) -> Result<Answer<T>, ToolError> {
    if session.shared.get().worker.is_none() {
        // It gets one, as it would for a cell.
        session.variables(call.caller()).await?;
    }
    let Some(worker) = session.shared.get().worker else {
        return Ok(refused("error", format!("session {:?} has no worker", session.id)));
    };
    let busy = || match session.shared.get().phase.cell() {
        Some((cell, _)) => format!("cell {cell} runs native code that does not let the interpreter go"),
        None => "its interpreter does not answer".to_owned(),
    };
    match worker.control.question(question, LIMIT, FIRST_LIMIT).await {
        None => Ok(refused("busy", format!("session {:?} is busy: {}; try again later", session.id, busy()))),
        Some(Err(reason)) => Ok(refused("error", format!("session {:?}: {reason}", session.id))),
        Some(Ok(json)) => match serde_json::from_str(&json) {
            Ok(told) => Ok(Answer { status: "ok", notice: call.news_of(session).1, told: Some(told) }),
            Err(error) => Ok(refused("error", format!("session {:?} gave no proper answer: {error}", session.id))),
        },
    }
}

fn refused<T>(status: &'static str, notice: String) -> Answer<T> {
    Answer { status, notice: Some(notice), told: None }
}

/// The place of a cursor that lies in the code.
///
/// # Errors
/// When it does not, or the code is too long.
fn cursor_in(code: &str, cursor: u64) -> Result<u64, ToolError> {
    if code.len() > MAX_LOOKED_AT {
        let (size, most) = (code.len() >> 10, MAX_LOOKED_AT >> 10);
        return refuse(format!("`code` has {size} KiB and may have {most}: send the part around the cursor"));
    }
    let characters = code.chars().count() as u64;
    if cursor > characters {
        let words = format!("`cursor_pos` is {cursor} and `code` has {characters} characters");
        return refuse(words);
    }
    Ok(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_counted_in_characters() {
        assert_eq!(cursor_in("😀.x", 3).expect("at the end"), 3);
        assert!(cursor_in("😀.x", 4).expect_err("beyond").to_string().contains("has 3 characters"));
        assert!(cursor_in(&"#".repeat(MAX_LOOKED_AT + 1), 0).expect_err("too long").to_string().contains("400"));
    }
}
