//! How long a call waits for what it began, and what becomes of a call whose turn does not come in that time.
//!
//! Runs in: server. A cell that waits longer goes on without its call (`cells/following.rs`). Anything else that a session is
//! asked for is taken back then, so that the client, which is about to give up, knows that nothing was done.

use std::{pin::pin, time::Duration};

use futures::FutureExt;

use super::{clients, error::ToolError, progress, request::Call, server::Server, sight::Doing};
use crate::{
    protocol::asynchronous::sleep_until,
    server::{
        health::evidence::Phase,
        sessions::{
            handle::Session,
            orders::{Caller, SessionError},
            turnover::Hurry,
        },
    },
    settings::options::Wait,
};

/// After this time a call becomes a task, when its client knows tasks.
const TASK: Duration = Duration::from_secs(4);
/// Between two looks at what a session does that had something else to do than a cell.
const LOOK: Duration = Duration::from_millis(500);

/// How long a call waits for what it began.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    until: Option<tokio::time::Instant>,
    /// What has not ended by then becomes a task.
    makes_task: bool,
    /// The server that is asked may be about to become another program.
    hurry: Hurry,
}

impl Patience {
    /// As the call says; else as the server's options, or what is known of the client.
    pub(crate) fn of(server: &Server, call: &Call, asked: Option<Duration>) -> Self {
        let makes_task = false;
        let limit = asked.or_else(|| match server.around.settings.wait {
            Wait::Auto => clients::patience(&call.context),
            Wait::ToTheEnd => None,
            Wait::Seconds(seconds) => Some(Duration::from_secs_f64(seconds)),
        });
        let until = limit.and_then(|limit| tokio::time::Instant::now().checked_add(limit));
        Self { until, makes_task, hurry: server.around.turnover.listen() }
    }

    /// The same for work that may go on as a task: clients that know tasks need not wait long. A call that says how long it waits
    /// gets a reply then.
    pub(crate) fn or_task(server: &Server, call: &Call, asked: Option<Duration>) -> Self {
        let patience = Self::of(server, call, asked);
        let settings = &server.around.settings;
        let knows = call.context.client_capabilities().is_some_and(|can| can.supports_tasks());
        if !knows || asked.is_some() || settings.wait == Wait::ToTheEnd || settings.keep_replies.is_zero() {
            return patience;
        }
        let soon = tokio::time::Instant::now() + TASK;
        Self { until: Some(patience.until.map_or(soon, |until| until.min(soon))), makes_task: true, ..patience }
    }

    /// Whether what goes on is to be a task, now that the call is to be answered.
    pub(crate) fn makes_task(&self) -> bool {
        self.makes_task && self.is_over().now_or_never().is_some()
    }

    pub(crate) async fn is_over(&self) {
        tokio::select! {
            () = sleep_until(self.until) => {}
            () = self.hurry.comes() => {}
        }
    }
}

/// What an order that waits for its turn waits for.
pub(crate) fn ahead(session: &Session) -> String {
    match session.shared.get().phase {
        Phase::Busy { cell, since } => format!("cell {cell} runs, for {} s", since.elapsed().as_secs()),
        Phase::WaitingInput { cell, .. } => format!("cell {cell} waits for input"),
        Phase::Starting => "Python is starting".to_owned(),
        Phase::Serving { errand, since } => {
            format!("the session {}, for {} s", errand.doing(), since.elapsed().as_secs())
        }
        Phase::Idle | Phase::Asleep | Phase::Dead => "the session is at something else".to_owned(),
    }
}

/// Waits until a session has done what it was asked for. When the call can wait no longer and a cell runs still, the order is
/// taken back; one whose turn has come is waited for, it has a limit of its own.
pub(crate) async fn in_turn<T, W>(
    server: &Server,
    call: &Call,
    session: &Session,
    order: impl FnOnce(Caller) -> W,
) -> Result<T, ToolError>
where
    W: Future<Output = Result<T, SessionError>>,
{
    let (cancel, sight) = (call.context.ct.child_token(), call.sight());
    sight.is_in(session);
    let patience = Patience::of(server, call, None);
    let mut work = pin!(order(Caller { client: call.client.clone(), cancel: cancel.clone() }));
    let of = session.clone();
    sight.accepted(move || match of.shared.get().phase {
        Phase::Busy { .. } | Phase::WaitingInput { .. } => Doing::waits(ahead(&of)),
        _ => Doing::works(String::new()),
    });
    let waiting = async {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done?),
            () = patience.is_over() => {}
        }
        loop {
            // It may have been done between two looks.
            if let Some(done) = (&mut work).now_or_never() {
                return Ok(done?);
            }
            if let Some((cell, since)) = session.shared.get().phase.cell() {
                cancel.cancel();
                let (session, ran) = (session.id.to_string(), since.elapsed());
                return Err(ToolError::Busy { session, cell, ran });
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    progress::of_session(&call.context, session, None, waiting).await
}
