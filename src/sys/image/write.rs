//! Writing the image: the clone stands still, its memory is read and written page by page.
//!
//! Runs in: checkpoint, its only thread; and, from the place where the clone stands, a woken checkpoint. Reading the memory of a
//! process that is our own child needs no privilege. Nothing of the checkpoint itself is in the image, so this is ordinary
//! code: it allocates as it likes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::{BorrowedFd, RawFd},
        unix::fs::{FileExt, MetadataExt},
    },
};

use super::{
    base::{Base, Use},
    files::{self, OpenFile},
    format::{BaseId, Description, Run, Source, digest},
    layout::{self, Kind, PAGE, Region, WRITE},
    mapped::MappedFile,
    refusal::Refusal,
    snapshot::{self, Arrival, Side},
    state::{self, KernelState, Surroundings},
    ties::Ties,
};
use crate::sys::lifeline;

/// Pages that are read and written at once.
const PIECE: usize = 256;
/// How the kernel names a file in memory; ours is what a woken process was mapped from.
const MEMORY_FILE: &str = "/memfd:";
/// What the kernel appends to the name of a file that has none any more.
const DELETED: &str = " (deleted)";
/// `/proc/PID/pagemap`: the page is there, or swapped out; it is the file's own.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Written {
    /// The image exists; this process is as it was.
    Done {
        /// Pages of memory in it.
        pages: u64,
        /// Pages that its base has.
        common: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// This process was woken from the image: everything is as it was then, but for its number, its socket and its files,
    /// which were opened again.
    Woken,
}

/// Writes this process to a file, but for the pages that `base` has at the same place. `link` is its socket, of which a waker
/// gives it another; `output` and `base` are the files' own numbers.
/// What is open under `renewed` is of no account: a woken process has something under these numbers, and closes it. Where the
/// surroundings are the waker's, so are the three standard descriptors.
///
/// # Errors
/// [`Refusal`]; the process is as it was, and what is in the file is no image.
///
/// # Safety
/// This process has one thread, and what is true of its memory when this is called is true of the woken one's.
pub(crate) unsafe fn write(
    (output, base): (RawFd, RawFd),
    link: RawFd,
    renewed: &[RawFd],
    surroundings: Surroundings,
) -> Result<Written, Refusal> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Refusal::Architecture);
    }
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Refusal::Threads(threads));
    }
    refuse_timers()?;
    let mut own = vec![output, base, link];
    own.extend(lifeline::number());
    own.extend(renewed);
    if surroundings == Surroundings::Wakers {
        own.extend(0..=2);
    }
    let mut open = files::of_this_process(&own)?;
    open.extend(renewed.iter().map(|number| OpenFile::placeholder(*number)));
    let ties = Ties::now()?;
    // SAFETY: the caller's promise.
    match unsafe { snapshot::take() }.map_err(|source| Refusal::System { what: "a clone", source })? {
        Side::Woken(arrival) => {
            arrive(arrival);
            Ok(Written::Woken)
        }
        Side::Original { clone } => {
            let heap_end = state::heap_end();
            let clone = Clone { pid: clone };
            let written = describe(&clone, heap_end).and_then(|(state, regions)| {
                // SAFETY: the number stays open, for the caller has it.
                let file = unsafe { BorrowedFd::borrow_raw(output) }.try_clone_to_owned().map_err(Refusal::Write)?;
                let description = Description {
                    ties,
                    state,
                    registers: snapshot::registers(),
                    mapped: mapped_files(&regions)?,
                    vdso: vdso_digest(&regions)?,
                    regions,
                    runs: Vec::new(),
                    base: BaseId::default(),
                    files: open,
                    link,
                    lifeline: lifeline::number(),
                };
                write_all(&clone, description, &File::from(file), &Base::open(base, Use::Most)?)
            });
            drop(clone);
            written
        }
    }
}

/// The clone, which ends with this.
struct Clone {
    pid: i32,
}

impl Drop for Clone {
    fn drop(&mut self) {
        // SAFETY: a child of ours that has not been waited for, so the number is its own. It sends no signal when it ends.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

/// The first steps of a woken process.
fn arrive(arrival: Arrival) {
    // SAFETY: the address is where the C library keeps this thread's number, which is another now; the scratch memory is the
    // restorer's, which has ended.
    unsafe {
        let number = libc::syscall(libc::SYS_gettid);
        (arrival.tid_address as *mut i32).write(i32::try_from(number).unwrap_or(0));
        libc::munmap(arrival.scratch as *mut libc::c_void, usize::try_from(arrival.scratch_length).unwrap_or(0));
    }
}

fn refuse_timers() -> Result<(), Refusal> {
    let kinds = [
        (libc::ITIMER_REAL, "ITIMER_REAL"),
        (libc::ITIMER_VIRTUAL, "ITIMER_VIRTUAL"),
        (libc::ITIMER_PROF, "ITIMER_PROF"),
    ];
    for (kind, name) in kinds {
        // SAFETY: zeroed memory is a valid itimerval, and the call only writes to it.
        let timer = unsafe {
            let mut timer = std::mem::zeroed::<libc::itimerval>();
            libc::getitimer(kind, &raw mut timer);
            timer
        };
        if timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0 {
            return Err(Refusal::Timer(name));
        }
    }
    let posix = fs::read_to_string("/proc/self/timers").unwrap_or_default();
    if posix.contains("ID:") { Err(Refusal::Timer("timer_create")) } else { Ok(()) }
}

fn describe(clone: &Clone, heap_end: u64) -> Result<(KernelState, Vec<Region>), Refusal> {
    let state = KernelState::read(clone.pid, heap_end)?;
    let mut regions = layout::of(clone.pid).map_err(|_| Refusal::Untold("its mappings"))?;
    for region in &mut regions {
        accept(region)?;
    }
    regions.retain(|region| region.path != "[vsyscall]");
    Ok((state, regions))
}

/// Refuses what cannot be had again. A part of an image that this process was woken from is memory like any other.
fn accept(region: &mut Region) -> Result<(), Refusal> {
    let strange = |what: &str| Refusal::Mapping { what: what.to_owned(), begin: region.begin };
    if let Some(flag) = &region.strange {
        return Err(strange(&format!("memory with the flag {flag}")));
    }
    match region.kind {
        Kind::Kernel if region.path == "[vdso]" || region.path.starts_with("[vvar") || region.path == "[vsyscall]" => {
            Ok(())
        }
        Kind::Kernel => Err(strange(&region.path)),
        Kind::Anonymous | Kind::Stack if region.shared => Err(Refusal::SharedMemory("anonymous".to_owned())),
        Kind::Anonymous | Kind::Stack => Ok(()),
        Kind::File if region.path.starts_with("/dev/zero") || region.path.starts_with("/SYSV") => {
            Err(Refusal::SharedMemory(region.path.clone()))
        }
        Kind::File if region.path.starts_with(MEMORY_FILE) || region.path.starts_with("anon_inode:") => {
            Err(Refusal::SharedMemory(region.path.clone()))
        }
        Kind::File if region.path.starts_with("/dev/") => Err(strange(&region.path)),
        Kind::File if region.shared && region.may(WRITE) => Err(Refusal::SharedMemory(region.path.clone())),
        Kind::File => Ok(()),
    }
}

fn mapped_files(regions: &[Region]) -> Result<Vec<MappedFile>, Refusal> {
    let mut found: BTreeMap<&str, MappedFile> = BTreeMap::new();
    for region in regions.iter().filter(|region| region.kind == Kind::File) {
        if found.contains_key(region.path.as_str()) {
            continue;
        }
        let gone = || Refusal::MappedFileGone(region.path.clone());
        if region.path.ends_with(DELETED) {
            return Err(gone());
        }
        let status = fs::metadata(&region.path).map_err(|_| gone())?;
        // On a file system made of layers the kernel lists the device below, and the number there.
        let device = (libc::major(status.dev()), libc::minor(status.dev()));
        if device == region.device && status.ino() != region.inode {
            return Err(gone());
        }
        found.insert(&region.path, MappedFile::of(&region.path, &status));
    }
    Ok(found.into_values().collect())
}

/// Digest of this process' own copy of the kernel's code.
pub(super) fn vdso_digest(regions: &[Region]) -> Result<u64, Refusal> {
    let region = regions.iter().find(|region| region.path == "[vdso]").ok_or(Refusal::Untold("its vdso"))?;
    let length = usize::try_from(region.length()).unwrap_or(0);
    // SAFETY: the kernel has mapped it readable, in this process and in its clone.
    Ok(digest(unsafe { std::slice::from_raw_parts(region.begin as *const u8, length) }))
}

/// What images that are written here are tied to, as bytes: others here than there, and an image does not wake.
///
/// # Errors
/// When the system does not tell.
pub(crate) fn here() -> Result<Vec<u8>, Refusal> {
    let vdso = vdso_digest(&layout::own().map_err(|_| Refusal::Untold("its mappings"))?)?;
    postcard::to_stdvec(&(Ties::now()?, vdso)).map_err(|_| Refusal::Untold("what it is tied to"))
}

/// The clone's memory, and the file that it goes to.
struct Copier<'a> {
    memory: File,
    pagemap: File,
    output: &'a File,
    base: &'a Base,
    /// End of what is written.
    end: u64,
    runs: Vec<Run>,
    buffer: Vec<u8>,
}

fn write_all(clone: &Clone, mut description: Description, output: &File, base: &Base) -> Result<Written, Refusal> {
    let open = |name: &str| File::open(format!("/proc/{}/{name}", clone.pid)).map_err(Refusal::Unreadable);
    output.set_len(0).map_err(Refusal::Write)?;
    let mut copier = Copier {
        memory: open("mem")?,
        pagemap: open("pagemap")?,
        output,
        base,
        end: PAGE,
        runs: Vec::new(),
        buffer: vec![0; PIECE * PAGE as usize],
    };
    for region in description.regions.iter().filter(|region| !region.shared && region.kind != Kind::Kernel) {
        copier.copy(region)?;
    }
    let (runs, end) = (copier.runs, copier.end);
    let count = |source: Source| runs.iter().filter(|run| run.source == source).map(|run| run.pages).sum();
    let (pages, common) = (count(Source::Image), count(Source::Base));
    (description.runs, description.base) = (runs, base.id());
    let bytes = description.write(output, end)?;
    Ok(Written::Done { pages, common, bytes })
}

impl Copier<'_> {
    /// The pages of a mapping that are its own.
    fn copy(&mut self, region: &Region) -> Result<(), Refusal> {
        let mut entries = [0_u8; PIECE * 8];
        let mut begin = region.begin;
        while begin < region.end {
            let count = usize::try_from((region.end - begin) / PAGE).unwrap_or(PIECE).min(PIECE);
            self.pagemap.read_exact_at(&mut entries[..count * 8], begin / PAGE * 8).map_err(Refusal::Unreadable)?;
            let words = entries[..count * 8].as_chunks::<8>().0;
            let own = |place: usize| {
                words.get(place).is_some_and(|word| {
                    let entry = u64::from_ne_bytes(*word);
                    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
                })
            };
            let mut place = 0;
            while place < count {
                if !own(place) {
                    place += 1;
                    continue;
                }
                let length = (place..count).take_while(|place| own(*place)).count();
                self.copy_pages(region, begin + place as u64 * PAGE, length)?;
                place += length;
            }
            begin += count as u64 * PAGE;
        }
        Ok(())
    }

    fn copy_pages(&mut self, region: &Region, begin: u64, count: usize) -> Result<(), Refusal> {
        let address = |place: usize| begin + place as u64 * PAGE;
        let mut buffer = std::mem::take(&mut self.buffer);
        self.memory.read_exact_at(&mut buffer[..count * PAGE as usize], begin).map_err(Refusal::Unreadable)?;
        let pages = &buffer.as_chunks::<{ PAGE as usize }>().0[..count];
        let base = self.base;
        let found: Vec<Found> =
            pages.iter().enumerate().map(|(place, page)| Found::of(page, address(place), region, base)).collect();
        let mut place = 0;
        while place < count {
            let length = found[place..].iter().take_while(|next| **next == found[place]).count();
            match found[place] {
                Found::Nothing => {}
                Found::Own => {
                    let data = pages[place..place + length].as_flattened();
                    self.output.write_all_at(data, self.end).map_err(Refusal::Write)?;
                    let offset = self.end;
                    self.end += data.len() as u64;
                    self.note(region, address(place), length as u64, (offset, Source::Image));
                }
                Found::InBase { .. } => {
                    // What lies behind another in memory may not in the file.
                    for (place, next) in (place..).zip(&found[place..place + length]) {
                        if let Found::InBase { offset } = next {
                            self.note(region, address(place), 1, (*offset, Source::Base));
                        }
                    }
                }
            }
            place += length;
        }
        self.buffer = buffer;
        Ok(())
    }

    fn note(&mut self, region: &Region, begin: u64, pages: u64, (offset, source): (u64, Source)) {
        match self.runs.last_mut() {
            // It is one with the one before, unless a mapping begins between.
            Some(run)
                if run.source == source
                    && run.end() == begin
                    && run.offset + run.pages * PAGE == offset
                    && begin != region.begin =>
            {
                run.pages += pages;
            }
            _ => self.runs.push(Run { begin, pages, offset, source }),
        }
    }
}

/// Where a page is to come from.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// It is zero, as memory is that is no file's.
    Nothing,
    Own,
    InBase {
        offset: u64,
    },
}

impl PartialEq for Found {
    /// Of one kind.
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Found {
    fn of(page: &[u8; PAGE as usize], address: u64, region: &Region, base: &Base) -> Self {
        const ZERO: [u8; PAGE as usize] = [0; PAGE as usize];
        match base.offset_of(address) {
            Some(offset) if page == base.page(offset) => Self::InBase { offset },
            _ if region.kind != Kind::File && *page == ZERO => Self::Nothing,
            _ => Self::Own,
        }
    }
}
