//! Health: what is seen of sessions, what it means, and what is done about it.
//!
//! Runs in: server. Pure rooms: `verdict` (evidence → state), `alerts` (values → alerts raised and cleared), `recovery`
//! (what to do next, and when to give up), `history`, `policy`. Rooms that touch the world: `stacks` (evidence from a
//! living worker), `crashes` (reports on disk). The loop that drives them is `server/watch/supervisor.rs`; the one that acts on
//! a session's worker is the session's own task.

pub(crate) mod alerts;
pub(crate) mod errand;
pub(crate) mod evidence;
pub(crate) mod history;
pub(crate) mod record;
pub(crate) mod recovery;
mod verdict;

pub(crate) use crate::settings::policy::{HealthPolicy, RecoveryPolicy};
pub(crate) use record::Record;
pub(crate) use verdict::{Activity, Evidence, HealthStatus, State, Verdict, judge};
