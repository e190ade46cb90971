//! This server's directory for files of an hour, `forkpy-…` below the temporary one, and those that servers before it left
//! behind because they were killed.
//!
//! Runs in: server. A directory is its server's as long as that holds the lock in it; the kernel lets go of the lock when
//! the process ends, however it ends. What is not locked, and this user's, is removed at the next start, behind.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{OwnedFd, RawFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use super::parcel::Parcel;

const PREFIX: &str = "forkpy-";
const EXCHANGE: &str = "exchange";
/// Shows that a directory is one of these, and whether its server lives.
const LOCK: &str = "server.lock";

/// The directory. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: PathBuf,
    lock: File,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Scratch {
    /// Makes it, for this user alone.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub(crate) fn make() -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    fn make_in(above: &Path) -> io::Result<Self> {
        let own = PermissionsExt::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix(PREFIX).permissions(own).tempdir_in(above)?;
        let draft = directory.path().join(format!("{LOCK}.new"));
        let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        lock.lock()?;
        // Under its name it is locked from the first moment on.
        fs::rename(draft, directory.path().join(LOCK))?;
        DirBuilder::new().mode(0o700).create(directory.path().join(EXCHANGE))?;
        Ok(Self { directory: directory.keep(), lock })
    }

    /// Takes it along: where it is, and the number of its lock.
    pub(crate) fn pack(&self, parcel: &mut Parcel) -> io::Result<(PathBuf, RawFd)> {
        Ok((self.directory.clone(), parcel.add(&self.lock)?))
    }

    /// Goes on with it.
    pub(crate) fn going_on(directory: PathBuf, lock: OwnedFd) -> Self {
        Self { directory, lock: lock.into() }
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// A folder in it for files that one worker writes and another reads; confined ones cannot list it.
    #[must_use]
    pub(crate) fn exchange(&self) -> PathBuf {
        self.path().join(EXCHANGE)
    }
}

/// Removes what servers that are gone have left. Blocking.
pub(crate) fn remove_left_behind() {
    for path in left_behind(&std::env::temp_dir()) {
        match fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!("removed {}, which a server that was killed had left", path.display()),
            Err(error) => tracing::warn!("failed to remove {}: {error}", path.display()),
        }
    }
}

fn left_behind(above: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(above).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    named.map(|entry| entry.path()).filter(|path| is_left_behind(path)).collect()
}

fn is_left_behind(path: &Path) -> bool {
    let own = geteuid().as_raw();
    let is_own =
        fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == own && found.mode() & 0o077 == 0);
    let lock = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path.join(LOCK));
    is_own && lock.is_ok_and(|lock| lock.metadata().is_ok_and(|found| found.is_file()) && lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_any_more_is_left_behind() {
        let above = tempfile::tempdir().expect("a directory");
        let living = Scratch::make_in(above.path()).expect("made");
        assert_eq!(fs::metadata(living.path()).expect("made").mode() & 0o777, 0o700);
        let dead = above.path().join("forkpy-dead");
        let stranger = above.path().join("forkpy-stranger");
        let open = above.path().join("forkpy-open");
        for (path, lock) in [(&dead, true), (&stranger, false), (&open, true)] {
            DirBuilder::new().mode(0o700).create(path).expect("made");
            if lock {
                fs::write(path.join(LOCK), "").expect("written");
            }
        }
        fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).expect("ours");
        assert_eq!(left_behind(above.path()), std::slice::from_ref(&dead));
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
