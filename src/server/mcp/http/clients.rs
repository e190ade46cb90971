//! Clients of protocols up to 2025-11-25, each with a session of its own in rmcp's words: how many there are, and who is
//! forgotten when.
//!
//! Runs in: server. In the place of rmcp's own manager of such sessions, which never forgets one. Not `sessions/active.rs`, which
//! knows who has which Python session active. How an answer finds its way is `post.rs`. A client that is forgotten here, or says
//! that it is done, never comes again under that name: the Python sessions that only it could reach end with it.
//!
//! Where clients have tokens, such a session is of the token's owner, and there is none of its name for others.
//!
//! A client is *in use* while one of its streams is open or one of its requests runs: it is never forgotten then.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    extract::Request,
    http::{Method, StatusCode},
    response::Response,
};
use futures::{Stream, StreamExt, future::Either, stream};
use parking_lot::Mutex;
use rmcp::{
    model::{ClientJsonRpcMessage, ClientNotification, JsonRpcMessage, RequestId, ServerJsonRpcMessage},
    transport::streamable_http_server::{RestoreOutcome, SessionId, SessionManager, session::ServerSseMessage},
};
use tokio::sync::mpsc;

use super::{
    events::{Event, Events, Place},
    post::{Connection, Post, Quick},
    remembered::Remembered,
    words,
};
use crate::{
    server::{
        mcp::identity::{SESSION_HEADER, STATELESS, WHO, Who},
        owner::Owner,
        sessions::{death::DeathReason, registry::Registry},
        tools::call::lane::Lane,
    },
    settings::http_bounds::Bounds,
};

/// The id that rmcp gives to the hint at the head of a common stream.
const HEAD: &str = "0";
/// How long the head of a reply waits for the rest of it, so that both go out at once.
const HOLD: Duration = Duration::from_millis(20);

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
}

pub(crate) struct Clients {
    events: Arc<Events>,
    known: Mutex<HashMap<SessionId, Arc<Known>>>,
    bounds: Bounds,
    registry: Arc<Registry>,
    remembered: Arc<Remembered>,
}

/// A client.
pub(super) struct Known {
    /// Its streams that are open.
    open: AtomicUsize,
    /// When it last asked for something, or a stream of it ended.
    seen: Mutex<Instant>,
    /// It has asked for something after it was made.
    worked: Mutex<bool>,
    post: Arc<Post>,
    /// To its connection, as long as there is one.
    way: Mutex<Option<mpsc::UnboundedSender<ClientJsonRpcMessage>>>,
    /// The connection has been opened by `initialize`.
    opened: AtomicBool,
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
    fn of(id: &SessionId, events: &Arc<Events>, returned: bool) -> Self {
        Self {
            open: AtomicUsize::new(0),
            seen: Mutex::new(Instant::now()),
            worked: Mutex::new(returned),
            post: Post::new(id, events),
            way: Mutex::default(),
            opened: AtomicBool::new(false),
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

    fn connect(&self) -> Connection<Post> {
        let (way, connection) = self.post.connect();
        *self.way.lock() = Some(way);
        connection
    }

    /// Hands a message on to its connection.
    fn pass(&self, message: ClientJsonRpcMessage) -> Result<(), ClientsError> {
        let way = self.way.lock();
        way.as_ref().and_then(|way| way.send(message).ok()).ok_or(ClientsError::Unknown)
    }

    /// Begins the stream of a request, and sends that on its way.
    fn begin(&self, message: ClientJsonRpcMessage) -> Result<u64, ClientsError> {
        *self.worked.lock() = true;
        let JsonRpcMessage::Request(request) = &message else { return Err(ClientsError::Unknown) };
        let (request, stream) = (request.id.clone(), self.post.begin(request));
        self.pass(message).inspect_err(|_| self.post.end(&request))?;
        Ok(stream)
    }

    /// For the reply to a request that its call writes itself.
    pub(super) fn lane(&self, request: RequestId) -> Lane {
        Lane::new(Quick { post: Arc::clone(&self.post), id: request })
    }

    fn is_in_use(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0 || self.post.is_waited_for()
    }
}

impl Clients {
    /// Those that are remembered. Must be called inside a tokio runtime: a task forgets those that are away for too long.
    #[must_use]
    pub(super) fn new(bounds: Bounds, registry: Arc<Registry>, remembered: Arc<Remembered>) -> Arc<Self> {
        let events = Arc::new(Events::default());
        let known = remembered.ids().into_iter().map(|id| {
            let id: SessionId = Arc::from(id);
            (Arc::clone(&id), Arc::new(Known::of(&id, &events, true)))
        });
        let known = Mutex::new(known.collect());
        let clients = Arc::new(Self { events, known, bounds, registry, remembered });
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
        let absent = known.iter().filter(|(_, known)| !known.is_in_use());
        absent.min_by_key(|(_, known)| (*known.worked.lock(), *known.seen.lock())).map(|(id, _)| Arc::clone(id))
    }

    fn absent_since(&self, idle: Duration) -> Vec<SessionId> {
        let known = self.known.lock();
        let absent = known.iter().filter(|(_, known)| known.seen.lock().elapsed() >= idle && !known.is_in_use());
        absent.map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Reads a stream of a client's; it is in use as long as that is open.
    fn read(&self, known: &Arc<Known>, place: Place) -> impl Stream<Item = Event> + Send + Sync + use<> {
        let open = known.open();
        self.events.read(place).map(move |event| {
            let _ = &open;
            event
        })
    }

    fn read_for_rmcp(
        &self,
        known: &Arc<Known>,
        place: Place,
    ) -> impl Stream<Item = ServerSseMessage> + Send + Sync + use<> {
        self.read(known, place).map(Event::for_rmcp)
    }

    /// A client that has a connection which is open.
    pub(super) fn connected(&self, id: &str) -> Option<Arc<Known>> {
        let known = self.known.lock().get(id).filter(|known| known.opened.load(Ordering::Relaxed)).map(Arc::clone)?;
        *known.seen.lock() = Instant::now();
        Some(known)
    }

    /// Sends a request on its way, and waits a moment for the reply.
    ///
    /// # Errors
    /// When the client is none any more.
    pub(super) async fn ask(
        &self,
        known: &Arc<Known>,
        message: ClientJsonRpcMessage,
    ) -> Result<Either<Bytes, impl Stream<Item = Event> + Send + Sync + use<>>, ClientsError> {
        let stream = known.begin(message)?;
        // Not forgotten while it waits.
        let _open = known.open();
        self.events.ended_within(stream, HOLD).await;
        Ok(match self.events.whole(stream) {
            Some(all) => Either::Left(all),
            None => Either::Right(self.read(known, Place { stream, from: 0 })),
        })
    }
}

/// The refusal of a client of another owner's, and of one that would need a place of its own when all are taken by clients that are
/// in use.
pub(super) fn refusal(clients: &Clients, request: &Request) -> Option<Response> {
    let headers = request.headers();
    let is_stateless = headers.get("mcp-protocol-version").is_some_and(|version| version.as_bytes() >= STATELESS);
    let session = headers.get(SESSION_HEADER).filter(|_| !is_stateless).and_then(|value| value.to_str().ok());
    if let (Some(session), Some(who)) = (session, request.extensions().get::<Who>())
        && clients.known.lock().get(session).is_some_and(|known| !known.is_for(who.visitor.peek()))
    {
        return Some(words::refusal(StatusCode::NOT_FOUND, "Not Found: Session not found"));
    }
    let is_known = headers.contains_key(SESSION_HEADER);
    if request.method() == Method::POST && !is_known && !is_stateless && !clients.has_room() {
        let full = ClientsError::Full(clients.bounds.clients);
        return Some(words::refusal(StatusCode::SERVICE_UNAVAILABLE, &full.to_string()));
    }
    None
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
    type Transport = Connection<Post>;

    async fn create_session(&self) -> Result<(SessionId, Connection<Post>), ClientsError> {
        while self.known.lock().len() >= self.bounds.clients {
            let id = self.most_absent().ok_or(ClientsError::Full(self.bounds.clients))?;
            tracing::info!("a client that is away is forgotten, because a new one came (--max-clients)");
            self.close_session(&id).await?;
        }
        let id: SessionId = uuid::Uuid::new_v4().to_string().into();
        let known = Known::of(&id, &self.events, false);
        let _ = WHO.try_with(|who| known.is_for(who.visitor.peek()));
        let connection = known.connect();
        self.known.lock().insert(Arc::clone(&id), Arc::new(known));
        Ok((id, connection))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, ClientsError> {
        let known = self.known(id)?;
        // Not forgotten while it is being made.
        let _open = known.open();
        let answer = known.post.opens();
        known.pass(message)?;
        let answer = answer.await.map_err(|_| ClientsError::Unknown)?;
        known.opened.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, ClientsError> {
        // One that has come back and is not open yet is opened by rmcp.
        Ok(self.known(id).is_ok_and(|known| known.opened.load(Ordering::Relaxed)))
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), ClientsError> {
        if let Some(known) = self.known.lock().remove(id) {
            // Its connection ends; streams that are still read do not hold it.
            *known.way.lock() = None;
        }
        self.remembered.forget(id);
        self.events.forget(id);
        self.registry.end_owner(&Owner::HttpSession(Arc::clone(id)), DeathReason::Delete);
        Ok(())
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ClientsError> {
        let known = self.known(id)?;
        let stream = known.begin(message)?;
        let open = known.open();
        self.events.ended_within(stream, HOLD).await;
        drop(open);
        Ok(self.read_for_rmcp(&known, Place { stream, from: 0 }))
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Connection<Post>>, ClientsError> {
        let known = self.known(&id)?;
        if known.way.lock().is_some() {
            return Ok(RestoreOutcome::AlreadyPresent);
        }
        Ok(RestoreOutcome::Restored(known.connect()))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), ClientsError> {
        let known = self.known(id)?;
        let taken_back = match &message {
            JsonRpcMessage::Notification(notification) => match &notification.notification {
                ClientNotification::CancelledNotification(cancelled) => cancelled.params.request_id.clone(),
                _ => None,
            },
            _ => None,
        };
        known.pass(message)?;
        // No reply will come.
        if let Some(request) = taken_back {
            known.post.end(&request);
        }
        Ok(())
    }

    /// One of them is served at a time. A further one, which says nothing of where it broke off, stays open and empty, or
    /// clients that open two would drive each other out without end.
    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ClientsError> {
        let known = self.known(id)?;
        if self.events.is_read(known.post.common) {
            return Ok(Either::Left(stream::pending()));
        }
        Ok(Either::Right(self.read_for_rmcp(&known, self.events.unread(known.post.common))))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ClientsError> {
        let known = self.known(id)?;
        let place = match &*last_event_id {
            HEAD => Some(self.events.unread(known.post.common)),
            id => Place::after(id),
        };
        let place = place.filter(|place| self.events.is_of(place.stream, id));
        // What it had before was of the program in whose place this one is, which had nothing open when it went.
        let place = place.or_else(|| known.returned.then(|| self.events.unread(known.post.common)));
        Ok(self.read_for_rmcp(&known, place.ok_or(ClientsError::NoEvent(last_event_id))?))
    }
}
