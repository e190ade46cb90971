//! What the kernel keeps of a process beside its memory and its files.
//!
//! Runs in: checkpoint (`read`: what is true of it is true of its clone), and the process that is woken (`Place`).

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// Signals have numbers up to this one.
pub(super) const SIGNALS: usize = 64;
/// Kinds of limits (`RLIMIT_NLIMITS`).
const LIMITS: u32 = 16;
/// `arch_prctl` and `prctl`, by number.
const ARCH_GET_FS: i32 = 0x1003;
const ARCH_GET_GS: i32 = 0x1004;
const ARCH_GET_XCOMP_PERM: i32 = 0x1022;
const PR_GET_TID_ADDRESS: i32 = 40;
const PR_GET_MDWE: i32 = 66;

/// Whose are the standard descriptors, the working directory, the limits, the umask and the priority of a woken process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surroundings {
    /// Those that the image has: it is of a session.
    Images,
    /// Those of the process that it is woken in: it is of a program that starts.
    Wakers,
}

/// A signal's disposition as the kernel has it: handler, flags, restorer, mask.
pub(super) type Action = [u64; 4];

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KernelState {
    pub(super) place: Place,
    /// End of the heap, to the byte.
    pub(super) heap_end: u64,
    pub(super) gs_base: u64,
    pub(super) tid_address: u64,
    pub(super) robust: (u64, u64),
    pub(super) mask: u64,
    /// Address, size and flags of the stack for signal handlers.
    pub(super) signal_stack: (u64, u64, i32),
    pub(super) actions: Vec<Action>,
    pub(super) file_mode_mask: u32,
    pub(super) limits: Vec<(u64, u64)>,
    pub(super) directory: PathBuf,
    /// Features of the processor that have to be asked for.
    pub(super) asked_features: u64,
    pub(super) affinity: Vec<u64>,
    pub(super) nice: i32,
}

/// Where things are that a process gets when it begins, and that forks of one process have at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Code, data, heap, stack, arguments, environment: `start_code` … `env_end` of `struct prctl_mm_map`, without `brk`.
    pub(super) marks: [u64; 10],
    pub(super) fs_base: u64,
    /// The area for restartable sequences, where the C library has one.
    pub(super) rseq: Option<u64>,
}

impl Place {
    /// Begin of the heap.
    pub(super) fn heap(&self) -> u64 {
        self.marks[4]
    }

    /// Of this process; of its clone with that one's number.
    pub(super) fn of(pid: i32) -> Result<Self, Refusal> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| Refusal::Untold("its layout"))?;
        // The name, in parentheses, may hold anything; the field behind it is the third.
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let fields: Vec<u64> = rest.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let marks = [26, 27, 45, 46, 47, 28, 48, 49, 50, 51].map(field);
        if marks.contains(&0) {
            return Err(Refusal::Untold("where its code and data are"));
        }
        let fs_base = arch_get(ARCH_GET_FS)?;
        Ok(Self { marks, fs_base, rseq: rseq_offset().map(|offset| fs_base.wrapping_add_signed(offset)) })
    }
}

impl KernelState {
    /// Everything but the place, which is the clone's. The heap's end first: reading the rest may move it.
    pub(super) fn read(clone: i32, heap_end: u64) -> Result<Self, Refusal> {
        // SAFETY: prctl takes a number.
        if unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) } > 0 {
            return Err(Refusal::DenyWriteExecute);
        }
        Ok(Self {
            place: Place::of(clone)?,
            heap_end,
            gs_base: arch_get(ARCH_GET_GS)?,
            tid_address: tid_address()?,
            robust: robust_list(),
            mask: signal_mask(),
            signal_stack: signal_stack(),
            actions: (1..=SIGNALS).map(action).collect(),
            file_mode_mask: file_mode_mask(),
            limits: (0..LIMITS).map(limit).collect(),
            directory: std::env::current_dir().map_err(|_| Refusal::Untold("its working directory"))?,
            asked_features: arch_get(ARCH_GET_XCOMP_PERM).unwrap_or(0),
            affinity: affinity(),
            nice: nice(),
        })
    }
}

impl KernelState {
    /// In the process that is woken: what is true of it is to stay so.
    pub(super) fn keep_surroundings(&mut self) {
        self.limits = (0..LIMITS).map(limit).collect();
        self.file_mode_mask = file_mode_mask();
        self.affinity = affinity();
        self.nice = nice();
    }
}

/// End of the heap of this process, without a change to anything.
pub(super) fn heap_end() -> u64 {
    // SAFETY: the bare call; zero asks.
    unsafe { libc::syscall(libc::SYS_brk, 0) }.cast_unsigned()
}

fn arch_get(what: i32) -> Result<u64, Refusal> {
    let mut value = 0_u64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the call writes one word to `value`.
    let failed = unsafe { libc::syscall(libc::SYS_arch_prctl, what, &raw mut value) } != 0;
    #[cfg(not(target_arch = "x86_64"))]
    let failed = {
        let _ = (what, &mut value);
        true
    };
    if failed { Err(Refusal::Untold("its registers")) } else { Ok(value) }
}

fn tid_address() -> Result<u64, Refusal> {
    let mut address = 0_u64;
    // SAFETY: the call writes one word to `address`.
    match unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut address) } {
        0 if address != 0 => Ok(address),
        _ => Err(Refusal::Untold("where the C library keeps a thread's number (CONFIG_CHECKPOINT_RESTORE)")),
    }
}

fn robust_list() -> (u64, u64) {
    let (mut head, mut length) = (0_u64, 0_u64);
    // SAFETY: the call writes two words; it fails where there is none.
    unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) };
    (head, length)
}

fn signal_mask() -> u64 {
    let mut mask = 0_u64;
    // SAFETY: with no new mask the call only reads; eight bytes are what the kernel has.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, std::ptr::null::<u64>(), &raw mut mask, 8) };
    mask
}

fn signal_stack() -> (u64, u64, i32) {
    // SAFETY: zeroed memory is a valid stack_t, and with no new stack the call only writes to it.
    let stack = unsafe {
        let mut stack = std::mem::zeroed::<libc::stack_t>();
        libc::sigaltstack(std::ptr::null(), &raw mut stack);
        stack
    };
    (stack.ss_sp.addr() as u64, stack.ss_size as u64, stack.ss_flags)
}

fn action(signal: usize) -> Action {
    let mut action = Action::default();
    // SAFETY: with no new action the call only writes to `action`, which is as large as the kernel's.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, std::ptr::null::<Action>(), &raw mut action, 8) };
    action
}

fn file_mode_mask() -> u32 {
    // SAFETY: this process has one thread, which creates no file between the two calls.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

fn limit(kind: u32) -> (u64, u64) {
    let mut limit = [0_u64; 2];
    // SAFETY: the call writes two words.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, kind, std::ptr::null::<u64>(), limit.as_mut_ptr()) };
    (limit[0], limit[1])
}

/// Processors that it may run on, as the kernel's bits.
pub(super) fn affinity() -> Vec<u64> {
    let mut bits = vec![0_u64; 128];
    let size = std::mem::size_of_val(bits.as_slice());
    // SAFETY: the call writes at most `size` bytes, and says how many.
    let written = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size, bits.as_mut_ptr()) };
    bits.truncate(usize::try_from(written).unwrap_or(0) / size_of::<u64>());
    bits
}

/// The bare call gives twenty minus the value.
pub(super) fn nice() -> i32 {
    // SAFETY: takes numbers.
    let answer = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) };
    20 - i32::try_from(answer).unwrap_or(20)
}

/// Where the area for restartable sequences lies from the thread's own pointer; the C library may be older than that.
pub(super) fn rseq_offset() -> Option<i64> {
    // SAFETY: looks two names up; what they name, where they do, is a constant of the C library's of this type.
    unsafe {
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        if size.is_null() || offset.is_null() || *size == 0 { None } else { i64::try_from(*offset).ok() }
    }
}

/// Before it is woken: asks for what has to be asked for. Errors of the system are the caller's to tell.
pub(super) fn ask_for_features(wanted: u64) -> io::Result<()> {
    const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
    let has = arch_get(ARCH_GET_XCOMP_PERM).unwrap_or(0);
    #[cfg(target_arch = "x86_64")]
    for bit in (0..64).filter(|bit| (wanted & !has) >> bit & 1 == 1) {
        // SAFETY: takes numbers.
        if unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, bit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let _ = (wanted, has, ARCH_REQ_XCOMP_PERM);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_keeps_is_read() {
        let own = i32::try_from(std::process::id()).expect("small");
        let state = KernelState::read(own, heap_end()).expect("told");
        assert!(state.place.heap() <= state.heap_end);
        assert_eq!(state.actions.len(), SIGNALS);
        assert!(!state.affinity.is_empty() && state.place.fs_base != 0);
        assert_eq!(state.directory, std::env::current_dir().expect("known"));
    }
}
