//! A fresh process becomes the one of an image: its descriptors, and what the restorer needs, are put where they belong.
//!
//! Runs in: a fork of the zygote, its only thread, which ends here or goes on as the process of the image. Everything is
//! checked, and whatever can fail is done, before the first step that cannot be taken back. Which steps there are is `plan`'s.

use std::{
    fs::File,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use super::{
    desk::{ASIDE, Desk, MESSAGE, SCRATCH, number},
    format::Description,
    layout,
    plan::Planner,
    refusal::Refusal,
    restorer::{Plan, Step},
    snapshot::Arrival,
    state::{self, KernelState, SIGNALS, Surroundings},
    ties::Ties,
    write::vdso_digest,
};
#[cfg(target_arch = "x86_64")]
use super::{layout::PAGE, restorer::Check};
use crate::sys::{descriptors, lifeline};

/// Within it: the code, the steps, and a place for what is moved twice.
#[cfg(target_arch = "x86_64")]
const CODE: u64 = 1 << 20;
/// Steps that become known last lie before all others, and grow downwards to here.
#[cfg(target_arch = "x86_64")]
const FIRST_STEPS: u64 = 2 << 20;
const STEPS: u64 = 12 << 20;
/// Makes this process the one of an image, whose `base` comes along. `link` becomes its socket; `failure` is sent there should
/// a step fail after which there is no way back. Comes back with the reason when it is refused before, and the number that the link has then.
///
/// # Safety
/// This process has one thread and nothing in it is of use any more: its descriptors are closed, whatever comes of it.
pub(crate) unsafe fn wake(
    (image, base): (OwnedFd, OwnedFd),
    link: OwnedFd,
    failure: &[u8],
    surroundings: Surroundings,
) -> (Refusal, RawFd) {
    let mut at = link.as_raw_fd();
    let image = File::from(image);
    let refusal = match prepare((&image, &base), &link, &mut at, surroundings) {
        Err(refusal) => refusal,
        Ok((described, files)) => match Planner::new(&described, files, at, surroundings) {
            Err(refusal) => refusal,
            // SAFETY: the caller's promise; all that could be checked was.
            Ok(planner) => unsafe { planner.go(failure) },
        },
    };
    // Closed by number already, some of them.
    std::mem::forget((image, base, link));
    (refusal, at)
}

/// Everything that can be done while this is still a process like any other. Comes back with the new numbers of
/// the image and its base.
fn prepare(
    (image, base): (&File, &OwnedFd),
    link: &OwnedFd,
    at: &mut RawFd,
    surroundings: Surroundings,
) -> Result<(Description, [RawFd; 2]), Refusal> {
    let mut described = Description::read(image)?;
    if let Some(what) = described.ties.difference(&Ties::now()?) {
        return Err(Refusal::Tie { what });
    }
    if described.vdso != vdso_digest(&layout::own().map_err(|_| Refusal::Untold("its mappings"))?)? {
        return Err(Refusal::Tie { what: "the kernel's own code in processes (vdso)" });
    }
    state::ask_for_features(described.state.asked_features)
        .map_err(|source| Refusal::System { what: "a feature of the processor", source })?;
    block_signals();
    let files = take_places(&described, [image.as_raw_fd(), base.as_raw_fd()], link, at)?;
    match surroundings {
        Surroundings::Images => take_surroundings(&described.state)?,
        Surroundings::Wakers => described.state.keep_surroundings(),
    }
    Ok((described, files))
}

fn take_surroundings(kept: &KernelState) -> Result<(), Refusal> {
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
    Ok(())
}

fn block_signals() {
    let all = u64::MAX;
    // SAFETY: reads eight bytes.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, std::ptr::null_mut::<u64>(), 8);
    }
}

/// Gives each descriptor the number that the image has for it, and closes all others.
fn take_places(
    described: &Description,
    files: [RawFd; 2],
    link: &OwnedFd,
    at: &mut RawFd,
) -> Result<[RawFd; 2], Refusal> {
    let refused = || Refusal::last("a descriptor");
    let wanted = |number: &RawFd| {
        *number == described.link
            || Some(*number) == described.lifeline
            || described.files.iter().any(|file| file.number == *number)
    };
    let held = [Some(files[0]), Some(files[1]), Some(link.as_raw_fd()), lifeline::number()];
    let mut free = (3..).filter(|number| !wanted(number) && !held.contains(&Some(*number)));
    let mut aside = |number: RawFd| {
        let to = free.next().unwrap_or(RawFd::MAX);
        // SAFETY: takes numbers; the second is of no use in this process.
        match unsafe { libc::dup3(number, to, libc::O_CLOEXEC) } {
            -1 => Err(refused()),
            _ => Ok(to),
        }
    };
    let (image, base, link) = (aside(files[0])?, aside(files[1])?, aside(link.as_raw_fd())?);
    *at = link;
    let lifeline = lifeline::number().map(aside).transpose()?;
    let kept: Vec<_> = [Some(image), Some(base), Some(link), lifeline].into_iter().flatten().map(borrow).collect();
    // SAFETY: nothing else of this process is of use: the promise of `wake`.
    unsafe { descriptors::close_all_but(&kept) };
    super::files::reopen(&described.files)?;
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
    Ok([image, base])
}

fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: opened by this file, and not closed while this is used.
    unsafe { BorrowedFd::borrow_raw(number) }
}

impl Planner<'_> {
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
        // SAFETY: the scratch memory is mapped, large enough and no Rust value's.
        unsafe { std::ptr::copy_nonoverlapping(self.steps.as_ptr(), steps as *mut Step, self.steps.len()) };
        let desk = self.desk(failure, steps, steps + size);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; the memory is none of the image's either, so no step replaces it; its pages are executable where
        // the code is. From the last look at the pages that stay nothing is written but there and on the stack.
        unsafe {
            let desk_there = scratch as *mut Desk;
            std::ptr::write(desk_there, desk);
            let code = super::restorer::code();
            let entry = (scratch + CODE) as *mut u8;
            std::ptr::copy_nonoverlapping(code.as_ptr(), entry, code.len());
            let executable = libc::PROT_READ | libc::PROT_EXEC;
            if libc::mprotect(entry.cast(), PAGE as usize, executable) != 0 {
                return Refusal::DenyWriteExecute;
            }
            match self.renew_what_changed(steps) {
                Some(first) => (*desk_there).plan.next = first,
                None => return Refusal::Damaged("it has too many pages"),
            }
            super::restorer::begin(entry, (scratch + std::mem::offset_of!(Desk, plan) as u64) as *const Plan)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (scratch, desk);
            Refusal::Architecture
        }
    }

    /// Puts steps before the first one for pages that were to stay and are not as the base has them: the zygote has changed them
    /// since, or this process has. Gives the first step; nothing where there is no room.
    ///
    /// # Safety
    /// The memory below `steps` is the scratch memory. It allocates nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe fn renew_what_changed(&self, steps: u64) -> Option<u64> {
        let lowest = self.scratch + FIRST_STEPS;
        let mut first = steps;
        for run in &self.kept {
            let mut place = 0;
            while place < run.pages {
                let (from, mut length) = (place, 0);
                while place < run.pages && !self.is_as_in_base(run, place) {
                    (place, length) = (place + 1, length + 1);
                }
                if length == 0 {
                    place += 1;
                    continue;
                }
                first -= size_of::<Step>() as u64;
                if first < lowest {
                    return None;
                }
                let (begin, bytes, offset) = (run.begin + from * PAGE, length * PAGE, run.offset + from * PAGE);
                let arguments = [number(self.files[1]), begin, bytes, offset, 0, 0];
                let read = libc::SYS_pread64.cast_unsigned();
                let step = Step { number: read, arguments, check: Check::Equal as u64, want: bytes };
                // SAFETY: within the scratch memory, below all other steps.
                unsafe { std::ptr::write(first as *mut Step, step) };
            }
        }
        Some(first)
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
