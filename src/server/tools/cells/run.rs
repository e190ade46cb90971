//! `run_python_code`.
//!
//! Runs in: server.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{following, result::Cell};
use crate::server::{
    sessions::{orders::CellOrder, outcome},
    tools::call::{
        arguments::{cell_limit, checked_code, wait},
        asking::{self, Flight},
        error::ToolError,
        patience::Patience,
        progress,
        reply::Answer,
        request::Call,
        server::Server,
    },
};

/// `run_python_code`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunPythonCode {
    /// Python source; `await` works at top level.
    pub(crate) code: String,
    /// Seconds until it is interrupted.
    pub(crate) timeout: Option<f64>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// `rollback`: when the code fails, the session is as before it (files are not). Default keep.
    pub(crate) on_error: Option<OnCellError>,
    /// Seconds to wait; then the reply says `running`, and wait_for_cell has the rest.
    pub(crate) wait: Option<f64>,
    /// Answer at once; the code runs on.
    pub(crate) background: Option<bool>,
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
        let flight = server.waiting.take(call.owner(), name, call.again.input_responses.as_ref());
        let flight = flight.ok_or(ToolError::NoQuestion)?;
        return following::follow(server, call, flight, None, Patience::or_task(server, call, None)).await;
    }
    let session = server.session(call, asked.session_id.as_deref())?;
    let asked_for = cell_limit(asked.timeout)?.or(server.around.settings.timeout);
    let timeout = session.limits.cell_limit(asked_for);
    let patience = match asked.background {
        Some(true) => Some(Duration::ZERO),
        Some(false) | None => wait("wait", asked.wait)?,
    };
    let on_error = asked.on_error.unwrap_or_default().into();
    checked_code(&asked.code)?;
    let code = asked.code;
    let live = progress::live(&call.context);
    let (ask, questions) = mpsc::unbounded_channel();
    let order = CellOrder {
        code,
        client: call.client.clone(),
        timeout,
        // Not the call's own: the cell may wait for another call.
        cancel: CancellationToken::new(),
        asked: Instant::now(),
        live: live.clone(),
        on_error,
        questions: asking::way(&call.context).map(|_| ask),
        notebook: None,
        max_output: None,
        trace: call.trace.clone(),
    };
    let patience = Patience::or_task(server, call, patience);
    let run = session.submit(order)?;
    following::follow(server, call, Flight::new(session, run, questions), live, patience).await
}
