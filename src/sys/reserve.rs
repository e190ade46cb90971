//! Memory that a limited process keeps for itself: part of its limit that is lent when there is nothing else.
//!
//! Runs in: worker with a limit of memory; elsewhere it is never armed and costs a branch where memory is refused.
//!
//! Owns the program's allocator. Python raises `MemoryError` where Rust aborts, so a session that is full must not meet
//! a Rust allocation that fails: neither the report on the cell that filled it nor the answer to a ping that comes
//! meanwhile, on another thread. May not allocate.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use nix::sys::resource::{Resource, rlim_t, setrlimit};

#[global_allocator]
static ALLOCATOR: Lending = Lending;

/// Zero: no limit, nothing to lend.
static USUAL: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);
static LENT: AtomicBool = AtomicBool::new(false);

/// Limits the data of this process to `usual` bytes, and keeps what lies between that and `most`.
///
/// # Errors
/// When the kernel refuses, which it does not when limits are lowered.
pub(crate) fn limit(usual: rlim_t, most: rlim_t) -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_DATA, usual, most)?;
    USUAL.store(usual, Ordering::Relaxed);
    MOST.store(most, Ordering::Relaxed);
    Ok(())
}

/// Whether the reserve is lent from now on, or kept. Does nothing in a process without a limit.
pub(crate) fn lend(lent: bool) {
    let (usual, most) = (USUAL.load(Ordering::Relaxed), MOST.load(Ordering::Relaxed));
    if most > 0 && LENT.swap(lent, Ordering::Relaxed) != lent {
        let _ = setrlimit(Resource::RLIMIT_DATA, if lent { most } else { usual }, most);
    }
}

/// Lends the reserve for as long as `body` runs, unless it is lent already.
pub(crate) fn with<T>(body: impl FnOnce() -> T) -> T {
    let before = LENT.load(Ordering::Relaxed);
    lend(true);
    let result = body();
    lend(before);
    result
}

/// True when memory that was refused may be had now.
fn help() -> bool {
    let can = MOST.load(Ordering::Relaxed) > 0 && !LENT.load(Ordering::Relaxed);
    if can {
        lend(true);
    }
    can
}

struct Lending;

// SAFETY: each call is handed on to the system's allocator as it came, once more when it refused.
unsafe impl GlobalAlloc for Lending {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system's allocator asks for; so below.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() && help() {
            // SAFETY: as above.
            return unsafe { System.alloc(layout) };
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let block = unsafe { System.alloc_zeroed(layout) };
        if block.is_null() && help() {
            // SAFETY: as above.
            return unsafe { System.alloc_zeroed(layout) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; a block that could not grow is still the caller's.
        let grown = unsafe { System.realloc(block, layout, size) };
        if grown.is_null() && help() {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, size) };
        }
        grown
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}
