//! The instructions that make a process another one: system calls from a list, then the registers.
//!
//! Runs in: the process that is woken, between the end of its old life and the begin of the other. It may replace all
//! memory under itself, so it uses no stack, no library and no data but the plan, and is copied to where nothing is replaced.

use super::snapshot::Registers;

/// What is to hold for the answer of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Check {
    /// It may fail.
    Nothing = 0,
    /// It is [`Step::want`].
    Equal = 1,
    /// It is no error.
    Success = 2,
}

/// One system call.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Step {
    pub(super) number: u64,
    pub(super) arguments: [u64; 6],
    pub(super) check: u64,
    pub(super) want: u64,
}

/// All of them, and what comes then.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Plan {
    /// First step.
    pub(super) next: u64,
    /// Behind the last.
    pub(super) end: u64,
    /// What is sent when a step fails, before the process ends.
    pub(super) failure: u64,
    pub(super) failure_length: u64,
    pub(super) failure_descriptor: u64,
    pub(super) registers: Registers,
    /// Address of the `Arrival`.
    pub(super) arrival: u64,
}

/// Exit code of a process in which a step has failed.
#[cfg(target_arch = "x86_64")]
pub(super) const EXIT_FAILED: i32 = 79;

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.forkpy_restorer,\"ax\",@progbits",
    ".balign 64",
    ".globl forkpy_restorer_begin",
    ".hidden forkpy_restorer_begin",
    "forkpy_restorer_begin:",
    "mov r15, rdi",
    "mov r12, [r15]",
    "mov r13, [r15 + 8]",
    "2:",
    "cmp r12, r13",
    "jae 6f",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "mov rcx, [r12 + 56]",
    "test rcx, rcx",
    "jz 4f",
    "cmp rcx, 1",
    "jne 3f",
    "cmp rax, [r12 + 64]",
    "jne 5f",
    "jmp 4f",
    "3:",
    "test rax, rax",
    "js 5f",
    "4:",
    "add r12, 72",
    "jmp 2b",
    "5:",
    "mov r14, rax",
    "mov eax, 1",
    "mov rdi, [r15 + 32]",
    "mov rsi, [r15 + 16]",
    "mov rdx, [r15 + 24]",
    "syscall",
    "mov eax, 231",
    "mov edi, {failed}",
    "syscall",
    "ud2",
    "6:",
    "ldmxcsr [r15 + 104]",
    "fldcw [r15 + 108]",
    "mov rax, [r15 + 112]",
    "mov rdi, [r15 + 96]",
    "mov rsp, [r15 + 88]",
    "mov rbx, [r15 + 40]",
    "mov rbp, [r15 + 48]",
    "mov r12, [r15 + 56]",
    "mov r13, [r15 + 64]",
    "mov r14, [r15 + 72]",
    "mov r15, [r15 + 80]",
    "jmp rdi",
    ".globl forkpy_restorer_end",
    ".hidden forkpy_restorer_end",
    "forkpy_restorer_end:",
    ".popsection",
    failed = const EXIT_FAILED,
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    static forkpy_restorer_begin: u8;
    static forkpy_restorer_end: u8;
}

/// The code.
#[cfg(target_arch = "x86_64")]
pub(super) fn code() -> &'static [u8] {
    // SAFETY: the two symbols enclose the code above, which is readable.
    unsafe {
        let (begin, end) = (&raw const forkpy_restorer_begin, &raw const forkpy_restorer_end);
        std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin))
    }
}

/// Begins, at a copy of the code.
///
/// # Safety
/// `entry` is a copy of [`code`] that may be executed; code, plan and all that its steps point to lie in memory that no step
/// replaces; the registers are those of a process whose memory is there when the last step is done.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn begin(entry: *const u8, plan: *const Plan) -> ! {
    // SAFETY: the caller's promise; it does not come back.
    unsafe { std::arch::asm!("jmp {entry}", entry = in(reg) entry, in("rdi") plan, options(noreturn)) }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_instructions_know_where_things_are() {
        assert_eq!((size_of::<Step>(), offset_of!(Step, check), offset_of!(Step, want)), (72, 56, 64));
        assert_eq!((offset_of!(Plan, failure), offset_of!(Plan, failure_descriptor)), (16, 32));
        assert_eq!(offset_of!(Plan, registers) + offset_of!(Registers, general), 40);
        assert_eq!(offset_of!(Plan, registers) + offset_of!(Registers, mxcsr), 104);
        assert_eq!(offset_of!(Plan, registers) + offset_of!(Registers, x87), 108);
        assert_eq!(offset_of!(Plan, arrival), 112);
    }
}
