//! The connection that plain calls of protocol 2026-07-28 have in common, where each call stands for itself.
//!
//! Runs in: server. Owns which of them are under way. rmcp makes a service with queues of its own for each such call; here all
//! go to one. Clients number their calls and their progress as they like, so each gets a number of ours on its way in, and its
//! own again on its way out. A client that goes away before the reply has taken its call back.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::body::Bytes;
use parking_lot::Mutex;
use rmcp::{
    model::{
        CancelledNotification, CancelledNotificationParam, ClientCapabilities, ClientJsonRpcMessage, ClientRequest,
        GetMeta, Implementation, InitializeRequestParams, JsonRpcMessage, JsonRpcRequest, ProgressToken,
        ProtocolVersion, RequestId, ServerJsonRpcMessage, ServerNotification,
    },
    service::serve_directly_with_ct,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::post::{Bring, Connection};
use crate::server::{
    mcp::handler::Handler,
    tools::call::lane::{self, Lane, Line},
};

/// What a client is told.
#[derive(Debug)]
pub(super) enum Told {
    Message(Box<ServerJsonRpcMessage>),
    /// A reply that its call has written.
    Written(Bytes),
}

/// A call that is under way.
struct Asked {
    id: RequestId,
    token: Option<ProgressToken>,
    tell: mpsc::UnboundedSender<Told>,
}

#[derive(Default)]
struct Open {
    next: AtomicI64,
    calls: Mutex<HashMap<i64, Asked>>,
}

/// The clients' side of the connection.
pub(super) struct Alone {
    open: Arc<Open>,
    way: mpsc::UnboundedSender<ClientJsonRpcMessage>,
}

/// What comes of a call. Dropped before its end, the call is taken back.
pub(super) struct Answers {
    number: i64,
    open: Arc<Open>,
    way: mpsc::UnboundedSender<ClientJsonRpcMessage>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Alone {
    /// Must be called inside a tokio runtime.
    pub(super) fn new(handler: Handler, stop: CancellationToken) -> Self {
        let (way, incoming) = mpsc::unbounded_channel();
        let open = Arc::<Open>::default();
        // Who calls, and with what version, each call says itself.
        let mut peer = InitializeRequestParams::new(ClientCapabilities::default(), Implementation::default());
        peer.protocol_version = ProtocolVersion::V_2026_07_28;
        let connection = Connection { post: Arc::clone(&open), incoming };
        let service = serve_directly_with_ct(handler, connection, Some(peer), stop);
        tokio::spawn(service.waiting());
        Self { open, way }
    }

    /// Whether calls are read.
    pub(super) fn is_served(&self) -> bool {
        !self.way.is_closed()
    }

    /// Sends a call on its way; `along` puts beside it what its handler looks for.
    pub(super) fn ask(
        &self,
        mut request: JsonRpcRequest<ClientRequest>,
        along: impl FnOnce(&mut ClientRequest, Lane, RequestId),
    ) -> Answers {
        let number = self.open.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = mpsc::unbounded_channel();
        let id = std::mem::replace(&mut request.id, RequestId::Number(number));
        let token = request.request.get_meta().get_progress_token();
        if token.is_some() {
            request.request.get_meta_mut().set_progress_token(ProgressToken(RequestId::Number(number)));
        }
        let lane = Lane::new(Quick { open: Arc::clone(&self.open), number, id: id.clone() });
        along(&mut request.request, lane, id.clone());
        self.open.calls.lock().insert(number, Asked { id, token, tell });
        // Where the service has ended nothing is told, and the caller sees the end.
        if self.way.send(JsonRpcMessage::Request(request)).is_err() {
            self.open.calls.lock().remove(&number);
        }
        Answers { number, open: Arc::clone(&self.open), way: self.way.clone(), told }
    }
}

impl Answers {
    /// What comes next; nothing at the end.
    pub(super) async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if self.open.calls.lock().remove(&self.number).is_some() {
            let id = Some(RequestId::Number(self.number));
            let gone = CancelledNotification::new(CancelledNotificationParam::new(id, None));
            let _ = self.way.send(ClientJsonRpcMessage::notification(gone.into()));
        }
    }
}

impl Bring for Open {
    /// Brings a message to the client that it is for, under the numbers that this one knows.
    fn bring(&self, mut message: ServerJsonRpcMessage) {
        if lane::is_out(&message) {
            return;
        }
        let mut calls = self.calls.lock();
        let ended = match &mut message {
            JsonRpcMessage::Response(response) => Self::end(&mut calls, &mut response.id),
            JsonRpcMessage::Error(error) => error.id.as_mut().and_then(|id| Self::end(&mut calls, id)),
            JsonRpcMessage::Notification(notification) => {
                if let ServerNotification::ProgressNotification(progress) = &mut notification.notification
                    && let RequestId::Number(number) = progress.params.progress_token.0
                    && let Some(Asked { token: Some(token), tell, .. }) = calls.get(&number)
                {
                    progress.params.progress_token = token.clone();
                    let _ = tell.send(Told::Message(Box::new(message)));
                }
                return;
            }
            // Clients of this protocol are asked by results.
            JsonRpcMessage::Request(_) => return,
        };
        if let Some(asked) = ended {
            let _ = asked.tell.send(Told::Message(Box::new(message)));
        }
    }

    fn end_all(&self) {
        self.calls.lock().clear();
    }
}

impl Open {
    fn end(calls: &mut HashMap<i64, Asked>, id: &mut RequestId) -> Option<Asked> {
        let RequestId::Number(number) = id else { return None };
        let asked = calls.remove(number)?;
        *id = asked.id.clone();
        Some(asked)
    }
}

/// The way out for the reply to one call, for it to write.
struct Quick {
    open: Arc<Open>,
    number: i64,
    id: RequestId,
}

impl Line for Quick {
    fn put(&self, write: &mut dyn FnMut(&mut Vec<u8>) -> serde_json::Result<()>) -> bool {
        let mut text = Vec::new();
        if write(&mut text).is_err() {
            return false;
        }
        let Some(asked) = self.open.calls.lock().remove(&self.number) else { return false };
        let _ = asked.tell.send(Told::Written(text.into()));
        true
    }

    fn number<'a>(&'a self, _id: &'a RequestId) -> &'a RequestId {
        &self.id
    }
}
