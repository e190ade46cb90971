//! Following a cell for a call: to its end, to a question, or as long as the call may wait.
//!
//! Runs in: server. A call is not a cell: the call may be answered "running" while the cell goes on, and another call follows
//! it then (`kept.rs`).

use std::{sync::Arc, time::Duration};

use rmcp::model::ContentBlock;

use super::{
    begun,
    pictures::{self, Picture},
    reply,
    result::Cell,
};
use crate::{
    protocol::attach::span,
    server::{
        output::live::Live,
        sessions::{
            handle::Session,
            runs::{Ended, Run, Stage},
        },
        tools::call::{
            asking::{self, Flight, Way},
            error::ToolError,
            patience::{Patience, ahead},
            progress,
            reply::{Answer, Reply},
            request::Call,
            server::Server,
            texts,
        },
    },
};

/// How following ended.
enum Followed {
    Ended(Arc<Ended>),
    /// The client must answer a question, with another call.
    Asks,
    /// The call has waited long enough, or it was cancelled.
    Left,
}

/// Follows a cell for a call, and says what came of that.
pub(crate) async fn follow(
    server: &Server,
    call: &Call,
    mut flight: Flight,
    live: Option<Arc<Live>>,
    patience: Patience,
) -> Result<Answer<Cell>, ToolError> {
    if flight.is_open() && asking::way(&call.context) == Some(Way::Result) {
        return Ok(Answer::Asks(server.waiting.put(flight)));
    }
    let (session, run) = (flight.session().clone(), Arc::clone(flight.run()));
    let context = &call.context;
    let followed = progress::of_session(context, &session, live, steps(call, &mut flight, &patience)).await?;
    match followed {
        Followed::Ended(ended) => {
            if run.client == call.client {
                session.life.told(&call.client, ended.told);
            }
            Ok(Answer::Done(whole(&session, &ended, server.around.settings.max_output).await))
        }
        Followed::Asks => Ok(Answer::Asks(server.waiting.put(flight))),
        Followed::Left => {
            flight.stop_asking().await;
            // Before the call is answered, so that the next one finds it.
            server.flights.leave(flight);
            if patience.makes_task() && !run.is_over() {
                return Ok(Answer::Task(Box::new(begun::begin(server, &session, &run))));
            }
            Ok(Answer::Done(so_far(server, &session, &run).await))
        }
    }
}

async fn steps(call: &Call, flight: &mut Flight, patience: &Patience) -> Result<Followed, ToolError> {
    let context = &call.context;
    let mut taken_back = false;
    loop {
        tokio::select! {
            biased;
            stepped = flight.step() => match (stepped?, asking::way(context)) {
                (Some(ended), _) => return Ok(Followed::Ended(ended)),
                (None, Some(Way::Result)) => return Ok(Followed::Asks),
                (None, Some(Way::Request)) => flight.send(&context.peer).await,
                // The call's client cannot ask its user.
                (None, None) => return Ok(Followed::Left),
            },
            () = context.ct.cancelled(), if !taken_back => {
                // A client that goes away does not take back what it asked for.
                if call.gone.is_cancelled() || !flight.take_back_run() {
                    return Ok(Followed::Left);
                }
                taken_back = true;
            }
            () = patience.is_over(), if !taken_back => return Ok(Followed::Left),
        }
    }
}

/// The reply to a cell that has ended.
pub(super) async fn whole(session: &Session, ended: &Arc<Ended>, max_output: usize) -> Reply<Cell> {
    let pictures = pictures_of(ended).await;
    let outcome = ended.outcome.clone();
    let is_error = outcome.ending.is_tool_error();
    let cell = reply::cell(&session.id, outcome, pictures.iter().map(|picture| picture.base64.len() + 64).sum());
    let mut text = reply::text(&cell);
    if !pictures.is_empty() {
        texts::section(&mut text, "pictures", &pictures::lines(&pictures).join("\n"));
    }
    // What was displayed is in the reply already, and the whole output is named in it: the code made neither.
    let made = cell.new_files.clone();
    let pictures = pictures.into_iter().map(|picture| ContentBlock::image(picture.base64, picture.mime));
    Reply::of(cell).text(text).at_most(max_output).failed(is_error).pictures(pictures).files(&made)
}

/// The reply to a cell that has not ended: what it has written since the last look, and what to do next.
async fn so_far(server: &Server, session: &Session, run: &Arc<Run>) -> Reply<Cell> {
    let look = match run.stage() {
        Stage::Running(_) => session.look(run.shown()).await,
        Stage::Queued | Stage::Ended(_) | Stage::Done(_) => None,
    };
    let (stdout, stderr) = match look {
        Some(look) => {
            run.show(look.up_to);
            (look.stdout, look.stderr)
        }
        None => Default::default(),
    };
    let ran = match run.stage() {
        Stage::Running(since) => since.elapsed(),
        Stage::Queued | Stage::Ended(_) | Stage::Done(_) => Duration::ZERO,
    };
    let keep = server.around.settings.keep_replies;
    let (status, notice) = match run.stage() {
        Stage::Queued => ("queued", queued(session, run)),
        Stage::Running(_) | Stage::Ended(_) | Stage::Done(_) => ("running", running(session, run, ran, keep)),
    };
    let cell = reply::unfinished(reply::Unfinished {
        status,
        session: &session.id,
        cell: run.cell,
        stdout,
        stderr,
        ran,
        notice,
    });
    let text = reply::text(&cell);
    Reply::of(cell).text(text)
}

fn running(session: &Session, run: &Run, ran: Duration, keep: Duration) -> String {
    let (cell, id, kept) = (run.cell, &session.id, kept_for(keep));
    format!(
        "Cell {cell} of session {id:?} still runs, for {} s, and goes on. wait_for_cell(cell: {cell}) waits for the rest, \
         interrupt_cell(cell: {cell}) ends it; do not send the code again. {kept}",
        ran.as_secs()
    )
}

/// How long the reply to what goes on can be had.
pub(super) fn kept_for(keep: Duration) -> String {
    match keep.as_secs() {
        0 => "Its reply is not kept (--keep-replies 0): a call that waits when it ends gets it.".to_owned(),
        _ => format!("Its reply is kept for {}.", span(keep.as_secs_f64())),
    }
}

fn queued(session: &Session, run: &Run) -> String {
    let (cell, id) = (run.cell, &session.id);
    let place = session.runs.before(cell).max(1);
    let ahead = ahead(session);
    format!(
        "Cell {cell} of session {id:?} waits for its turn, as number {place}: {ahead}. It will run by itself. \
         wait_for_cell(cell: {cell}) waits for it, interrupt_cell(cell: {cell}) takes it back; do not send the code again."
    )
}

/// Scaling a picture takes time that the server's one thread has not.
async fn pictures_of(ended: &Arc<Ended>) -> Vec<Picture> {
    if !pictures::any(&ended.outcome.displays) {
        return Vec::new();
    }
    let ended = Arc::clone(ended);
    let scaled = tokio::task::spawn_blocking(move || pictures::prepare(&ended.outcome.displays));
    scaled.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
