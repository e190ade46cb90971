//! The proxy as sessions see it: HTTP/1.1 with CONNECT for tunnels, and plain requests in the absolute form.
//!
//! Runs in: server; one task a connection, one a tunnel. Owns the listener. Whom it serves is told by `callers.rs`, where it may
//! go by `gate.rs`.
//!
//! A request is read whole by hyper and written anew for one host, on a connection of its own. So what two programs would
//! read differently (two lengths, a second request inside) reaches no other host than the one that was checked. It follows no
//! redirect: a client that does asks here again. Of names only that in the request's line counts, never `Host`.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::{Bytes, Incoming},
    client,
    ext::ReasonPhrase,
    header::{self, HeaderName, HeaderValue},
    server,
    service::service_fn,
    upgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
};

use super::{
    callers::{Arrival, Callers, Kind},
    gate::{Gate, Target},
    refusal::Refusal,
    secrets::{self, Secrets},
};
use crate::{
    protocol::Confinement,
    settings::{network::Host, sandbox::Sandbox},
};

/// Bytes that the head of a request may have.
const HEAD: usize = 256 << 10;
/// How long it may take to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// How long a tunnel goes on in one direction when the session has closed the other.
const AFTERMATH: Duration = Duration::from_secs(120);
/// Pause when the system is out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// What concerns one connection and is not handed on. hyper makes its own of them.
const OF_A_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

type Body = BoxBody<Bytes, hyper::Error>;
/// Whose a connection is: its place among those of its process, held as long as anything goes on in it, and the kind.
type Guest = (Arc<OwnedSemaphorePermit>, Kind);

/// The proxy of a server.
#[derive(Debug)]
pub(crate) struct Egress {
    gate: Gate,
    callers: Arc<Callers>,
    secrets: Secrets,
}

impl Egress {
    /// Opens it, and serves from now on; none where nothing is confined, or nothing could use it.
    ///
    /// # Errors
    /// When the system gives it no port.
    pub(crate) fn open(sandbox: &Sandbox, some_are_confined: bool) -> io::Result<Option<Arc<Self>>> {
        let network = &sandbox.network;
        let for_sessions = !network.is_none() || !sandbox.secrets.is_empty();
        if !for_sessions && sandbox.mode == Confinement::Off && !some_are_confined {
            return Ok(None);
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let SocketAddr::V4(address) = listener.local_addr()? else { return Ok(None) };
        let gate = Gate::of(network.clone());
        gate.keep_from(address.port());
        let egress = Arc::new(Self {
            gate,
            callers: Callers::of(address, for_sessions),
            secrets: Secrets::of(sandbox.secrets.clone())?,
        });
        tokio::spawn(Arc::clone(&egress).serve(TcpListener::from_std(listener)?));
        Ok(Some(egress))
    }

    /// For the doors of sessions.
    #[must_use]
    pub(crate) fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }

    /// Hosts that only installing reaches, from now on.
    pub(crate) fn set_indexes(&self, hosts: Vec<(Host, u16)>) {
        self.gate.set_indexes(hosts);
    }

    /// A port of this machine that no session reaches.
    pub(crate) fn keep_from(&self, port: u16) {
        self.gate.keep_from(port);
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, SocketAddr::V4(from))) => self.receive(stream, from),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the proxy of sessions");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn receive(self: &Arc<Self>, stream: TcpStream, from: SocketAddrV4) {
        match self.callers.take(from) {
            Arrival::Stranger => tracing::debug!(%from, "no session's connection to the proxy"),
            Arrival::Crowd => drop(tokio::spawn(turn_away(stream))),
            Arrival::Guest(place, kind) => {
                drop(tokio::spawn(Arc::clone(self).attend(stream, (Arc::new(place), kind))));
            }
        }
    }

    async fn attend(self: Arc<Self>, stream: TcpStream, guest: Guest) {
        let _ = stream.set_nodelay(true);
        let answer = service_fn(move |request| {
            let (egress, guest) = (Arc::clone(&self), guest.clone());
            async move { Ok::<_, Infallible>(egress.answer(request, guest).await) }
        });
        let served = server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades();
        if let Err(error) = served.await {
            tracing::debug!(%error, "a session's connection to the proxy");
        }
    }

    async fn answer(&self, request: Request<Incoming>, guest: Guest) -> Response<Body> {
        let answered = if request.method() == Method::CONNECT {
            self.tunnel(request, guest).await
        } else {
            self.forward(request, guest.1).await
        };
        answered.unwrap_or_else(|refusal| {
            tracing::debug!(%refusal, "the proxy of sessions");
            refuse(&refusal)
        })
    }

    async fn tunnel(&self, request: Request<Incoming>, (place, kind): Guest) -> Result<Response<Body>, Refusal> {
        let uri = request.uri();
        let authority = uri.authority().filter(|_| uri.scheme().is_none());
        let authority = authority.ok_or(Refusal::Address("a tunnel leads to HOST:PORT alone"))?;
        let stream = self.gate.open(&Target::read(authority.as_str(), None)?, kind).await?;
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade::on(request).await {
                let _ = relay(TokioIo::new(upgraded), stream).await;
            }
            drop(place);
        });
        Ok(Response::new(Empty::new().map_err(|never| match never {}).boxed()))
    }

    async fn forward(&self, request: Request<Incoming>, kind: Kind) -> Result<Response<Body>, Refusal> {
        if self.is_here(request.uri()) {
            return self.add_secret(request, kind).await;
        }
        let target = plain_target(request.uri())?;
        exchange(&target, request, self.gate.open(&target, kind).await?).await
    }

    /// Whether a request is for the proxy itself.
    fn is_here(&self, uri: &Uri) -> bool {
        let own = self.callers.address();
        uri.authority().is_none_or(|authority| {
            let host = authority.host();
            authority.port_u16() == Some(own.port()) && (host == "localhost" || host == own.ip().to_string())
        })
    }

    async fn add_secret(&self, mut request: Request<Incoming>, kind: Kind) -> Result<Response<Body>, Refusal> {
        const NONE: Refusal = Refusal::Address("this is the proxy of a sandbox, and no server of its own");
        let found = self.secrets.named(request.uri()).filter(|_| kind == Kind::Session);
        let (secret, path) = found.ok_or(NONE)?;
        secrets::fill(&mut request, secret, &path)?;
        let target = Target { host: secret.host.clone(), port: secret.port };
        let stream = self.secrets.secure(secret, self.gate.open_named(&target).await?).await?;
        exchange(&target, request, stream).await
    }
}

/// Sends a request to a host, on a connection for it alone.
async fn exchange(
    target: &Target,
    request: Request<Incoming>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Response<Body>, Refusal> {
    let broken = |source: hyper::Error| Refusal::Broken { host: target.host.clone(), port: target.port, source };
    let (mut sender, connection) = client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    tokio::spawn(connection);
    let mut response = sender.send_request(rewritten(request)?).await.map_err(broken)?;
    strip(response.headers_mut());
    Ok(response.map(BodyExt::boxed))
}

/// Where a plain request wants to go. Only its line says so.
fn plain_target(uri: &Uri) -> Result<Target, Refusal> {
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => Target::read(authority.as_str(), Some(80)),
        (Some(_), _) => Err(Refusal::Address("plain requests are for http:// alone; for all else there is CONNECT")),
        _ => Err(Refusal::Address("this is the proxy of a sandbox, and no server of its own")),
    }
}

/// The request as the host gets it: for one host, on a connection for it alone.
fn rewritten(request: Request<Incoming>) -> Result<Request<Incoming>, Refusal> {
    const UNFIT: Refusal = Refusal::Address("there is no path in it");
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or(UNFIT)?.as_str();
    let host = HeaderValue::from_str(authority).map_err(|_| UNFIT)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    head.uri = path.parse().map_err(|_| UNFIT)?;
    head.version = Version::HTTP_11;
    strip(&mut head.headers);
    head.headers.insert(header::HOST, host);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(Request::from_parts(head, body))
}

/// Takes away what concerns one connection, and what `Connection` says does.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // The body's length is its own, whatever is said.
        .filter(|name| name != header::CONTENT_LENGTH && name != header::HOST)
        .collect();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // Of two lengths this one counts, for hyper too.
        headers.remove(header::CONTENT_LENGTH);
    }
    let fixed = ["keep-alive", "proxy-connection"].map(HeaderName::from_static);
    named.iter().chain(&OF_A_CONNECTION).chain(&fixed).for_each(|name| drop(headers.remove(name)));
}

/// The refusal in the status line too: of a tunnel that is refused, libraries show nothing else.
fn refuse(refusal: &Refusal) -> Response<Body> {
    let words = refusal.to_string();
    let mut response = Response::new(Full::from(format!("{words}\n")).map_err(|never| match never {}).boxed());
    *response.status_mut() = refusal.status();
    if let Ok(phrase) = ReasonPhrase::try_from(words) {
        response.extensions_mut().insert(phrase);
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Both directions, until both are over.
async fn relay(session: TokioIo<upgrade::Upgraded>, host: TcpStream) -> io::Result<()> {
    let (mut from_session, mut to_session) = tokio::io::split(session);
    let (mut from_host, mut to_host) = host.into_split();
    let out = async {
        let copied = copy(&mut from_session, &mut to_host).await;
        let _ = to_host.shutdown().await;
        copied
    };
    let back = async {
        let copied = copy(&mut from_host, &mut to_session).await;
        let _ = to_session.shutdown().await;
        copied
    };
    tokio::pin!(out, back);
    tokio::select! {
        sent = &mut out => {
            sent?;
            // A session that has ended hears nothing any more, and a host that says nothing does not notice.
            tokio::time::timeout(AFTERMATH, back).await.map_err(io::Error::from)??;
        }
        heard = &mut back => {
            heard?;
            tokio::time::timeout(AFTERMATH, out).await.map_err(io::Error::from)??;
        }
    }
    Ok(())
}

async fn turn_away(mut stream: TcpStream) {
    let words = "too many connections of one session at a time";
    let status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
    let answer = format!("HTTP/1.1 {status} {words}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
}
