//! TLS towards others, with the certificates that this machine trusts.
//!
//! Runs in: server. Opens no connection itself.

use std::{io, sync::Arc};

use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};

/// What makes connections secure; says in the log when no certificate is trusted, and what cannot be reached then.
///
/// # Errors
/// When TLS cannot be set up.
pub(crate) fn connector(unreachable: &str) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (trusted, _) = roots.add_parsable_certificates(found.certs);
    if trusted == 0 {
        tracing::warn!("this machine trusts no certificate, so {unreachable} cannot be reached");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
