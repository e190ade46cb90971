//! Why a session is not here, in words for its client.
//!
//! Runs in: server. Tells an owner of that owner's sessions only.

use std::time::Duration;

use crate::server::{
    sessions::{orders::SessionError, registry::RegistryError},
    store::StoreError,
};

/// Why a session was not put away, or is not here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AwayError {
    /// Another server has it.
    #[error(
        "nothing was done: session {session:?} lives on server {server:?}, and this is server {here:?}. Send the call there{}",
        silence(*silent)
    )]
    Elsewhere { session: String, server: String, here: String, silent: Option<Duration> },
    /// It lies in the store, and was only looked at.
    #[error(
        "session {session:?} was put away into the store by server {server:?} at {at} after cell {cell} ({bytes} bytes), and has no \
         process. It was not woken for this; the next call that uses it brings it back"
    )]
    PutAway { session: String, server: String, at: String, cell: u64, bytes: u64 },
    /// A server that drains takes none.
    #[error(
        "nothing was done: session {session:?} lies in the store, and this server ({here}) drains. Connect anew, so that a balancer \
         can send you to another server, which has it then"
    )]
    Drains { session: String, here: String },
    /// The server that had it is gone.
    #[error(
        "session {session:?} is lost: server {server:?} had it, and has ended without putting it away. create_session makes a new \
         one of that name"
    )]
    Lost { session: String, server: String },
    /// The store.
    #[error(
        "nothing was done: whether session {session:?} may be used here is not known. {error}. It stays what it is; call again"
    )]
    Store { session: String, error: StoreError },
    /// It is just going, and the store does not answer.
    #[error(
        "nothing was done: session {session:?} is on its way into the store or out of it. Nothing of it is lost; call again"
    )]
    OnItsWay { session: String },
    /// It cannot wake here.
    #[error(
        "session {session:?} was put away by server {server:?} and cannot be brought back here: {why}. It stays in the store{}",
        if *is_damaged { "; delete_session gives it up" } else { ", for a server that is like that one" }
    )]
    Unfit { session: String, server: String, why: String, is_damaged: bool },
    /// There is no room, or no workspace.
    #[error("session {session:?} lies in the store and was not brought back: {error}")]
    NoRoom { session: String, error: RegistryError },
    /// It stays awake.
    #[error(transparent)]
    Stays(#[from] SessionError),
    #[error("session {session:?} was not put away, and is as it was: {why}")]
    NotPut { session: String, why: String },
}

fn silence(silent: Option<Duration>) -> String {
    silent.map_or_else(String::new, |silent| {
        format!(
            ". That server has given no sign for {} s; when it has ended, the session is brought back here as it was last put away",
            silent.as_secs()
        )
    })
}
