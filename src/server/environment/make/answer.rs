//! What an interpreter says of itself when it is asked.
//!
//! Runs in: server.

use std::path::PathBuf;

/// Prints one line that begins with `forkpy`, whatever a wrapper has printed before it.
pub(super) const ASK: &str = "import sys; print('\\nforkpy', '%d.%d' % sys.version_info[:2], sys.implementation.name, \
                   sys.executable, sep='\\t')";

/// What an interpreter says of itself.
pub(super) struct Answer {
    pub version: String,
    pub executable: PathBuf,
    /// What else was asked for.
    pub more: Vec<String>,
}

impl Answer {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.lines().rfind(|line| line.starts_with("forkpy\t"))?.split('\t').skip(1);
        let (version, implementation, executable) = (fields.next()?, fields.next()?, fields.next()?);
        let version =
            if implementation == "cpython" { version.into() } else { format!("{version} ({implementation})") };
        let executable = executable.into();
        Some(Self { version, executable, more: fields.map(str::to_owned).collect() })
    }
}
