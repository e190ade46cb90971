//! The way to a bucket: HTTP/1.1 by hyper, with TLS as everywhere here.
//!
//! Runs in: server. Signs nothing and repeats nothing: the crate `object_store` does. Each request has a connection of its own.

use std::{io, sync::OnceLock, time::Duration};

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::{
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use object_store::{
    ClientConfigKey, ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::server::tls;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// Makes [`Client`]s.
#[derive(Debug)]
pub(super) struct Web;

impl HttpConnector for Web {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let is_plain_allowed = allowed.is_some_and(|value| value == "true" || value == "1");
        Ok(HttpClient::new(Client { is_plain_allowed, tls: OnceLock::new() }))
    }
}

struct Client {
    is_plain_allowed: bool,
    tls: OnceLock<Option<TlsConnector>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}

fn not_connected(error: io::Error) -> HttpError {
    HttpError::new(HttpErrorKind::Connect, error)
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri().clone();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_secure = uri.scheme_str() == Some("https");
        if !is_secure && !self.is_plain_allowed {
            let words = "the endpoint of the store is http, which AWS_ALLOW_HTTP=true would allow";
            return Err(HttpError::new(HttpErrorKind::Unknown, io::Error::other(words)));
        }
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), port))).await;
        let stream = connected.map_err(|_| io::ErrorKind::TimedOut.into()).flatten().map_err(not_connected)?;
        if !is_secure {
            return send(stream, request).await;
        }
        let tls = self.tls.get_or_init(|| tls::connector("--store").ok()).as_ref();
        let tls = tls.ok_or_else(|| not_connected(io::Error::other("there is no TLS")))?;
        let name = ServerName::try_from(host).map_err(|error| not_connected(io::Error::other(error)))?;
        let secured = tokio::time::timeout(CONNECT, tls.connect(name, stream)).await;
        send(secured.map_err(|_| io::ErrorKind::TimedOut.into()).flatten().map_err(not_connected)?, request).await
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: HttpRequest,
) -> Result<HttpResponse, HttpError> {
    let failed = |error: hyper::Error| HttpError::new(HttpErrorKind::Request, error);
    let uri = request.uri().clone();
    if !request.headers().contains_key(HOST) {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(authority.rsplit('@').next().unwrap_or_default());
        request.headers_mut().insert(HOST, host.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).parse();
    *request.uri_mut() =
        path.map_err(|error: hyper::http::uri::InvalidUri| HttpError::new(HttpErrorKind::Unknown, error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends with the answer's body.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
    let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
    Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
}
