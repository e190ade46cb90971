//! The way between a client of protocols up to 2025-11-25 and its connection: which answer belongs on which event stream.
//!
//! Runs in: server. Owns which requests are open. rmcp's own way for such clients has a task and three queues of its own between
//! the HTTP request and the service; this has none: what the service says is put where its reader looks.
//!
//! A request has a stream of its own; its progress and what the server asks for its sake go there, and its reply ends it.
//! All else is for the common stream.

use std::{collections::HashMap, convert::Infallible, future::ready, sync::Arc};

use parking_lot::Mutex;
use rmcp::{
    RoleServer,
    model::{
        ClientJsonRpcMessage, ClientRequest, GetExtensions, GetMeta, JsonRpcMessage, JsonRpcRequest, ProgressToken,
        RequestId, ServerJsonRpcMessage, ServerNotification,
    },
    service::OriginatingRequestId,
    transport::Transport,
};
use tokio::sync::{mpsc, oneshot};

use super::events::{Events, Said};
use crate::server::tools::call::lane::{self, Line};

/// What has to be known of a client to bring it its answers.
pub(crate) struct Post {
    client: Arc<str>,
    events: Arc<Events>,
    /// The stream of what belongs to no request.
    pub(super) common: u64,
    open: Mutex<Open>,
}

/// Requests that are not answered.
#[derive(Default)]
struct Open {
    requests: HashMap<RequestId, Asked>,
    tokens: HashMap<ProgressToken, u64>,
    /// Who waits for the answer to `initialize`.
    opening: Option<oneshot::Sender<ServerJsonRpcMessage>>,
}

struct Asked {
    stream: u64,
    token: Option<ProgressToken>,
}

impl Open {
    fn close(&mut self, id: &RequestId) -> Option<u64> {
        let Asked { stream, token } = self.requests.remove(id)?;
        if let Some(token) = token {
            self.tokens.remove(&token);
        }
        Some(stream)
    }
}

impl Post {
    pub(super) fn new(client: &Arc<str>, events: &Arc<Events>) -> Arc<Self> {
        let common = events.begin_common(client);
        Arc::new(Self { client: Arc::clone(client), events: Arc::clone(events), common, open: Mutex::default() })
    }

    /// The client's side of a new connection, and rmcp's.
    pub(super) fn connect(self: &Arc<Self>) -> (mpsc::UnboundedSender<ClientJsonRpcMessage>, Connection<Self>) {
        let (sender, incoming) = mpsc::unbounded_channel();
        (sender, Connection { post: Arc::clone(self), incoming })
    }

    /// The next message is the answer to `initialize`.
    pub(super) fn opens(&self) -> oneshot::Receiver<ServerJsonRpcMessage> {
        let (sender, answer) = oneshot::channel();
        self.open.lock().opening = Some(sender);
        answer
    }

    /// Begins the stream of a request. Another open one of the same number, which cannot be told from it, gets no more.
    pub(super) fn begin(&self, request: &JsonRpcRequest<ClientRequest>) -> u64 {
        let stream = self.events.begin(&self.client);
        let token = request.request.get_meta().get_progress_token();
        let mut open = self.open.lock();
        if let Some(earlier) = open.close(&request.id) {
            self.events.end(earlier);
        }
        if let Some(token) = &token {
            open.tokens.insert(token.clone(), stream);
        }
        open.requests.insert(request.id.clone(), Asked { stream, token });
        stream
    }

    /// A request that was taken back gets no reply.
    pub(super) fn end(&self, id: &RequestId) {
        if let Some(stream) = self.open.lock().close(id) {
            self.events.end(stream);
        }
    }

    /// Whether a request is not answered yet.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.open.lock().requests.is_empty()
    }

    /// The stream on which a message belongs, and whether it ends that.
    fn stream_of(&self, message: &ServerJsonRpcMessage) -> (u64, bool) {
        let mut open = self.open.lock();
        let its_own = |id: &RequestId, open: &Open| open.requests.get(id).map(|asked| asked.stream);
        let (found, is_reply) = match message {
            JsonRpcMessage::Response(response) => (open.close(&response.id), true),
            JsonRpcMessage::Error(error) => (error.id.as_ref().and_then(|id| open.close(id)), true),
            JsonRpcMessage::Request(request) => {
                let asked_for = request.request.extensions().get::<OriginatingRequestId>();
                (asked_for.and_then(|of| its_own(&of.0, &open)), false)
            }
            JsonRpcMessage::Notification(notification) => match &notification.notification {
                ServerNotification::ProgressNotification(progress) => {
                    (open.tokens.get(&progress.params.progress_token).copied(), false)
                }
                ServerNotification::CancelledNotification(cancelled) => {
                    (cancelled.params.request_id.as_ref().and_then(|id| its_own(id, &open)), false)
                }
                _ => (None, false),
            },
        };
        (found.unwrap_or(self.common), is_reply)
    }
}

impl Bring for Post {
    fn bring(&self, message: ServerJsonRpcMessage) {
        let opening = self.open.lock().opening.take();
        if let Some(opening) = opening {
            // Who asked may be gone.
            let _ = opening.send(message);
            return;
        }
        if !lane::is_out(&message) {
            let (stream, is_reply) = self.stream_of(&message);
            self.events.add(stream, Said::Message(Arc::new(message)), is_reply);
        }
    }
}

/// Who brings what a service says to its clients.
pub(crate) trait Bring: Send + Sync + 'static {
    fn bring(&self, message: ServerJsonRpcMessage);

    /// The service has ended.
    fn end_all(&self) {}
}

/// rmcp's side. When the clients' is dropped, nothing more comes.
pub(crate) struct Connection<P> {
    pub(super) post: Arc<P>,
    pub(super) incoming: mpsc::UnboundedReceiver<ClientJsonRpcMessage>,
}

impl<P: Bring> Transport<RoleServer> for Connection<P> {
    type Error = Infallible;

    fn send(&mut self, item: ServerJsonRpcMessage) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        self.post.bring(item);
        ready(Ok(()))
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        self.incoming.recv().await
    }

    async fn close(&mut self) -> Result<(), Infallible> {
        self.incoming.close();
        self.post.end_all();
        Ok(())
    }
}

/// The way out for the reply to one request, for its call to write.
pub(super) struct Quick {
    pub(super) post: Arc<Post>,
    pub(super) id: RequestId,
}

impl Line for Quick {
    fn put(&self, write: &mut dyn FnMut(&mut Vec<u8>) -> serde_json::Result<()>) -> bool {
        let mut text = Vec::new();
        if write(&mut text).is_err() {
            return false;
        }
        let Some(stream) = self.post.open.lock().close(&self.id) else { return false };
        self.post.events.add(stream, Said::Written(text.into()), true);
        true
    }
}
