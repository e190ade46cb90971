//! What an issuer publishes: its metadata (RFC 8414, or OpenID Connect's), and the keys that it names.
//!
//! Runs in: server. Asks anew each time, follows no redirect, and reads no more than a bound. Who asks how often is `issuer.rs`.

use std::{io, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::settings::oauth::Place;

/// For all that is asked to have one set of keys.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a document.
const MOST: usize = 1 << 20;
/// Keys that are looked at.
const MOST_KEYS: usize = 100;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unpublished {
    #[error("{uri} could not be reached: {source}")]
    Unreachable { uri: String, source: io::Error },
    #[error("{uri} broke off: {source}")]
    Broken { uri: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{uri} answered {status}")]
    Status { uri: String, status: StatusCode },
    #[error("{uri} is not what it should be: {reason}")]
    Content { uri: String, reason: String },
    #[error("the issuer took longer than {} s", LIMIT.as_secs())]
    Slow,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// One by one: a key that cannot be read takes none of the others along.
#[derive(Debug, Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The issuer's keys, as they are now.
///
/// # Errors
/// [`Unpublished`].
pub(super) async fn keys(issuer: &Place, tls: Option<&TlsConnector>) -> Result<Vec<Jwk>, Unpublished> {
    let asked = async {
        let named = metadata(issuer, tls).await?.jwks_uri;
        let wrong = |reason: &str| Unpublished::Content { uri: named.clone(), reason: reason.to_owned() };
        let uri: Uri = named.parse().map_err(|_| wrong("it is no address"))?;
        if !issuer.may_lead_to(&uri) {
            return Err(wrong("keys come by https, or from this machine where the issuer is on it"));
        }
        let set: Set = document(&uri, tls).await?;
        let keys: Vec<Jwk> =
            set.keys.into_iter().take(MOST_KEYS).filter_map(|key| serde_json::from_value(key).ok()).collect();
        if keys.is_empty() { Err(wrong("there is no key in it")) } else { Ok(keys) }
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap_or(Err(Unpublished::Slow))
}

/// The first of the places where it may be that has it.
async fn metadata(issuer: &Place, tls: Option<&TlsConnector>) -> Result<Metadata, Unpublished> {
    let mut places = vec![
        issuer.well_known("oauth-authorization-server"),
        issuer.well_known("openid-configuration"),
        issuer.well_known_behind("openid-configuration"),
    ];
    places.dedup();
    let mut last = Unpublished::Slow;
    for place in places {
        let wrong = |reason: String| Unpublished::Content { uri: place.clone(), reason };
        let uri: Uri = place.parse().map_err(|_| wrong("it is no address".to_owned()))?;
        match document::<Metadata>(&uri, tls).await {
            Ok(found) if found.issuer == issuer.text => return Ok(found),
            Ok(found) => {
                let reason = format!(
                    "it is of the issuer {:?}, and --oauth-issuer says {:?}; they have to be the same, letter by letter",
                    found.issuer, issuer.text
                );
                return Err(wrong(reason));
            }
            Err(error @ (Unpublished::Status { .. } | Unpublished::Content { .. })) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn document<T: DeserializeOwned>(uri: &Uri, tls: Option<&TlsConnector>) -> Result<T, Unpublished> {
    let fail = |source| Unpublished::Unreachable { uri: uri.to_string(), source };
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    let is_secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((bare, port)).await.map_err(fail)?;
    let bytes = match (is_secure, tls) {
        (false, _) => exchange(stream, uri).await?,
        (true, Some(tls)) => {
            let name =
                ServerName::try_from(bare.to_owned()).map_err(|error| fail(io::Error::other(error.to_string())))?;
            exchange(tls.connect(name, stream).await.map_err(fail)?, uri).await?
        }
        (true, None) => return Err(fail(io::Error::other("there is no TLS"))),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| Unpublished::Content { uri: uri.to_string(), reason: error.to_string() })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
) -> Result<Bytes, Unpublished> {
    let broken = |source| Unpublished::Broken { uri: uri.to_string(), source };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
    let connection = tokio::spawn(connection);
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("forkpy/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(error.into()))?;
    let read = async {
        let response = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
        if response.status() != StatusCode::OK {
            return Err(Unpublished::Status { uri: uri.to_string(), status: response.status() });
        }
        Limited::new(response.into_body(), MOST).collect().await.map(|body| body.to_bytes()).map_err(broken)
    };
    let read = read.await;
    connection.abort();
    read
}
