//! The files that this process has open, and how a fork gets descriptions of its own for them.
//!
//! Runs in: worker (`positions`, just before the fork), checkpoint and woken worker (`own`, just after it). A fork shares each
//! *open file description* with its parent: what one reads, the other has not to read any more. So a copy opens its regular
//! files and folders again, by `/proc/self/fd/N`, and goes to where its parent was at the moment of the fork. That works for
//! deleted files too. What a description holds beside a position, a lock of `flock` or an OFD lock, cannot be had twice: such
//! a file stays shared, and is told.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open},
    sys::stat::{FileStat, Mode, SFlag, fstat},
    unistd::{Whence, lseek},
};

/// Flags of a description that are asked for again. The others act once, when a file is opened.
pub(super) const KEPT: OFlag = OFlag::O_ACCMODE
    .union(OFlag::O_APPEND)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_DSYNC)
    .union(OFlag::O_SYNC)
    .union(OFlag::O_DIRECT)
    .union(OFlag::O_NOATIME);
/// `fcntl`: whether two descriptors are one description (Linux 6.10).
const F_DUPFD_QUERY: libc::c_int = 1024 + 3;
/// `kcmp`: the same question, for older kernels.
const KCMP_FILE: libc::c_long = 0;

/// Where a description stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// A descriptor of it.
    pub number: RawFd,
    /// Bytes from the beginning.
    pub offset: i64,
}

/// Why a file is still shared with the process that this is a fork of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shared {
    /// A lock belongs to its description.
    Locked,
    /// It could not be opened again.
    Refused(ErrorKind),
}

/// Numbers of all open descriptors.
#[must_use]
pub(crate) fn numbers() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Positions of everything that is open and has one, but for standard input and output and what `but` names.
#[must_use]
pub(crate) fn positions(but: &[RawFd]) -> Vec<Position> {
    let found = numbers().into_iter().filter(|number| *number > 2 && !but.contains(number));
    let position = |number| {
        let offset = lseek(borrow(number), 0, Whence::SeekCur).ok()?;
        Some(Position { number, offset })
    };
    found.filter_map(position).collect()
}

/// In a fork: gives this process its own descriptions of the regular files and folders among these, at these positions.
/// Comes back with those that stay shared.
pub(crate) fn own(positions: &[Position]) -> Vec<(RawFd, Shared)> {
    let mut shared = Vec::new();
    let mut files: Vec<(Position, File)> =
        positions.iter().filter_map(|position| Some((*position, file_of(position.number)?))).collect();
    while let Some((position, file)) = files.pop() {
        let mut names = vec![position.number];
        files.retain(|(other, known)| {
            let is_twin = *known == file && is_same_description(position.number, other.number);
            if is_twin {
                names.push(other.number);
            }
            !is_twin
        });
        // One at a time: the session may have taken nearly all the descriptors that it is allowed.
        if let Err(why) = replace(position, file, &names) {
            shared.extend(names.into_iter().map(|number| (number, why.clone())));
        }
    }
    shared
}

/// Opens one description anew, under all the numbers that it has.
fn replace(position: Position, file: File, names: &[RawFd]) -> Result<(), Shared> {
    if is_locked(position.number) {
        return Err(Shared::Locked);
    }
    let refused = |error: io::Error| Shared::Refused(error.kind());
    let own = reopen(position, file).map_err(refused)?;
    names.iter().try_for_each(|number| put_in_place(&own, *number)).map_err(refused)
}

type File = (u64, u64);

/// Which file this is, if it is one that can be opened again.
fn file_of(number: RawFd) -> Option<File> {
    let status: FileStat = fstat(borrow(number)).ok()?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    (kind == SFlag::S_IFREG || kind == SFlag::S_IFDIR).then_some((status.st_dev, status.st_ino))
}

fn reopen(position: Position, file: File) -> io::Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(fcntl(borrow(position.number), FcntlArg::F_GETFL)?) & KEPT;
    let path = format!("/proc/self/fd/{}", position.number);
    let new = open(path.as_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())?;
    if file_of(new.as_raw_fd()) != Some(file) {
        return Err(ErrorKind::NotFound.into());
    }
    lseek(&new, position.offset, Whence::SeekSet)?;
    Ok(new)
}

/// Makes `number` name what `new` names, with the close-on-exec that it had.
fn put_in_place(new: &OwnedFd, number: RawFd) -> io::Result<()> {
    let closes = FdFlag::from_bits_retain(fcntl(borrow(number), FcntlArg::F_GETFD)?).contains(FdFlag::FD_CLOEXEC);
    let flags = if closes { libc::O_CLOEXEC } else { 0 };
    // SAFETY: the number stays open and goes on naming the same file: its owner does not notice.
    match unsafe { libc::dup3(new.as_raw_fd(), number, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether one moves with the other: `os.dup` made it, or a child's standard output.
pub(super) fn is_same_description(one: RawFd, other: RawFd) -> bool {
    // SAFETY: both calls take numbers only.
    unsafe {
        match libc::fcntl(one, F_DUPFD_QUERY, other) {
            -1 => {
                let own = libc::c_long::from(libc::getpid());
                libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, libc::c_long::from(one), libc::c_long::from(other))
                    == 0
            }
            same => same == 1,
        }
    }
}

/// Whether a lock belongs to this description: of `flock`, or an open-file-description lock.
fn is_locked(number: RawFd) -> bool {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    about.lines().any(|line| line.starts_with("lock:") && (line.contains("FLOCK") || line.contains("OFDLCK")))
}

/// Whether any lock is held by it.
pub(super) fn has_lock(number: RawFd) -> bool {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    about.lines().any(|line| line.starts_with("lock:"))
}

fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the numbers come from this process' own table, and it has one thread that opens and closes: the caller's. One
    // that is closed all the same makes the call fail.
    unsafe { BorrowedFd::borrow_raw(number) }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek, SeekFrom, Write},
    };

    use super::*;

    fn position_of(file: &File) -> Position {
        let number = file.as_raw_fd();
        positions(&[]).into_iter().find(|position| position.number == number).expect("open")
    }

    #[test]
    fn a_description_of_its_own_stands_where_the_shared_one_stood() {
        let mut file = tempfile::tempfile().expect("a deleted file");
        file.write_all(b"0123456789").expect("written");
        file.seek(SeekFrom::Start(4)).expect("moved");
        let mut original = file.try_clone().expect("one more descriptor of the same description");
        let mut twin = file.try_clone().expect("one that is to move along");
        let then = [position_of(&file), position_of(&twin)];
        original.seek(SeekFrom::Start(9)).expect("it goes on");
        assert_eq!(own(&then), []);
        let mut text = [0; 2];
        file.read_exact(&mut text).expect("read");
        assert_eq!(&text, b"45", "where it stood then");
        twin.read_exact(&mut text).expect("read");
        assert_eq!(&text, b"67", "it was one description with the first, and still is");
        assert_eq!(original.stream_position().expect("known"), 9, "and the other is where it was");
    }

    #[test]
    fn a_locked_description_stays_shared() {
        let file = tempfile::tempfile().expect("a file");
        file.lock().expect("no other process has it");
        assert_eq!(own(&[position_of(&file)]), [(file.as_raw_fd(), Shared::Locked)]);
        file.unlock().expect("ours");
        assert_eq!(own(&[position_of(&file)]), []);
    }

    #[test]
    fn flags_and_close_on_exec_are_kept_and_nothing_is_truncated() {
        let path = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
        let mut file = File::options().append(true).open(&path).expect("open");
        file.write_all(b"kept").expect("written");
        let before = (fcntl(&file, FcntlArg::F_GETFL), fcntl(&file, FcntlArg::F_GETFD));
        assert_eq!(own(&[position_of(&file)]), []);
        assert_eq!((fcntl(&file, FcntlArg::F_GETFL), fcntl(&file, FcntlArg::F_GETFD)), before);
        assert_eq!(fs::read(&path).expect("there"), b"kept");
    }
}
