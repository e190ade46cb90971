//! The way to the collector: one request for each batch of spans.
//!
//! Runs in: server, on the thread of the SDK that sends spans, which may wait here; each request has a connection of its own, and a
//! limit. Follows no redirect. Says in the log when spans do not arrive, and when they arrive again: once each.

use std::{
    fmt, io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::Bytes,
    client::conn::http1,
    header::{HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::server::tls;

/// Bytes of an answer.
const MOST: usize = 1 << 20;

/// Where spans go.
pub(super) struct Collector {
    /// For one request.
    limit: Duration,
    /// The last request did not arrive.
    is_lost: AtomicBool,
    tls: OnceLock<Option<TlsConnector>>,
}

impl Collector {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, is_lost: AtomicBool::new(false), tls: OnceLock::new() }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if !is_secure {
            return send(stream, request).await;
        }
        let tls = self.tls.get_or_init(|| tls::connector("the collector of traces").ok());
        let tls = tls.as_ref().ok_or_else(|| io::Error::other("there is no TLS"))?;
        send(tls.connect(ServerName::try_from(host)?, stream).await?, request).await
    }

    /// Says it when that has changed.
    fn note(&self, uri: &Uri, answered: &Result<Response<Bytes>, HttpError>) {
        let why = match answered {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_lost = self.is_lost.swap(why.is_some(), Ordering::Relaxed);
        match (why, was_lost) {
            (Some(why), false) => {
                tracing::warn!("traces do not arrive at {uri}: {why}. Calls go on; spans are lost until it is back");
            }
            (None, true) => tracing::info!("traces arrive at {uri} again"),
            _ => {}
        }
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Collector")
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        // The SDK's thread has no runtime, and nothing else to do meanwhile.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answered = runtime.block_on(async { tokio::time::timeout(self.limit, self.exchange(request)).await });
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.limit).into()));
        self.note(&uri, &answered);
        answered
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let uri = request.uri().clone();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // What stands before an '@' is no part of a host.
    let host = authority.rsplit('@').next().unwrap_or_default();
    request.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(concat!("forkpy/", env!("CARGO_PKG_VERSION"))));
    *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let read = async {
        let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, MOST).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    let read = read.await;
    connection.abort();
    read
}
