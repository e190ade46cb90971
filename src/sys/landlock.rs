//! What this kernel offers of Landlock. Nothing here restricts anything: guide, Limits and security.
//!
//! Runs in: `forkpy doctor`.

use std::io;

/// `LANDLOCK_CREATE_RULESET_VERSION`: asks, and makes nothing.
const VERSION: u32 = 1;

/// The version of its interface.
///
/// # Errors
/// The kernel's reason for having none.
pub(crate) fn abi() -> io::Result<i64> {
    // SAFETY: asks for a version: no attributes, no size.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) } {
        abi if abi > 0 => Ok(abi),
        _ => Err(io::Error::last_os_error()),
    }
}
