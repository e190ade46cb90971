//! Standard input and output that are sockets: what Node, and so most MCP clients, gives the programs it starts.
//!
//! Runs in: server. rmcp's own handles serve pipes without blocking and everything else through a pool of threads, a
//! hand-over for each message. These wait on the reactor and ask with `MSG_DONTWAIT`: the descriptors keep their flags,
//! which others may share.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::sys::{
    socket::{MsgFlags, recv, send},
    stat::{SFlag, fstat},
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

#[derive(Debug)]
pub(crate) struct SocketReader(AsyncFd<OwnedFd>);

#[derive(Debug)]
pub(crate) struct SocketWriter {
    socket: OwnedFd,
    /// Registered only while the client reads slowly: otherwise every reply would be followed by a wake-up that says
    /// "writable again".
    waiting: Option<AsyncFd<OwnedFd>>,
}

/// Both streams, when both are sockets.
#[must_use]
pub(crate) fn pair() -> Option<(SocketReader, SocketWriter)> {
    let input = socket(io::stdin().as_fd())?;
    let output = socket(io::stdout().as_fd())?;
    Some((SocketReader::new(input).ok()?, SocketWriter { socket: output, waiting: None }))
}

/// One socket for both.
pub(super) fn both_ways(socket: OwnedFd) -> io::Result<(SocketReader, SocketWriter)> {
    let output = socket.try_clone()?;
    Ok((SocketReader::new(socket)?, SocketWriter { socket: output, waiting: None }))
}

/// A copy of the descriptor, if it is a socket.
fn socket(descriptor: std::os::fd::BorrowedFd<'_>) -> Option<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(descriptor).ok()?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFSOCK { descriptor.try_clone_to_owned().ok() } else { None }
}

#[expect(deprecated, reason = "the unsafe replacement asks for what holds here: the value owns its descriptor")]
fn register(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

impl SocketReader {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(register(socket, Interest::READABLE)?))
    }
}

impl AsyncRead for SocketReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled();
            let received =
                ready.try_io(|socket| Ok(recv(socket.get_ref().as_raw_fd(), space, MsgFlags::MSG_DONTWAIT)?));
            match received {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(received) => return Poll::Ready(received.map(|count| buffer.advance(count))),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for SocketWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => {
                    self.waiting = None;
                    return Poll::Ready(Ok(count));
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => ready!(self.poll_room(cx))?,
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = UnixStream::from(self.socket.try_clone()?);
        Poll::Ready(stream.shutdown(Shutdown::Write))
    }
}

impl SocketWriter {
    /// Waits until the socket takes more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            self.waiting = Some(register(self.socket.try_clone()?, Interest::WRITABLE)?);
        }
        let Some(waiting) = &self.waiting else { return Poll::Ready(Ok(())) };
        ready!(waiting.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn more_than_the_sockets_buffer_goes_through_whole() {
        let (one, two) = UnixStream::pair().expect("a pair");
        let mut writer = SocketWriter { socket: one.into(), waiting: None };
        let mut reader = SocketReader::new(two.into()).expect("registered");
        let sent = vec![7u8; 5_000_000];
        let mut received = Vec::new();
        let writing = async {
            writer.write_all(&sent).await.expect("written");
            drop(writer);
        };
        let (read, ()) = tokio::join!(reader.read_to_end(&mut received), writing);
        assert_eq!(read.expect("read"), sent.len());
        assert_eq!(received, sent);
    }

    #[test]
    fn a_file_is_no_socket() {
        let file = tempfile::tempfile().expect("a file");
        assert!(socket(file.as_fd()).is_none());
    }
}
