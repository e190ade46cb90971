//! JSON-RPC over a pair of byte streams, for rmcp.
//!
//! Runs in: server. Owns both streams for as long as the connection lasts.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rmcp::{
    RoleServer,
    model::{ClientJsonRpcMessage, ClientNotification, JsonRpcMessage, JsonRpcNotification, ServerJsonRpcMessage},
    transport::{StdioReader, StdioWriter, Transport, stdio_pipes},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    held::{Held, MANY},
    lines::Lines,
    opening::Opening,
    outgoing::{Outgoing, Quick, StdioError},
    refusal::Refusal,
    socket::{self, SocketReader, SocketWriter},
};
use crate::{server::tools::call::lane::Lane, settings::bounds::MAX_REQUEST};

/// How long a client that has closed its input may take to read on.
const PATIENCE: Duration = Duration::from_secs(1);

/// JSON-RPC, line by line, over a pair of byte streams.
#[derive(Debug)]
pub(crate) struct StdioTransport<R, W> {
    lines: Lines<R>,
    outgoing: Arc<Outgoing<W>>,
    /// The reply to a line that was no message, at most one: the next line is read when it is out. A task, because rmcp
    /// drops the future of `receive` at any time, and because a send must not wait for `receive` to be polled.
    replies: JoinSet<()>,
    opening: Opening,
    held: Held,
    /// Cancelled when nothing more comes from the client.
    ended: CancellationToken,
}

impl StdioTransport<Either<SocketReader, StdioReader>, Either<SocketWriter, StdioWriter>> {
    /// Over this process's standard input and output: sockets, pipes, or anything else, in falling order of speed. Must
    /// be called inside a tokio runtime.
    #[must_use]
    pub(crate) fn stdio() -> Self {
        let (reader, writer) = match socket::pair() {
            Some((reader, writer)) => (Either::Left(reader), Either::Left(writer)),
            None => {
                let (reader, writer) = stdio_pipes();
                (Either::Right(reader), Either::Right(writer))
            }
        };
        Self::new(reader, writer, MAX_REQUEST)
    }
}

/// Over a socket, which goes with the transport. Must be called inside a tokio runtime.
pub(crate) fn over_socket(socket: OwnedFd) -> io::Result<StdioTransport<SocketReader, SocketWriter>> {
    let (reader, writer) = socket::both_ways(socket)?;
    Ok(StdioTransport::new(reader, writer, MAX_REQUEST))
}

impl<R, W> StdioTransport<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Over any two streams. Lines of more than `limit` bytes are refused.
    #[must_use]
    pub(crate) fn new(reader: R, writer: W, limit: usize) -> Self {
        Self {
            lines: Lines::new(reader, limit),
            outgoing: Arc::new(Outgoing::new(writer)),
            replies: JoinSet::new(),
            opening: Opening::Awaited,
            held: Held::default(),
            ended: CancellationToken::new(),
        }
    }

    /// For calls that write their replies themselves.
    pub(crate) fn lane(&self) -> Lane {
        Lane::new(Quick(Arc::clone(&self.outgoing)))
    }

    /// Is cancelled when nothing more comes from the client.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// To put lines between the messages that are no messages.
    pub(crate) fn aside(&self) -> Aside<W> {
        Aside(Arc::clone(&self.outgoing))
    }

    async fn next_message(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            while self.replies.join_next().await.is_some() {}
            if self.outgoing.is_closed() {
                return None;
            }
            if self.held.is_any() && !self.outgoing.is_behind() {
                if self.is_busy() {
                    // rmcp drops this future when it has an answer to send: then that goes first, and is counted.
                    tokio::task::yield_now().await;
                }
                if !self.outgoing.is_behind() {
                    return self.held.pop();
                }
            }
            let has_ended = self.lines.has_ended();
            if has_ended && !self.held.is_any() {
                return None;
            }
            let line = tokio::select! {
                biased;
                line = self.lines.next(), if !has_ended && !self.held.is_full() => line,
                () = self.outgoing.closing.notified() => return None,
                () = self.outgoing.caught_up(), if self.held.is_any() => continue,
                () = tokio::time::sleep(PATIENCE), if has_ended => return None,
            };
            let Some(line) = line else { continue };
            let size = line.size();
            let Some(reading) = line.read() else { continue };
            match reading.and_then(|message| self.opening.admit(message)) {
                Ok(message) => {
                    if let Some(message) = self.pass(message, size) {
                        return Some(message);
                    }
                }
                Err(Some(refusal)) => self.refuse(&refusal),
                Err(None) => {}
            }
        }
    }

    /// A message that came in a line of `size` bytes: to be handed on now, or later, or never.
    fn pass(&mut self, message: ClientJsonRpcMessage, size: usize) -> Option<ClientJsonRpcMessage> {
        match &message {
            JsonRpcMessage::Request(_) if self.held.is_any() || self.outgoing.is_behind() || self.is_busy() => {
                self.held.push(message, size);
                None
            }
            JsonRpcMessage::Request(_) => {
                self.held.begun += 1;
                Some(message)
            }
            JsonRpcMessage::Notification(JsonRpcNotification {
                notification: ClientNotification::CancelledNotification(cancelled),
                ..
            }) => match &cancelled.params.request_id {
                Some(id) if self.held.cancel(id) => None,
                _ => {
                    // There will be no answer.
                    self.held.begun -= usize::from(self.held.begun > self.outgoing.answered());
                    Some(message)
                }
            },
            _ => Some(message),
        }
    }

    fn is_busy(&self) -> bool {
        self.held.begun.saturating_sub(self.outgoing.answered()) >= MANY
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let reply = refusal.to_line();
        let outgoing = Arc::clone(&self.outgoing);
        self.replies.spawn(async move {
            // A failed write ends the connection by itself.
            let _ = outgoing.send_line(&reply).await;
        });
    }
}

/// The way out, for lines that are no messages.
#[derive(Debug)]
pub(crate) struct Aside<W>(Arc<Outgoing<W>>);

impl<W: AsyncWrite + Unpin> Aside<W> {
    pub(crate) async fn say(&self, line: &[u8]) {
        // A failed write ends the connection by itself.
        let _ = self.0.send_line(line).await;
    }
}

impl<R, W> Transport<RoleServer> for StdioTransport<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = StdioError;

    fn send(&mut self, item: ServerJsonRpcMessage) -> impl Future<Output = Result<(), StdioError>> + Send + 'static {
        self.opening.answered(&item);
        let outgoing = Arc::clone(&self.outgoing);
        async move { outgoing.send(&item).await }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        let received = self.next_message().await;
        if received.is_none() {
            self.ended.cancel();
        }
        received
    }

    /// Does not wait: a client that reads nothing must not stop us. The streams go with the transport.
    async fn close(&mut self) -> Result<(), StdioError> {
        self.replies.abort_all();
        self.outgoing.close();
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
