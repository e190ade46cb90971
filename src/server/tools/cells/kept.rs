//! `wait_for_cell` and `interrupt_cell`: cells that calls have sent, asked after by other calls.
//!
//! Runs in: server.

use std::{sync::Arc, time::Duration};

use rmcp::model::CallToolResponse;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{following, jobs, result::Cell};
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
            reply::{Answer, Reply, Respond},
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

/// The reply of whatever the number stood for.
pub(crate) enum Whichever {
    Cell(Box<Answer<Cell>>),
    Work(Reply<Value>),
}

/// `wait_for_cell` and `interrupt_cell`: the reply as the tool gives it that was called, run_python_code in most cases.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AnyReply {
    /// How it ended, or `running` or `queued`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cell: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_files: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time: Option<f64>,
}

impl Respond for Whichever {
    type Value = AnyReply;

    fn respond(self, server: &Server, call: &Call) -> Result<CallToolResponse, ToolError> {
        match self {
            Self::Cell(answer) => answer.respond(server, call),
            Self::Work(reply) => reply.respond(server, call),
        }
    }
}

pub(crate) async fn wait_for(server: &Server, call: &Call, asked: WaitForCell) -> Result<Whichever, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let patience = Patience::or_task(server, call, wait("timeout", asked.timeout)?);
    let run = match asked.cell {
        Some(cell) => found(&session, cell)?,
        None => match session.runs.newest(&call.client) {
            Some(run) => run,
            None => return refuse(format!("session {:?} has been sent no cell whose reply is kept", session.id)),
        },
    };
    if let Some(job) = jobs::of(&run) {
        return jobs::follow(server, call, &job, Some(patience), false).await.map(Whichever::Work);
    }
    following::follow(server, call, flight(server, session, run), None, patience)
        .await
        .map(|answer| Whichever::Cell(Box::new(answer)))
}

pub(crate) async fn interrupt(server: &Server, call: &Call, asked: InterruptCell) -> Result<Whichever, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let run = match asked.cell {
        Some(cell) => found(&session, cell)?,
        None => running(&session)?,
    };
    let job = jobs::of(&run);
    let ended = match (run.stage(), &job) {
        (Stage::Ended(ended), _) => Some(ended.outcome.ending.status().to_owned()),
        (Stage::Done(_), Some(job)) => Some(job.status()),
        _ => None,
    };
    if let Some(status) = ended {
        let cell = run.cell;
        return refuse(format!(
            "cell {cell} of session {:?} has ended already (status {status:?}); nothing was interrupted. \
             wait_for_cell(cell: {cell}) has its reply",
            session.id
        ));
    }
    run.cancel.cancel();
    let patience = Patience::of(server, call, Some(server.around.settings.grace + MARGIN));
    // What was asked for has been done.
    if let Some(job) = job {
        return Ok(Whichever::Work(jobs::follow(server, call, &job, Some(patience), false).await?.failed(false)));
    }
    let answer = following::follow(server, call, flight(server, session, run), None, patience).await?;
    Ok(Whichever::Cell(Box::new(match answer {
        Answer::Done(reply) => Answer::Done(reply.failed(false)),
        other @ (Answer::Asks(_) | Answer::Task(_)) => other,
    })))
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
                "session {:?} has no cell {cell} that a call has left or sent; its newest cell is {newest}. Numbers begin \
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
        Some((cell, _)) => refuse(format!("cell {cell} of session {id:?} ends already; nothing was interrupted")),
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
