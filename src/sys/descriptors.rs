//! Descriptors: pairs, pipes, passing them to another process, moving them out of reach, closing the foreign ones.
//!
//! Runs in: all three processes.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::Command,
};

use nix::{
    cmsg_space,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, getrlimit},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
    },
    unistd::pipe2,
};

/// Most descriptors that travel with one message.
pub(crate) const MAX_PASSED: usize = 5;

/// A pipe, read end first, both close-on-exec.
///
/// # Errors
/// When the process is out of descriptors.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

/// An unnamed file in memory: empty, it holds no page.
///
/// # Errors
/// When the process is out of descriptors.
pub fn memory_file(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?)
}

/// The same; what it holds can be sealed against changes.
pub(crate) fn sealable_memory_file(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
}

/// Sends `bytes` with `descriptors` attached. Blocking; the bytes must fit the socket's buffer (frames to a zygote do).
///
/// # Errors
/// When the peer is gone, or took only a part.
pub fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let attached = if raw.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], attached, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::WriteZero, "socket took a part only")) }
}

/// Receives what has arrived: the number of bytes, 0 at the end, and descriptors added to `received`.
pub(crate) fn receive_with(stream: &UnixStream, bytes: &mut [u8], received: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = cmsg_space!([RawFd; MAX_PASSED]);
    let mut slices = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just made these descriptors for us; no other code knows their numbers.
            received.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}

/// Moves a descriptor near the top of the table, where loops like `for fd in range(3, 256)` do not reach it.
///
/// # Errors
/// When the descriptor cannot be duplicated.
pub(crate) fn move_high(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    copy_high(descriptor.as_fd())
}

/// A second descriptor for the same thing, near the top of the table as well.
///
/// # Errors
/// When the descriptor cannot be duplicated.
pub(crate) fn copy_high(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let floor = RawFd::try_from(soft.min(1 << 16).saturating_sub(24)).unwrap_or(1000).max(3);
    let raw = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(floor))?;
    // SAFETY: fcntl has just made this descriptor and gave us its number alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes `target` (0, 1 or 2) name what `source` names, open across exec.
pub(crate) fn redirect(source: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes two numbers; replacing 0, 1 or 2 is this function's purpose, and no Rust value owns those.
    match unsafe { libc::dup2(source.as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Which numbers of the table are in use, by one system call.
#[must_use]
pub(crate) fn are_open<const N: usize>(numbers: [RawFd; N]) -> [bool; N] {
    let mut looked = numbers.map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: `looked` has `N` entries, which the call fills; with a limit of zero it waits for nothing.
    let done = unsafe { libc::poll(looked.as_mut_ptr(), N as libc::nfds_t, 0) };
    // Where it cannot be asked, nothing is taken for closed.
    looked.map(|entry| done < 0 || entry.revents & libc::POLLNVAL == 0)
}

/// Sets or clears close-on-exec.
pub fn close_on_exec(descriptor: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() }))?;
    Ok(())
}

/// Leaves a descriptor open in the child of a command, and in no other: this process may start others meanwhile.
pub(crate) fn pass_on(command: &mut Command, descriptor: BorrowedFd<'_>) {
    let raw = descriptor.as_raw_fd();
    let keep = move || {
        // SAFETY: a number that this child inherited; the call changes a flag of its own table.
        match unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: one system call, no allocation and no lock.
    unsafe { command.pre_exec(keep) };
}

/// What this process was started with, beyond the standard three, goes to none that it starts.
pub(crate) fn close_inherited_on_exec() {
    // SAFETY: sets a flag of descriptors; numbers that are not open are passed over.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Closes every descriptor above 2 that is not in `keep`.
///
/// # Safety
/// No value in this process may own a descriptor that is neither 0, 1, 2 nor in `keep`, or it must be forgotten:
/// its drop would later close a number that has another owner by then.
pub(crate) unsafe fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    let mut from = 3;
    let mut done = true;
    for fd in kept.iter().copied() {
        if fd > from {
            // SAFETY: the caller gave up every descriptor in this range.
            done &= unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) } == 0;
        }
        from = from.max(fd + 1);
    }
    // SAFETY: as above.
    done &= unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, 0) } == 0;
    if !done {
        // SAFETY: as above.
        unsafe { close_one_by_one(&kept) };
    }
}

/// What [`close_all_but`] does where the kernel has no `close_range` (before Linux 5.9), or a filter forbids it.
///
/// # Safety
/// As for that.
unsafe fn close_one_by_one(kept: &[u32]) {
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let open: Vec<u32> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(number).collect(),
        Err(_) => (0..getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| u32::try_from(soft).unwrap_or(1024)))
            .collect(),
    };
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // SAFETY: the caller gave it up; that of the listing itself is closed already, and its number names nothing.
        unsafe { libc::close(i32::try_from(fd).unwrap_or(-1)) };
    }
}

/// Opens `/dev/null` as standard input.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn null_stdin() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    if null.as_raw_fd() == 0 {
        // It was closed, and the file got its number: there it stays.
        close_on_exec(null.as_fd(), false)?;
        std::mem::forget(null);
        return Ok(());
    }
    redirect(null.as_fd(), 0)
}

/// Takes the buffers away from C's stdout and stderr: what C code prints then stays in order with Python's output and
/// that of child processes, and none of it is lost in a crash.
pub(crate) fn unbuffer_c_output() {
    // SAFETY: these are the names and types that the C library gives its two streams.
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
        static stderr: *mut libc::FILE;
    }
    // SAFETY: both are set by the C library before `main` and stay; a null buffer is what `_IONBF` asks for.
    unsafe {
        libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IONBF, 0);
        libc::setvbuf(stderr, std::ptr::null_mut(), libc::_IONBF, 0);
    }
}

/// Takes over a descriptor that the parent process left open for us under a known number.
///
/// # Safety
/// `raw` must be open, and nothing else in this process may own or use it.
pub(crate) unsafe fn inherited_stream(raw: RawFd) -> UnixStream {
    // SAFETY: passed on to the caller.
    unsafe { UnixStream::from_raw_fd(raw) }
}

/// The same, for what is no stream.
///
/// # Safety
/// As for [`inherited_stream`].
pub(crate) unsafe fn inherited(raw: RawFd) -> OwnedFd {
    // SAFETY: passed on to the caller.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Raises the limit of open files to what the system allows us.
pub(crate) fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
