//! What of a bundle comes behind its first start: pip and jedi's stubs, two thirds of all files. The launcher unpacks them in a
//! process of its own; those who are about to use them wait here.
//!
//! Runs in: any process, on a thread that may block.

use std::fs::File;

use nix::sys::statvfs::statvfs;

use super::{BundleError, manifest::COMPLETE};

/// Waits until all of the bundle is there; at once where it is, and where there is no bundle.
///
/// # Errors
/// [`BundleError`]: it is not being unpacked either.
pub(crate) fn wait() -> Result<(), BundleError> {
    let Some(root) = super::root() else { return Ok(()) };
    if root.join(COMPLETE).exists() {
        return Ok(());
    }
    // Held by the process that unpacks it.
    let lock = root.with_added_extension("lock");
    File::open(&lock).and_then(|lock| lock.lock()).map_err(BundleError::file("cannot lock", &lock))?;
    if root.join(COMPLETE).exists() {
        return Ok(());
    }
    let free = statvfs(&root).map_or(0, |found| found.blocks_available() * found.fragment_size() / (1 << 20));
    Err(BundleError::Unfinished { root, free })
}
