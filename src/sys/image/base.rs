//! The base: the pages that a zygote has for itself, written once. Images name the pages that they have in common with it
//! instead of holding them.
//!
//! Runs in: a fork of the zygote that ends then (`write_base`); checkpoint (`Base`, compared with); the process that is woken
//! (`Base`, filled from). A zygote goes on changing, and so does the next one: what is compared with is this file, which
//! does not. Which pages lie in it is a matter of size only: an image that has nothing in common with it is whole all the same.

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::fs::FileExt,
    },
};

use serde::{Deserialize, Serialize};

use super::{
    format::{self, BaseId, Run, Source},
    layout::{self, Kind, PAGE, READ, Region},
    refusal::Refusal,
};
use crate::sys::random;

/// Begin of the file; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"fpbase\0\x01";
/// `/proc/PID/pagemap`: the page is there or swapped out, and is no file's.
const SOMEWHERE: u64 = 3 << 62;
const OF_FILE: u64 = 1 << 61;
const ZERO: [u8; PAGE as usize] = [0; PAGE as usize];

/// Everything but the pages.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    id: BaseId,
    /// By address.
    extents: Vec<Run>,
    /// Memory that is no file's and of no special kind: begin and end.
    plain: Vec<(u64, u64)>,
}

/// Which pages a base has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Without those that are zero where memory begins as zero: in a process that has just begun they need not be read.
    WithoutZero,
}

/// Writes the pages of this process, a fork of a zygote, to a file. Gives how many there are.
pub(crate) fn write_base(output: BorrowedFd<'_>, which: Which) -> Result<u64, Refusal> {
    let file = File::from(output.try_clone_to_owned().map_err(Refusal::Write)?);
    let pagemap = File::open("/proc/self/pagemap").map_err(Refusal::Unreadable)?;
    let memory = File::open("/proc/self/mem").ok().filter(|_| which == Which::WithoutZero);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let regions = layout::of(own).map_err(|_| Refusal::Untold("its mappings"))?;
    let id: BaseId = random::bytes().map_err(Refusal::Unreadable)?;
    let is_plain = |region: &&Region| {
        region.kind == Kind::Anonymous && !region.shared && !region.advice.droppable && region.strange.is_none()
    };
    let plain = regions.iter().filter(is_plain).map(|region| (region.begin, region.end)).collect();
    let mut contents = Contents { id, extents: Vec::new(), plain };
    let mut end = PAGE;
    for region in regions.iter().filter(|region| !region.shared && region.kind != Kind::Kernel && region.may(READ)) {
        write_region(region, (&pagemap, memory.as_ref(), &file), &mut end, &mut contents.extents)?;
    }
    format::write_end(&file, MAGIC, &contents, end)?;
    Ok(contents.extents.iter().map(|extent| extent.pages).sum())
}

fn write_region(
    region: &Region,
    (pagemap, memory, file): (&File, Option<&File>, &File),
    end: &mut u64,
    extents: &mut Vec<Run>,
) -> Result<(), Refusal> {
    let count = usize::try_from(region.length() / PAGE).unwrap_or(0);
    let mut entries = vec![0; count * 8];
    // Some regions are gone by now: this process has allocated meanwhile.
    if pagemap.read_exact_at(&mut entries, region.begin / PAGE * 8).is_err() {
        return Ok(());
    }
    let words = entries.as_chunks::<8>().0;
    let memory = memory.filter(|_| region.kind != Kind::File);
    let is_zero = |place: usize| {
        let mut page = [1; PAGE as usize];
        let read = |memory: &File| memory.read_exact_at(&mut page, region.begin + place as u64 * PAGE);
        memory.map(read).is_some_and(|read| read.is_ok()) && page == ZERO
    };
    let own = |place: usize| {
        let entry = u64::from_ne_bytes(words[place]);
        entry & SOMEWHERE != 0 && entry & OF_FILE == 0 && !is_zero(place)
    };
    let mut place = 0;
    while place < count {
        let length = (place..count).take_while(|place| own(*place)).count();
        if length == 0 {
            place += 1;
            continue;
        }
        let begin = region.begin + place as u64 * PAGE;
        let bytes = u64::try_from(length).unwrap_or(0) * PAGE;
        // The kernel reads the memory, and refuses what is not there any more.
        let offset = i64::try_from(*end).unwrap_or(i64::MAX);
        let size = usize::try_from(bytes).unwrap_or(0);
        // SAFETY: the call only reads from the address, and fails where nothing is mapped.
        let written = unsafe { libc::pwrite(file.as_raw_fd(), begin as *const libc::c_void, size, offset) };
        match u64::try_from(written) {
            Ok(written) if written == bytes => {
                extents.push(Run { begin, pages: length as u64, offset: *end, source: Source::Base });
                *end += bytes;
            }
            Ok(_) => return Err(Refusal::Write(std::io::ErrorKind::WriteZero.into())),
            Err(_) => {
                let error = std::io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::EFAULT) {
                    return Err(Refusal::Write(error));
                }
            }
        }
        place += length;
    }
    Ok(())
}

/// Name of the base that lies in a file.
pub(crate) fn base_id(file: BorrowedFd<'_>) -> Result<BaseId, Refusal> {
    Base::open(file.as_raw_fd(), Use::Some).map(|base| base.id())
}

/// How many of its pages will be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Most,
    Some,
}

/// A base, mapped to be looked at.
#[derive(Debug)]
pub(super) struct Base {
    contents: Contents,
    memory: *const u8,
    size: u64,
}

impl Base {
    /// Of a whole file that no process changes any more.
    pub(super) fn open(file: RawFd, use_of_it: Use) -> Result<Self, Refusal> {
        // SAFETY: the number stays open while this is called.
        let borrowed = unsafe { BorrowedFd::borrow_raw(file) };
        let file = File::from(borrowed.try_clone_to_owned().map_err(Refusal::Read)?);
        let (contents, end): (Contents, u64) = format::read_end(&file, MAGIC)?;
        format::check_runs(&contents.extents, end)?;
        let length = usize::try_from(end).unwrap_or(0);
        let flags = libc::MAP_SHARED | if use_of_it == Use::Most { libc::MAP_POPULATE } else { 0 };
        // SAFETY: new memory, which is only read; the file is at least as long.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(Refusal::last("the base"));
        }
        Ok(Self { contents, memory: memory.cast(), size: end })
    }

    pub(super) fn id(&self) -> BaseId {
        self.contents.id
    }

    /// Whether there was plain memory in the zygote at `begin`, and up to where that is so, `end` at most.
    pub(super) fn plain_until(&self, begin: u64, end: u64) -> (bool, u64) {
        let plain = &self.contents.plain;
        match plain.get(plain.partition_point(|(_, plain_end)| *plain_end <= begin)) {
            Some((plain_begin, plain_end)) if *plain_begin <= begin => (true, end.min(*plain_end)),
            Some((plain_begin, _)) => (false, end.min(*plain_begin)),
            None => (false, end),
        }
    }

    /// Where the page at an address lies in the file.
    pub(super) fn offset_of(&self, address: u64) -> Option<u64> {
        let extents = &self.contents.extents;
        let place = extents.partition_point(|extent| extent.end() <= address);
        let extent = extents.get(place).filter(|extent| extent.begin <= address)?;
        Some(extent.offset + (address - extent.begin))
    }

    /// The page that lies there in the file; zeros beyond its end.
    pub(super) fn page(&self, offset: u64) -> &[u8; PAGE as usize] {
        if offset.checked_add(PAGE).is_none_or(|end| end > self.size) {
            return &ZERO;
        }
        // SAFETY: within what is mapped, as long as this is there; the file does not change.
        unsafe { &*self.memory.add(usize::try_from(offset).unwrap_or(0)).cast() }
    }

    /// Whether these pages lie in the file.
    pub(super) fn has(&self, run: &Run) -> bool {
        run.offset >= PAGE && run.offset + run.pages * PAGE <= self.size
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.cast_mut().cast(), usize::try_from(self.size).unwrap_or(0)) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_pages_of_this_process_are_found_again() {
        let marked = vec![0x5a_u8; 64 << 10];
        let file = crate::sys::descriptors::memory_file(c"base").expect("memory");
        // A fork has one thread: here others would take memory away while it is written.
        // SAFETY: the child writes the file and ends; the C library makes its heap usable in it.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let many = write_base(file.as_fd(), Which::All).is_ok_and(|pages| pages > 16);
            // SAFETY: no preconditions; it does not return.
            unsafe { libc::_exit(i32::from(!many)) };
        }
        let mut status = 0;
        // SAFETY: a child of ours that no other code waits for.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0), "written");
        let base = Base::open(file.as_raw_fd(), Use::Most).expect("opened");
        let inside = (marked.as_ptr().addr() as u64).next_multiple_of(PAGE);
        let offset = base.offset_of(inside).expect("there");
        assert_eq!(base.page(offset), &[0x5a; PAGE as usize]);
        assert_eq!(base.plain_until(inside, inside + PAGE), (true, inside + PAGE));
        assert_eq!(base.plain_until(0, PAGE), (false, PAGE));
        assert_eq!(base.offset_of(0), None);
        assert_eq!(base.page(u64::MAX - 100), &ZERO);
    }
}
