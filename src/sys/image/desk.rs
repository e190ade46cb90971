//! The memory that the restorer works from, and what lies there.
//!
//! Runs in: the process that is woken, before its first step. It lies where neither this process nor the image has anything.

use std::os::fd::RawFd;

use super::{
    layout::Region,
    refusal::Refusal,
    restorer::Plan,
    snapshot::Arrival,
    state::{Action, SIGNALS},
};

/// Where the restorer's own memory may lie; far from where a kernel puts anything by itself.
const PLACES: [u64; 4] = [0x2000_0000_0000, 0x2400_0000_0000, 0x2800_0000_0000, 0x1800_0000_0000];
pub(super) const SCRATCH: u64 = 64 << 20;
/// Within it, from here on: a place for what is moved twice.
pub(super) const ASIDE: u64 = 56 << 20;
/// The signature that the C library has for its restartable sequences.
const RSEQ_SIGNATURE: u64 = 0x5305_3053;
const RSEQ_UNREGISTER: u64 = 1;
/// Room for the frame that tells a failure.
pub(super) const MESSAGE: usize = 512;

/// Data that steps point to.
#[repr(C)]
pub(super) struct Desk {
    pub(super) plan: Plan,
    pub(super) arrival: Arrival,
    pub(super) actions: [Action; SIGNALS],
    pub(super) mask: u64,
    pub(super) signal_stack: libc::stack_t,
    pub(super) limits: [(u64, u64); 16],
    /// `struct prctl_mm_map`.
    pub(super) marks: [u64; 13],
    pub(super) failure: [u8; MESSAGE],
}

/// Memory for the restorer, where neither this process nor the image has any.
pub(super) fn scratch(regions: &[Region]) -> Result<u64, Refusal> {
    let free = |place: &u64| regions.iter().all(|region| region.end <= *place || region.begin >= place + SCRATCH);
    for place in PLACES.into_iter().filter(free) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        let length = usize::try_from(SCRATCH).unwrap_or(0);
        // SAFETY: new memory, where there is none.
        let mapped =
            unsafe { libc::mmap(place as *mut libc::c_void, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if mapped.addr() as u64 == place {
            return Ok(place);
        }
    }
    Err(Refusal::Taken("the restorer's own"))
}

/// The kernel ends a process whose area for restartable sequences goes away under it. A fork by a starter has none
/// registered, and neither has the process of an image; which length was used is found by asking for it once more.
pub(super) fn end_rseq(area: u64) -> Result<(), Refusal> {
    let call = |length: u64, flags: u64| {
        // SAFETY: the area is the C library's for this, in this thread; the kernel notes it, or forgets it.
        match unsafe { libc::syscall(libc::SYS_rseq, area, length, flags, RSEQ_SIGNATURE) } {
            0 => 0,
            _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        }
    };
    for length in [32, 64, 96, 128, 256] {
        match call(length, 0) {
            libc::ENOSYS => return Ok(()),
            0 | libc::EBUSY if call(length, RSEQ_UNREGISTER) == 0 => return Ok(()),
            _ => {}
        }
    }
    Err(Refusal::Taken("restartable sequences"))
}

/// An argument of a system call.
pub(super) fn arg(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

pub(super) fn number(descriptor: RawFd) -> u64 {
    arg(descriptor)
}
