//! Calls that have become tasks (SEP-2663): `tasks/get`, `tasks/update`, `tasks/cancel`.
//!
//! Runs in: server. What a task is doing is looked up where cells are; its result is what `wait_for_cell` would say.

use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use rmcp::{
    ErrorData,
    model::{CallToolResponse, DetailedTask, GetTaskResult, InputResponses, JsonObject, Task, TaskPayload, TaskStatus},
};
use serde_json::Value;

use super::{
    begun::{POLL, words},
    jobs,
    kept::{self, WaitForCell},
};
use crate::server::{
    sessions::{
        handle::Session,
        outcome::Ending,
        runs::{Dropped, Found, Run, Stage},
    },
    tools::call::{
        reply::Respond,
        request::Call,
        server::Server,
        tasks::{Named, milliseconds},
        tool::refusal,
    },
};

/// `tasks/get`; the call is of the tool `wait_for_cell`.
pub(crate) async fn get(server: &Arc<Server>, call: Call, name: &str) -> Result<GetTaskResult, ErrorData> {
    let (named, session) = found(server, &call, name)?;
    let mut task =
        Task::new(name, TaskStatus::Working, &named.created, Timestamp::now().to_string()).with_poll_interval_ms(POLL);
    let Some(session) = session else {
        let words = format!("session {:?} has ended, and with it what this task stood for", named.session);
        return Ok(GetTaskResult::new(DetailedTask::new(task, TaskPayload::Failed { error: error(&words) })));
    };
    let run = match session.runs.find(named.cell) {
        Found::Here(run) => run,
        Found::Dropped(Dropped { ended, when, .. }) => {
            let words = format!(
                "the result of task {name:?} is not kept any more: it ended at {ended:.0}, and was dropped at {when:.0}"
            );
            return Err(ErrorData::invalid_params(words, None));
        }
        Found::Never => return Err(unknown(name)),
    };
    let Some(ended) = run.ended_at() else {
        task.status_message = Some(words(&session, &run));
        let asked = question(server, &session, &run);
        let payload = asked.map_or(TaskPayload::Working, |(key, request)| TaskPayload::InputRequired {
            input_requests: [(key, request)].into(),
        });
        return Ok(GetTaskResult::new(DetailedTask::new(task, payload)));
    };
    task.last_updated_at = ended.to_string();
    task.ttl_ms = Some(time_to_live(server, &named, ended));
    if named.cancelled && was_cancelled(&run) {
        return Ok(GetTaskResult::new(DetailedTask::new(task, TaskPayload::Cancelled)));
    }
    let asked = WaitForCell { cell: Some(named.cell), session_id: Some(named.session), timeout: Some(0.0) };
    let answered = match kept::wait_for(server, &call, asked).await {
        Ok(reply) => reply.respond(server, &call),
        Err(error) => Err(error),
    };
    let result = match answered.unwrap_or_else(|error| refusal(&error).into()) {
        CallToolResponse::Complete(result) => object(serde_json::to_value(result)),
        _ => return Err(ErrorData::internal_error("the reply of a task that has ended is no result", None)),
    };
    Ok(GetTaskResult::new(DetailedTask::new(task, TaskPayload::Completed { result })))
}

/// `tasks/update`: answers to questions; those to others than the open one mean nothing.
pub(crate) fn update(server: &Server, call: &Call, name: &str, responses: &InputResponses) -> Result<(), ErrorData> {
    let (named, session) = found(server, call, name)?;
    if let Some(mut flight) = session.and_then(|session| server.flights.follow((session.life.number(), named.cell))) {
        responses.iter().for_each(|(key, response)| flight.answer(key, response));
        server.flights.leave(flight);
    }
    Ok(())
}

/// `tasks/cancel`: has it end as an interrupt does.
pub(crate) fn cancel(server: &Server, call: &Call, name: &str) -> Result<(), ErrorData> {
    let (named, session) = found(server, call, name)?;
    if let Some(session) = session
        && let Found::Here(run) = session.runs.find(named.cell)
        && run.ended_at().is_none()
    {
        server.tasks.cancel(name);
        run.cancel.cancel();
    }
    Ok(())
}

/// What a name stands for, and its session if that is still there.
fn found(server: &Server, call: &Call, name: &str) -> Result<(Named, Option<Session>), ErrorData> {
    let named = server.tasks.find(call.owner(), name).ok_or_else(|| unknown(name))?;
    let session = server.registry.get(call.owner(), &named.session).ok();
    let session = session.filter(|session| session.life.number() == named.life);
    Ok((named, session))
}

fn unknown(name: &str) -> ErrorData {
    ErrorData::invalid_params(format!("there is no task {name:?}"), None)
}

/// What the cell asks its client, and under which key that is to be answered.
fn question(server: &Server, session: &Session, run: &Run) -> Option<(String, rmcp::model::InputRequest)> {
    let mut flight = server.flights.follow((session.life.number(), run.cell))?;
    // Only a look: what the cell has asked by now becomes the open question.
    let _ = flight.step().now_or_never();
    let asked = flight.question();
    server.flights.leave(flight);
    asked
}

fn was_cancelled(run: &Run) -> bool {
    match run.stage() {
        Stage::Ended(ended) => matches!(ended.outcome.ending, Ending::Cancelled { .. }),
        Stage::Done(_) => jobs::of(run).is_some_and(|job| job.status() == "cancelled"),
        Stage::Queued | Stage::Running(_) => false,
    }
}

/// Milliseconds from its making until its result is not kept any more.
fn time_to_live(server: &Server, named: &Named, ended: Timestamp) -> u64 {
    let took = named.created.parse::<Timestamp>().map_or(0, |created| ended.duration_since(created).as_millis());
    milliseconds(server.around.settings.keep_replies).saturating_add(u64::try_from(took).unwrap_or(0)).max(1)
}

fn error(words: &str) -> JsonObject {
    object(serde_json::to_value(ErrorData::internal_error(words.to_owned(), None)))
}

fn object(value: serde_json::Result<Value>) -> JsonObject {
    match value {
        Ok(Value::Object(object)) => object,
        _ => JsonObject::new(),
    }
}
