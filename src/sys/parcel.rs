//! What a process hands to the program that it becomes by exec: descriptors under numbers that both know, and a text.
//!
//! Runs in: server. Nothing is given away before the exec: until then all descriptors are copies, closed with the parcel.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use super::descriptors;

/// Descriptors on their way.
#[derive(Debug, Default)]
pub(crate) struct Parcel(Vec<OwnedFd>);

impl Parcel {
    /// Takes a copy along; the number that it has on the other side.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(crate) fn add(&mut self, descriptor: impl AsFd) -> io::Result<RawFd> {
        let copy = descriptor.as_fd().try_clone_to_owned()?;
        let number = copy.as_raw_fd();
        self.0.push(copy);
        Ok(number)
    }

    /// Takes along what another one holds.
    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// With a text, whose number is given back; from now on an exec keeps them all.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn close(&mut self, text: &[u8]) -> io::Result<RawFd> {
        let mut file = File::from(descriptors::memory_file(c"forkpy:restart")?);
        file.write_all(text)?;
        file.seek(SeekFrom::Start(0))?;
        let number = file.as_raw_fd();
        self.0.push(file.into());
        self.0.iter().try_for_each(|kept| descriptors::close_on_exec(kept.as_fd(), false))?;
        Ok(number)
    }

    /// The exec has failed: what others start meanwhile does not inherit them.
    pub(crate) fn reopen(&self) {
        for kept in &self.0 {
            let _ = descriptors::close_on_exec(kept.as_fd(), true);
        }
    }
}

/// The text, on the other side.
///
/// # Safety
/// The number must be that of [`Parcel::close`], and taken once.
pub(crate) unsafe fn open(number: RawFd) -> io::Result<Vec<u8>> {
    // SAFETY: as the caller says.
    let mut file = File::from(unsafe { take(number) }?);
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// One of the descriptors, on the other side.
///
/// # Safety
/// The number must come from a parcel, and be taken once.
pub(crate) unsafe fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes a number, and looks at no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as the caller says, it is of no other value; it is open.
    let taken = unsafe { OwnedFd::from_raw_fd(number) };
    descriptors::close_on_exec(taken.as_fd(), true)?;
    Ok(taken)
}
