//! Requests to which the proxy adds a secret: plain ones to the proxy's own address, sent on by TLS to the one host that the
//! secret is for.
//!
//! Runs in: server. Owns where a secret is put: in place of its placeholder, wherever that stands in a header; else, where the
//! request has no `Authorization`, as a bearer token. The secret is in no answer of ours. What the host answers is the host's.

use hyper::{
    HeaderMap, Method, Request, Uri,
    body::Incoming,
    header::{self, HeaderValue},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

use super::refusal::Refusal;
use crate::{
    server::tls,
    settings::{network::Host, secrets::Secret},
};

/// All of a server, and how TLS is made for them.
pub(super) struct Secrets {
    all: Vec<Secret>,
    tls: Option<TlsConnector>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(&self.all).finish()
    }
}

impl Secrets {
    /// Reads the certificates that this machine trusts, if there is a secret.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn of(all: Vec<Secret>) -> std::io::Result<Self> {
        if all.is_empty() {
            return Ok(Self { all, tls: None });
        }
        Ok(Self { all, tls: Some(tls::connector("what --secret names")?) })
    }

    /// The secret that a path names by its first part, and the rest of the path.
    pub(super) fn named(&self, uri: &Uri) -> Option<(&Secret, String)> {
        let path = uri.path_and_query()?.as_str().strip_prefix('/')?;
        let end = path.find(['/', '?']).unwrap_or(path.len());
        let (name, rest) = path.split_at(end);
        let secret = self.all.iter().find(|secret| secret.name == name)?;
        Some((secret, if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }))
    }

    /// TLS with the secret's host, and with no other.
    pub(super) async fn secure(&self, secret: &Secret, stream: TcpStream) -> Result<TlsStream<TcpStream>, Refusal> {
        let Secret { host, port, .. } = secret;
        let fail = |source| Refusal::Unreachable { host: host.clone(), port: *port, source };
        let name = match host {
            Host::Name(name) => {
                ServerName::try_from(name.clone()).map_err(|error| fail(std::io::Error::other(error)))?
            }
            Host::Address(address) => ServerName::from(*address),
        };
        let tls = self.tls.as_ref().ok_or(Refusal::Address("there are no secrets"))?;
        tls.connect(name, stream).await.map_err(fail)
    }
}

/// Puts the secret in, and the request's new place.
///
/// # Errors
/// [`Refusal`] when the secret cannot be read now, or the request would have it sent back.
pub(super) fn fill(request: &mut Request<Incoming>, secret: &Secret, path: &str) -> Result<(), Refusal> {
    if request.method() == Method::TRACE {
        return Err(Refusal::Address("a request that is sent back is not sent with a secret"));
    }
    let word = secret.read().map_err(|error| {
        tracing::error!("{error}");
        Refusal::NoSecret(secret.name.clone())
    })?;
    let host = if secret.port == 443 { secret.host.to_string() } else { format!("{}:{}", secret.host, secret.port) };
    let unfit = |_| Refusal::Address("there is no path in it");
    *request.uri_mut() = format!("https://{host}{path}").parse().map_err(unfit)?;
    let unreadable = |_| Refusal::NoSecret(secret.name.clone());
    if !replace(request.headers_mut(), &secret.placeholder, &word)
        && !request.headers().contains_key(header::AUTHORIZATION)
    {
        let mut value = HeaderValue::from_str(&format!("Bearer {word}")).map_err(unreadable)?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(())
}

/// Puts a word in place of another in all headers; whether it was anywhere.
fn replace(headers: &mut HeaderMap, placeholder: &str, word: &str) -> bool {
    let mut found = false;
    for value in headers.values_mut() {
        let Some(text) = value.to_str().ok().filter(|text| text.contains(placeholder)) else { continue };
        if let Ok(mut new) = HeaderValue::from_str(&text.replace(placeholder, word)) {
            new.set_sensitive(true);
            *value = new;
            found = true;
        }
    }
    found
}
