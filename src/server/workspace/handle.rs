//! Files of the workspace, for clients: listed, read, written, deleted, whatever a path may say.
//!
//! Owns the one directory handle through which all of it goes; never opens a path by itself, so that `..`, absolute paths
//! and symbolic links that lead out end at the handle (`cap-std`) and not at a check of strings. May not touch sessions, nor
//! anything outside the workspace.
//!
//! Runs in: server, on its blocking threads (every method may block; `tools/files.rs` sends them there).

use std::{
    fmt, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use cap_fs_ext::FileTypeExt;
use cap_std::{
    ambient_authority,
    fs::{Dir, FileType},
};

use crate::settings::resolve::Workspace;

/// Most characters of a path that an error repeats.
const SHOWN: usize = 200;

/// Why a file could not be had, made or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// A path that no file can have.
    #[error("path {path} cannot be used: {reason}")]
    Unusable {
        /// As it was given.
        path: Shown,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The handle refused to leave the workspace.
    #[error("path {path} leads out of the workspace: {reason}; give a path relative to the workspace that stays in it")]
    Outside {
        /// As it was given.
        path: Shown,
        reason: &'static str,
    },
    /// Something else than a file with contents.
    #[error("path {path} is {kind}, not a regular file")]
    NotAFile {
        /// As it was given.
        path: Shown,
        kind: &'static str,
    },
    /// Only a directory can be listed.
    #[error("path {path} is {kind}, not a directory")]
    NotADirectory {
        /// As it was given.
        path: Shown,
        kind: &'static str,
    },
    /// A directory is not deleted by mistake.
    #[error("path {0} is a directory: pass recursive: true to delete it with everything in it")]
    NotRecursive(Shown),
    #[error("failed to {action} {path}: {source}")]
    Io { action: &'static str, path: Shown, source: io::Error },
    /// Neither where it was said to be nor among the saved scripts.
    #[error(
        "there is no script {0} in the workspace, nor below scripts/: list_files shows what there is, save_script makes one"
    )]
    NoScript(Shown),
    /// Too much to be taken whole.
    #[error("{path} has {size} bytes and may have {most}")]
    TooLarge {
        /// As it was given.
        path: Shown,
        size: u64,
        most: u64,
    },
    /// A file that must be text.
    #[error("{path} is not UTF-8 text (byte {offset} is wrong)")]
    NotUtf8 {
        /// As it was given.
        path: Shown,
        /// The first byte that is wrong.
        offset: usize,
    },
    #[error(
        "failed to write {path}: unknown encoding {encoding}; there are utf-8, latin-1, ascii, utf-16, utf-16-le, utf-16-be"
    )]
    UnknownEncoding {
        /// What was to be written.
        path: Shown,
        /// As it was given.
        encoding: Shown,
    },
    /// A workspace of an owner's own (`--workspaces`).
    #[error("the workspace {} could not be prepared, so nothing was done: {reason}", path.display())]
    NoPlace { path: PathBuf, reason: String },
    /// A character that an encoding lacks.
    #[error(
        "failed to write {path}: character {character:?} (number {index} of the content) does not exist in {encoding}"
    )]
    NotEncodable {
        /// What was to be written.
        path: Shown,
        /// The first such character.
        character: char,
        /// Its place, counted from 0.
        index: usize,
        encoding: &'static str,
    },
    /// Content that was said to be base64.
    #[error("failed to write {path}: the content is not base64: {source}")]
    Base64 {
        /// What was to be written.
        path: Shown,
        /// Where it goes wrong.
        source: base64::DecodeError,
    },
    /// The file ends before the first line that was asked for.
    #[error("{path} has {lines} lines, so there is no line {asked}")]
    NoSuchLine {
        path: Shown,
        /// How many it has.
        lines: u64,
        /// Which was asked for.
        asked: u64,
    },
    /// More than one reply holds.
    #[error(
        "path {path} has {size} bytes, more than one reply holds ({limit} bytes as JSON): read_file gives it by parts"
    )]
    TooLargeForReply {
        path: Shown,
        size: u64,
        /// Most bytes.
        limit: u64,
    },
    /// The client took its call back.
    #[error("stopped at {0}: the call was cancelled")]
    Cancelled(Shown),
    /// The sender stopped half way.
    #[error("the upload of {0} ended before its end: nothing was saved")]
    Unfinished(Shown),
    /// The work did not come to its end.
    #[error("failed to finish the work on files: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

/// A path, or other words of a client, as errors repeat it: quoted, and not without end.
#[derive(Debug)]
pub(crate) struct Shown(String);

#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(super) dir: Arc<Dir>,
    pub(super) root: PathBuf,
}

impl Files {
    /// Opens the workspace; its handle stays the same directory, whatever becomes of the path.
    pub(crate) fn open(workspace: &Workspace) -> io::Result<Self> {
        let dir = Dir::open_ambient_dir(&workspace.root, ambient_authority())?;
        Ok(Self { dir: Arc::new(dir), root: workspace.root.clone() })
    }

    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes a file, a symbolic link (not what it points to), or a directory with all it holds.
    ///
    /// # Errors
    /// [`FileError`]; a directory without `recursive`, and the workspace itself, are refused.
    pub(crate) fn delete(&self, path: &str, recursive: bool) -> Result<String, FileError> {
        checked(path)?;
        let (parent, name) = split(path).ok_or_else(|| FileError::Unusable {
            path: Shown::new(path),
            reason: "it names no entry of a directory, and the workspace itself is never deleted",
        })?;
        let fail = |source| trouble("delete", path, source);
        let parent_dir = self.dir.open_dir(parent).map_err(fail)?;
        let is_directory = parent_dir.symlink_metadata(name).map_err(fail)?.is_dir();
        if is_directory && !recursive {
            return Err(FileError::NotRecursive(Shown::new(path)));
        }
        let relative = place(&self.dir, parent, name).map_err(fail)?;
        if is_directory { parent_dir.remove_dir_all(name) } else { parent_dir.remove_file(name) }.map_err(fail)?;
        Ok(relative)
    }
}

impl FileError {
    /// Whether it says that there is no such file.
    #[must_use]
    pub(crate) fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
            Self::Outside { .. } => true,
            _ => false,
        }
    }

    #[must_use]
    pub(crate) fn too_large(path: &str, size: u64, limit: u64) -> Self {
        Self::TooLargeForReply { path: Shown::new(path), size, limit }
    }

    /// A file that could not be read after all.
    #[must_use]
    pub(crate) fn reading(path: &str, source: io::Error) -> Self {
        trouble("read", path, source)
    }

    #[must_use]
    pub(crate) fn cancelled(path: &str) -> Self {
        Self::Cancelled(Shown::new(path))
    }
}

impl Shown {
    pub(super) fn new(words: &str) -> Self {
        let mut shown: String = words.chars().take(SHOWN).collect();
        if shown.len() < words.len() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What the system could not even be asked about.
pub(super) fn checked(path: &str) -> Result<(), FileError> {
    let refuse = |reason| Err(FileError::Unusable { path: Shown::new(path), reason });
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.contains('\0') {
        return refuse("it holds a NUL character");
    }
    Ok(())
}

/// The directory of an entry and its name; `None` for `.`, `/` and whatever ends in `..`.
pub(super) fn split(path: &str) -> Option<(&Path, &Path)> {
    let path = Path::new(path);
    let name = path.file_name()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Some((parent.unwrap_or(Path::new(".")), Path::new(name)))
}

/// A path as replies give it: relative to the workspace, without `.` and `..`.
pub(super) fn place(base: &Dir, parent: &Path, name: &Path) -> io::Result<String> {
    let parent = if parent.components().any(|part| part == Component::ParentDir) {
        base.canonicalize(parent)?
    } else {
        parent.to_owned()
    };
    let parts = parent.components().chain(name.components());
    let parts: PathBuf = parts.filter(|part| *part != Component::CurDir).collect();
    Ok(parts.to_string_lossy().into_owned())
}

/// An error of the handle. Its own refusal to leave the workspace is the one that no system call made.
pub(super) fn trouble(action: &'static str, path: &str, source: io::Error) -> FileError {
    let escape = source.kind() == io::ErrorKind::PermissionDenied && source.raw_os_error().is_none();
    if !escape {
        return FileError::Io { action, path: Shown::new(path), source };
    }
    let reason = if Path::new(path).is_absolute() {
        "it is absolute"
    } else if Path::new(path).components().any(|part| part == Component::ParentDir) {
        "it climbs out by `..`, or by a symbolic link"
    } else {
        "a symbolic link in it points out of it"
    };
    FileError::Outside { path: Shown::new(path), reason }
}

/// What something is that is no regular file.
pub(super) fn kind(of: FileType) -> &'static str {
    if of.is_dir() {
        "a directory"
    } else if of.is_symlink() {
        "a symbolic link"
    } else if of.is_fifo() {
        "a named pipe (FIFO)"
    } else if of.is_socket() {
        "a socket"
    } else if of.is_block_device() || of.is_char_device() {
        "a device"
    } else if of.is_file() {
        "a regular file"
    } else {
        "of an unknown kind"
    }
}
