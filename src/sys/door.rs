//! Calls of `connect` that a filter hands to the server: how they are read, made in the caller's place, and answered.
//!
//! Runs in: server, on threads that may block. Owns the way in which a confined process' socket is connected; who may be
//! connected to is the caller's list.
//!
//! A filter of system calls sees a pointer, not the address behind it, and the process may change that at any time. So the
//! call is never let through: the server copies the address once, takes a duplicate of the socket, looks at where the path
//! leads by a handle, and connects that very socket to that very handle. Nothing that changes meanwhile changes that.

use std::{
    fs::{self, File},
    io::{self, IoSliceMut},
    mem::offset_of,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{UnixAddr, connect},
        uio::{RemoteIoVec, process_vm_readv},
    },
    unistd::Pid,
};

/// A call that waits for its answer.
#[derive(Debug)]
pub(crate) struct Knock {
    id: u64,
    thread: i32,
    socket: i32,
    address: usize,
    length: usize,
}

/// Takes a call that has come, as the descriptor's readiness says.
///
/// # Errors
/// ENOENT when the caller has gone meanwhile.
pub(crate) fn take(listener: BorrowedFd<'_>) -> io::Result<Knock> {
    // SAFETY: all zeroes is what the call wants to see, and it fills the structure, which outlives it.
    let found = unsafe {
        let mut found = std::mem::zeroed::<libc::seccomp_notif>();
        if libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut found) != 0 {
            return Err(io::Error::last_os_error());
        }
        found
    };
    let [socket, address, length, ..] = found.data.args;
    Ok(Knock {
        id: found.id,
        thread: i32::try_from(found.pid).unwrap_or(0),
        socket: i32::try_from(socket & 0xffff_ffff).unwrap_or(-1),
        address: usize::try_from(address).unwrap_or(0),
        length: usize::try_from(length & 0xffff_ffff).unwrap_or(usize::MAX),
    })
}

/// Answers: the call has succeeded, or failed with this.
pub(crate) fn answer(listener: BorrowedFd<'_>, knock: &Knock, outcome: Result<(), Errno>) {
    let error = outcome.err().map_or(0, |errno| -(errno as i32));
    let mut response = libc::seccomp_notif_resp { id: knock.id, val: 0, error, flags: 0 };
    // SAFETY: the structure outlives the call, which reads it. A caller that has gone needs no answer.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
}

fn is_there(listener: BorrowedFd<'_>, knock: &Knock) -> bool {
    let id = knock.id;
    // SAFETY: the number outlives the call, which reads it.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Connects the caller's socket, if its address is a socket of the file system below one of these paths. Blocks as the call
/// would.
///
/// # Errors
/// What the call is to fail with.
pub(crate) fn connect_below(listener: BorrowedFd<'_>, knock: &Knock, allowed: &[PathBuf]) -> Result<(), Errno> {
    let path = address(knock)?;
    let process = process_of(knock.thread).ok_or(Errno::EACCES)?;
    let socket = duplicate(process, knock.socket)?;
    let (target, real) = find(knock.thread, &path)?;
    // From here on nothing is read that belongs to a number which another process may have by now.
    if !is_there(listener, knock) {
        return Err(Errno::EINTR);
    }
    if !allowed.iter().any(|above| real.starts_with(above)) {
        return Err(Errno::EACCES);
    }
    let place = format!("/proc/self/fd/{}", target.as_raw_fd());
    connect(socket.as_raw_fd(), &UnixAddr::new(place.as_str())?)
}

/// The path of a Unix address; no other kind is let through.
fn address(knock: &Knock) -> Result<PathBuf, Errno> {
    const BEFORE: usize = offset_of!(libc::sockaddr_un, sun_path);
    let mut bytes = [0; size_of::<libc::sockaddr_un>()];
    if knock.length > bytes.len() {
        return Err(Errno::EACCES);
    }
    let remote = [RemoteIoVec { base: knock.address, len: knock.length }];
    let mut local = [IoSliceMut::new(&mut bytes[..knock.length])];
    let count = process_vm_readv(Pid::from_raw(knock.thread), &mut local, &remote)?;
    let family = i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
    if count < BEFORE || family != libc::AF_UNIX {
        return Err(Errno::EACCES);
    }
    let path = bytes[BEFORE..count].split(|byte| *byte == 0).next().unwrap_or_default();
    // An abstract address begins with NUL.
    if path.is_empty() { Err(Errno::EACCES) } else { Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path))) }
}

/// The process of a thread.
fn process_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

fn duplicate(process: i32, number: i32) -> Result<OwnedFd, Errno> {
    let made = |raw: libc::c_long| i32::try_from(Errno::result(raw)?).map_err(|_| Errno::EBADF);
    // SAFETY: takes numbers; the descriptor it makes is ours alone.
    let handle = unsafe { OwnedFd::from_raw_fd(made(libc::syscall(libc::SYS_pidfd_open, process, 0))?) };
    // SAFETY: as above.
    unsafe { Ok(OwnedFd::from_raw_fd(made(libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), number, 0))?)) }
}

/// A handle on the socket that a path leads to, and where that is.
fn find(thread: i32, path: &Path) -> Result<(File, PathBuf), Errno> {
    let errno = |error: io::Error| error.raw_os_error().map_or(Errno::EACCES, Errno::from_raw);
    // Absolute paths replace what they are joined to; a confined process cannot have another root.
    let path = Path::new(&format!("/proc/{thread}/cwd")).join(path);
    let target = File::options().read(true).custom_flags(libc::O_PATH).open(path).map_err(errno)?;
    if !target.metadata().map_err(errno)?.file_type().is_socket() {
        return Err(Errno::ECONNREFUSED);
    }
    let real = fs::read_link(format!("/proc/self/fd/{}", target.as_raw_fd())).map_err(errno)?;
    Ok((target, real))
}
