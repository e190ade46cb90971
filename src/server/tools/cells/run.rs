//! `run_python_code`.
//!
//! Runs in: server.

use std::{sync::Arc, time::Instant};

use rmcp::{RoleServer, model::ContentBlock, service::RequestContext};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    pictures::{self, Picture},
    reply,
    result::Cell,
};
use crate::server::{
    output::live::Live,
    sessions::{
        orders::CellOrder,
        outcome::{self, CellOutcome},
    },
    tools::call::{
        arguments::{cell_limit, checked_code},
        asking::{self, Flight, Way},
        error::ToolError,
        progress,
        reply::{Answer, Reply},
        request::Call,
        server::Server,
    },
};

/// `run_python_code`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunPythonCode {
    /// Python source. Variables, imports and functions of earlier calls in the same session are there. The value of a
    /// last expression comes back in `results`; `await` works at top level.
    pub(crate) code: String,
    /// Seconds the code may run before it is interrupted (variables survive). The server's default when left out.
    pub(crate) timeout: Option<f64>,
    /// Session to run in; the active one when left out.
    pub(crate) session_id: Option<String>,
    /// `rollback`: when the code raises, times out or kills its worker, the session is as before it; files and the outside
    /// world are not rolled back. `keep` (default): it stays as the code left it.
    pub(crate) on_error: Option<OnCellError>,
}

/// What becomes of a session's state when a cell does not end well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnCellError {
    /// It stays as the cell left it.
    #[default]
    Keep,
    /// It is as before the cell.
    Rollback,
}

impl From<OnCellError> for outcome::OnError {
    fn from(asked: OnCellError) -> Self {
        match asked {
            OnCellError::Keep => Self::Keep,
            OnCellError::Rollback => Self::RollBack,
        }
    }
}

pub(crate) async fn run(server: &Server, call: &Call, asked: RunPythonCode) -> Result<Answer<Cell>, ToolError> {
    if let Some(name) = &call.again.request_state {
        let flight = server.waiting.take(name, call.again.input_responses.as_ref()).ok_or(ToolError::NoQuestion)?;
        return fly(server, &call.context, None, flight).await;
    }
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let asked_for = cell_limit(asked.timeout)?.or(server.around.settings.timeout);
    let timeout = session.limits.cell_limit(asked_for);
    let on_error = asked.on_error.unwrap_or_default().into();
    checked_code(&asked.code)?;
    let code = asked.code;
    let live = progress::live(&call.context);
    let (ask, questions) = mpsc::unbounded_channel();
    // Not the call's own: the cell may wait for another call.
    let cancel = CancellationToken::new();
    let order = CellOrder {
        code,
        client: call.client.clone(),
        timeout,
        cancel: cancel.clone(),
        asked: Instant::now(),
        live: live.clone(),
        on_error,
        questions: asking::way(&call.context).map(|_| ask),
        notebook: None,
        max_output: None,
    };
    let outcome = session.run(order)?;
    fly(server, &call.context, live, Flight::new(session, outcome, questions, cancel)).await
}

/// Follows a cell to its end, or to a question for which the client must call again.
async fn fly(
    server: &Server,
    context: &RequestContext<RoleServer>,
    live: Option<Arc<Live>>,
    mut flight: Flight,
) -> Result<Answer<Cell>, ToolError> {
    let session = flight.session().clone();
    if flight.is_open() {
        return Ok(Answer::Asks(server.waiting.put(flight)));
    }
    let to_the_end = async {
        loop {
            match (flight.step(&context.ct).await?, asking::way(context)) {
                (Some(outcome), _) => return Ok::<_, ToolError>(Some(outcome)),
                (None, Some(Way::Result)) => return Ok(None),
                (None, _) => flight.send(&context.peer).await,
            }
        }
    };
    let Some(outcome) = progress::of_session(context, &session, live, to_the_end).await? else {
        return Ok(Answer::Asks(server.waiting.put(flight)));
    };
    let is_error = outcome.ending.is_tool_error();
    let (outcome, pictures) = with_pictures(outcome).await;
    let cell = reply::cell(&session.id, outcome, pictures.iter().map(|picture| picture.base64.len() + 64).sum());
    let text = reply::text(&cell);
    let whole = cell.stdout_file.iter().chain(&cell.stderr_file);
    let made: Vec<String> = cell.outputs.iter().chain(whole).chain(&cell.new_files).cloned().collect();
    let pictures = pictures.into_iter().map(|picture| ContentBlock::image(picture.base64, picture.mime));
    Ok(Answer::Done(Reply::of(cell).text(text).failed(is_error).pictures(pictures).files(&made)))
}

/// Scaling a picture takes time that the server's one thread has not.
async fn with_pictures(outcome: CellOutcome) -> (CellOutcome, Vec<Picture>) {
    if !pictures::any(&outcome.displays) {
        return (outcome, Vec::new());
    }
    let scaled = tokio::task::spawn_blocking(move || {
        let pictures = pictures::prepare(&outcome.displays);
        (outcome, pictures)
    });
    scaled.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
