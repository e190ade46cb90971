//! The C library's heap.
//!
//! Runs in: worker, main thread; front; zygote (`leave_room`).

/// Pieces below the size from which the C library maps memory of its own.
#[cfg(target_env = "gnu")]
const PIECE: usize = 64 << 10;
/// What a session that does little needs of the heap.
#[cfg(target_env = "gnu")]
const ROOM: usize = 1 << 20;

/// Returns to the system what the heap holds unused; with a C library that cannot, nothing happens.
pub(crate) fn return_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time; it takes the heap's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Leaves free room at the end of the heap. A fork that finds none makes the heap grow, and then it holds a whole huge page
/// (two megabytes, filled with zeros) for the few kilobytes that it needed.
pub(crate) fn leave_room() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc has no preconditions, and its pointers, or null, may be given to free.
        let pieces: Vec<_> = (0..ROOM / PIECE).map(|_| unsafe { libc::malloc(PIECE) }).collect();
        for piece in pieces {
            // SAFETY: it comes from malloc, and nothing else has it.
            unsafe { libc::free(piece) };
        }
    }
}
