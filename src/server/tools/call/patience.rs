//! How long a call waits for what it began, and what becomes of a call whose turn does not come in that time.
//!
//! Runs in: server. A cell that waits longer goes on without its call (`cells/following.rs`). Anything else that a session is
//! asked for is taken back then, so that the client, which is about to give up, knows that nothing was done.

use std::{pin::pin, time::Duration};

use futures::FutureExt;

use super::{clients, error::ToolError, progress, request::Call, server::Server};
use crate::{
    protocol::asynchronous::sleep_until,
    server::{
        health::evidence::Phase,
        sessions::{
            handle::Session,
            orders::{Caller, SessionError},
        },
    },
    settings::options::Wait,
};

/// Between two looks at what a session does that had something else to do than a cell.
const LOOK: Duration = Duration::from_millis(500);

/// How long a call waits for what it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Option<tokio::time::Instant>);

impl Patience {
    /// As the call says; else as the server's options, or what is known of the client.
    pub(crate) fn of(server: &Server, call: &Call, asked: Option<Duration>) -> Self {
        let limit = asked.or_else(|| match server.around.settings.wait {
            Wait::Auto => clients::patience(&call.context),
            Wait::ToTheEnd => None,
            Wait::Seconds(seconds) => Some(Duration::from_secs_f64(seconds)),
        });
        Self(limit.and_then(|limit| tokio::time::Instant::now().checked_add(limit)))
    }

    pub(crate) async fn is_over(self) {
        sleep_until(self.0).await;
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
    let cancel = call.context.ct.child_token();
    let patience = Patience::of(server, call, None);
    let mut work = pin!(order(Caller { client: call.client.clone(), cancel: cancel.clone() }));
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
