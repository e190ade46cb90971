//! Why a process has no image, or why an image does not wake.
//!
//! Runs in: checkpoint, and the process that is to become one.

use std::io;

/// Why; in words for a person, without the session's name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("images of processes are made on x86-64 only")]
    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "the other architectures say it"))]
    Architecture,
    #[error("its copy has {0} threads")]
    Threads(usize),
    #[error("descriptor {number} is open on {target}, which cannot be opened again")]
    Descriptor { number: i32, target: String },
    #[error("{0} is open and has been deleted")]
    Deleted(String),
    #[error("a lock is held on {0}")]
    Locked(String),
    #[error("memory is shared with other processes ({0})")]
    SharedMemory(String),
    #[error("the mapped file {0} was deleted or replaced")]
    MappedFileGone(String),
    #[error("memory of a kind that cannot be written down is mapped: {what} at {begin:#x}")]
    Mapping { what: String, begin: u64 },
    #[error("a timer runs: {0}")]
    Timer(&'static str),
    #[error("memory may not be made executable here (MemoryDenyWriteExecute)")]
    DenyWriteExecute,
    #[error("the kernel does not tell {0}")]
    Untold(&'static str),
    #[error("its memory may not be read: {0}")]
    Unreadable(#[source] io::Error),
    #[error("the image could not be written: {0}")]
    Write(#[source] io::Error),
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    #[error("the image could not be read: {0}")]
    Read(#[source] io::Error),
    #[error("{what} is another than when the image was made")]
    Tie { what: &'static str },
    #[error("{path} has been replaced or changed since the image was made")]
    FileChanged { path: String },
    #[error("{path} could not be opened again: {source}")]
    Open { path: String, source: io::Error },
    #[error("the memory that the image needs is taken ({0})")]
    Taken(&'static str),
    #[error("the system refused {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl Refusal {
    /// The last system call was refused.
    pub(super) fn last(what: &'static str) -> Self {
        Self::System { what, source: io::Error::last_os_error() }
    }
}
