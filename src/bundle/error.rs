//! Why a bundle cannot be made or started.
//!
//! Runs in: any process of forkpy, and the launcher of a single file.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Worded for the person who made or started it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// A file or directory.
    #[error("{what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// The single file was changed.
    #[error("{0} is damaged: what it carries does not have the hash that it names; copy it here again")]
    Damaged(PathBuf),
    /// The single file ends too early.
    #[error("{0} is not whole: its end is missing, as after a download that was cut short; copy it here again")]
    CutShort(PathBuf),
    /// What is unpacked behind the first start has not come.
    #[error(
        "pip and jedi's stubs are not unpacked in {root} yet: start the single file again, which does it; {free} MB are free \
         there"
    )]
    Unfinished {
        root: PathBuf,
        /// A disk that is full is the usual reason.
        free: u64,
    },
    /// No directory to unpack into.
    #[error(
        "found no place to unpack forkpy's library into:{0}\nset XDG_CACHE_HOME to a directory that only you may write"
    )]
    NoPlace(String),
    /// The disk is full.
    #[error(
        "not enough space in {place} to unpack forkpy's library: it needs {needed} MB, once; free that much, or set \
         XDG_CACHE_HOME to a directory with more"
    )]
    Full { place: PathBuf, needed: u64 },
    /// What a bundle is made from is not there.
    #[error("cannot make a bundle: {0}")]
    Lacking(String),
    /// A program that makes it failed.
    #[error("failed to make the bundle: {program} {how}")]
    Program {
        program: String,
        /// Exit status or the system's reason.
        how: String,
    },
}

impl BundleError {
    pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.to_owned(), source }
    }
}
