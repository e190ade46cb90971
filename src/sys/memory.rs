//! A process' own memory: the C library's heap, and whether what was written may become code.
//!
//! Runs in: worker, main thread; script; front; zygote (`leave_room`); server (`return_freed`).

/// Pieces below the size from which the C library maps memory of its own.
#[cfg(target_env = "gnu")]
const PIECE: usize = 64 << 10;
/// What a session that does little needs of the heap.
#[cfg(target_env = "gnu")]
const ROOM: usize = 1 << 20;

/// `PR_SET_MDWE`, and its `PR_MDWE_REFUSE_EXEC_GAIN` (Linux 6.3).
const NO_CODE_FROM_DATA: (libc::c_int, libc::c_ulong) = (65, 1);

/// From now on no memory of this process, and of what it starts, is writable and code, or becomes code after it was written.
/// False where the kernel does not know this.
#[must_use]
pub(crate) fn keep_data_from_running() -> bool {
    let (option, mode) = NO_CODE_FROM_DATA;
    // SAFETY: takes numbers; what is mapped already stays as it is.
    unsafe { libc::prctl(option, mode, 0_u64, 0_u64, 0_u64) == 0 }
}

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
