//! What keeps this process' secrets from other processes of the same user: no memory image for them, no secret in the
//! environment.
//!
//! Runs in: server, zygote; a worker takes back what its zygote did, for its code is as open as any program of the user's.
//! May not: decide what is a secret.
//!
//! The kernel keeps the environment that a process was started with at the top of its stack, where `/proc/PID/environ` reads
//! it; `unsetenv` forgets the pointer and leaves the text. So the text itself is overwritten.

use std::ffi::{CStr, CString, OsString};

/// From now on other processes of this user can neither trace this one nor read its memory, environment and descriptors
/// through `/proc`, and it leaves no core file. Root still can, and so can a debugger that root starts.
pub(crate) fn close_to_others() {
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Takes that back, in a fork.
pub(crate) fn open_to_others() {
    let _ = nix::sys::prctl::set_dumpable(true);
}

/// Takes a variable out of the environment, and its text out of what `/proc/self/environ` shows.
///
/// # Safety
/// No other thread may exist: it could read the environment meanwhile.
pub(crate) unsafe fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    let key = CString::new(name).ok()?;
    // SAFETY: the key ends with NUL; what it points to is the text in the environment, its NUL included, which is this
    // process' own memory and writable; the caller promises that nothing else reads it.
    unsafe {
        let text = libc::getenv(key.as_ptr());
        if !text.is_null() {
            let length = CStr::from_ptr(text).count_bytes();
            std::ptr::write_bytes(text.cast::<u8>(), b'*', length);
        }
        std::env::remove_var(name);
    }
    Some(value)
}
