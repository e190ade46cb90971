//! `--oauth-issuer` and `--oauth-audience`: whose access tokens let clients in over HTTP, and what this server is called in them.
//!
//! Runs in: server, and commands before they start one. Pure: asks no issuer anything. `server/oauth` does.

use clap::Args;
use hyper::Uri;

/// Clients with access tokens of an issuer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "OAuth")]
pub(crate) struct OauthArgs {
    /// Issuer whose access tokens let clients in (http): JWTs, signed with its published keys. Written as in their `iss`; needs
    /// --oauth-audience
    #[arg(long, value_name = "URL", env = "FORKPY_OAUTH_ISSUER")]
    pub oauth_issuer: Option<String>,

    /// What this server is called in their `aud`: its address as clients know it, like https://py.example.org/mcp
    #[arg(long, value_name = "URL", env = "FORKPY_OAUTH_AUDIENCE")]
    pub oauth_audience: Option<String>,
}

/// An issuer, and what this server is to it.
#[derive(Debug, Clone)]
pub(crate) struct Oauth {
    pub issuer: Place,
    pub audience: Place,
}

/// An address, taken apart. Its text is compared letter by letter, as the standards have it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub text: String,
    /// Scheme and authority.
    origin: String,
    /// Without a slash at its end.
    path: String,
    is_secure: bool,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OauthError {
    #[error("--oauth-issuer and --oauth-audience belong together: {0} is missing")]
    Half(&'static str),
    #[error("{option} {text:?} is no address of the form https://HOST[:PORT][/PATH]: {reason}")]
    Address { option: &'static str, text: String, reason: &'static str },
    #[error(
        "{option} {text:?} is not protected on its way: http is for this machine alone (localhost, 127.0.0.1, [::1]); write https"
    )]
    Open { option: &'static str, text: String },
    #[error(
        "--oauth-issuer gives each of its users its own sessions, and --share-sessions gives all the same: take one of them"
    )]
    Shared,
}

impl OauthArgs {
    /// What was asked for, checked; none where nothing was.
    ///
    /// # Errors
    /// [`OauthError`].
    pub(crate) fn resolve(self, are_shared: bool) -> Result<Option<Oauth>, OauthError> {
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (issuer, audience) = match (said(self.oauth_issuer), said(self.oauth_audience)) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(OauthError::Half("--oauth-issuer")),
            (Some(_), None) => return Err(OauthError::Half("--oauth-audience")),
            (Some(issuer), Some(audience)) => (issuer, audience),
        };
        if are_shared {
            return Err(OauthError::Shared);
        }
        let issuer = Place::read("--oauth-issuer", issuer)?;
        Ok(Some(Oauth { issuer, audience: Place::read("--oauth-audience", audience)? }))
    }
}

impl Place {
    fn read(option: &'static str, text: String) -> Result<Self, OauthError> {
        let wrong = |reason| OauthError::Address { option, text: text.clone(), reason };
        let uri: Uri = text.parse().map_err(|_| wrong("it cannot be read"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("it has to begin with https:// and a host"));
        };
        // Of a fragment the parser says nothing.
        if text.contains(['?', '#']) || authority.as_str().contains('@') {
            return Err(wrong("it has a query, a fragment or a user"));
        }
        let is_secure = match scheme {
            "https" => true,
            "http" if is_here(authority.host()) => false,
            "http" => return Err(OauthError::Open { option, text: text.clone() }),
            _ => return Err(wrong("its scheme is not https")),
        };
        let (origin, path) = (format!("{scheme}://{authority}"), uri.path().trim_end_matches('/').to_owned());
        Ok(Self { origin, path, is_secure, text })
    }

    /// Where a document about it is published (RFC 8615), in front of its path.
    #[must_use]
    pub(crate) fn well_known(&self, document: &str) -> String {
        format!("{}{}", self.origin, self.well_known_path(document))
    }

    /// The path of that.
    #[must_use]
    pub(crate) fn well_known_path(&self, document: &str) -> String {
        format!("/.well-known/{document}{}", self.path)
    }

    /// The same behind its path, as OpenID Connect has it.
    #[must_use]
    pub(crate) fn well_known_behind(&self, document: &str) -> String {
        format!("{}{}/.well-known/{document}", self.origin, self.path)
    }

    /// Whether what it points to may be asked for at an address: safely, but on this machine.
    #[must_use]
    pub(crate) fn may_lead_to(&self, uri: &Uri) -> bool {
        match uri.scheme_str() {
            Some("https") => true,
            Some("http") => !self.is_secure && uri.host().is_some_and(is_here),
            _ => false,
        }
    }
}

fn is_here(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']);
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Place, OauthError> {
        Place::read("--oauth-issuer", text.to_owned())
    }

    #[test]
    fn documents_are_published_where_the_standards_say() {
        for (text, in_front, behind) in [
            ("https://id.example", "https://id.example/.well-known/x", "https://id.example/.well-known/x"),
            ("https://id.example/", "https://id.example/.well-known/x", "https://id.example/.well-known/x"),
            (
                "https://id.example:8443/realms/one",
                "https://id.example:8443/.well-known/x/realms/one",
                "https://id.example:8443/realms/one/.well-known/x",
            ),
        ] {
            let place = place(text).expect("an address");
            assert_eq!((&*place.well_known("x"), &*place.well_known_behind("x")), (in_front, behind));
            assert_eq!(place.text, text);
        }
    }

    #[test]
    fn an_address_is_whole_and_protected_or_of_this_machine() {
        for good in ["http://localhost:1/a", "http://127.0.0.1:80", "http://[::1]:9/", "https://10.0.0.1"] {
            place(good).expect(good);
        }
        for (bad, expected) in [
            ("", "form https"),
            ("id.example", "form https"),
            ("/path", "form https"),
            ("ftp://id.example", "scheme"),
            ("https://id.example?a=b", "query"),
            ("https://id.example/#a", "fragment"),
            ("https://me@id.example/", "user"),
            ("http://id.example", "write https"),
            ("http://localhost.example", "write https"),
            ("http://10.0.0.1", "write https"),
        ] {
            let error = place(bad).expect_err(bad).to_string();
            assert!(error.contains(expected), "{bad}: {error}");
        }
        let secure = place("https://id.example").expect("an address");
        assert!(!secure.may_lead_to(&Uri::from_static("http://localhost/keys")));
        assert!(secure.may_lead_to(&Uri::from_static("https://keys.example/keys")));
        let here = place("http://localhost:1").expect("an address");
        assert!(here.may_lead_to(&Uri::from_static("http://127.0.0.1:2/keys")));
        assert!(!here.may_lead_to(&Uri::from_static("http://keys.example/keys")));
    }
}
