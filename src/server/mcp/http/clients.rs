//! Clients of protocols up to 2025-11-25, each with a session of its own in rmcp's words: how many there are, and who is
//! forgotten when.
//!
//! Runs in: server. Around rmcp's own manager of such sessions, which never forgets one. Not `sessions/active.rs`, which
//! knows who has which Python session active. A client that is forgotten here, or says that it is done, never comes again under
//! that name: the Python sessions that only it could reach end with it.
//!
//! Where clients have tokens, such a session is of the token's owner, and there is none of its name for others.
//!
//! A client is *in use* while one of its streams is open or one of its requests runs: it is never forgotten then.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use futures::{Stream, StreamExt, future::Either, stream};
use parking_lot::Mutex;
use rmcp::{
    model::{ClientJsonRpcMessage, ClientNotification, JsonRpcMessage, RequestId, ServerJsonRpcMessage},
    transport::streamable_http_server::{
        RestoreOutcome, SessionId, SessionManager,
        session::{
            ServerSseMessage,
            local::{LocalSessionManager, LocalSessionManagerError},
        },
    },
};

use super::{
    events::{Events, Place},
    remembered::Remembered,
    words,
};
use crate::{
    server::{
        mcp::identity::{SESSION_HEADER, STATELESS, WHO, Who},
        owner::Owner,
        sessions::{death::DeathReason, registry::Registry},
    },
    settings::http_bounds::Bounds,
};

/// Requests of one client that are remembered for their cancellation.
const MOST_REQUESTS: usize = 4096;
/// The id that rmcp gives to the hint at the head of a common stream.
const HEAD: &str = "0";

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientsError {
    /// All are in use.
    #[error("all {0} places for clients are in use: try again later (--max-clients)")]
    Full(usize),
    /// Forgotten, or never known.
    #[error("no such session")]
    Unknown,
    /// What it missed is not kept any more, or was never its own.
    #[error("nothing is kept after event {0:?}")]
    NoEvent(String),
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
}

pub(crate) struct Clients {
    inner: LocalSessionManager,
    events: Arc<Events>,
    known: Mutex<HashMap<SessionId, Arc<Known>>>,
    bounds: Bounds,
    registry: Arc<Registry>,
    remembered: Arc<Remembered>,
}

struct Known {
    /// Its streams that are open.
    open: AtomicUsize,
    /// When it last asked for something, or a stream of it ended.
    seen: Mutex<Instant>,
    /// It has asked for something after it was made.
    worked: Mutex<bool>,
    /// The streams of its requests.
    requests: Mutex<HashMap<RequestId, u64>>,
    common: u64,
    /// It comes from the program in whose place this one is, with whose events it goes on.
    returned: bool,
    /// Whose token has opened it; of one that has returned, whose token comes first.
    opener: Mutex<Option<Owner>>,
}

/// A stream of a client's is open.
struct Open(Arc<Known>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        *self.0.seen.lock() = Instant::now();
    }
}

impl Known {
    fn of(id: &SessionId, events: &Events, returned: bool) -> Self {
        Self {
            open: AtomicUsize::new(0),
            seen: Mutex::new(Instant::now()),
            worked: Mutex::new(returned),
            requests: Mutex::default(),
            common: events.begin_common(id),
            returned,
            opener: Mutex::default(),
        }
    }

    /// Whether a request of this owner's may use it.
    fn is_for(&self, owner: &Owner) -> bool {
        if !owner.has_token() {
            return true;
        }
        let mut opener = self.opener.lock();
        *opener.get_or_insert_with(|| owner.clone()) == *owner
    }

    fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }
}

impl Clients {
    /// Those that are remembered. Must be called inside a tokio runtime: a task forgets those that are away for too long.
    #[must_use]
    pub(super) fn new(bounds: Bounds, registry: Arc<Registry>, remembered: Arc<Remembered>) -> Arc<Self> {
        let events = Arc::new(Events::default());
        let mut inner = LocalSessionManager::default().with_event_store(Arc::clone(&events) as _);
        // Who is away for too long is decided here.
        inner.session_config.keep_alive = None;
        let known = remembered.ids().into_iter().map(|id| {
            let id: SessionId = Arc::from(id);
            (Arc::clone(&id), Arc::new(Known::of(&id, &events, true)))
        });
        let known = Mutex::new(known.collect());
        let clients = Arc::new(Self { inner, events, known, bounds, registry, remembered });
        tokio::spawn(forget_the_absent(Arc::downgrade(&clients), bounds.client_idle));
        clients
    }

    fn known(&self, id: &SessionId) -> Result<Arc<Known>, ClientsError> {
        let known = self.known.lock().get(id).map(Arc::clone).ok_or(ClientsError::Unknown)?;
        *known.seen.lock() = Instant::now();
        Ok(known)
    }

    fn has_room(&self) -> bool {
        self.known.lock().len() < self.bounds.clients || self.most_absent().is_some()
    }

    /// The one to forget first: of those not in use, one that never did anything, and was seen longest ago.
    fn most_absent(&self) -> Option<SessionId> {
        let known = self.known.lock();
        let absent = known.iter().filter(|(id, known)| !self.is_in_use(id, known));
        absent.min_by_key(|(_, known)| (*known.worked.lock(), *known.seen.lock())).map(|(id, _)| Arc::clone(id))
    }

    fn is_in_use(&self, id: &SessionId, known: &Known) -> bool {
        known.open.load(Ordering::Relaxed) > 0 || self.events.is_waited_for(id)
    }

    fn absent_since(&self, idle: Duration) -> Vec<SessionId> {
        let known = self.known.lock();
        let absent =
            known.iter().filter(|(id, known)| known.seen.lock().elapsed() >= idle && !self.is_in_use(id, known));
        absent.map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Reads a stream of a client's; it is in use as long as that is open.
    fn read(&self, known: &Arc<Known>, place: Place) -> impl Stream<Item = ServerSseMessage> + Send + Sync + use<> {
        let open = known.open();
        self.events.read(place).map(move |event| {
            let _ = &open;
            event
        })
    }

    /// The stream of a request that was cancelled ends: no reply will come.
    fn note_cancellation(&self, known: &Known, message: &ClientJsonRpcMessage) {
        if let JsonRpcMessage::Notification(notification) = message
            && let ClientNotification::CancelledNotification(cancelled) = &notification.notification
            && let Some(id) = &cancelled.params.request_id
            && let Some(stream) = known.requests.lock().remove(id)
        {
            self.events.end(stream);
        }
    }
}

/// Turns away who would need a place of his own, when all are taken by clients that are in use.
pub(crate) async fn admit(State(clients): State<Arc<Clients>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_stateless = headers.get("mcp-protocol-version").is_some_and(|version| version.as_bytes() >= STATELESS);
    let session = headers.get(SESSION_HEADER).filter(|_| !is_stateless).and_then(|value| value.to_str().ok());
    if let (Some(session), Some(who)) = (session, request.extensions().get::<Who>())
        && clients.known.lock().get(session).is_some_and(|known| !known.is_for(who.visitor.peek()))
    {
        return words::refusal(StatusCode::NOT_FOUND, "Not Found: Session not found");
    }
    let is_known = headers.contains_key(SESSION_HEADER);
    if request.method() == Method::POST && !is_known && !is_stateless && !clients.has_room() {
        let full = ClientsError::Full(clients.bounds.clients);
        return words::refusal(StatusCode::SERVICE_UNAVAILABLE, &full.to_string());
    }
    next.run(request).await
}

async fn forget_the_absent(clients: Weak<Clients>, idle: Duration) {
    let pause = (idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(15));
    loop {
        tokio::time::sleep(pause).await;
        let Some(clients) = clients.upgrade() else { return };
        clients.events.tidy(Instant::now());
        for id in clients.absent_since(idle) {
            let _ = clients.close_session(&id).await;
        }
    }
}

impl SessionManager for Clients {
    type Error = ClientsError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), ClientsError> {
        while self.known.lock().len() >= self.bounds.clients {
            let id = self.most_absent().ok_or(ClientsError::Full(self.bounds.clients))?;
            tracing::info!("a client that is away is forgotten, because a new one came (--max-clients)");
            self.close_session(&id).await?;
        }
        let (id, transport) = self.inner.create_session().await?;
        let known = Known::of(&id, &self.events, false);
        let _ = WHO.try_with(|who| known.is_for(who.visitor.peek()));
        self.known.lock().insert(Arc::clone(&id), Arc::new(known));
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, ClientsError> {
        // Not forgotten while it is being made.
        let _open = self.known(id)?.open();
        Ok(self.inner.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, ClientsError> {
        // One that has come back and is not open yet is opened by rmcp.
        Ok(self.known(id).is_ok() && self.inner.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), ClientsError> {
        self.known.lock().remove(id);
        self.remembered.forget(id);
        self.events.forget(id);
        self.registry.end_owner(&Owner::HttpSession(Arc::clone(id)), DeathReason::Delete);
        Ok(self.inner.close_session(id).await?)
    }

    /// rmcp's own stream is dropped as soon as its first event has told which one it is: the client is served from what is
    /// kept, so that one that does not read holds up nothing.
    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ClientsError> {
        let known = self.known(id)?;
        *known.worked.lock() = true;
        let request = match &message {
            JsonRpcMessage::Request(request) => Some(request.id.clone()),
            _ => None,
        };
        let open = known.open();
        let first = Box::pin(self.inner.create_stream(id, message).await?).next().await;
        let place = first.and_then(|event| Place::after(&event.event_id?)).ok_or(ClientsError::Unknown)?;
        self.events.own(place.stream, id);
        if let Some(request) = request {
            let mut requests = known.requests.lock();
            if requests.len() >= MOST_REQUESTS {
                requests.retain(|_, stream| self.events.is_of(*stream, id));
            }
            requests.insert(request, place.stream);
        }
        drop(open);
        Ok(self.read(&known, Place { from: 0, ..place }))
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, ClientsError> {
        self.known(&id)?;
        Ok(self.inner.restore_session(id).await?)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), ClientsError> {
        let known = self.known(id)?;
        self.note_cancellation(&known, &message);
        Ok(self.inner.accept_message(id, message).await?)
    }

    /// One of them is served at a time. A further one, which says nothing of where it broke off, stays open and empty, or
    /// clients that open two would drive each other out without end.
    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ClientsError> {
        let known = self.known(id)?;
        if self.events.is_read(known.common) {
            return Ok(Either::Left(stream::pending()));
        }
        Ok(Either::Right(self.read(&known, self.events.unread(known.common))))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ClientsError> {
        let known = self.known(id)?;
        let place = match &*last_event_id {
            HEAD => Some(self.events.unread(known.common)),
            id => Place::after(id),
        };
        let place = place.filter(|place| self.events.is_of(place.stream, id));
        // What it had before was of the program in whose place this one is, which had nothing open when it went.
        let place = place.or_else(|| known.returned.then(|| self.events.unread(known.common)));
        Ok(self.read(&known, place.ok_or(ClientsError::NoEvent(last_event_id))?))
    }
}
