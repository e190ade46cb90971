//! Whose a connection to the proxy is. The server itself connects the sockets of confined processes, so it knows from which
//! address each of them will come; no password is needed, and no other process of this machine gets anything from the proxy.
//!
//! There are two kinds: sessions, and what installs packages, which may reach the indexes too.
//!
//! Runs in: server. `Caller` is told by a process' door, on a blocking thread; `Callers::take` is asked by the proxy.

use std::{
    collections::HashMap,
    net::SocketAddrV4,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sys::door::Proxy;

/// Connections of one session at a time.
const PLACES: usize = 256;

/// What a confined process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A session, or a script.
    Session,
    /// It installs packages.
    Installer,
}

/// Connections that are about to arrive, by where they come from.
#[derive(Debug)]
pub(crate) struct Callers {
    proxy: SocketAddrV4,
    /// Sessions may reach something.
    for_sessions: bool,
    expected: Mutex<HashMap<SocketAddrV4, (Arc<Semaphore>, Kind)>>,
}

/// What the door of one session knows of the proxy.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    callers: Weak<Callers>,
    proxy: SocketAddrV4,
    places: Arc<Semaphore>,
    kind: Kind,
}

/// A connection that has arrived.
#[derive(Debug)]
pub(super) enum Arrival {
    /// No session's.
    Stranger,
    /// Of a session that has too many.
    Crowd,
    /// Of a session; it counts until this is dropped.
    Guest(OwnedSemaphorePermit, Kind),
}

impl Callers {
    #[must_use]
    pub(super) fn of(proxy: SocketAddrV4, for_sessions: bool) -> Arc<Self> {
        Arc::new(Self { proxy, for_sessions, expected: Mutex::default() })
    }

    /// For the door of one process, if it has any use for the proxy.
    #[must_use]
    pub(crate) fn admit(self: &Arc<Self>, kind: Kind) -> Option<Caller> {
        let proxy = self.proxy(kind)?;
        Some(Caller { callers: Arc::downgrade(self), proxy, places: Arc::new(Semaphore::new(PLACES)), kind })
    }

    /// Where the proxy is, for those who have any use for it.
    #[must_use]
    pub(crate) fn proxy(&self, kind: Kind) -> Option<SocketAddrV4> {
        (self.for_sessions || kind == Kind::Installer).then_some(self.proxy)
    }

    /// Where the proxy is.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddrV4 {
        self.proxy
    }

    pub(super) fn take(&self, from: SocketAddrV4) -> Arrival {
        match self.expected.lock().remove(&from) {
            None => Arrival::Stranger,
            Some((places, kind)) => {
                places.try_acquire_owned().map_or(Arrival::Crowd, |place| Arrival::Guest(place, kind))
            }
        }
    }
}

impl Proxy for Caller {
    fn address(&self) -> SocketAddrV4 {
        self.proxy
    }

    fn expect(&self, from: SocketAddrV4) {
        if let Some(callers) = self.callers.upgrade() {
            callers.expected.lock().insert(from, (Arc::clone(&self.places), self.kind));
        }
    }

    fn forget(&self, from: SocketAddrV4) {
        if let Some(callers) = self.callers.upgrade() {
            callers.expected.lock().remove(&from);
        }
    }
}
