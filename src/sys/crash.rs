//! The fatal-signal handler of a worker: tells the server what is about to end it, stack overflow told apart.
//!
//! Runs in: worker, inside a signal handler on its own stack. So: no allocation, no lock, no Rust value with a drop;
//! one `write` of a frame made beforehand, the stacks by way of faulthandler's handler if that is armed, then the signal's
//! own action. A process that the session forked has inherited all this and must not speak for the worker: it stays silent.

use std::{
    io,
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

/// How near the stack pointer an address must lie to be the stack's end: guard page and some.
const NEAR: usize = 64 << 10;
const ALT_STACK: usize = 128 << 10;
const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT];
const FRAME_MAX: usize = 24;

static DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);
static OWNER: AtomicI32 = AtomicI32::new(0);
/// The signal whose handler writes all Python stacks to the black box; 0 until there is one.
static DUMP_SIGNAL: AtomicI32 = AtomicI32::new(0);
static LENGTHS: [AtomicUsize; SIGNALS.len() * 2] = [const { AtomicUsize::new(0) }; SIGNALS.len() * 2];
/// Frames made beforehand, a row for each signal without and with stack overflow; bytes packed in words.
static FRAMES: [[AtomicUsize; FRAME_MAX / 8]; SIGNALS.len() * 2] =
    [const { [const { AtomicUsize::new(0) }; FRAME_MAX / 8] }; SIGNALS.len() * 2];

/// Installs the handler in the calling (main) thread. `frame` encodes the report for a signal.
///
/// # Errors
/// When the system refuses, or a frame is longer than 24 bytes.
pub(crate) fn install(descriptor: i32, frame: impl Fn(i32, bool) -> Vec<u8>) -> io::Result<()> {
    for (row, signal) in SIGNALS.iter().enumerate() {
        for overflow in [false, true] {
            let bytes = frame(*signal, overflow);
            if bytes.len() > FRAME_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "crash frame is too long"));
            }
            let index = row * 2 + usize::from(overflow);
            let mut padded = [0u8; FRAME_MAX];
            padded[..bytes.len()].copy_from_slice(&bytes);
            for (word, chunk) in FRAMES[index].iter().zip(padded.as_chunks::<8>().0) {
                word.store(usize::from_ne_bytes(*chunk), Ordering::Relaxed);
            }
            LENGTHS[index].store(bytes.len(), Ordering::Relaxed);
        }
    }
    OWNER.store(own_pid(), Ordering::Relaxed);
    DESCRIPTOR.store(descriptor, Ordering::Release);
    use_alternate_stack()?;
    SIGNALS.iter().try_for_each(|signal| handle(*signal))
}

/// In a fork that becomes a worker: its crashes are reported there from now on. The handlers are inherited.
pub(crate) fn adopt(descriptor: i32) {
    DESCRIPTOR.store(descriptor, Ordering::Release);
    OWNER.store(own_pid(), Ordering::Release);
}

/// Tells which signal dumps stacks.
pub(crate) fn arm_dump(signal: i32) {
    DUMP_SIGNAL.store(signal, Ordering::Release);
}

/// Dumps the stacks in the calling thread, without the GIL; the black box has them when this returns. False when nothing
/// is armed, or user code has taken the handler away: the signal's own action would be to end the process.
/// Async-signal-safe.
pub(crate) fn dump_now() -> bool {
    let signal = DUMP_SIGNAL.load(Ordering::Acquire);
    if signal == 0 {
        return false;
    }
    // SAFETY: an all-zero sigaction is valid, and the call only writes to it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action asks for the present one.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0
        || action.sa_sigaction == libc::SIG_DFL
        || action.sa_sigaction == libc::SIG_IGN
    {
        return false;
    }
    // SAFETY: raise is async-signal-safe; it returns after the handler, which runs in this thread.
    unsafe { libc::raise(signal) == 0 }
}

fn own_pid() -> i32 {
    // SAFETY: getpid has no preconditions and is async-signal-safe.
    unsafe { libc::getpid() }
}

fn use_alternate_stack() -> io::Result<()> {
    // Pages of its own, which cost nothing until a signal uses them; memory of the heap would be written full of zeros.
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK);
    // SAFETY: a new mapping anywhere has no preconditions.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), ALT_STACK, protection, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let stack = libc::stack_t { ss_sp: memory, ss_flags: 0, ss_size: ALT_STACK };
    // SAFETY: the mapping is never taken away, so it outlives every signal.
    match unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn handle(signal: i32) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid; the fields that matter are set below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fatal as *const () as usize;
    // RESETHAND: when the faulting instruction runs again, the signal's own action ends the process.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: on_fatal has the signature SA_SIGINFO asks for and calls async-signal-safe functions alone.
    match unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_fatal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid pointers to an SA_SIGINFO handler.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let overflow = signal == libc::SIGSEGV && code > 0 && stack_pointer(context).abs_diff(address) < NEAR;
    if OWNER.load(Ordering::Relaxed) == own_pid() {
        report(signal, overflow);
        let _ = dump_now();
    }
    if signal == libc::SIGABRT || code <= 0 {
        // Sent rather than faulted: returning would not repeat it.
        // SAFETY: raise is async-signal-safe; the action was reset to the default on entry.
        unsafe { libc::raise(signal) };
    }
}

fn stack_pointer(context: *mut libc::c_void) -> usize {
    // SAFETY: third argument of an SA_SIGINFO handler, a ucontext_t by contract.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    let raw = context.uc_mcontext.gregs[usize::try_from(libc::REG_RSP).unwrap_or(0)];
    #[cfg(target_arch = "aarch64")]
    let raw = context.uc_mcontext.sp;
    usize::try_from(raw).unwrap_or(0)
}

fn report(signal: i32, overflow: bool) {
    let Some(row) = SIGNALS.iter().position(|known| *known == signal) else { return };
    let index = row * 2 + usize::from(overflow);
    let mut bytes = [0u8; FRAME_MAX];
    for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&FRAMES[index]) {
        *chunk = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    let length = LENGTHS[index].load(Ordering::Relaxed).min(FRAME_MAX);
    // SAFETY: write is async-signal-safe; the buffer is ours and `length` within it.
    unsafe { libc::write(DESCRIPTOR.load(Ordering::Acquire), bytes.as_ptr().cast(), length) };
}
