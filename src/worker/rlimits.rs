//! The limits that the kernel keeps for a worker and all it starts.
//!
//! Runs in: worker, main thread, before its first cell.
//!
//! - Memory: `RLIMIT_DATA` counts private writable memory as it is mapped, which is how an allocation that goes too far
//!   fails where it is asked for, as a `MemoryError`. What the worker has from the zygote counts too, so the limit is put
//!   on top of that. `RLIMIT_AS` would also count shared libraries and files, which cost nothing. A process of the
//!   session has the same limit for itself; all of them together are the server's business (`server/watch/guard.rs`).
//! - Open files: our own sockets lie above the new limit, which holds for new descriptors only; code that opens files
//!   until it may not meets `EMFILE` before it meets them.
//!
//! The limit of open files is a hard one: code cannot raise it again (root can; this is no sandbox). So is that of memory,
//! but for a reserve (`sys/reserve.rs`): a session that has filled its memory with small things could not even compile
//! `del things`. Its next cell has the reserve, for that.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use crate::{
    protocol::WorkerLimits,
    sys::{processes, reserve},
};

/// What a session that is full gets for its next cell.
const RESERVE: u64 = 16 << 20;
/// So close to its limit a session is full: CPython takes memory by the MiB.
const FULL: u64 = 3 << 20;

/// A limit of memory that is kept, in bytes of data.
#[derive(Debug, Clone)]
pub(crate) struct MemoryLimit(rlim_t);

/// Sets what is to be kept.
///
/// # Errors
/// When the kernel refuses, which it does not when limits are lowered.
pub(crate) fn apply(limits: WorkerLimits) -> std::io::Result<Option<MemoryLimit>> {
    if let Some(files) = limits.open_files {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let files = rlim_t::from(files).min(hard);
        setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    }
    let Some(memory) = limits.memory else { return Ok(None) };
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA)?;
    let usual = processes::data_size().unwrap_or(0).saturating_add(memory).min(hard);
    let most = usual.saturating_add(RESERVE).min(hard);
    reserve::limit(usual, most)?;
    Ok(Some(MemoryLimit(usual)))
}

impl MemoryLimit {
    /// A cell has run: lends the reserve to a session that is full, beginning with the report on that cell, and takes it
    /// back from one that is not. Must not allocate: Rust aborts where Python raises.
    pub(crate) fn after_cell(&self) {
        reserve::lend(processes::data_size().is_some_and(|size| size.saturating_add(FULL) > self.0));
    }
}
