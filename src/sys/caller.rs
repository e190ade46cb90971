//! A process whose system call waits for its answer: its memory, its descriptors, and where its paths lead.
//!
//! Runs in: server, on threads that may block. Reads only. All that it says of a number may be of another process by now, until
//! the kernel has said that the call still waits (`door.rs`).

use std::{
    fs::{self, File},
    io::{self, IoSliceMut},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

/// Bytes that are read at once: no read crosses a page, of which the next may not be there.
const PAGE: usize = 4096;

/// The one that called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) thread: i32,
    process: i32,
}

impl Caller {
    pub(super) fn of(thread: i32) -> Result<Self, Errno> {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).map_err(|_| Errno::EACCES)?;
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        Ok(Self { thread, process: process.ok_or(Errno::EACCES)? })
    }

    /// Copies what lies there into a buffer; how much of it there was.
    pub(super) fn copy(&self, address: usize, into: &mut [u8]) -> Result<usize, Errno> {
        let remote = [RemoteIoVec { base: address, len: into.len() }];
        process_vm_readv(Pid::from_raw(self.thread), &mut [IoSliceMut::new(into)], &remote)
    }

    /// A text that ends with NUL.
    pub(super) fn text(&self, address: usize, longest: usize) -> Result<Vec<u8>, Errno> {
        let mut found = Vec::new();
        let mut piece = [0; PAGE];
        while found.len() < longest {
            let at = address.checked_add(found.len()).ok_or(Errno::EFAULT)?;
            let length = (PAGE - at % PAGE).min(longest - found.len());
            let count = self.copy(at, &mut piece[..length])?;
            if let Some(end) = piece[..count].iter().position(|byte| *byte == 0) {
                found.extend(&piece[..end]);
                return Ok(found);
            }
            found.extend(&piece[..count]);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// A path as it was written.
    pub(super) fn path(&self, address: usize) -> Result<PathBuf, Errno> {
        let longest = usize::try_from(libc::PATH_MAX).unwrap_or(PAGE);
        self.text(address, longest).map(|text| PathBuf::from(std::ffi::OsString::from_vec(text)))
    }

    /// A duplicate of one of its descriptors.
    pub(super) fn duplicate(&self, number: i32) -> Result<OwnedFd, Errno> {
        let made = |raw: libc::c_long| i32::try_from(Errno::result(raw)?).map_err(|_| Errno::EBADF);
        // SAFETY: takes numbers; the descriptor it makes is ours alone.
        let handle = unsafe { OwnedFd::from_raw_fd(made(libc::syscall(libc::SYS_pidfd_open, self.process, 0))?) };
        // SAFETY: as above.
        unsafe { Ok(OwnedFd::from_raw_fd(made(libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), number, 0))?)) }
    }

    /// Where a path of its leads, from a directory of its or from where it is, as a path for us. A confined process cannot have
    /// another root.
    pub(super) fn place(&self, directory: i32, path: &Path) -> PathBuf {
        let own = |from: &str, to: String| path.strip_prefix(from).ok().map(|rest| PathBuf::from(to).join(rest));
        let Self { thread, process } = self;
        // These say "self" and mean the one that asks.
        own("/proc/self", format!("/proc/{process}"))
            .or_else(|| own("/proc/thread-self", format!("/proc/{process}/task/{thread}")))
            .or_else(|| own("/dev/fd", format!("/proc/{process}/fd")))
            .unwrap_or_else(|| {
                let from = match directory {
                    libc::AT_FDCWD => format!("/proc/{thread}/cwd"),
                    number => format!("/proc/{process}/fd/{number}"),
                };
                // With nothing after it, a file need not be a directory; an absolute path takes its place.
                if path.as_os_str().is_empty() { PathBuf::from(from) } else { Path::new(&from).join(path) }
            })
    }

    /// Whether a descriptor of its can be written.
    pub(super) fn writes(&self, number: i32) -> bool {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", self.process)).unwrap_or_default();
        let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY)
    }
}

/// A handle on what a path leads to, and where that is.
pub(super) fn handle(path: &Path, follows: bool) -> Result<(File, PathBuf), Errno> {
    let errno = |error: io::Error| error.raw_os_error().map_or(Errno::EACCES, Errno::from_raw);
    let flags = libc::O_PATH | if follows { 0 } else { libc::O_NOFOLLOW };
    let target = File::options().read(true).custom_flags(flags).open(path).map_err(errno)?;
    let real = fs::read_link(format!("/proc/self/fd/{}", target.as_raw_fd())).map_err(errno)?;
    Ok((target, real))
}
