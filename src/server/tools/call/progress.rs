//! Telling a client that a call is still being worked on: clients give up on a silent one.
//!
//! Runs in: server.

use std::{sync::Arc, time::Duration};

use rmcp::{RoleServer, model::ProgressNotificationParam, service::RequestContext};
use tokio::time::Instant;

use crate::server::{health::evidence::Phase, output::live::Live, sessions::handle::Session};

/// Clients that ask hear from us this often.
const INTERVAL: Duration = Duration::from_secs(3);
/// New output waits this long for more of it.
const SETTLE: Duration = Duration::from_millis(50);
/// Least time between two messages about output.
const PAUSE: Duration = Duration::from_millis(200);

/// Where output of the work goes, for [`told`], when the client asked for progress.
pub(crate) fn live(context: &RequestContext<RoleServer>) -> Option<Arc<Live>> {
    context.meta.get_progress_token().map(|_| Arc::new(Live::default()))
}

/// Waits for `work`. A client that asked for it is told of new output, and from time to time what is going on.
pub(crate) async fn told<T>(
    context: &RequestContext<RoleServer>,
    doing: impl Fn() -> String,
    live: Option<Arc<Live>>,
    work: impl Future<Output = T>,
) -> T {
    let Some(token) = context.meta.get_progress_token() else { return work.await };
    let live = live.unwrap_or_default();
    let began = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut next = began + INTERVAL;
    let mut soonest = began;
    let mut heard = false;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = live.changed(), if !heard => {
                heard = true;
                next = next.min(soonest.max(Instant::now() + SETTLE));
            }
            () = tokio::time::sleep_until(next) => {
                let message = live.take().unwrap_or_else(&doing);
                let note = ProgressNotificationParam::new(token.clone(), began.elapsed().as_secs_f64());
                let _ = context.peer.notify_progress(note.with_message(message)).await;
                heard = false;
                soonest = Instant::now() + PAUSE;
                next = soonest + INTERVAL;
            }
        }
    }
}

/// Waits for work in a session. A client that asked for progress is told of new output, and from time to time that it still goes on.
pub(crate) async fn of_session<T>(
    context: &RequestContext<RoleServer>,
    session: &Session,
    live: Option<Arc<Live>>,
    work: impl Future<Output = T>,
) -> T {
    told(context, || doing(session), live, work).await
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
        Phase::Idle | Phase::Asleep | Phase::Dead => format!("session {:?}", session.id),
    }
}
