//! What a file is marked with: mode, owner, times, attributes. Landlock does not keep them, so a filter hands the calls that
//! change them to the server, which changes what lies where the caller may write, and nothing else.
//!
//! Runs in: zygote (the list of calls, for the filter), server (on threads that may block). Owns that list.
//!
//! As in `door.rs` nothing is let through: path and values are copied once, the file is opened as a handle that can neither be
//! read nor written, its place is looked at, and that very handle is changed. A descriptor that can be written says by itself
//! that the file may be changed.

use std::{
    ffi::CString,
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::caller::{self, Caller};

/// Calls that are handed over.
const CALLS: &[libc::c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
];
/// Older ones, which newer architectures never had.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] =
    &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];
/// Newer ones, with the same numbers everywhere. The last three are used by no library yet, and are refused.
const FCHMODAT2: libc::c_long = 452;
pub(super) const NEW: [libc::c_long; 3] = [463, 466, 469];
/// Commands to an open file that mark it: its flags, its project, its generation.
pub(super) const COMMANDS: [u64; 4] = [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x4008_7602];

/// The only attributes that a user gives: of any meaning, and lists of who may what. Others are the kernel's.
const OWN_ATTRIBUTES: [&[u8]; 2] = [b"user.", b"system.posix_acl_"];
/// Longest name and value of an attribute.
const LONGEST_NAME: usize = 256;
const LONGEST_VALUE: usize = 64 << 10;

/// All calls that are handed over.
pub(super) fn calls() -> impl Iterator<Item = libc::c_long> {
    CALLS.iter().chain(OLD).copied()
}

/// What is to be changed.
#[derive(Debug, Clone, Copy)]
enum Target {
    Descriptor(i32),
    /// From a directory, by a path that lies there.
    Path {
        directory: i32,
        path: usize,
        follows: bool,
        may_be_empty: bool,
    },
}

#[derive(Debug)]
enum Change {
    Mode(libc::mode_t),
    Owner(libc::uid_t, libc::gid_t),
    /// Of the last access and of the last change; none is now.
    Times(Option<[libc::timespec; 2]>),
    Attribute {
        name: CString,
        value: Vec<u8>,
        flags: i32,
    },
    NoAttribute {
        name: CString,
    },
}

/// Makes the change, if it may be made. `is_there` says whether the call still waits.
///
/// # Errors
/// What the call is to fail with.
pub(super) fn serve(
    (call, args): (libc::c_long, [u64; 6]),
    caller: Caller,
    below: &[PathBuf],
    is_there: impl Fn() -> bool,
) -> Result<(), Errno> {
    let target = target_of(call, args)?;
    let change = change_of(call, args, &caller)?;
    let (file, real, is_written) = open(target, &caller)?;
    // From here on nothing is read that belongs to a number which another process may have by now.
    if !is_there() {
        return Err(Errno::EINTR);
    }
    if !is_written && !below.iter().any(|above| real.starts_with(above)) {
        return Err(Errno::EACCES);
    }
    change.make(&file)
}

/// A whole number in the lower half of an argument; the kernel looks at no more.
fn number(argument: u64) -> i32 {
    low(argument).cast_signed()
}

fn low(argument: u64) -> u32 {
    (argument & 0xffff_ffff) as u32
}

fn pointer(argument: u64) -> usize {
    usize::try_from(argument).unwrap_or(0)
}

fn target_of(call: libc::c_long, args: [u64; 6]) -> Result<Target, Errno> {
    let [first, second, _, fourth, fifth, _] = args;
    let here = |follows| Target::Path { directory: libc::AT_FDCWD, path: pointer(first), follows, may_be_empty: false };
    let there = |flags: i32| match (pointer(second), flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)) {
        (_, unknown) if unknown != 0 => Err(Errno::EINVAL),
        // `futimens` and its like.
        (0, _) if call == libc::SYS_utimensat || is_futimesat(call) => Ok(Target::Descriptor(number(first))),
        (path, _) => Ok(Target::Path {
            directory: number(first),
            path,
            follows: flags & libc::AT_SYMLINK_NOFOLLOW == 0,
            may_be_empty: flags & libc::AT_EMPTY_PATH != 0,
        }),
    };
    match call {
        libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_fsetxattr | libc::SYS_fremovexattr => {
            Ok(Target::Descriptor(number(first)))
        }
        libc::SYS_fchmodat => there(0),
        FCHMODAT2 | libc::SYS_utimensat => there(number(fourth)),
        libc::SYS_fchownat => there(number(fifth)),
        libc::SYS_lsetxattr | libc::SYS_lremovexattr => Ok(here(false)),
        libc::SYS_setxattr | libc::SYS_removexattr => Ok(here(true)),
        _ if is_futimesat(call) => there(0),
        _ => old_target_of(call, here),
    }
}

#[cfg(target_arch = "x86_64")]
fn is_futimesat(call: libc::c_long) -> bool {
    call == libc::SYS_futimesat
}

#[cfg(target_arch = "x86_64")]
fn old_target_of(call: libc::c_long, here: impl Fn(bool) -> Target) -> Result<Target, Errno> {
    match call {
        libc::SYS_chmod | libc::SYS_chown | libc::SYS_utime | libc::SYS_utimes => Ok(here(true)),
        libc::SYS_lchown => Ok(here(false)),
        _ => Err(Errno::EPERM),
    }
}

#[cfg(target_arch = "x86_64")]
fn old_change_of(call: libc::c_long, args: [u64; 6], caller: &Caller) -> Result<Change, Errno> {
    let [_, second, third, ..] = args;
    match call {
        libc::SYS_chmod => Ok(Change::Mode(low(second))),
        libc::SYS_chown | libc::SYS_lchown => Ok(Change::Owner(low(second), low(third))),
        libc::SYS_utime => times(caller, pointer(second), Parts::Seconds),
        libc::SYS_utimes => times(caller, pointer(second), Parts::Microseconds),
        libc::SYS_futimesat => times(caller, pointer(third), Parts::Microseconds),
        _ => Err(Errno::EPERM),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn is_futimesat(_: libc::c_long) -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn old_target_of(_: libc::c_long, _: impl Fn(bool) -> Target) -> Result<Target, Errno> {
    Err(Errno::EPERM)
}

#[cfg(not(target_arch = "x86_64"))]
fn old_change_of(_: libc::c_long, _: [u64; 6], _: &Caller) -> Result<Change, Errno> {
    Err(Errno::EPERM)
}

fn change_of(call: libc::c_long, args: [u64; 6], caller: &Caller) -> Result<Change, Errno> {
    let [_, second, third, fourth, fifth, _] = args;
    match call {
        libc::SYS_fchmod => Ok(Change::Mode(low(second))),
        libc::SYS_fchmodat | FCHMODAT2 => Ok(Change::Mode(low(third))),
        libc::SYS_fchown => Ok(Change::Owner(low(second), low(third))),
        libc::SYS_fchownat => Ok(Change::Owner(low(third), low(fourth))),
        libc::SYS_utimensat => times(caller, pointer(third), Parts::Nanoseconds),
        libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr => {
            let length = pointer(fourth);
            if length > LONGEST_VALUE {
                return Err(Errno::E2BIG);
            }
            let mut value = vec![0; length];
            if length > 0 && caller.copy(pointer(third), &mut value)? != length {
                return Err(Errno::EFAULT);
            }
            Ok(Change::Attribute { name: attribute(caller, pointer(second))?, value, flags: number(fifth) })
        }
        libc::SYS_removexattr | libc::SYS_lremovexattr | libc::SYS_fremovexattr => {
            Ok(Change::NoAttribute { name: attribute(caller, pointer(second))? })
        }
        _ => old_change_of(call, args, caller),
    }
}

fn attribute(caller: &Caller, address: usize) -> Result<CString, Errno> {
    let name = caller.text(address, LONGEST_NAME)?;
    if !OWN_ATTRIBUTES.iter().any(|own| name.starts_with(own)) {
        return Err(Errno::EPERM);
    }
    CString::new(name).map_err(|_| Errno::EINVAL)
}

/// How a call tells the part of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "old calls count so"))]
enum Parts {
    Seconds,
    Microseconds,
    Nanoseconds,
}

fn times(caller: &Caller, address: usize, parts: Parts) -> Result<Change, Errno> {
    if address == 0 {
        return Ok(Change::Times(None));
    }
    let words = if parts == Parts::Seconds { 2 } else { 4 };
    let mut bytes = [0; 32];
    if caller.copy(address, &mut bytes[..words * 8])? != words * 8 {
        return Err(Errno::EFAULT);
    }
    let word = |place: usize| i64::from_ne_bytes(bytes[place * 8..][..8].try_into().unwrap_or_default());
    let time = |tv_sec, tv_nsec| libc::timespec { tv_sec, tv_nsec };
    let found = match parts {
        Parts::Seconds => [time(word(0), 0), time(word(1), 0)],
        Parts::Microseconds => {
            if [word(1), word(3)].iter().any(|part| !(0..1_000_000).contains(part)) {
                return Err(Errno::EINVAL);
            }
            [time(word(0), word(1) * 1000), time(word(2), word(3) * 1000)]
        }
        Parts::Nanoseconds => [time(word(0), word(1)), time(word(2), word(3))],
    };
    Ok(Change::Times(Some(found)))
}

/// A handle on the file, where it is, and whether the caller has it open for writing.
fn open(target: Target, caller: &Caller) -> Result<(File, PathBuf, bool), Errno> {
    let descriptor = |number: i32| {
        let (file, real) = caller::handle(&caller.place(number, Path::new("")), true)?;
        Ok((file, real, number != libc::AT_FDCWD && caller.writes(number)))
    };
    match target {
        Target::Descriptor(number) if number < 0 => Err(Errno::EBADF),
        Target::Descriptor(number) => descriptor(number),
        Target::Path { directory, path, follows, may_be_empty } => {
            let path = caller.path(path)?;
            if path.as_os_str().is_empty() {
                return if may_be_empty { descriptor(directory) } else { Err(Errno::ENOENT) };
            }
            let (file, real) = caller::handle(&caller.place(directory, &path), follows)?;
            Ok((file, real, false))
        }
    }
}

impl Change {
    fn make(&self, file: &File) -> Result<(), Errno> {
        let number = file.as_raw_fd();
        let place = CString::new(format!("/proc/self/fd/{number}")).map_err(|_| Errno::EINVAL)?;
        let empty = c"".as_ptr();
        // SAFETY: all that is pointed at outlives the calls, which only read it.
        let done = unsafe {
            match self {
                Self::Mode(mode) => libc::chmod(place.as_ptr(), *mode & 0o7777),
                Self::Owner(user, group) => libc::fchownat(number, empty, *user, *group, libc::AT_EMPTY_PATH),
                Self::Times(times) => {
                    let times = times.as_ref().map_or(std::ptr::null(), |times| times.as_ptr());
                    libc::utimensat(number, empty, times, libc::AT_EMPTY_PATH)
                }
                Self::Attribute { name, value, flags } => {
                    libc::setxattr(place.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), *flags)
                }
                Self::NoAttribute { name } => libc::removexattr(place.as_ptr(), name.as_ptr()),
            }
        };
        Errno::result(done).map(drop)
    }
}
