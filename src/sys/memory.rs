//! The C library's heap.
//!
//! Runs in: worker, main thread; front.

/// Returns to the system what the heap holds unused; with a C library that cannot, nothing happens.
pub(crate) fn return_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time; it takes the heap's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
