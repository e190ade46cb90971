//! Where sessions sleep: a folder of images, each of one session, sealed with a key that only this server has.
//!
//! Runs in: server; files are read and written on blocking threads. What an image is made of is `sys/image`; here it is bytes.
//! A file begins with a seal over all that follows it and over its number, so that none is taken for another, and none that
//! was changed or cut short is ever given to a process. What is given is a copy in memory that no process can change.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hmac::{Hmac, KeyInit, Mac};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use sha2::Sha256;

use crate::{settings::policy::SleepBounds, sys::descriptors};

/// Begin of each file.
const MAGIC: &[u8; 16] = b"forkpy image 1\r\n";
/// Behind it: the seal, and then what it is over.
const HEAD: usize = 16 + 32;
/// How servers' folders begin, and the file in each that is locked while its server lives.
const OWN: &str = "server-";
const LOCK: &str = "lock";
/// Bytes that are read and written at once.
const PIECE: usize = 256 << 10;

/// An image could not be kept, or not be given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("the image could not be written to {}: {source}", folder.display())]
    Write { folder: PathBuf, source: io::Error },
    #[error("the images of sleeping sessions take {} MB, this one would take {} MB, and their limit is {} MB (--state-disk)", held >> 20, more >> 20, limit >> 20)]
    NoRoom {
        /// Bytes.
        held: u64,
        more: u64,
        limit: u64,
    },
    #[error("its image cannot be read: {0}")]
    Read(#[source] io::Error),
    #[error("its image is not what was written: the file was changed, cut short or replaced")]
    Changed,
}

/// The folder. Cheap to copy.
#[derive(Debug, Clone)]
pub(crate) struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Held as long as this server lives, where another one may look into the folder.
    lock: Option<File>,
    limit: u64,
    key: [u8; 32],
    /// Bytes of all files.
    held: AtomicU64,
    numbers: AtomicU64,
}

/// One session's image. Dropped, the file is removed.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    number: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    images: Images,
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.images.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Images {
    /// Images lie in a folder of this server's own below the one that is named, or else below `scratch`. Folders that servers
    /// before have left there, which ended without a farewell, are removed: no key fits what is in them.
    ///
    /// # Errors
    /// When it cannot be made or is not this user's alone, or there are no random numbers for a key.
    pub(crate) fn new(bounds: &SleepBounds, scratch: &Path) -> io::Result<Self> {
        let (folder, lock) = match &bounds.folder {
            // A folder that cannot be made is to be known at the start, and not when the first session sleeps.
            Some(named) => {
                let made = own_folder(named);
                let (folder, lock) = made.map_err(|error| {
                    io::Error::new(error.kind(), format!("--state-dir {}: {error}", named.display()))
                })?;
                (folder, Some(lock))
            }
            None => (scratch.join("asleep"), None),
        };
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let (held, numbers) = (AtomicU64::new(0), AtomicU64::new(1));
        Ok(Self(Arc::new(Inner { folder, lock, limit: bounds.disk, key, held, numbers })))
    }

    /// The server ends, and all sessions have.
    pub(crate) fn end(&self) {
        if self.0.lock.is_some() {
            let _ = fs::remove_dir_all(&self.0.folder);
        }
    }

    /// A file in memory for a checkpoint to write itself to.
    pub(crate) fn draft() -> io::Result<OwnedFd> {
        descriptors::memory_file(c"forkpy-image")
    }

    /// Seals what was written there, and keeps it. Blocking.
    pub(crate) fn keep(&self, draft: OwnedFd) -> Result<Image, ImageError> {
        let refuse = |source| ImageError::Write { folder: self.0.folder.clone(), source };
        let mut draft = File::from(draft);
        let size = draft.metadata().map_err(refuse)?.len() + HEAD as u64;
        let held = self.0.held.fetch_add(size, Ordering::Relaxed);
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let path = self.0.folder.join(format!("{number}.image"));
        // From here on dropping it sets all right again.
        let image = Image { path, number, bytes: size, images: self.clone() };
        if held + size > self.0.limit {
            return Err(ImageError::NoRoom { held, more: size, limit: self.0.limit });
        }
        make_folder(&self.0.folder).map_err(refuse)?;
        self.write(&image, &mut draft).map_err(refuse)?;
        Ok(image)
    }

    fn write(&self, image: &Image, draft: &mut File) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        io::Seek::rewind(draft)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&image.path)?;
        file.write_all(MAGIC)?;
        file.write_all(&[0; 32])?;
        let mut seal = self.seal(image.number);
        carry(draft, &mut |piece| {
            seal.update(piece);
            file.write_all(piece)
        })?;
        file.write_all_at(&seal.finalize().into_bytes(), MAGIC.len() as u64)?;
        file.sync_data()
    }

    fn seal(&self, number: u64) -> Hmac<Sha256> {
        // A key may have any length.
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut seal = Hmac::<Sha256>::new_from_slice(&self.0.key).expect("a key");
        seal.update(&number.to_le_bytes());
        seal
    }
}

impl Image {
    /// A copy in memory that no process can change, once its seal is found to be right. Blocking.
    pub(crate) fn open(&self) -> Result<OwnedFd, ImageError> {
        let mut file =
            File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.path).map_err(ImageError::Read)?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ImageError::Changed,
            _ => ImageError::Read(error),
        })?;
        if head[..MAGIC.len()] != *MAGIC || file.metadata().map_err(ImageError::Read)?.len() != self.bytes {
            return Err(ImageError::Changed);
        }
        let copy = descriptors::sealable_memory_file(c"forkpy-image").map_err(ImageError::Read)?;
        let mut copy = File::from(copy);
        let mut seal = self.images.seal(self.number);
        carry(&mut file, &mut |piece| {
            seal.update(piece);
            copy.write_all(piece)
        })
        .map_err(ImageError::Read)?;
        seal.verify_slice(&head[MAGIC.len()..]).map_err(|_| ImageError::Changed)?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(copy.as_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| ImageError::Read(errno.into()))?;
        Ok(copy.into())
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
    remove_left_behind(named)?;
    let id = uuid::Uuid::new_v4().simple();
    // It gets the name that others look for when it is locked.
    let (making, folder) = (named.join(format!(".{id}")), named.join(format!("{OWN}{id}")));
    make_folder(&making)?;
    let lock = File::create(making.join(LOCK))?;
    lock.lock()?;
    fs::rename(&making, &folder)?;
    Ok((folder, lock))
}

fn remove_left_behind(named: &Path) -> io::Result<()> {
    for entry in fs::read_dir(named)?.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(OWN));
        if is_ours && File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn carry(from: &mut File, to: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            count => to(&piece[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;

    fn images(limit: u64) -> (tempfile::TempDir, Images) {
        let folder = tempfile::tempdir().expect("a folder");
        let bounds = SleepBounds { folder: Some(folder.path().to_owned()), disk: limit, ..SleepBounds::default() };
        let images = Images::new(&bounds, folder.path()).expect("made");
        (folder, images)
    }

    fn kept(images: &Images, text: &[u8]) -> Result<Image, ImageError> {
        let draft = Images::draft().expect("memory");
        File::from(draft.try_clone().expect("one more")).write_all(text).expect("written");
        images.keep(draft)
    }

    #[test]
    fn what_is_given_back_is_what_was_kept_and_cannot_be_changed() {
        let (_folder, images) = images(1 << 20);
        let image = kept(&images, b"all of it").expect("kept");
        assert_eq!(fs::metadata(&image.path).expect("there").permissions().mode() & 0o777, 0o600);
        let copy = File::from(image.open().expect("right"));
        let mut text = [0; 9];
        copy.read_exact_at(&mut text, 0).expect("read");
        assert_eq!(&text, b"all of it");
        assert!(copy.write_all_at(b"x", 0).is_err(), "sealed");
        let path = image.path.clone();
        drop(image);
        assert!(!path.exists() && images.0.held.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn a_byte_that_changed_is_seen_wherever_it_is_and_so_is_an_end_that_is_missing() {
        let (_folder, images) = images(1 << 20);
        let image = kept(&images, &[7; 5000]).expect("kept");
        let whole = fs::read(&image.path).expect("read");
        for place in [0, 15, 16, 47, 48, 49, 3000, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            fs::write(&image.path, &changed).expect("written");
            assert!(matches!(image.open(), Err(ImageError::Changed)), "byte {place}");
        }
        for length in [0, 10, 48, 100, whole.len() - 1] {
            fs::write(&image.path, &whole[..length]).expect("written");
            assert!(matches!(image.open(), Err(ImageError::Changed)), "{length} bytes");
        }
        fs::write(&image.path, [whole.as_slice(), &[0]].concat()).expect("written");
        assert!(matches!(image.open(), Err(ImageError::Changed)), "one byte more");
        fs::write(&image.path, &whole).expect("written");
        assert!(image.open().is_ok(), "as it was");
        fs::remove_file(&image.path).expect("removed");
        assert!(matches!(image.open(), Err(ImageError::Read(_))));
    }

    #[test]
    fn one_image_is_not_taken_for_another_nor_is_one_of_another_server() {
        let (folder, images) = images(1 << 20);
        let (one, two) = (kept(&images, b"one").expect("kept"), kept(&images, b"two").expect("kept"));
        fs::copy(&two.path, &one.path).expect("replaced");
        assert!(matches!(one.open(), Err(ImageError::Changed)));
        let others = Images::new(&SleepBounds { folder: None, ..SleepBounds::default() }, folder.path()).expect("made");
        let third = kept(&others, b"one").expect("kept");
        fs::copy(&third.path, &one.path).expect("replaced");
        assert!(matches!(one.open(), Err(ImageError::Changed)));
    }

    #[test]
    fn what_a_server_left_behind_is_removed_and_what_one_uses_is_not() {
        let (folder, first) = images(1 << 20);
        let image = kept(&first, b"in use").expect("kept");
        let left = folder.path().join("server-left");
        fs::create_dir(&left).expect("made");
        fs::write(left.join(LOCK), "").expect("written");
        fs::write(left.join("1.image"), "old").expect("written");
        let bounds = SleepBounds { folder: Some(folder.path().to_owned()), ..SleepBounds::default() };
        let second = Images::new(&bounds, folder.path()).expect("made");
        assert!(!left.exists() && image.open().is_ok());
        second.end();
        assert!(!second.0.folder.exists() && image.open().is_ok());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(Images::new(&bounds, folder.path()).expect_err("open to all").to_string().contains("--state-dir"));
    }

    #[test]
    fn what_is_too_much_is_refused_and_counts_no_more() {
        let (_folder, images) = images(10_000);
        let first = kept(&images, &[1; 6000]).expect("kept");
        assert!(matches!(kept(&images, &[2; 6000]), Err(ImageError::NoRoom { .. })));
        drop(first);
        assert!(kept(&images, &[2; 6000]).is_ok(), "room again");
    }
}
