//! What `/proc` shows of a woken process: a command line and an environment of its own, and none of the process that the image
//! is of.
//!
//! Runs in: a process that was woken, its only thread. The kernel reads both out of the process' own memory, at places that the
//! image has from the process that it is of.

use super::{
    plan::{PR_SET_MM, PR_SET_MM_MAP},
    refusal::Refusal,
    state::{self, Place},
};

/// Has these words be shown as the command line, and these variables as the environment.
///
/// # Errors
/// When the system refuses; then what the image has is shown.
pub(crate) fn show(words: &[String], variables: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Refusal> {
    let mut text = Vec::new();
    for word in words {
        text.extend_from_slice(word.as_bytes());
        text.push(0);
    }
    let middle = text.len() as u64;
    for (name, value) in variables {
        text.extend([name, b"=".as_slice(), value, b"\0"].concat());
    }
    // It is shown as long as this process lives.
    let text: &'static [u8] = text.leak();
    let (begin, end) = (text.as_ptr().addr() as u64, (text.as_ptr().addr() + text.len()) as u64);
    let marks = Place::of(i32::try_from(std::process::id()).unwrap_or(0))?.marks;
    let mut map = [0_u64; 13];
    map[..5].copy_from_slice(&marks[..5]);
    map[6] = marks[5];
    map[7..11].copy_from_slice(&[begin, begin + middle, begin + middle, end]);
    // No auxiliary vector, and the executable stays.
    map[12] = u64::from(u32::MAX) << 32;
    // Last, for what is done before may move it.
    map[5] = state::heap_end();
    // SAFETY: the kernel reads the numbers, and notes where what it shows begins and ends.
    match unsafe { libc::syscall(libc::SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, map.as_ptr(), size_of_val(&map), 0) } {
        0 => Ok(()),
        _ => Err(Refusal::last("another command line and environment")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use super::*;

    #[test]
    fn what_is_shown_is_what_was_said() {
        // In a fork: this process goes on as it is.
        // SAFETY: the child reads two files and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let shown = show(&["a".to_owned(), "b c".to_owned()], &[(b"N".to_vec(), b"v=1".to_vec())]);
            let read = |name: &str| fs::read(format!("/proc/{}/{name}", process::id())).unwrap_or_default();
            let right = shown.is_ok() && read("cmdline") == b"a\0b c\0" && read("environ") == b"N=v=1\0";
            // SAFETY: no preconditions; it does not return.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: a child of ours that no other code waits for.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
    }
}
