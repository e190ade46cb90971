//! The folder in which a server keeps images: who else may look into it, the key, and the room that there is.
//!
//! Runs in: server, on blocking threads where files are written. Knows files, and not what they are of.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::RawFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::sealed::{self, Broken, Key, Name};
use crate::{settings::policy::SleepBounds, sys::parcel::Parcel};

/// How servers' folders begin, and the file in each that is locked while its server lives.
pub(super) const OWN: &str = "server-";
pub(super) const LOCK: &str = "lock";
pub(super) const KEY: &str = "key";

/// An image could not be kept, or not be given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("the image could not be written to {}: {source}", folder.display())]
    Write { folder: PathBuf, source: io::Error },
    #[error("the images of sleeping sessions take {} MB, and there is no room for this one within {} MB (--state-disk)", held >> 20, limit >> 20)]
    NoRoom {
        /// Bytes.
        held: u64,
        limit: u64,
    },
    #[error("its image cannot be read: {0}")]
    Read(#[source] io::Error),
    #[error("its image is not what was written: the file was changed, cut short or replaced")]
    Changed,
    #[error("what its image has in common with others is not there any more")]
    NoBase,
}

impl From<Broken> for ImageError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Read(error) => Self::Read(error),
            Broken::Changed => Self::Changed,
        }
    }
}

/// The folder.
#[derive(Debug)]
pub(super) struct Shelf {
    /// Of this server.
    pub(super) folder: PathBuf,
    /// What `--state-dir` names.
    pub(super) named: Option<PathBuf>,
    /// Held as long as this server lives, where another one may look into the folder.
    lock: Option<File>,
    limit: u64,
    pub(super) key: Key,
    /// Bytes of all files.
    pub(super) held: AtomicU64,
    /// The server ends, and what is there stays for the next one.
    stays: AtomicBool,
}

impl Shelf {
    /// A folder of this server's own below the one that is named, or else below `scratch`.
    pub(super) fn new(bounds: &SleepBounds, scratch: &Path) -> io::Result<Self> {
        let (folder, key, lock) = match &bounds.folder {
            // A folder that cannot be made is to be known at the start, and not when the first session sleeps.
            Some(named) => {
                let made = own_folder(named).and_then(|(folder, lock)| Ok((folder, key_of(named)?, Some(lock))));
                made.map_err(|error| io::Error::new(error.kind(), format!("--state-dir {}: {error}", named.display())))?
            }
            None => (scratch.join("asleep"), random()?, None),
        };
        let (held, stays) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { folder, named: bounds.folder.clone(), lock, limit: bounds.disk, key, held, stays })
    }

    /// Takes it along: where it is, the number of its lock, and its key.
    pub(super) fn pack(&self, parcel: &mut Parcel) -> io::Result<(PathBuf, Option<RawFd>, Key)> {
        let lock = self.lock.as_ref().map(|lock| parcel.add(lock)).transpose()?;
        Ok((self.folder.clone(), lock, self.key))
    }

    /// Goes on with it; files are counted as they are found.
    pub(super) fn going_on(folder: PathBuf, lock: Option<File>, key: Key, bounds: &SleepBounds) -> Self {
        let (held, stays) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { folder, named: bounds.folder.clone(), lock, limit: bounds.disk, key, held, stays }
    }

    /// Whether the next server finds what lies here.
    pub(super) fn is_for_the_next(&self) -> bool {
        self.lock.is_some()
    }

    /// From now on no file is removed.
    pub(super) fn leave_to_the_next(&self) {
        self.stays.store(self.is_for_the_next(), Ordering::Relaxed);
    }

    pub(super) fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed)
    }

    pub(super) fn path_of(&self, name: &Name, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", hex(name)))
    }

    /// Writes a file of ours, within the room that there is. Gives its bytes.
    pub(super) fn write(&self, path: &Path, name: &Name, head: &[u8], body: &mut File) -> Result<u64, ImageError> {
        let refuse = |source| ImageError::Write { folder: self.folder.clone(), source };
        make_folder(&self.folder).map_err(refuse)?;
        let (mut taken, limit) = (0, self.limit);
        let mut room = |more: u64| {
            taken += more;
            match self.held.fetch_add(more, Ordering::Relaxed) + more > limit {
                true => Err(io::ErrorKind::QuotaExceeded.into()),
                false => Ok(()),
            }
        };
        let written = sealed::write(path, (&self.key, name), head, body, &mut room);
        written.map(|()| taken).map_err(|error| {
            let _ = fs::remove_file(path);
            let held = self.held.fetch_sub(taken, Ordering::Relaxed) - taken;
            match error.kind() == io::ErrorKind::QuotaExceeded && held + taken > limit {
                true => ImageError::NoRoom { held, limit },
                false => refuse(error),
            }
        })
    }
}

/// Images that lie in a folder.
pub(super) fn images_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "image"))
}

/// Removes a folder in which no image is left.
pub(super) fn tidy(folder: &Path) {
    if images_in(folder).next().is_none() {
        let _ = fs::remove_dir_all(folder);
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A new folder in one that only its user can write to, and the lock by which it is known to be in use.
fn own_folder(named: &Path) -> io::Result<(PathBuf, File)> {
    make_folder(named)?;
    let status = fs::metadata(named)?;
    if status.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    if status.mode() & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "other users may write there (chmod 700 it)"));
    }
    let id = uuid::Uuid::new_v4().simple();
    // It gets the name that others look for when it is locked.
    let (making, folder) = (named.join(format!(".{id}")), named.join(format!("{OWN}{id}")));
    make_folder(&making)?;
    let mut lock = File::create(making.join(LOCK))?;
    lock.lock()?;
    write!(lock, "{}", std::process::id())?;
    fs::rename(&making, &folder)?;
    Ok((folder, lock))
}

/// The key of a folder, made when there is none.
fn key_of(named: &Path) -> io::Result<Key> {
    let path = named.join(KEY);
    let drawn = named.join(format!(".{KEY}-{}", uuid::Uuid::new_v4().simple()));
    if !path.exists() {
        File::options().write(true).create_new(true).mode(0o600).open(&drawn)?.write_all(&random::<32>()?)?;
        // Another server may have made one meanwhile: that stays.
        let linked = fs::hard_link(&drawn, &path);
        fs::remove_file(&drawn)?;
        linked.or_else(|error| if path.exists() { Ok(()) } else { Err(error) })?;
    }
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
    let status = file.metadata()?;
    if status.mode() & 0o077 != 0 || status.uid() != nix::unistd::geteuid().as_raw() {
        let words = "its file \"key\" may be read by other users (chmod 600 it)";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    let mut key = Key::default();
    file.read_exact_at(&mut key, 0).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "its file \"key\" is cut short"),
        _ => error,
    })?;
    Ok(key)
}

pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn hex(name: &Name) -> String {
    uuid::Uuid::from_bytes(*name).simple().to_string()
}

pub(super) fn unhex(text: &str) -> Option<Name> {
    uuid::Uuid::try_parse(text).ok().map(uuid::Uuid::into_bytes)
}
