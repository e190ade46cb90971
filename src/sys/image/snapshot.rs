//! A clone of this process that stands still at a known place of this file, and from where a woken one goes on.
//!
//! Runs in: checkpoint; the clone, which executes nothing but `pause`; a woken checkpoint, from its first instruction.
//!
//! The clone is made by the bare system call: no handler of a library runs, so its memory is that of the caller. The
//! compiler sees one block of assembly that is left once, in each process that leaves it: here with the clone's number, in a
//! woken process with the address of what its restorer has left ([`Arrival`]).

/// On which side.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there is no image elsewhere"))]
pub(super) enum Side {
    /// The original; the clone stands still.
    Original { clone: i32 },
    /// A process that was woken from an image of the clone.
    Woken(Arrival),
}

/// What a woken process finds, and has to give back.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Arrival {
    /// Memory that the restorer has used.
    pub(super) scratch: u64,
    pub(super) scratch_length: u64,
    /// Where the C library keeps the number of this thread.
    pub(super) tid_address: u64,
}

/// Registers that a function call leaves as they are.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
#[repr(C)]
pub(super) struct Registers {
    pub(super) general: [u64; 8],
    pub(super) mxcsr: u32,
    pub(super) x87: u32,
}

/// Registers of the clone.
static mut REGISTERS: Registers = Registers { general: [0; 8], mxcsr: 0, x87: 0 };

/// What was saved by the last [`take`].
pub(super) fn registers() -> Registers {
    // SAFETY: written by `take` only, by the only thread.
    unsafe { (&raw const REGISTERS).read() }
}

/// Makes the clone.
///
/// # Errors
/// The system's refusal.
///
/// # Safety
/// This process has one thread. Whatever is true of it now is true of a woken one, but for what its waker has replaced.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn take() -> std::io::Result<Side> {
    let answer: i64;
    // SAFETY: the caller's promise. The block saves what the C ABI keeps and declares the rest as lost; the clone never
    // leaves it, and a process that arrives at `3` has these registers and this stack.
    unsafe {
        std::arch::asm!(
            "mov [{registers}], rbx",
            "mov [{registers} + 8], rbp",
            "mov [{registers} + 16], r12",
            "mov [{registers} + 24], r13",
            "mov [{registers} + 32], r14",
            "mov [{registers} + 40], r15",
            "mov [{registers} + 48], rsp",
            "lea rax, [rip + 3f]",
            "mov [{registers} + 56], rax",
            "stmxcsr [{registers} + 64]",
            "fnstcw [{registers} + 68]",
            "mov eax, {clone}",
            "xor edi, edi",
            "xor esi, esi",
            "xor edx, edx",
            "xor r10d, r10d",
            "xor r8d, r8d",
            "syscall",
            "test rax, rax",
            "jnz 3f",
            // The clone: ends with the original, and does nothing else.
            "mov eax, {prctl}",
            "mov edi, {set_death_signal}",
            "mov esi, {kill}",
            "syscall",
            "2:",
            "mov eax, {pause}",
            "syscall",
            "jmp 2b",
            "3:",
            registers = in(reg) &raw mut REGISTERS,
            clone = const libc::SYS_clone,
            prctl = const libc::SYS_prctl,
            set_death_signal = const libc::PR_SET_PDEATHSIG,
            kill = const libc::SIGKILL,
            pause = const libc::SYS_pause,
            out("rax") answer,
            clobber_abi("C"),
        );
    }
    match answer {
        error if error < 0 => Err(std::io::Error::from_raw_os_error(i32::try_from(-error).unwrap_or(libc::EAGAIN))),
        clone if clone <= i64::from(i32::MAX) => Ok(Side::Original { clone: i32::try_from(clone).unwrap_or(0) }),
        // SAFETY: no process has such a number: it is the address of what the restorer has left, which is mapped.
        place => Ok(Side::Woken(unsafe { std::ptr::read(place as *const Arrival) })),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn take() -> std::io::Result<Side> {
    Err(std::io::ErrorKind::Unsupported.into())
}
