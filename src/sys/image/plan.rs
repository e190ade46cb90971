//! What has to change in a fresh process for it to be the one of an image, as a list of system calls.
//!
//! Runs in: a fork of the zygote, its only thread, which has the descriptors of the image already (`wake`).
//!
//! What agrees is kept: files that are mapped at the same place already, and memory that the zygote has there too. Of that,
//! pages that the base has stay as they are, if they still are when all has been planned ([`Planner::kept`]). All other
//! memory is mapped anew, and what the image has nothing for is unmapped, known or not.

use std::{
    collections::HashMap,
    fs::File,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::FileExt,
    },
};

use super::{
    base::{Base, Use},
    desk::{ASIDE, Desk, SCRATCH, arg, end_rseq, number, scratch},
    format::{Description, Run, Source},
    layout::{self, EXECUTE, Kind, PAGE, READ, Region, WRITE},
    refusal::Refusal,
    restorer::{Check, Step},
    state::{Action, Place, SIGNALS, Surroundings},
};

/// All that a program may map.
const LOWEST: u64 = 0x1_0000;
const HIGHEST: u64 = 0x7fff_ffff_f000;
/// One call reads so much.
const READ_AT_ONCE: u64 = 1 << 30;
pub(super) const PR_SET_MM: u64 = 35;
pub(super) const PR_SET_MM_MAP: u64 = 14;
#[cfg(target_arch = "x86_64")]
const ARCH_SET_GS: u64 = 0x1001;
#[cfg(target_arch = "x86_64")]
const ARCH_SET_FS: u64 = 0x1002;
const MAP_DROPPABLE: i32 = 0x08;
const MADV_POPULATE_WRITE: i32 = 23;
/// Pages for which a call more is worth while.
const MANY: u64 = 8;

pub(super) struct Planner<'a> {
    pub(super) described: &'a Description,
    /// Numbers of the image and its base.
    pub(super) files: [RawFd; 2],
    pub(super) base: Base,
    pub(super) link: RawFd,
    surroundings: Surroundings,
    now: Vec<Region>,
    place: Place,
    pub(super) scratch: u64,
    /// Pages that are to stay, if they are as in the base at the very last.
    pub(super) kept: Vec<Run>,
    /// Numbers of mapped files.
    opened: HashMap<String, RawFd>,
    pagemap: File,
    pub(super) steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        described: &'a Description,
        files: [RawFd; 2],
        link: RawFd,
        surroundings: Surroundings,
    ) -> Result<Self, Refusal> {
        const NEVER: i32 = i32::MAX;
        // SAFETY: takes numbers. What is mapped is looked at once: from then on the allocator gives nothing back.
        unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER) };
        // A process that has just begun has nothing that could stay.
        let use_of_base = if surroundings == Surroundings::Wakers { Use::Some } else { Use::Most };
        let base = Base::open(files[1], use_of_base)?;
        let of_base = |run: &&Run| run.source == Source::Base;
        if base.id() != described.base || !described.runs.iter().filter(of_base).all(|run| base.has(run)) {
            return Err(Refusal::Damaged("what came along is not its base"));
        }
        let place = Place::of(i32::try_from(std::process::id()).unwrap_or(0))?;
        place.rseq.map_or(Ok(()), end_rseq)?;
        let scratch = scratch(&described.regions)?;
        let pagemap = File::open("/proc/self/pagemap").map_err(Refusal::Unreadable)?;
        let now = layout::own().map_err(|_| Refusal::Untold("its mappings"))?;
        let (kept, opened, steps) = Default::default();
        let mut planner =
            Self { described, files, base, link, surroundings, now, place, scratch, kept, opened, pagemap, steps };
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
            if !then.is_some_and(|then| then.is(&path, &status)) {
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

    /// Memory that is no file's: mapped anew, so that it is zero where the image has no page; or kept where the zygote has it.
    fn anonymous(&mut self, region: &Region) {
        let may_stay = region.kind == Kind::Anonymous && region.may(READ) && !region.advice.droppable;
        let pieces: Vec<Piece> = self.pieces(region).collect();
        for piece in pieces {
            let mut from = piece.begin;
            while from < piece.end {
                let (was_plain, to) = self.base.plain_until(from, piece.end);
                let part = Piece { begin: from, end: to, kept: piece.kept };
                match piece.kept.filter(|_| may_stay && was_plain) {
                    Some(access) => self.stay(region, &part, access),
                    None => self.map_anonymous(region, &part),
                }
                from = to;
            }
        }
    }

    fn map_anonymous(&mut self, region: &Region, piece: &Piece) {
        let (begin, length) = (piece.begin, piece.end - piece.begin);
        let runs = self.runs_in(begin, piece.end);
        let access = if runs.is_empty() { region.access } else { READ | WRITE };
        let mut flags = libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        flags |= if region.advice.droppable { MAP_DROPPABLE } else { libc::MAP_PRIVATE };
        if region.kind == Kind::Stack {
            flags |= libc::MAP_GROWSDOWN | libc::MAP_STACK;
        }
        if region.advice.no_reserve {
            flags |= libc::MAP_NORESERVE;
        }
        self.map(begin, length, access, flags, -1, 0);
        self.advise(region, piece, false);
        self.fill(&runs);
        if access != region.access {
            self.must(libc::SYS_mprotect, &[begin, length, access_bits(region.access)], 0);
        }
    }

    /// What was asked for the memory; where it stays, also what was not.
    fn advise(&mut self, region: &Region, piece: &Piece, stays: bool) {
        if region.advice.droppable {
            return;
        }
        let asked = [
            (region.advice.huge, libc::MADV_HUGEPAGE),
            (region.advice.no_huge, libc::MADV_NOHUGEPAGE),
            (region.advice.not_dumped, libc::MADV_DONTDUMP),
            (region.advice.wiped_in_forks, libc::MADV_WIPEONFORK),
            (stays && !region.advice.not_dumped, libc::MADV_DODUMP),
            (stays && !region.advice.wiped_in_forks, libc::MADV_KEEPONFORK),
        ];
        for (_, advice) in asked.into_iter().filter(|(asked, _)| *asked) {
            self.may(libc::SYS_madvise, &[piece.begin, piece.end - piece.begin, arg(advice)]);
        }
    }

    /// Memory that is there already: pages of the base stay, those of the image are read, all others go.
    fn stay(&mut self, region: &Region, piece: &Piece, access: u8) {
        if region.kind == Kind::Anonymous {
            self.advise(region, piece, true);
        }
        let runs = self.runs_in(piece.begin, piece.end);
        let mut from = piece.begin;
        for (begin, end) in runs.iter().map(|run| (run.begin, run.end())).chain([(piece.end, piece.end)]) {
            if begin > from {
                self.must(libc::SYS_madvise, &[from, begin - from, arg(libc::MADV_DONTNEED)], 0);
            }
            from = end;
        }
        let may_change = access & (READ | WRITE) == READ | WRITE;
        let (kept, mut read): (Vec<Run>, Vec<Run>) =
            runs.into_iter().partition(|run| may_change && run.source == Source::Base);
        // What cannot be written to does not change either.
        read.retain(|run| run.source == Source::Image || access & READ == 0 || !self.is_in_base(run));
        self.kept.extend(kept);
        let (begin, length) = (piece.begin, piece.end - piece.begin);
        let mut access = access;
        if !read.is_empty() && access & WRITE == 0 {
            access = READ | WRITE;
            self.must(libc::SYS_mprotect, &[begin, length, access_bits(access)], 0);
        }
        self.fill(&read);
        if access != region.access {
            self.must(libc::SYS_mprotect, &[begin, length, access_bits(region.access)], 0);
        }
    }

    pub(super) fn is_as_in_base(&self, run: &Run, place: u64) -> bool {
        // SAFETY: planned to stay: mapped and readable, and no other thread writes there.
        let page = unsafe { &*((run.begin + place * PAGE) as *const [u8; PAGE as usize]) };
        page == self.base.page(run.offset + place * PAGE)
    }

    fn is_in_base(&self, run: &Run) -> bool {
        (0..run.pages).all(|place| self.is_as_in_base(run, place))
    }

    fn file(&mut self, region: &Region) {
        let pieces: Vec<Piece> = self.pieces(region).collect();
        for piece in pieces {
            let (begin, length) = (piece.begin, piece.end - piece.begin);
            let runs = if region.shared { Vec::new() } else { self.runs_in(begin, piece.end) };
            match piece.kept {
                Some(access) if runs.is_empty() => {
                    let changed = access & WRITE != 0 || self.has_own_pages(begin, piece.end);
                    if changed && !region.shared {
                        self.must(libc::SYS_madvise, &[begin, length, arg(libc::MADV_DONTNEED)], 0);
                    }
                    if access != region.access {
                        self.must(libc::SYS_mprotect, &[begin, length, access_bits(region.access)], 0);
                    }
                }
                Some(access) => self.stay(region, &piece, access),
                None => self.map_file(region, &piece, &runs),
            }
        }
    }

    fn map_file(&mut self, region: &Region, piece: &Piece, runs: &[Run]) {
        let (begin, length) = (piece.begin, piece.end - piece.begin);
        let flags = libc::MAP_FIXED | if region.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let descriptor = self.opened.get(&region.path).copied().unwrap_or(-1);
        self.map(begin, length, region.access, flags, descriptor, region.offset + (begin - region.begin));
        let locked = !runs.is_empty() && !region.may(WRITE);
        if locked {
            self.must(libc::SYS_mprotect, &[begin, length, access_bits(READ | WRITE)], 0);
        }
        self.fill(runs);
        if locked {
            self.must(libc::SYS_mprotect, &[begin, length, access_bits(region.access)], 0);
        }
    }

    /// A mapping, cut where what is mapped there now changes.
    fn pieces(&self, region: &Region) -> impl Iterator<Item = Piece> {
        let mut pieces = Vec::new();
        let mut from = region.begin;
        while from < region.end {
            let next = self.now.iter().find(|now| now.end > from);
            let (to, kept) = match next {
                Some(now) if now.begin <= from => {
                    let same = match region.kind {
                        Kind::File => now.is_same_file_as(region),
                        kind => now.kind == kind && !now.shared && now.access == region.access,
                    };
                    (now.end.min(region.end), same.then_some(now.access))
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
                Run { begin: from, pages: (to - from) / PAGE, offset: run.offset + (from - run.begin), ..*run }
            })
            .collect()
    }

    fn fill(&mut self, runs: &[Run]) {
        for run in runs {
            if self.surroundings == Surroundings::Wakers && run.pages >= MANY {
                // All at once, and not each when it is written to. A kernel that does not know this (before 5.14) does the latter.
                self.may(libc::SYS_madvise, &[run.begin, run.pages * PAGE, arg(MADV_POPULATE_WRITE)]);
            }
            let file = self.files[usize::from(run.source == Source::Base)];
            let mut done = 0;
            while done < run.pages * PAGE {
                let length = (run.pages * PAGE - done).min(READ_AT_ONCE);
                let arguments = [number(file), run.begin + done, length, run.offset + done];
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
        #[cfg(target_arch = "x86_64")]
        self.thread_registers();
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
        done.extend([self.files[0], self.files[1], self.pagemap.as_raw_fd()]);
        for descriptor in done {
            self.may(libc::SYS_close, &[number(descriptor)]);
        }
        for kind in 0..kept.limits.len() {
            self.must(libc::SYS_prlimit64, &[0, kind as u64, at(limits, kind, size_of::<(u64, u64)>()), 0], 0);
        }
        self.must(libc::SYS_rt_sigprocmask, &[arg(libc::SIG_SETMASK), mask, 0, 8], 0);
    }

    /// Where the thread's own variables are. Other machines have no image, for reasons that `write.rs` says.
    #[cfg(target_arch = "x86_64")]
    fn thread_registers(&mut self) {
        let kept = &self.described.state;
        self.must(libc::SYS_arch_prctl, &[ARCH_SET_FS, kept.place.fs_base], 0);
        if kept.gs_base != 0 {
            self.must(libc::SYS_arch_prctl, &[ARCH_SET_GS, kept.gs_base], 0);
        }
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
}

/// A part of a mapping, and with what access the same is at its place already.
struct Piece {
    begin: u64,
    end: u64,
    kept: Option<u8>,
}

fn access_bits(access: u8) -> u64 {
    let bit = |mine: u8, theirs: i32| if access & mine != 0 { theirs } else { 0 };
    arg(bit(READ, libc::PROT_READ) | bit(WRITE, libc::PROT_WRITE) | bit(EXECUTE, libc::PROT_EXEC))
}

fn signal_number(signal: usize) -> i32 {
    i32::try_from(signal).unwrap_or(0)
}
