//! Calls that a filter hands to the server: how they are read, made in the caller's place, and answered. `connect` and `listen`
//! are made here, those that mark files in `marks.rs`.
//!
//! Runs in: server, on threads that may block. Owns the way in which a confined process' socket is connected; who may be
//! connected to is the caller's list, and the proxy that `server/egress` has.
//!
//! A filter of system calls sees a pointer, not the address behind it, and the process may change that at any time. So the
//! call is never let through: the server copies the address once, takes a duplicate of the socket, looks at where the path
//! leads by a handle, and connects that very socket to that very handle. Nothing that changes meanwhile changes that.
//! `listen` is a matter of the door where a process may have sockets of the internet: what listens there takes a port of all
//! addresses without having been bound to one, which Landlock does not see.

use std::{
    io,
    mem::offset_of,
    net::{Ipv4Addr, SocketAddrV4},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockaddrIn, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect, getsockname, listen,
    },
};

use super::{
    caller::{self, Caller},
    marks,
};

/// A call that waits for its answer.
#[derive(Debug)]
pub(crate) struct Knock {
    id: u64,
    thread: i32,
    call: libc::c_long,
    args: [u64; 6],
}

/// The one address of the internet that a confined process may be connected to.
pub(crate) trait Proxy {
    /// Where it is.
    fn address(&self) -> SocketAddrV4;
    /// A connection will come from there.
    fn expect(&self, from: SocketAddrV4);
    /// It will not.
    fn forget(&self, from: SocketAddrV4);
}

/// What may be connected to: sockets of the file system below these paths, and the proxy. Files below them may be marked too.
#[derive(Clone, Copy)]
pub(crate) struct Allowed<'a> {
    pub below: &'a [PathBuf],
    pub proxy: Option<&'a dyn Proxy>,
}

/// An address as the caller has written it.
enum Address {
    Path(PathBuf),
    Internet(SocketAddrV4),
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
    let thread = i32::try_from(found.pid).unwrap_or(0);
    Ok(Knock { id: found.id, thread, call: found.data.nr.into(), args: found.data.args })
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

/// Does what the caller wants, if it may. Blocks as the call would.
///
/// # Errors
/// What the call is to fail with.
pub(crate) fn serve(listener: BorrowedFd<'_>, knock: &Knock, allowed: Allowed<'_>) -> Result<(), Errno> {
    let caller = Caller::of(knock.thread)?;
    if ![libc::SYS_listen, libc::SYS_connect].contains(&knock.call) {
        let wanted = (knock.call, knock.args);
        return marks::serve(wanted, caller, allowed.below, || is_there(listener, knock));
    }
    // Whole numbers in the lower half of an argument; the kernel looks at no more.
    let number = |argument: u64| ((argument & 0xffff_ffff) as u32).cast_signed();
    let [socket, second, third, ..] = knock.args;
    let socket = caller.duplicate(number(socket))?;
    if knock.call == libc::SYS_listen {
        return if is_there(listener, knock) { listen_at_home(&socket, number(second)) } else { Err(Errno::EINTR) };
    }
    let (address, length) = (usize::try_from(second).unwrap_or(0), usize::try_from(number(third)));
    match read(&caller, address, length.unwrap_or(usize::MAX))? {
        Address::Path(path) => {
            let (target, real) = caller::handle(&caller.place(libc::AT_FDCWD, &path), true)?;
            if !target.metadata().is_ok_and(|found| found.file_type().is_socket()) {
                return Err(Errno::ECONNREFUSED);
            }
            // From here on nothing is read that belongs to a number which another process may have by now.
            if !is_there(listener, knock) {
                return Err(Errno::EINTR);
            }
            if !allowed.below.iter().any(|above| real.starts_with(above)) {
                return Err(Errno::EACCES);
            }
            let place = format!("/proc/self/fd/{}", target.as_raw_fd());
            connect(socket.as_raw_fd(), &UnixAddr::new(place.as_str())?)
        }
        Address::Internet(wanted) => {
            let proxy = allowed.proxy.filter(|proxy| proxy.address() == wanted).ok_or(Errno::EACCES)?;
            if is_there(listener, knock) { connect_to(&socket, proxy) } else { Err(Errno::EINTR) }
        }
    }
}

/// A socket of the file system may listen: its name is where the process may make files.
fn listen_at_home(socket: &OwnedFd, queue: i32) -> Result<(), Errno> {
    if family(socket)? != Some(AddressFamily::Unix) {
        return Err(Errno::EACCES);
    }
    // What is out of its bounds is cut by the kernel.
    listen(socket, Backlog::new(queue.clamp(0, i32::from(u16::MAX) / 16)).unwrap_or(Backlog::MAXCONN))
}

/// The proxy hears from where the connection comes before it comes.
fn connect_to(socket: &OwnedFd, proxy: &dyn Proxy) -> Result<(), Errno> {
    if family(socket)? != Some(AddressFamily::Inet) {
        return Err(Errno::EAFNOSUPPORT);
    }
    let name = || getsockname::<SockaddrIn>(socket.as_raw_fd());
    if name()?.port() == 0 {
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
    }
    let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, name()?.port());
    proxy.expect(from);
    let connected = connect(socket.as_raw_fd(), &SockaddrIn::from(proxy.address()));
    if connected.is_err_and(|errno| errno != Errno::EINPROGRESS) {
        proxy.forget(from);
    }
    connected
}

fn family(socket: &OwnedFd) -> Result<Option<AddressFamily>, Errno> {
    getsockname::<SockaddrStorage>(socket.as_raw_fd()).map(|name| name.family())
}

/// The address that a call names; no other kind is let through.
fn read(caller: &Caller, address: usize, length: usize) -> Result<Address, Errno> {
    const BEFORE: usize = offset_of!(libc::sockaddr_un, sun_path);
    let mut bytes = [0; size_of::<libc::sockaddr_un>()];
    if length > bytes.len() {
        return Err(Errno::EACCES);
    }
    let count = caller.copy(address, &mut bytes[..length])?;
    let family = i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
    if family == libc::AF_INET && count >= size_of::<libc::sockaddr_in>() {
        // Both in the order of the network.
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        let address = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
        return Ok(Address::Internet(SocketAddrV4::new(address, port)));
    }
    if count < BEFORE || family != libc::AF_UNIX {
        return Err(Errno::EACCES);
    }
    let path = bytes[BEFORE..count].split(|byte| *byte == 0).next().unwrap_or_default();
    // An abstract address begins with NUL.
    if path.is_empty() {
        return Err(Errno::EACCES);
    }
    Ok(Address::Path(PathBuf::from(std::ffi::OsStr::from_bytes(path))))
}
