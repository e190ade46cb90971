//! `--secret`: what the proxy adds to requests for one host, and code never sees.
//!
//! Runs in: server. Checks at the start what can be checked; the secret itself is read when it is needed (`server/egress`), so
//! that a file that is replaced counts at once. It is never logged, told or passed on.

use std::{
    fmt,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::settings::network::{Host, HostError};

/// The port of HTTPS.
const USUAL: u16 = 443;
/// Bytes that a secret may have.
const MOST: u64 = 16 << 10;

/// One, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretArg {
    name: String,
    path: PathBuf,
    host: Host,
    port: u16,
}

/// Why it is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretArgError {
    #[error("write NAME=file:PATH@HOST, where HOST may have a port; a host is missing")]
    NoHost,
    #[error("write NAME=file:PATH@HOST; secrets come from files, so that they are in no command line")]
    NoFile,
    #[error("{0:?} is no name of a variable: letters, digits and _, not beginning with a digit, and not FORKPY_")]
    Name(String),
    #[error("{0:?} is no port; ports are 1 to 65535")]
    Port(String),
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A secret that is there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    /// The variable of sessions that has the placeholder, and the name in the local address.
    pub name: String,
    path: PathBuf,
    pub host: Host,
    pub port: u16,
    /// What stands for it in the environment of sessions.
    pub placeholder: String,
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("--secret {name}: {}: {source}", path.display())]
    Read { name: String, path: PathBuf, source: std::io::Error },
    #[error("--secret {name}: all users may read {}: chmod 600 it", path.display())]
    Open { name: String, path: PathBuf },
    #[error("--secret {name}: {} holds no secret: its first line must be visible ASCII characters", path.display())]
    Content { name: String, path: PathBuf },
    #[error("--secret {name}: sessions may read {}, which is below {}: put it elsewhere", path.display(), above.display())]
    Within { name: String, path: PathBuf, above: PathBuf },
    #[error("--secret {0} is there twice")]
    Twice(String),
    #[error("--secret is for sessions that are confined and have a network: add --sandbox workspace")]
    NotConfined,
}

impl FromStr for SecretArg {
    type Err = SecretArgError;

    fn from_str(text: &str) -> Result<Self, SecretArgError> {
        let (name, rest) = text.split_once('=').ok_or(SecretArgError::NoFile)?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.is_empty()
            && !name.as_bytes()[0].is_ascii_digit()
            && !name.starts_with("FORKPY_");
        if !is_name {
            return Err(SecretArgError::Name(name.to_owned()));
        }
        let rest = rest.strip_prefix("file:").ok_or(SecretArgError::NoFile)?;
        let (path, host) = rest.rsplit_once('@').ok_or(SecretArgError::NoHost)?;
        if path.is_empty() || host.is_empty() {
            return Err(SecretArgError::NoHost);
        }
        let (host, port) = match host.rsplit_once(':') {
            Some((before, port)) if !host.ends_with(']') && host.parse::<std::net::IpAddr>().is_err() => {
                let number = port.parse().ok().filter(|number| *number != 0);
                (before, number.ok_or_else(|| SecretArgError::Port(port.to_owned()))?)
            }
            _ => (host, USUAL),
        };
        Ok(Self { name: name.to_owned(), path: path.into(), host: Host::read(host)?, port })
    }
}

impl SecretArg {
    /// Checks it. Sessions read what is below `readable`.
    ///
    /// # Errors
    /// [`SecretError`], in words for the person who typed it.
    pub(crate) fn resolve<'a>(self, mut readable: impl Iterator<Item = &'a Path>) -> Result<Secret, SecretError> {
        let Self { name, path, host, port } = self;
        let read = |source| SecretError::Read { name: name.clone(), path: path.clone(), source };
        let path = path.canonicalize().map_err(read)?;
        if let Some(above) = readable.find(|above| path.starts_with(above)) {
            return Err(SecretError::Within { name, above: above.to_owned(), path });
        }
        let placeholder = format!("forkpy-secret-{name}-{}", uuid::Uuid::new_v4().simple());
        let secret = Secret { name, path, host, port, placeholder };
        secret.read()?;
        Ok(secret)
    }
}

impl Secret {
    /// The secret, as it is now.
    ///
    /// # Errors
    /// [`SecretError`] when the file is not what it was.
    pub(crate) fn read(&self) -> Result<String, SecretError> {
        let Self { name, path, .. } = self;
        let fail = |source| SecretError::Read { name: name.clone(), path: path.clone(), source };
        let file = std::fs::File::open(path).map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        if found.mode() & 0o006 != 0 {
            return Err(SecretError::Open { name: name.clone(), path: path.clone() });
        }
        let text = std::io::read_to_string(std::io::Read::take(file, MOST)).map_err(fail)?;
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() || !line.chars().all(|character| character.is_ascii_graphic()) {
            return Err(SecretError::Content { name: name.clone(), path: path.clone() });
        }
        Ok(line.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secret({} for {}:{})", self.name, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_name_a_file_and_a_host() {
        let read = |text: &str| text.parse::<SecretArg>();
        let one = read("API_KEY=file:/run/keys/a@b@api.example.org").expect("one");
        assert_eq!((one.name.as_str(), one.path.to_str(), one.port), ("API_KEY", Some("/run/keys/a@b"), 443));
        assert_eq!(read("A=file:k@localhost:8443").expect("one").port, 8443);
        assert_eq!(read("A=file:k@[::1]").expect("one").host.to_string(), "[::1]");
        for text in [
            "",
            "A",
            "A=",
            "A=value@host",
            "A=file:k",
            "A=file:@host",
            "A=file:k@",
            "=file:k@host",
            "1A=file:k@host",
            "A-B=file:k@host",
            "FORKPY_A=file:k@host",
            "A=file:k@host:0",
            "A=file:k@host:x",
            "A=file:k@https://host",
            "A=env:X@host",
            "A=file:k@*.host",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
