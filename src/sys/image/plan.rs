//! What has to change in a fresh process for it to be the one of an image, as a list of system calls.
//!
//! Runs in: a fork of the zygote, its only thread, which ends here or goes on as the process of the image. Everything is
//! checked, and whatever can fail is done, before the first step that cannot be taken back.
//!
//! What agrees is kept: files that are mapped at the same place already. All other memory is mapped anew, and what the
//! image has nothing for is unmapped, known or not.

use std::{
    collections::HashMap,
    fs::File,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
};

use super::{
    files,
    format::{Description, MappedFile, Run},
    layout::{self, EXECUTE, Kind, PAGE, READ, Region, WRITE},
    refusal::Refusal,
    restorer::{Check, Plan, Step},
    snapshot::Arrival,
    state::{self, Action, Place, SIGNALS},
    ties::Ties,
    write::vdso_digest,
};
use crate::sys::{descriptors, lifeline};

/// Where the restorer's own memory may lie; far from where a kernel puts anything by itself.
const PLACES: [u64; 4] = [0x2000_0000_0000, 0x2400_0000_0000, 0x2800_0000_0000, 0x1800_0000_0000];
const SCRATCH: u64 = 64 << 20;
/// Within it: the code, the steps, and a place for what is moved twice.
const CODE: u64 = 1 << 20;
const STEPS: u64 = 2 << 20;
const ASIDE: u64 = 56 << 20;
/// All that a program may map.
const LOWEST: u64 = 0x1_0000;
const HIGHEST: u64 = 0x7fff_ffff_f000;
/// One call reads so much.
const READ_AT_ONCE: u64 = 1 << 30;
/// The signature that the C library has for its restartable sequences.
const RSEQ_SIGNATURE: u64 = 0x5305_3053;
const RSEQ_UNREGISTER: u64 = 1;
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const MAP_DROPPABLE: i32 = 0x08;
/// Room for the frame that tells a failure.
const MESSAGE: usize = 512;

/// Data that steps point to.
#[repr(C)]
struct Desk {
    plan: Plan,
    arrival: Arrival,
    actions: [Action; SIGNALS],
    mask: u64,
    signal_stack: libc::stack_t,
    limits: [(u64, u64); 16],
    /// `struct prctl_mm_map`.
    marks: [u64; 13],
    failure: [u8; MESSAGE],
}

/// Makes this process the one of an image. `link` becomes its socket; `failure` is sent there should a step fail after which
/// there is no way back. Comes back with the reason when it is refused before, and the number that the link has then.
///
/// # Safety
/// This process has one thread and nothing in it is of use any more: its descriptors are closed, whatever comes of it.
pub(crate) unsafe fn wake(image: OwnedFd, link: OwnedFd, failure: &[u8]) -> (Refusal, RawFd) {
    let mut at = link.as_raw_fd();
    let image = File::from(image);
    let refusal = match prepare(&image, &link, &mut at) {
        Err(refusal) => refusal,
        Ok((described, image)) => match Planner::new(&described, image, at) {
            Err(refusal) => refusal,
            // SAFETY: the caller's promise; all that could be checked was.
            Ok(planner) => unsafe { planner.go(failure) },
        },
    };
    // Closed by number already, some of them.
    std::mem::forget((image, link));
    (refusal, at)
}

/// Everything that can be done while this is still a process like any other. Comes back with the image's new number.
fn prepare(image: &File, link: &OwnedFd, at: &mut RawFd) -> Result<(Description, RawFd), Refusal> {
    let described = Description::read(image)?;
    if let Some(what) = described.ties.difference(&Ties::now()?) {
        return Err(Refusal::Tie { what });
    }
    if described.vdso != vdso_digest(&layout::own().map_err(|_| Refusal::Untold("its mappings"))?)? {
        return Err(Refusal::Tie { what: "the kernel's own code in processes (vdso)" });
    }
    state::ask_for_features(described.state.asked_features)
        .map_err(|source| Refusal::System { what: "a feature of the processor", source })?;
    block_signals();
    let image = take_places(&described, image, link, at)?;
    let kept = &described.state;
    if std::env::set_current_dir(&kept.directory).is_err() {
        return Err(Refusal::last("the working directory that it had"));
    }
    // SAFETY: these calls take numbers, and a list of bits that outlives the call.
    unsafe {
        libc::umask(kept.file_mode_mask);
        if kept.nice != state::nice() && libc::setpriority(libc::PRIO_PROCESS, 0, kept.nice) != 0 {
            return Err(Refusal::last("the priority that it had"));
        }
        let size = std::mem::size_of_val(kept.affinity.as_slice());
        if kept.affinity != state::affinity()
            && libc::syscall(libc::SYS_sched_setaffinity, 0, size, kept.affinity.as_ptr()) != 0
        {
            return Err(Refusal::last("the processors that it had"));
        }
    }
    Ok((described, image))
}

fn block_signals() {
    let all = u64::MAX;
    // SAFETY: reads eight bytes.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, std::ptr::null_mut::<u64>(), 8);
    }
}

/// Gives each descriptor the number that the image has for it, and closes all others.
fn take_places(described: &Description, image: &File, link: &OwnedFd, at: &mut RawFd) -> Result<RawFd, Refusal> {
    let refused = || Refusal::last("a descriptor");
    let wanted = |number: &RawFd| {
        *number == described.link
            || Some(*number) == described.lifeline
            || described.files.iter().any(|file| file.number == *number)
    };
    let held = [Some(image.as_raw_fd()), Some(link.as_raw_fd()), lifeline::number()];
    let mut free = (3..).filter(|number| !wanted(number) && !held.contains(&Some(*number)));
    let mut aside = |number: RawFd| {
        let to = free.next().unwrap_or(RawFd::MAX);
        // SAFETY: takes numbers; the second is of no use in this process.
        match unsafe { libc::dup3(number, to, libc::O_CLOEXEC) } {
            -1 => Err(refused()),
            _ => Ok(to),
        }
    };
    let (image, link) = (aside(image.as_raw_fd())?, aside(link.as_raw_fd())?);
    *at = link;
    let lifeline = lifeline::number().map(aside).transpose()?;
    let kept: Vec<_> = [Some(image), Some(link), lifeline].into_iter().flatten().map(borrow).collect();
    // SAFETY: nothing else of this process is of use: the promise of `wake`.
    unsafe { descriptors::close_all_but(&kept) };
    files::reopen(&described.files)?;
    let put = |from: RawFd, to: RawFd| {
        // SAFETY: takes numbers; the second is free, the first is given up.
        unsafe {
            let done = libc::dup3(from, to, libc::O_CLOEXEC) >= 0;
            libc::close(from);
            if done { Ok(()) } else { Err(refused()) }
        }
    };
    put(link, described.link)?;
    *at = described.link;
    if let Some((from, to)) = lifeline.zip(described.lifeline) {
        put(from, to)?;
    }
    Ok(image)
}

fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: opened by this file, and not closed while this is used.
    unsafe { BorrowedFd::borrow_raw(number) }
}

struct Planner<'a> {
    described: &'a Description,
    /// The image's number.
    image: RawFd,
    link: RawFd,
    now: Vec<Region>,
    place: Place,
    scratch: u64,
    /// Numbers of mapped files.
    opened: HashMap<String, RawFd>,
    pagemap: File,
    steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    fn new(described: &'a Description, image: RawFd, link: RawFd) -> Result<Self, Refusal> {
        let place = Place::of(i32::try_from(std::process::id()).unwrap_or(0))?;
        place.rseq.map_or(Ok(()), end_rseq)?;
        let scratch = scratch(&described.regions)?;
        let pagemap = File::open("/proc/self/pagemap").map_err(Refusal::Unreadable)?;
        let now = layout::own().map_err(|_| Refusal::Untold("its mappings"))?;
        let (opened, steps) = (HashMap::new(), Vec::new());
        let mut planner = Self { described, image, link, now, place, scratch, opened, pagemap, steps };
        planner.open_mapped_files()?;
        planner.plan()?;
        Ok(planner)
    }

    /// Files of which a part is not mapped where it is to be: opened, and compared with what they were.
    fn open_mapped_files(&mut self) -> Result<(), Refusal> {
        for region in self.described.regions.iter().filter(|region| region.kind == Kind::File) {
            let kept = self.pieces(region).all(|piece| piece.kept.is_some());
            if kept || self.opened.contains_key(&region.path) {
                continue;
            }
            let path = region.path.clone();
            let file = File::open(&path).map_err(|source| Refusal::Open { path: path.clone(), source })?;
            let status = file.metadata().map_err(|source| Refusal::Open { path: path.clone(), source })?;
            let then = self.described.mapped.iter().find(|mapped| mapped.path == path);
            if then != Some(&MappedFile::of(&path, &status)) {
                return Err(Refusal::FileChanged { path });
            }
            self.opened.insert(path, std::os::fd::IntoRawFd::into_raw_fd(file));
        }
        Ok(())
    }

    fn plan(&mut self) -> Result<(), Refusal> {
        let heap_end = self.described.state.heap_end;
        self.move_kernels_aside()?;
        if self.heap_is_there() {
            // A heap that is longer has to become shorter while it is there; for one that is shorter there has to be room.
            self.may(libc::SYS_brk, &[heap_end]);
        }
        self.unmap_rest();
        self.move_kernels_back();
        if self.heap_is_there() {
            self.must(libc::SYS_brk, &[heap_end], heap_end);
        }
        let described = self.described;
        for region in described.regions.iter().filter(|region| region.kind != Kind::Kernel) {
            match region.kind {
                Kind::File => self.file(region),
                _ => self.anonymous(region),
            }
        }
        self.kernel_state();
        Ok(())
    }

    fn heap_is_there(&self) -> bool {
        self.place.heap() == self.described.state.place.heap()
    }

    /// The kernel's own mappings, now and then.
    fn kernels(regions: &[Region]) -> impl Iterator<Item = &Region> {
        regions.iter().filter(|region| region.kind == Kind::Kernel && region.path != "[vsyscall]")
    }

    fn kernels_stay(&self) -> bool {
        let places = |regions: &[Region]| -> Vec<(u64, u64)> {
            Self::kernels(regions).map(|region| (region.begin, region.end)).collect()
        };
        places(&self.now) == places(&self.described.regions)
    }

    fn move_kernels_aside(&mut self) -> Result<(), Refusal> {
        let names = |regions: &[Region]| -> Vec<(String, u64)> {
            Self::kernels(regions).map(|region| (region.path.clone(), region.length())).collect()
        };
        if names(&self.now) != names(&self.described.regions) {
            return Err(Refusal::Tie { what: "what the kernel maps into processes" });
        }
        if !self.kernels_stay() {
            let from: Vec<(u64, u64)> =
                Self::kernels(&self.now).map(|region| (region.begin, region.length())).collect();
            self.move_all(&from, self.scratch + ASIDE);
        }
        Ok(())
    }

    fn move_kernels_back(&mut self) {
        if !self.kernels_stay() {
            let first = Self::kernels(&self.now).next().map_or(0, |region| region.begin);
            let aside = self.scratch + ASIDE;
            let from: Vec<(u64, u64)> =
                Self::kernels(&self.now).map(|region| (region.begin - first + aside, region.length())).collect();
            let to = Self::kernels(&self.described.regions).next().map_or(0, |region| region.begin);
            self.move_all(&from, to);
        }
    }

    fn move_all(&mut self, from: &[(u64, u64)], to: u64) {
        const MOVE_TO: u64 = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let first = from.first().map_or(0, |(begin, _)| *begin);
        for (begin, length) in from {
            let target = to + (begin - first);
            self.must(libc::SYS_mremap, &[*begin, *length, *length, MOVE_TO, target], target);
        }
    }

    /// Between the mappings of the image there is nothing, whatever there is now.
    fn unmap_rest(&mut self) {
        let scratch = (self.scratch, self.scratch + SCRATCH);
        let mut taken: Vec<(u64, u64)> =
            self.described.regions.iter().map(|region| (region.begin, region.end)).collect();
        taken.push(scratch);
        taken.sort_unstable();
        taken.push((HIGHEST, HIGHEST));
        let mut from = LOWEST;
        for (begin, end) in taken {
            if begin > from {
                self.must(libc::SYS_munmap, &[from, begin - from], 0);
            }
            from = from.max(end);
        }
    }

    /// Memory that is no file's: always mapped anew, so that it is zero where the image has no page.
    fn anonymous(&mut self, region: &Region) {
        let runs = self.runs_in(region.begin, region.end);
        let access = if runs.is_empty() { region.access } else { READ | WRITE };
        let mut flags = libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        flags |= if region.advice.droppable { MAP_DROPPABLE } else { libc::MAP_PRIVATE };
        if region.kind == Kind::Stack {
            flags |= libc::MAP_GROWSDOWN | libc::MAP_STACK;
        }
        if region.advice.no_reserve {
            flags |= libc::MAP_NORESERVE;
        }
        self.map(region.begin, region.length(), access, flags, -1, 0);
        if !region.advice.droppable {
            let asked = [
                (region.advice.huge, libc::MADV_HUGEPAGE),
                (region.advice.no_huge, libc::MADV_NOHUGEPAGE),
                (region.advice.not_dumped, libc::MADV_DONTDUMP),
                (region.advice.wiped_in_forks, libc::MADV_WIPEONFORK),
            ];
            for (_, advice) in asked.into_iter().filter(|(asked, _)| *asked) {
                self.may(libc::SYS_madvise, &[region.begin, region.length(), arg(advice)]);
            }
        }
        self.fill(&runs);
        if access != region.access {
            self.must(libc::SYS_mprotect, &[region.begin, region.length(), access_bits(region.access)], 0);
        }
    }

    fn file(&mut self, region: &Region) {
        let pieces: Vec<Piece> = self.pieces(region).collect();
        for piece in pieces {
            let (begin, length) = (piece.begin, piece.end - piece.begin);
            let runs = if region.shared { Vec::new() } else { self.runs_in(piece.begin, piece.end) };
            let mut access = match piece.kept {
                Some(access) => {
                    let changed = !region.shared && (access & WRITE != 0 || self.has_own_pages(begin, piece.end));
                    if changed || !runs.is_empty() {
                        self.must(libc::SYS_madvise, &[begin, length, arg(libc::MADV_DONTNEED)], 0);
                    }
                    access
                }
                None => {
                    let flags = libc::MAP_FIXED | if region.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                    let descriptor = self.opened.get(&region.path).copied().unwrap_or(-1);
                    let offset = region.offset + (begin - region.begin);
                    self.map(begin, length, region.access, flags, descriptor, offset);
                    region.access
                }
            };
            if !runs.is_empty() && access & WRITE == 0 {
                access = READ | WRITE;
                self.must(libc::SYS_mprotect, &[begin, length, access_bits(access)], 0);
            }
            self.fill(&runs);
            if access != region.access {
                self.must(libc::SYS_mprotect, &[begin, length, access_bits(region.access)], 0);
            }
        }
    }

    /// A mapping of a file, cut where what is mapped there now changes.
    fn pieces(&self, region: &Region) -> impl Iterator<Item = Piece> {
        let mut pieces = Vec::new();
        let mut from = region.begin;
        while from < region.end {
            let next = self.now.iter().find(|now| now.end > from);
            let (to, kept) = match next {
                Some(now) if now.begin <= from => {
                    (now.end.min(region.end), now.is_same_file_as(region).then_some(now.access))
                }
                Some(now) => (now.begin.min(region.end), None),
                None => (region.end, None),
            };
            pieces.push(Piece { begin: from, end: to, kept });
            from = to;
        }
        pieces.into_iter()
    }

    /// Whether this process has pages of its own there.
    fn has_own_pages(&self, begin: u64, end: u64) -> bool {
        let mut entries = vec![0; usize::try_from((end - begin) / PAGE * 8).unwrap_or(0)];
        if self.pagemap.read_exact_at(&mut entries, begin / PAGE * 8).is_err() {
            return true;
        }
        entries.as_chunks::<8>().0.iter().any(|word| {
            let entry = u64::from_ne_bytes(*word);
            entry >> 62 != 0 && entry >> 61 & 1 == 0
        })
    }

    fn runs_in(&self, begin: u64, end: u64) -> Vec<Run> {
        let runs = &self.described.runs;
        let first = runs.partition_point(|run| run.end() <= begin);
        let inside = runs[first..].iter().take_while(|run| run.begin < end);
        inside
            .map(|run| {
                let (from, to) = (run.begin.max(begin), run.end().min(end));
                Run { begin: from, pages: (to - from) / PAGE, offset: run.offset + (from - run.begin) }
            })
            .collect()
    }

    fn fill(&mut self, runs: &[Run]) {
        for run in runs {
            let mut done = 0;
            while done < run.pages * PAGE {
                let length = (run.pages * PAGE - done).min(READ_AT_ONCE);
                let arguments = [number(self.image), run.begin + done, length, run.offset + done];
                self.must(libc::SYS_pread64, &arguments, length);
                done += length;
            }
        }
    }

    /// What the kernel keeps, and the descriptors that were of use up to now.
    fn kernel_state(&mut self) {
        let (kept, scratch) = (&self.described.state, self.scratch);
        let desk = |offset: usize| scratch + offset as u64;
        let at = |field: usize, place: usize, size: usize| desk(field + place * size);
        let (actions, limits) = (std::mem::offset_of!(Desk, actions), std::mem::offset_of!(Desk, limits));
        let marks = desk(std::mem::offset_of!(Desk, marks));
        let (mask, stack) = (desk(std::mem::offset_of!(Desk, mask)), desk(std::mem::offset_of!(Desk, signal_stack)));
        if !self.heap_is_there() {
            let size = size_of::<[u64; 13]>() as u64;
            self.must(libc::SYS_prctl, &[PR_SET_MM, PR_SET_MM_MAP, marks, size], 0);
        }
        self.must(libc::SYS_arch_prctl, &[ARCH_SET_FS, kept.place.fs_base], 0);
        if kept.gs_base != 0 {
            self.must(libc::SYS_arch_prctl, &[ARCH_SET_GS, kept.gs_base], 0);
        }
        self.succeed(libc::SYS_set_tid_address, &[kept.tid_address]);
        if kept.robust.0 != 0 {
            self.must(libc::SYS_set_robust_list, &[kept.robust.0, kept.robust.1], 0);
        }
        for signal in (1..=SIGNALS).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(&signal_number(*signal))) {
            let action = at(actions, signal - 1, size_of::<Action>());
            self.must(libc::SYS_rt_sigaction, &[signal as u64, action, 0, 8], 0);
        }
        self.must(libc::SYS_sigaltstack, &[stack, 0], 0);
        let mut done: Vec<RawFd> = self.opened.values().copied().collect();
        done.extend([self.image, self.pagemap.as_raw_fd()]);
        for descriptor in done {
            self.may(libc::SYS_close, &[number(descriptor)]);
        }
        for kind in 0..kept.limits.len() {
            self.must(libc::SYS_prlimit64, &[0, kind as u64, at(limits, kind, size_of::<(u64, u64)>()), 0], 0);
        }
        self.must(libc::SYS_rt_sigprocmask, &[arg(libc::SIG_SETMASK), mask, 0, 8], 0);
    }

    fn map(&mut self, begin: u64, length: u64, access: u8, flags: i32, descriptor: RawFd, offset: u64) {
        let arguments = [begin, length, access_bits(access), arg(flags), number(descriptor), offset];
        self.must(libc::SYS_mmap, &arguments, begin);
    }

    fn must(&mut self, call: libc::c_long, arguments: &[u64], want: u64) {
        self.step(call, arguments, Check::Equal, want);
    }

    fn succeed(&mut self, call: libc::c_long, arguments: &[u64]) {
        self.step(call, arguments, Check::Success, 0);
    }

    fn may(&mut self, call: libc::c_long, arguments: &[u64]) {
        self.step(call, arguments, Check::Nothing, 0);
    }

    fn step(&mut self, call: libc::c_long, given: &[u64], check: Check, want: u64) {
        let mut arguments = [0; 6];
        arguments[..given.len()].copy_from_slice(given);
        self.steps.push(Step { number: call.cast_unsigned(), arguments, check: check as u64, want });
    }

    /// Puts all on the desk, and goes.
    ///
    /// # Safety
    /// As for [`wake`].
    unsafe fn go(self, failure: &[u8]) -> Refusal {
        let size = (self.steps.len() * size_of::<Step>()) as u64;
        if STEPS + size > ASIDE || failure.len() > MESSAGE {
            return Refusal::Damaged("it has too many mappings");
        }
        let (scratch, steps) = (self.scratch, self.scratch + STEPS);
        let desk = self.desk(failure, steps, steps + size);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the scratch memory is mapped, large enough and no Rust value's; it is none of the image's either, so no step
        // replaces it; its pages are executable where the code is.
        unsafe {
            std::ptr::write(scratch as *mut Desk, desk);
            std::ptr::copy_nonoverlapping(self.steps.as_ptr(), steps as *mut Step, self.steps.len());
            let code = super::restorer::code();
            let entry = (scratch + CODE) as *mut u8;
            std::ptr::copy_nonoverlapping(code.as_ptr(), entry, code.len());
            let executable = libc::PROT_READ | libc::PROT_EXEC;
            if libc::mprotect(entry.cast(), PAGE as usize, executable) != 0 {
                return Refusal::DenyWriteExecute;
            }
            super::restorer::begin(entry, (scratch + std::mem::offset_of!(Desk, plan) as u64) as *const Plan)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (scratch, desk);
            Refusal::Architecture
        }
    }

    fn desk(&self, failure: &[u8], steps: u64, end: u64) -> Desk {
        let kept = &self.described.state;
        let (scratch, marks) = (self.scratch, kept.place.marks);
        let mut message = [0; MESSAGE];
        message[..failure.len()].copy_from_slice(failure);
        let mut limits = [(0, 0); 16];
        limits[..kept.limits.len().min(16)].copy_from_slice(&kept.limits[..kept.limits.len().min(16)]);
        let mut actions = [[0; 4]; SIGNALS];
        actions[..kept.actions.len().min(SIGNALS)].copy_from_slice(&kept.actions[..kept.actions.len().min(SIGNALS)]);
        let (address, size, flags) = kept.signal_stack;
        let signal_stack = libc::stack_t {
            ss_sp: address as *mut libc::c_void,
            ss_flags: flags & libc::SS_DISABLE,
            ss_size: usize::try_from(size).unwrap_or(0),
        };
        let mut map = [0; 13];
        map[..5].copy_from_slice(&marks[..5]);
        map[5] = kept.heap_end;
        map[6..11].copy_from_slice(&marks[5..]);
        // No auxiliary vector, and the executable stays.
        map[12] = u64::from(u32::MAX) << 32;
        Desk {
            plan: Plan {
                next: steps,
                end,
                failure: scratch + std::mem::offset_of!(Desk, failure) as u64,
                failure_length: failure.len() as u64,
                failure_descriptor: number(self.link),
                registers: self.described.registers,
                arrival: scratch + std::mem::offset_of!(Desk, arrival) as u64,
            },
            arrival: Arrival { scratch, scratch_length: SCRATCH, tid_address: kept.tid_address },
            actions,
            mask: kept.mask,
            signal_stack,
            limits,
            marks: map,
            failure: message,
        }
    }
}

/// A part of a file's mapping, and with what access it is mapped at its place already.
struct Piece {
    begin: u64,
    end: u64,
    kept: Option<u8>,
}

/// Memory for the restorer, where neither this process nor the image has any.
fn scratch(regions: &[Region]) -> Result<u64, Refusal> {
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
fn end_rseq(area: u64) -> Result<(), Refusal> {
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

fn access_bits(access: u8) -> u64 {
    let bit = |mine: u8, theirs: i32| if access & mine != 0 { theirs } else { 0 };
    arg(bit(READ, libc::PROT_READ) | bit(WRITE, libc::PROT_WRITE) | bit(EXECUTE, libc::PROT_EXEC))
}

/// An argument of a system call.
fn arg(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

fn number(descriptor: RawFd) -> u64 {
    arg(descriptor)
}

fn signal_number(signal: usize) -> i32 {
    i32::try_from(signal).unwrap_or(0)
}
