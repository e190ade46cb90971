//! A server that clients reach through fronts: where it is met, and how long it waits for them.
//!
//! Runs in: server. Pure data.

use std::{os::unix::net::UnixListener, time::Duration};

use crate::sys::rendezvous::Place;

/// What makes a server one for fronts.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) listener: UnixListener,
    pub(crate) place: Place,
    /// The options that it was started with.
    pub(crate) args: Vec<String>,
    /// It ends after so long without clients and cells; `None` is never.
    pub(crate) idle_exit: Option<Duration>,
}
