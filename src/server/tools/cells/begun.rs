//! Calls that become tasks (SEP-2663): the answer that gives their clients a name.
//!
//! Runs in: server. What is done by that name later is `tasks.rs`.

use rmcp::model::{CallToolResponse, CreateTaskResult, Task, TaskStatus};

use crate::server::{
    sessions::{
        handle::Session,
        runs::{Run, Stage},
    },
    tools::call::{patience::ahead, server::Server},
};

/// How often a client is asked to look, in milliseconds.
pub(super) const POLL: u64 = 1000;

/// A call becomes a task: it has a name from now on, and the work goes on.
pub(super) fn begin(server: &Server, session: &Session, run: &Run) -> CallToolResponse {
    let (name, named) = server.tasks.name(session, run.cell);
    let task = Task::new(name, TaskStatus::Working, &named.created, &named.created)
        .with_status_message(words(session, run))
        .with_poll_interval_ms(POLL);
    CallToolResponse::Task(CreateTaskResult::new(task))
}

/// What it is doing.
pub(super) fn words(session: &Session, run: &Run) -> String {
    let (cell, id) = (run.cell, &session.id);
    match run.stage() {
        Stage::Queued => format!("cell {cell} of session {id:?} waits for its turn: {}", ahead(session)),
        Stage::Running(since) => format!("number {cell} of session {id:?} runs, for {} s", since.elapsed().as_secs()),
        Stage::Ended(_) | Stage::Done(_) => format!("number {cell} of session {id:?} has ended"),
    }
}
