//! Tools that run something in a session: cells, variables, restart.
//!
//! Runs in: server.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use rmcp::{
    RoleServer,
    model::{CallToolResponse, CallToolResult, ContentBlock},
    service::RequestContext,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::Variable,
    server::{
        health::evidence::Phase,
        output::live::Live,
        sessions::{
            handle::Session,
            orders::{CellOrder, Restarted},
            outcome::CellOutcome,
        },
        tools::{
            Call, ToolError,
            arguments::{self, OfSession, RestartKernel, RunPythonCode},
            call::{
                asking::{self, Flight, Way},
                links, progress,
                server::Server,
            },
            cells::{
                pictures::{self, Picture},
                reply,
            },
            now, reply, reply_with_text,
            results::{Restart, VariableDetails, Variables},
        },
    },
};

pub(in crate::server) async fn run_python_code(server: &Server, mut call: Call) -> Result<CallToolResponse, ToolError> {
    let asked: RunPythonCode = call.read("run_python_code")?;
    if let Some(name) = &call.again.request_state {
        let flight = server.waiting.take(name, call.again.input_responses.as_ref()).ok_or(ToolError::NoQuestion)?;
        return fly(server, &call.context, None, flight).await;
    }
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let asked_for = arguments::cell_limit(asked.timeout)?.or(server.around.settings.timeout);
    let timeout = session.limits.cell_limit(asked_for);
    let on_error = asked.on_error.unwrap_or_default().into();
    let code = asked.checked_code()?;
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
) -> Result<CallToolResponse, ToolError> {
    let session = flight.session().clone();
    if flight.is_open() {
        return Ok(server.waiting.put(flight).into());
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
    let Some(outcome) = with_progress(context, &session, live, to_the_end).await? else {
        return Ok(server.waiting.put(flight).into());
    };
    let is_error = outcome.ending.is_tool_error();
    let (outcome, pictures) = with_pictures(outcome).await;
    let cell = reply::cell(&session.id, outcome, pictures.iter().map(|picture| picture.base64.len() + 64).sum());
    let text = reply::text(&cell);
    let mut reply = reply_with_text(&cell, text, is_error)?;
    reply.content.extend(pictures.into_iter().map(|picture| ContentBlock::image(picture.base64, picture.mime)));
    let whole = cell.stdout_file.iter().chain(&cell.stderr_file);
    let made = cell.outputs.iter().chain(whole).chain(&cell.new_files).map(String::as_str);
    links::add(&mut reply, context, server.files.root(), made);
    Ok(reply.into())
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

pub(in crate::server) async fn list_variables(server: &Server, mut call: Call) -> Result<CallToolResult, ToolError> {
    let asked: OfSession = call.read("list_variables")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let found = with_progress(&call.context, &session, None, session.variables(call.caller())).await?;
    let (mut variables, mut details) = (BTreeMap::new(), BTreeMap::new());
    for Variable { name, kind, value, shape, dtype, length, bytes } in found {
        let short = kind.rsplit('.').next().unwrap_or_default();
        variables.insert(name.clone(), format!("{short}: {value}"));
        details.insert(name, VariableDetails { kind, value, shape, dtype, length, bytes });
    }
    let (state, notice) = call.news_of(&session);
    let mut text = serde_json::to_string(&variables)?;
    if let Some(notice) = &notice {
        text = format!("{text}\n{notice}");
    }
    let session_id = session.id.to_string();
    reply_with_text(&Variables { variables, details, session_id, state, notice }, text, false)
}

pub(in crate::server) async fn restart_kernel(server: &Server, mut call: Call) -> Result<CallToolResult, ToolError> {
    let asked: RestartKernel = call.read("restart_kernel")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let preserve_state = asked.preserve_state.unwrap_or(false);
    let Restarted { mut preserved, mut restored, lost, notice } =
        with_progress(&call.context, &session, None, session.restart(preserve_state, call.caller())).await?;
    preserved.sort_unstable();
    restored.sort_unstable();
    reply(&Restart {
        restarted: true,
        session_id: session.id.to_string(),
        preserve_state,
        preserved_vars: preserved,
        restored_vars: restored,
        lost_vars: lost,
        pid: session.shared.get().worker.map(|worker| worker.pid),
        notice,
        timestamp: now(),
    })
}

/// Waits for `work`. A client that asked for progress is told of new output, and from time to time that it still goes on.
async fn with_progress<T>(
    context: &RequestContext<RoleServer>,
    session: &Session,
    live: Option<Arc<Live>>,
    work: impl Future<Output = T>,
) -> T {
    progress::told(context, || doing(session), live, work).await
}

fn doing(session: &Session) -> String {
    let status = session.shared.get();
    match status.phase {
        Phase::Busy { cell, since } => {
            let waiting = match status.waiting {
                0 => String::new(),
                count => format!("; {count} waiting"),
            };
            format!("session {:?}: cell {cell} has run for {} s{waiting}", session.id, since.elapsed().as_secs())
        }
        Phase::WaitingInput { cell, .. } => format!("session {:?}: cell {cell} waits for input", session.id),
        Phase::Starting => format!("session {:?}: Python is starting", session.id),
        Phase::Serving { errand, since } => {
            format!("session {:?} {}, for {} s", session.id, errand.doing(), since.elapsed().as_secs())
        }
        Phase::Idle | Phase::Dead => format!("session {:?}", session.id),
    }
}
