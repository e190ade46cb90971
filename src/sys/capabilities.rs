//! Root's single powers: those that a confined process gives up.
//!
//! Runs in: worker and script, before any code that is not forkpy's. A process of an ordinary user has none, and nothing
//! happens.

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;
/// Those that concern files only, which Landlock bounds anyway: CHOWN, DAC_OVERRIDE, FOWNER, FSETID. Without them root in a
/// container could not use a workspace that belongs to another.
const KEPT: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 4;
/// As many as any kernel has.
const MOST: libc::c_int = 64;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether this process has one of those over files.
#[must_use]
pub(crate) fn over_files() -> bool {
    sets().is_ok_and(|[low, _]| low.effective & KEPT != 0)
}

fn sets() -> io::Result<[Sets; 2]> {
    let header = Header { version: VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: both outlive the call, and have the form that this version of the interface wants.
    match unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) } {
        0 => Ok(sets),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives up all others, for good; those over files too, unless they are root's own.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn give_up(keep_files: bool) -> io::Result<()> {
    let wanted = if keep_files { KEPT } else { 0 };
    for number in (0..MOST).filter(|number| wanted.checked_shr(number.unsigned_abs()).unwrap_or(0) & 1 == 0) {
        // SAFETY: takes numbers; one that does not exist, or that we may not drop, changes nothing.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    let mut sets = sets()?;
    for (place, set) in sets.iter_mut().enumerate() {
        let kept = if place == 0 { wanted } else { 0 };
        set.effective &= kept;
        set.permitted &= kept;
        set.inheritable &= kept;
    }
    let header = Header { version: VERSION, pid: 0 };
    // SAFETY: both outlive the call, which only reads.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
