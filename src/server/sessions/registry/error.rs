//! Why the table of sessions cannot do what was asked, in words for its clients.
//!
//! Runs in: server. Nothing that is said to an owner tells of another's sessions.

use std::sync::Arc;

use crate::server::{
    sessions::{checkpoints::CheckpointError, death::DeathReason, names::MAX_NAME, quotas::QuotaError},
    workspace::handle::FileError,
};

/// Why the table cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("session {id:?} does not exist; there are: {known}. create_session makes a new one")]
    Unknown {
        /// The name asked for, cut when long.
        id: String,
        known: String,
    },
    /// It sleeps where another server has it.
    #[error(
        "session {id:?} is asleep in --state-dir and belongs to another forkpy server on this workspace, which runs (process {pid}): \
         use it there, or end that server first; then it is here"
    )]
    Elsewhere { id: String, pid: u32 },
    /// It was there and is not any more.
    #[error(
        "session {id:?} does not exist any more: it {}; its variables are gone. create_session makes a new one of that \
         name; there are: {known}", why.cleaned_up()
    )]
    Ended {
        id: String,
        /// What became of it.
        why: DeathReason,
        known: String,
    },
    /// The session that the client had made its active one is gone.
    #[error(
        "nothing was done: your active session {id:?} {}, so its variables are gone. Calls without session_id are refused \
         until you choose where they go: switch_session makes another session the active one, or pass session_id in each \
         call; there are: {known}{}", how(*why),
        if *made_anew { format!(" (this {id:?} is another session, which was made later)") } else { String::new() }
    )]
    ActiveEnded {
        id: String,
        /// What became of it, if that is remembered.
        why: Option<DeathReason>,
        /// There is another of that name.
        made_anew: bool,
        known: String,
    },
    /// A name that cannot be one.
    #[error(
        "session id {0:?} is not allowed: 1 to {MAX_NAME} letters (a-z, A-Z), digits, '_', '-' and '.', beginning with a \
         letter or digit"
    )]
    BadName(String),
    /// The limit is reached.
    #[error(
        "{all} sessions exist, which is the limit (--max-sessions); {}",
        if *own == 0 { "all of them are other clients': try again later" } else { "delete one first" }
    )]
    Full { all: usize, own: usize },
    /// The server takes none any more.
    #[error(
        "this server{} drains: it makes no new sessions, and those that it has go on. Connect anew, so that a balancer can \
         send you to another server",
        name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()
    )]
    Drains {
        /// What it is called among several.
        name: Option<String>,
    },
    /// The owner's own limit.
    #[error("no session was made for {owner}: {why}")]
    Quota { owner: Arc<str>, why: QuotaError },
    /// A copy must have a name of its own.
    #[error("session {0:?} exists already; choose another name, or delete_session it first")]
    Taken(String),
    /// The owner's workspace.
    #[error(transparent)]
    Place(#[from] FileError),
    /// A checkpoint that cannot start a worker.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The one that stays.
    #[error("session \"default\" always exists and cannot be deleted; restart_kernel gives it a fresh interpreter")]
    DefaultStays,
}

/// What became of a session, as far as that is remembered.
fn how(why: Option<DeathReason>) -> String {
    why.map_or_else(|| "is gone".to_owned(), DeathReason::cleaned_up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::sessions::names::shorten;

    #[test]
    fn a_long_name_does_not_flood_the_error() {
        let error = RegistryError::BadName(shorten(&"ä".repeat(300))).to_string();
        assert!(error.contains("300 characters") && error.len() < 400, "{error}");
    }
}
