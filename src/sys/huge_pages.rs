//! Huge pages for what is large: a fork copies one entry for two megabytes instead of 512.
//!
//! Runs in: server (`asked`), zygote (`without`, `Arenas`), and each fork of it, which has the zygote's heap. Owns memory
//! that it hands out in pieces of an arena's size; frees by `munmap` alone, so a piece may come from elsewhere.
//!
//! glibc's heap is told by a tunable, which it reads when a program starts. The kernel's setting
//! `transparent_hugepage/enabled` decides in the end: with `never` all of this changes nothing.

use std::{
    ffi::{OsStr, OsString},
    ptr,
};

use parking_lot::Mutex;

/// The variable that glibc reads.
pub(crate) const VARIABLE: &str = "GLIBC_TUNABLES";
const NAME: &str = "glibc.malloc.hugetlb";
const WISH: &str = "glibc.malloc.hugetlb=1";

/// What a program is to be started with, so that its heap asks for huge pages. `None` where the user has decided.
pub(crate) fn asked(inherited: Option<&OsStr>) -> Option<OsString> {
    match inherited {
        None => Some(WISH.into()),
        Some(own) if own.to_string_lossy().contains(NAME) => None,
        Some(own) => {
            let mut both = OsString::from(WISH);
            both.push(":");
            both.push(own);
            Some(both)
        }
    }
}

/// The variable as the user has it: what is started later is not ours to tune. `value` is what [`asked`] gave.
pub(crate) fn without(value: &OsStr) -> Option<OsString> {
    use std::os::unix::ffi::OsStrExt;
    let rest = value.as_bytes().strip_prefix(WISH.as_bytes())?.strip_prefix(b":")?;
    Some(OsStr::from_bytes(rest).to_owned())
}

/// Size of a huge page.
const HUGE: usize = 2 << 20;
/// Size of CPython's arenas, from 3.10 on.
const ARENA: usize = 1 << 20;
/// Pieces that come first are of small pages: a small session is to hold no huge page that is half empty.
const SMALL: usize = 32;
/// Most huge pages that are reserved at once. Fewer reservations are fewer mappings, which a fork copies one by one.
const MOST: usize = 32;

/// Hands out arenas from reservations of huge pages.
pub(crate) struct Arenas(Mutex<Reserved>);

struct Reserved {
    given: usize,
    /// What is left of the last reservation.
    next: usize,
    end: usize,
}

impl Arenas {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Reserved { given: 0, next: 0, end: 0 }))
    }

    /// Memory for one arena; null when there is none.
    pub(crate) fn give(&self, size: usize) -> *mut u8 {
        // Each thread's stack of frames comes from here too, in other sizes.
        if size != ARENA {
            return map(size);
        }
        let mut reserved = self.0.lock();
        reserved.given += 1;
        if reserved.given <= SMALL {
            return map(size);
        }
        if reserved.next == reserved.end {
            // A reservation is an eighth of what there is, so that a limit of memory is not met for what is not used.
            let length = HUGE * (reserved.given * size / HUGE / 8).clamp(1, MOST);
            let place = huge_pages(length);
            if place.is_null() {
                return map(size);
            }
            (reserved.next, reserved.end) = (place.expose_provenance(), place.expose_provenance() + length);
        }
        let piece = ptr::with_exposed_provenance_mut(reserved.next);
        reserved.next += size;
        piece
    }

    /// Takes one back. Part of a huge page may go alone: the kernel splits it.
    ///
    /// # Safety
    /// It was given by [`Arenas::give`] with this size, or mapped by CPython's own allocator, and is not used any more.
    pub(crate) unsafe fn take(piece: *mut u8, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(piece.cast(), size) };
    }
}

fn map(size: usize) -> *mut u8 {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping touches nothing that is there.
    let place = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
    if place == libc::MAP_FAILED { ptr::null_mut() } else { place.cast() }
}

/// So many bytes at the right boundary, with the wish for huge pages.
fn huge_pages(length: usize) -> *mut u8 {
    let whole = map(length + HUGE);
    if whole.is_null() {
        return whole;
    }
    let before = whole.align_offset(HUGE);
    // SAFETY: both ends lie within what was just mapped, and nothing has a pointer into them.
    unsafe {
        let page = whole.add(before);
        if before > 0 {
            libc::munmap(whole.cast(), before);
        }
        libc::munmap(page.add(length).cast(), HUGE - before);
        libc::madvise(page.cast(), length, libc::MADV_HUGEPAGE);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_tunables_stay_and_their_word_on_huge_pages_holds() {
        let asked =
            |own: Option<&str>| super::asked(own.map(OsStr::new)).map(|value| value.into_string().expect("text"));
        assert_eq!(asked(None).as_deref(), Some("glibc.malloc.hugetlb=1"));
        let both = asked(Some("glibc.malloc.check=3")).expect("both");
        assert_eq!(without(OsStr::new(&both)).as_deref(), Some(OsStr::new("glibc.malloc.check=3")));
        assert_eq!(without(OsStr::new(WISH)), None);
        assert_eq!(asked(Some("glibc.malloc.hugetlb=0")), None);
    }

    #[test]
    fn arenas_are_given_beside_pieces_of_other_sizes_and_taken_back_alone() {
        let arenas = Arenas::new();
        let sizes = (0..SMALL + 60).map(|number| if number % 7 == 3 { 16 << 10 } else { ARENA });
        let pieces: Vec<(*mut u8, usize)> = sizes.map(|size| (arenas.give(size), size)).collect();
        for (number, (piece, size)) in pieces.iter().enumerate() {
            assert!(!piece.is_null());
            // SAFETY: each piece has that size, and is this test's alone.
            unsafe { ptr::write_bytes(*piece, u8::try_from(number).expect("small"), *size) };
        }
        assert!(pieces[SMALL + 20..].iter().any(|(piece, _)| piece.align_offset(HUGE) == 0));
        for (number, (piece, size)) in pieces.iter().enumerate() {
            // SAFETY: given above, and taken back once; the pieces that are still there are read.
            unsafe {
                assert_eq!(*piece.add(size - 1), u8::try_from(number).expect("small"));
                Arenas::take(*piece, *size);
            }
        }
    }
}
