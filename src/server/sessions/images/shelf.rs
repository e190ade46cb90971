//! The folder in which a server keeps images: who else may look into it, the key, and the room that there is.
//!
//! Runs in: server, on blocking threads where files are written. Knows files, and not what they are of.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::RawFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::SystemTime,
};

use parking_lot::Mutex;

use super::sealed::{self, Broken, Key, Name};
use crate::{
    settings::policy::SleepBounds,
    sys::{parcel::Parcel, random},
};

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
    #[error("its image was written by another version of forkpy")]
    OtherVersion,
    #[error("what its image has in common with others is not there any more")]
    NoBase,
}

impl From<Broken> for ImageError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Read(error) => Self::Read(error),
            Broken::Changed => Self::Changed,
            Broken::OtherVersion => Self::OtherVersion,
        }
    }
}

/// A file that is no image any more: its head was changed or cut short. No session can be told from it.
#[derive(Debug)]
pub(super) struct Damaged {
    pub(super) path: PathBuf,
    /// With what lies beside it.
    pub(super) bytes: u64,
    pub(super) written: SystemTime,
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
    /// Bytes of all files, and of damaged ones that servers before this one have left.
    pub(super) held: AtomicU64,
    /// These. The first to go when there is no room.
    damaged: Mutex<Vec<Damaged>>,
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
            None => (scratch.join("asleep"), random::bytes()?, None),
        };
        Ok(Self::with(folder, bounds.folder.clone(), (lock, key), bounds.disk))
    }

    /// For what comes from elsewhere: a folder that no server looks into before [`Self::hand_over`]. All that lies in the one that is
    /// named counts.
    pub(super) fn for_arrivals(named: &Path, limit: u64) -> io::Result<Self> {
        check_folder(named)?;
        let key = key_of(named)?;
        let folder = named.join(format!(".{}", uuid::Uuid::new_v4().simple()));
        let held = bytes_below(named);
        let lock = new_folder(&folder)?;
        let shelf = Self::with(folder, Some(named.to_owned()), (Some(lock), key), limit);
        shelf.held.store(held, Ordering::Relaxed);
        Ok(shelf)
    }

    /// From now on servers find what lies there.
    pub(super) fn hand_over(self) -> io::Result<()> {
        let name = self.folder.file_name().map(|name| name.to_string_lossy().trim_start_matches('.').to_owned());
        let to = self.named.clone().unwrap_or_default().join(format!("{OWN}{}", name.unwrap_or_default()));
        File::open(&self.folder)?.sync_all()?;
        fs::rename(&self.folder, to)
    }

    fn with(folder: PathBuf, named: Option<PathBuf>, (lock, key): (Option<File>, Key), limit: u64) -> Self {
        let (held, stays, damaged) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::default());
        Self { folder, named, lock, limit, key, held, damaged, stays }
    }

    /// Takes it along: where it is, the number of its lock, and its key.
    pub(super) fn pack(&self, parcel: &mut Parcel) -> io::Result<(PathBuf, Option<RawFd>, Key)> {
        let lock = self.lock.as_ref().map(|lock| parcel.add(lock)).transpose()?;
        Ok((self.folder.clone(), lock, self.key))
    }

    /// Goes on with it; files are counted as they are found.
    pub(super) fn going_on(folder: PathBuf, lock: Option<File>, key: Key, bounds: &SleepBounds) -> Self {
        Self::with(folder, bounds.folder.clone(), (lock, key), bounds.disk)
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

    /// Writes a file of ours, within the room that there is, in one step for all who look. Gives its bytes.
    pub(super) fn write_whole(
        &self,
        path: &Path,
        name: &Name,
        head: &[u8],
        body: &mut File,
    ) -> Result<u64, ImageError> {
        let part = path.with_extension("part");
        let bytes = self.write(&part, name, head, body)?;
        if let Err(source) = fs::rename(&part, path) {
            let _ = fs::remove_file(&part);
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ImageError::Write { folder: self.folder.clone(), source });
        }
        Ok(bytes)
    }

    /// The same; until it is whole, it lies there in part.
    pub(super) fn write(&self, path: &Path, name: &Name, head: &[u8], body: &mut File) -> Result<u64, ImageError> {
        let refuse = |source| ImageError::Write { folder: self.folder.clone(), source };
        make_folder(&self.folder).map_err(refuse)?;
        let (mut taken, limit) = (0, self.limit);
        let mut room = |more: u64| {
            taken += more;
            let mut held = self.held.fetch_add(more, Ordering::Relaxed) + more;
            while held > limit {
                self.give_one_up().ok_or(io::ErrorKind::QuotaExceeded)?;
                held = self.held.load(Ordering::Relaxed);
            }
            Ok(())
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

impl Shelf {
    /// What is damaged among what other servers have left, as it was found now.
    pub(super) fn note_damaged(&self, found: Vec<Damaged>) {
        let bytes = |damaged: &[Damaged]| damaged.iter().map(|one| one.bytes).sum::<u64>();
        let mut damaged = self.damaged.lock();
        for new in found.iter().filter(|new| !damaged.iter().any(|known| known.path == new.path)) {
            let (path, bytes) = (new.path.display(), new.bytes);
            tracing::warn!(%path, bytes, "is no image any more; it goes when room is needed, or by `forkpy sessions delete`");
        }
        self.held.fetch_add(bytes(&found), Ordering::Relaxed);
        self.held.fetch_sub(bytes(&damaged), Ordering::Relaxed);
        *damaged = found;
    }

    /// Makes room: the oldest of them goes. None where there is none.
    fn give_one_up(&self) -> Option<()> {
        let mut damaged = self.damaged.lock();
        let (place, _) = damaged.iter().enumerate().min_by_key(|(_, one)| one.written)?;
        let one = damaged.swap_remove(place);
        self.held.fetch_sub(one.bytes, Ordering::Relaxed);
        let (path, bytes) = (one.path.display(), one.bytes);
        tracing::warn!(%path, bytes, "is no image any more, and was removed: there was no room for others (--state-disk)");
        remove(&one.path);
        Some(())
    }
}

/// Removes an image and what lies beside it.
pub(super) fn remove_all_of(path: &Path) {
    for end in ["image", "since", "values"] {
        let _ = fs::remove_file(path.with_extension(end));
    }
}

/// The same; the folder of a server that has ended goes with its last one.
fn remove(path: &Path) {
    remove_all_of(path);
    let folder = path.parent().unwrap_or(path);
    if File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
        tidy(folder);
    }
}

/// Bytes of an image and of what lies beside it.
pub(super) fn bytes_of(path: &Path) -> u64 {
    let bytes = |end: &str| fs::metadata(path.with_extension(end)).map_or(0, |status| status.len());
    ["image", "since", "values"].into_iter().map(bytes).sum()
}

/// Bytes of all files in folders below one.
fn bytes_below(named: &Path) -> u64 {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries(named).flat_map(|entry| entries(&entry.path()));
    files.filter_map(|entry| entry.metadata().ok()).map(|status| status.len()).sum()
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
    check_folder(named)?;
    let id = uuid::Uuid::new_v4().simple();
    // It gets the name that others look for when it is locked.
    let (making, folder) = (named.join(format!(".{id}")), named.join(format!("{OWN}{id}")));
    let lock = new_folder(&making)?;
    fs::rename(&making, &folder)?;
    Ok((folder, lock))
}

/// A folder with a lock, which this process holds.
fn new_folder(folder: &Path) -> io::Result<File> {
    make_folder(folder)?;
    let mut lock = File::create(folder.join(LOCK))?;
    lock.lock()?;
    write!(lock, "{}", std::process::id())?;
    Ok(lock)
}

/// The folder that is named, made where it is not there, if only its user can write to it.
pub(super) fn check_folder(named: &Path) -> io::Result<()> {
    make_folder(named)?;
    let status = fs::metadata(named)?;
    if status.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    if status.mode() & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "other users may write there (chmod 700 it)"));
    }
    Ok(())
}

/// The key of a folder, made when there is none.
pub(super) fn key_of(named: &Path) -> io::Result<Key> {
    let path = named.join(KEY);
    let drawn = named.join(format!(".{KEY}-{}", uuid::Uuid::new_v4().simple()));
    if !path.exists() {
        File::options().write(true).create_new(true).mode(0o600).open(&drawn)?.write_all(&random::bytes::<32>()?)?;
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

pub(super) fn hex(name: &Name) -> String {
    uuid::Uuid::from_bytes(*name).simple().to_string()
}

pub(super) fn unhex(text: &str) -> Option<Name> {
    uuid::Uuid::try_parse(text).ok().map(uuid::Uuid::into_bytes)
}
