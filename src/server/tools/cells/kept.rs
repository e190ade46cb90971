//! `wait_for_cell` and `interrupt_cell`: cells that calls have sent, asked after by other calls.
//!
//! Runs in: server.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{following, result::Cell};
use crate::{
    protocol::attach::span,
    server::{
        sessions::{
            handle::Session,
            runs::{Dropped, Found, Run, Stage, WhyDropped},
        },
        tools::call::{
            arguments::wait,
            asking::Flight,
            error::{ToolError, refuse},
            patience::Patience,
            reply::Answer,
            request::Call,
            server::Server,
        },
    },
};

/// What an interrupt may take beyond the time after which the worker is killed.
const MARGIN: Duration = Duration::from_secs(5);

/// `wait_for_cell`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct WaitForCell {
    /// Its number. Default: this client's newest.
    pub(crate) cell: Option<u64>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Seconds to wait; 0 only looks.
    pub(crate) timeout: Option<f64>,
}

/// `interrupt_cell`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct InterruptCell {
    /// Its number. Default: the one that runs.
    pub(crate) cell: Option<u64>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

pub(crate) async fn wait_for(server: &Server, call: &Call, asked: WaitForCell) -> Result<Answer<Cell>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let patience = Patience::of(server, call, wait("timeout", asked.timeout)?);
    let run = match asked.cell {
        Some(cell) => found(&session, cell)?,
        None => match session.runs.newest(&call.client) {
            Some(run) => run,
            None => return refuse(format!("session {:?} has been sent no cell whose reply is kept", session.id)),
        },
    };
    following::follow(server, call, flight(server, session, run), None, patience).await
}

pub(crate) async fn interrupt(server: &Server, call: &Call, asked: InterruptCell) -> Result<Answer<Cell>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let run = match asked.cell {
        Some(cell) => found(&session, cell)?,
        None => running(&session)?,
    };
    if let Stage::Ended(ended) = run.stage() {
        let (cell, status) = (run.cell, ended.outcome.ending.status());
        return refuse(format!(
            "cell {cell} of session {:?} has ended already (status {status:?}); nothing was interrupted. \
             wait_for_cell(cell: {cell}) has its reply",
            session.id
        ));
    }
    run.cancel.cancel();
    let patience = Patience::of(server, call, Some(server.around.settings.grace + MARGIN));
    let answer = following::follow(server, call, flight(server, session, run), None, patience).await?;
    Ok(match answer {
        // What was asked for has been done.
        Answer::Done(reply) => Answer::Done(reply.failed(false)),
        asks @ Answer::Asks(_) => asks,
    })
}

/// Follows the cell as its own call did, or beside the call that does.
fn flight(server: &Server, session: Session, run: Arc<Run>) -> Flight {
    let key = (session.life.number(), run.cell);
    server.flights.follow(key).unwrap_or_else(|| Flight::beside(session, run))
}

fn found(session: &Session, cell: u64) -> Result<Arc<Run>, ToolError> {
    match session.runs.find(cell) {
        Found::Here(run) => Ok(run),
        Found::Dropped(dropped) => refuse(gone(session, &dropped)),
        Found::Never => {
            let newest = session.runs.last();
            refuse(format!(
                "session {:?} has no cell {cell} that run_python_code has sent; its newest cell is {newest}. Numbers begin \
                 anew when a session is made anew",
                session.id
            ))
        }
    }
}

fn running(session: &Session) -> Result<Arc<Run>, ToolError> {
    if let Some(run) = session.runs.running() {
        return Ok(run);
    }
    let id = &session.id;
    match session.shared.get().phase.cell() {
        Some((cell, _)) => refuse(format!(
            "cell {cell} of session {id:?} belongs to a call of another tool (run_notebook, run_branches): cancel that call, or \
             use restart_kernel"
        )),
        None => refuse(format!("no cell runs in session {id:?}; nothing was interrupted")),
    }
}

fn gone(session: &Session, dropped: &Dropped) -> String {
    let Dropped { cell, ended, when, why } = dropped;
    let why = match why {
        WhyDropped::Old => "it had been kept as long as replies are (--keep-replies)",
        WhyDropped::TooMany => "100 newer replies are kept",
        WhyDropped::TooLarge => "the kept replies of the session took more than 32 MiB",
    };
    let ago = span(jiff::Timestamp::now().duration_since(*ended).as_secs_f64());
    format!(
        "the reply to cell {cell} of session {:?} is not kept any more: it ended {ago} ago ({ended:.0}), and was dropped at \
         {when:.0} because {why}. Its effects on the session's variables are there; export_notebook has what it printed, as \
         far as the session's history goes",
        session.id
    )
}
