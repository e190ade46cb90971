//! The files that a frozen process has open, and how another process opens them under the same numbers.
//!
//! Runs in: checkpoint (`of_this_process`), the process that is woken (`reopen`). Only what can be opened again by its path and
//! is the same then: regular files and folders that have a name, and devices that are the same for every process.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open},
    sys::{
        eventfd::{EfdFlags, EventFd},
        stat::Mode,
    },
    unistd::{Whence, lseek},
};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::sys::open_files;

/// Devices that are the same for every process.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// One open descriptor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OpenFile {
    pub(super) number: RawFd,
    pub(super) path: String,
    flags: i32,
    closes: bool,
    offset: Option<i64>,
    /// Device and inode; none where any will do.
    file: Option<(u64, u64)>,
    /// A lower number that names the same description.
    twin: Option<RawFd>,
}

impl OpenFile {
    /// Something that is there to be closed; it can be waited for, as what was there.
    pub(super) fn placeholder(number: RawFd) -> Self {
        Self { number, path: String::new(), flags: 0, closes: true, offset: None, file: None, twin: None }
    }

    /// Device and inode; none where any file will do.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        self.file
    }

    /// It is this one, where the image is now.
    pub(super) fn identify(&mut self, file: (u64, u64)) {
        self.file = Some(file);
    }
}

/// All that is open but for `own`, which the waker replaces.
pub(super) fn of_this_process(own: &[RawFd]) -> Result<Vec<OpenFile>, Refusal> {
    let mut found: Vec<OpenFile> = Vec::new();
    let mut numbers = open_files::numbers();
    numbers.sort_unstable();
    for number in numbers.into_iter().filter(|number| !own.contains(number)) {
        // The one that the listing itself had open is closed again.
        if let Some(file) = look(number, &found)? {
            found.push(file);
        }
    }
    Ok(found)
}

fn look(number: RawFd, before: &[OpenFile]) -> Result<Option<OpenFile>, Refusal> {
    let link = format!("/proc/self/fd/{number}");
    let Ok(target) = fs::read_link(&link) else { return Ok(None) };
    let target = target.to_string_lossy().into_owned();
    let unknown = || Refusal::Descriptor { number, target: target.clone() };
    let status = fs::metadata(&link).map_err(|_| unknown())?;
    let (is_file, is_device) = (status.is_file() || status.is_dir(), DEVICES.contains(&target.as_str()));
    if !is_file && !is_device {
        return Err(unknown());
    }
    if is_file && (status.nlink() == 0 || target.ends_with(" (deleted)")) {
        return Err(Refusal::Deleted(target.trim_end_matches(" (deleted)").to_owned()));
    }
    if target.starts_with("/dev/shm/") {
        return Err(Refusal::SharedMemory(target));
    }
    if target.starts_with("/proc/") || target.starts_with("/sys/") {
        // What is read there depends on who reads, and when.
        return Err(unknown());
    }
    if open_files::has_lock(number) {
        return Err(Refusal::Locked(target));
    }
    let descriptor = borrow(number);
    let flags = fcntl(descriptor, FcntlArg::F_GETFL).map_err(|_| unknown())?;
    let closes = FdFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFD).map_err(|_| unknown())?);
    let twin = before.iter().find(|other| {
        other.twin.is_none()
            && other.file == Some((status.dev(), status.ino()))
            && open_files::is_same_description(other.number, number)
    });
    Ok(Some(OpenFile {
        number,
        flags: (OFlag::from_bits_retain(flags) & open_files::KEPT).bits(),
        closes: closes.contains(FdFlag::FD_CLOEXEC),
        offset: lseek(descriptor, 0, Whence::SeekCur).ok(),
        // Devices are the same whatever file system they lie in.
        file: is_file.then(|| (status.dev(), status.ino())),
        twin: twin.map(|other| other.number),
        path: target,
    }))
}

/// Opens all of them. The numbers are free in this process.
pub(super) fn reopen(files: &[OpenFile]) -> Result<(), Refusal> {
    for file in files {
        let refused = |source: io::Error| Refusal::Open { path: file.path.clone(), source };
        if let Some(twin) = file.twin {
            put(borrow(twin), file).map_err(refused)?;
            continue;
        }
        if file.path.is_empty() {
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|errno| refused(errno.into()))?;
            place(event.into(), file).map_err(refused)?;
            continue;
        }
        let flags = OFlag::from_bits_retain(file.flags) | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let opened = open(file.path.as_str(), flags, Mode::empty()).map_err(|errno| refused(errno.into()))?;
        let status = fs::metadata(format!("/proc/self/fd/{}", opened.as_raw_fd())).map_err(refused)?;
        if file.file.is_some_and(|then| then != (status.dev(), status.ino())) {
            return Err(Refusal::FileChanged { path: file.path.clone() });
        }
        if let Some(offset) = file.offset.filter(|_| file.file.is_some()) {
            lseek(&opened, offset, Whence::SeekSet).map_err(|errno| refused(errno.into()))?;
        }
        place(opened, file).map_err(refused)?;
    }
    Ok(())
}

fn place(opened: OwnedFd, file: &OpenFile) -> io::Result<()> {
    if opened.as_raw_fd() == file.number {
        fcntl(&opened, FcntlArg::F_SETFD(if file.closes { FdFlag::FD_CLOEXEC } else { FdFlag::empty() }))?;
        // It stays open under this number.
        std::mem::forget(opened);
        return Ok(());
    }
    put(opened.as_fd(), file)
}

fn put(opened: BorrowedFd<'_>, file: &OpenFile) -> io::Result<()> {
    let flags = if file.closes { libc::O_CLOEXEC } else { 0 };
    // SAFETY: the number is free, or names standard input or output: the caller's promise.
    match unsafe { libc::dup3(opened.as_raw_fd(), file.number, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the numbers come from this process' own table, and it has one thread; one that is closed makes the call fail.
    unsafe { BorrowedFd::borrow_raw(number) }
}
