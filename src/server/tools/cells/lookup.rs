//! Tools that look at code and objects without running anything: completion and inspection.
//!
//! Runs in: server. The worker answers beside the cell that runs, over its control socket; when its interpreter is held by
//! native code, the reply says `busy` and nobody waits for the cell.

use std::time::Duration;

use rmcp::model::CallToolResult;
use serde::de::DeserializeOwned;
use serde_json::Map;

use crate::{
    protocol::Question,
    server::{
        sessions::handle::Session,
        tools::{
            Call, ToolError,
            arguments::{self, CodeCompletion, InspectObject},
            call::server::Server,
            reply_with_text,
            results::{Completion, Found, Inspection, Matches},
        },
    },
};

/// A little more than the worker takes at most, for all questions but the first.
const LIMIT: Duration = Duration::from_secs(6);
/// And for the first, as long as its interpreter answers.
const FIRST_LIMIT: Duration = Duration::from_secs(32);

/// What came of a question.
struct Answer<T> {
    status: &'static str,
    notice: Option<String>,
    told: Option<T>,
}

pub(in crate::server) async fn complete(server: &Server, mut call: Call) -> Result<CallToolResult, ToolError> {
    let CodeCompletion { code, cursor_pos, session_id } = call.read("code_completion")?;
    let session = server.session(&call.client, session_id.as_deref())?;
    let cursor = arguments::cursor(&code, cursor_pos)?;
    let Answer { status, notice, told } = ask(&call, &session, Question::Complete { code, cursor }).await?;
    let nothing = Matches { cursor_start: cursor, cursor_end: cursor, ..Matches::default() };
    let Matches { matches, cursor_start, cursor_end, metadata } = told.unwrap_or(nothing);
    let hint = metadata.get("hint").and_then(|hint| hint.as_str()).map(str::to_owned);
    let notice = notice.or(hint);
    let mut text = matches.join("\n");
    if let Some(notice) = &notice {
        text = format!("{text}\n{notice}").trim_start().to_owned();
    } else if text.is_empty() {
        "(no completions)".clone_into(&mut text);
    }
    let session_id = session.id.to_string();
    let result = Completion { matches, cursor_start, cursor_end, metadata, status, notice, session_id };
    reply_with_text(&result, text, false)
}

pub(in crate::server) async fn inspect(server: &Server, mut call: Call) -> Result<CallToolResult, ToolError> {
    let InspectObject { code, cursor_pos, detail_level, session_id } = call.read("inspect_object")?;
    let session = server.session(&call.client, session_id.as_deref())?;
    let cursor = arguments::cursor(&code, cursor_pos)?;
    let detail = detail_level.unwrap_or(0);
    if detail > 1 {
        return Err(ToolError::Argument(format!("`detail_level` is {detail} and must be 0 or 1")));
    }
    let Answer { status, notice, told } = ask(&call, &session, Question::Inspect { code, cursor, detail }).await?;
    let nothing = Found { found: false, data: std::collections::BTreeMap::new(), metadata: Map::new() };
    let Found { found, data, metadata } = told.unwrap_or(nothing);
    let shown = data.get("text/plain").cloned().into_iter().chain(notice.clone());
    let text = shown.reduce(|data, notice| format!("{data}\n{notice}"));
    let text = text.unwrap_or_else(|| "(nothing is known of what is at the cursor)".to_owned());
    let session_id = session.id.to_string();
    reply_with_text(&Inspection { found, data, metadata, status, notice, session_id }, text, false)
}

async fn ask<T: DeserializeOwned>(call: &Call, session: &Session, question: Question) -> Result<Answer<T>, ToolError> {
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
