//! A process that ends takes from all its threads the right to start others.
//!
//! Runs in: worker, script; the last thing before the end. A filter of system calls (seccomp) makes `fork` and its kin fail in
//! every thread, also in those that run a session's code and cannot be stopped. Where the kernel has no such filters nothing
//! happens.

use std::mem::offset_of;

/// `seccomp(2)`: install a filter, in all threads.
const SET_MODE_FILTER: libc::c_long = 1;
const TSYNC: libc::c_long = 1;

/// The system calls that start a process. Those that start a thread are the same.
#[cfg(target_arch = "x86_64")]
const FORKS: [libc::c_long; 4] = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: [libc::c_long; 2] = [libc::SYS_clone, libc::SYS_clone3];

/// From now on they fail with `EPERM`.
pub(super) fn forbid() {
    let number = u32::try_from(offset_of!(libc::seccomp_data, nr)).unwrap_or(0);
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, number)];
    for (place, fork) in FORKS.iter().enumerate() {
        // To the refusal, which is behind the permission that follows the last question.
        let ahead = u8::try_from(FORKS.len() - place).unwrap_or(0);
        program.push(step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            ahead,
            u32::try_from(*fork).unwrap_or(u32::MAX),
        ));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, TSYNC, &raw const filter);
    }
}

fn step(code: u32, jump_if: u8, operand: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt: jump_if, jf: 0, k: operand }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::{
        sys::wait::{WaitStatus, waitpid},
        unistd::{ForkResult, fork},
    };

    #[test]
    fn nothing_can_be_started_any_more() {
        // SAFETY: the child makes some system calls and ends.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Child => {
                super::forbid();
                let refused =
                    Command::new("/bin/true").spawn().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
                // SAFETY: no preconditions.
                unsafe { libc::_exit(if refused { 7 } else { 8 }) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).expect("it ends"), WaitStatus::Exited(child, 7));
            }
        }
    }
}
