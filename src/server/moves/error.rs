//! Why a session does not move, and what is needed to say so.
//!
//! Runs in: `forkpy sessions`, a process of its own.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::age::Closed;
use crate::{server::sessions::images::outside::StateFolder, sys::image::Refusal};

/// Names of variables by value, and those that are left out with the reason.
pub(crate) type Variables = (Vec<String>, Vec<(String, String)>);

/// What a file is sealed with.
#[derive(Debug)]
pub(crate) struct Secret<'a> {
    pub(crate) passphrase: String,
    /// The file that it comes from.
    pub(crate) file: Option<&'a Path>,
}

impl Secret<'_> {
    /// The session's code does not read it.
    pub(super) fn is_out_of(&self, workspace: &str) -> Result<(), MoveError> {
        let file = self.file.and_then(|file| file.canonicalize().ok());
        match file.filter(|file| file.starts_with(workspace)) {
            Some(file) => Err(MoveError::Exposed { file }),
            None => Ok(()),
        }
    }
}

/// Why a session did not move. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    #[error("--state-dir {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    /// No file is of such a session.
    #[error("no session {name:?} sleeps in {}", folder.display())]
    Unknown {
        name: String,
        folder: PathBuf,
        /// Those that do.
        known: Vec<String>,
    },
    #[error("several sessions {name:?} sleep in {}", folder.display())]
    Several {
        name: String,
        folder: PathBuf,
        /// Workspace and owner of each.
        which: Vec<(String, String)>,
    },
    #[error(
        "the session {name:?} is awake in a server (process {server}), and has gone on since its image was written (cell {cell})"
    )]
    GoneOn { name: String, server: u32, cell: u64 },
    #[error("the session {name:?} was woken, or taken over by another server, while it was read")]
    Woken { name: String, server: Option<u32> },
    #[error("a server (process {server}) has the session {name:?}")]
    InUse { name: String, server: u32 },
    #[error("the image of session {name:?}: {why}")]
    Image { name: String, why: String },
    /// It would not wake: here, or anywhere, when it is to be exported.
    #[error("the session {name:?} cannot be woken {}: {}", if *is_export { "any more" } else { "here" }, tie.words())]
    Tied {
        name: String,
        is_export: bool,
        tie: Box<Tie>,
        /// What can be had by value instead.
        instead: Option<Box<Variables>>,
    },
    #[error("the session {name:?} has no variables by value beside its image")]
    NoValues { name: String },
    #[error("{}: {closed}", path.display())]
    Closed { path: PathBuf, closed: Closed },
    #[error("{}: it was written by forkpy {version}, in a form that this one does not know", path.display())]
    OtherForm { path: PathBuf, version: String },
    #[error("{}: it holds {} MB, and {} MB of memory are free", path.display(), size >> 20, free >> 20)]
    Large { path: PathBuf, size: u64, free: u64 },
    #[error("{name:?} is no name of a session: letters, digits, '.', '_' and '-', at most 64 of them")]
    BadName { name: String },
    #[error("a session {name:?} of the workspace {workspace} sleeps in {} already", folder.display())]
    Taken { name: String, workspace: String, folder: PathBuf },
    #[error("the session {name:?} works in {there}, and knows it by this path")]
    OtherWorkspace { name: String, there: String },
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    #[error("the file of the passphrase, {}, lies in the session's workspace, where its code can read it", file.display())]
    Exposed { file: PathBuf },
    #[error("{} could not be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("nothing could be put into {}: {why}", folder.display())]
    Put { folder: PathBuf, why: String },
}

/// What an image needs and does not find.
#[derive(Debug)]
pub(crate) enum Tie {
    /// The machine, its kernel, the user.
    Place(&'static str),
    /// The program, a library or a file that was open.
    File {
        path: PathBuf,
        is_missing: bool,
    },
    Other(Refusal),
}

impl Tie {
    /// What would make it fit.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Place("the user") => {
                Some("An image wakes for the user that made it, by number, with the same groups")
            }
            Self::Place(_) => Some("An image wakes on a machine with the same kernel and processor"),
            Self::File { .. } => Some("It needs that file as it was, at the same path"),
            Self::Other(_) => None,
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::Place(what) => format!("{what} is another than when its image was made"),
            Self::File { path, is_missing: true } => format!("{} is not there", path.display()),
            Self::File { path, is_missing: false } => format!("{} is another than it was", path.display()),
            Self::Other(refusal) => refusal.to_string(),
        }
    }
}

impl From<Refusal> for Tie {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Tie { what } => Self::Place(what),
            Refusal::FileChanged { path } => Self::File { path: path.into(), is_missing: false },
            Refusal::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Self::File { path: path.into(), is_missing: true }
            }
            other => Self::Other(other),
        }
    }
}

/// A folder, or why it is none.
pub(super) fn folder(
    path: &Path,
    open: impl FnOnce(&Path) -> io::Result<StateFolder>,
) -> Result<StateFolder, MoveError> {
    open(path).map_err(|source| MoveError::Folder { path: path.to_owned(), source })
}
