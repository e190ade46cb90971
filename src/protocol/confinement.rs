//! How a session's processes are confined, as server, zygote and worker name it.
//!
//! Runs in: all three processes. Pure data.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How narrow; what stands later is narrower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Confinement {
    /// Not at all: all that the user may.
    #[default]
    Off,
    /// Reads what Python needs; writes the workspace and a temporary directory of its own; no network.
    Workspace,
    /// The same without other programs and without sockets.
    Strict,
}

impl Confinement {
    /// All, the widest first.
    pub(crate) const ALL: [Self; 3] = [Self::Off, Self::Workspace, Self::Strict];

    /// As it is written in options and replies.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Workspace => "workspace",
            Self::Strict => "strict",
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl FromStr for Confinement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.word() == text);
        found.ok_or_else(|| format!("{text:?} is none of off, workspace and strict"))
    }
}

/// What the confinements of one server allow beyond what Python needs, and what this machine can keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinementSettings {
    /// Of all sessions, at the least.
    pub mode: Confinement,
    /// Paths that may be read, absolute.
    pub read: Vec<String>,
    /// Paths that may be changed, absolute.
    pub write: Vec<String>,
    /// Folder of the server's for files that go from one worker of a session to the next.
    pub exchange: String,
    /// Version of Landlock to use; 0 where there is none.
    pub landlock: i32,
    /// Calls can be filtered.
    pub seccomp: bool,
    /// Where the server's proxy is, if it has one: `127.0.0.1:PORT`. What sessions may reach there is the proxy's to know.
    pub proxy: Option<String>,
    /// Variables of sessions that stand for secrets, and what they hold instead.
    pub secrets: Vec<(String, String)>,
}
