//! Where sessions sleep: a folder of images, each of one session, sealed with a key.
//!
//! Runs in: server; files are read and written on blocking threads. What an image is made of is `sys/image`; here it is bytes.
//! Without `--state-dir` key and folder end with the server. With it both stay: each server has a folder of its own there, and
//! locks a file in it while it lives, so that the next one can tell what was left to it (`adopt.rs`). `sealed.rs` is the
//! format of the files, `shelf.rs` the folder, `base.rs` what images have in common, `about.rs` what the next server has to know of one,
//! `packed.rs` how all of it stays where the server becomes another program. Beside an image may lie the session's variables by value, for
//! the case that it does not wake (`beside.rs`). What comes from another server is `arriving.rs`. A program that is no server looks into the folder by `outside.rs`.

pub(crate) mod about;
pub(crate) mod adopt;
mod arriving;
pub(crate) mod base;
mod beside;
pub(crate) mod outside;
pub(crate) mod packed;
mod sealed;
mod shelf;
pub(crate) mod zygotes;

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) use self::shelf::ImageError;
use self::{
    about::About,
    base::{Base, Bases},
    sealed::Name,
    shelf::Shelf,
};
use crate::{
    server::workers::zygote::Zygote,
    settings::policy::SleepBounds,
    sys::{descriptors, random},
};

/// The folder. Cheap to copy.
#[derive(Debug, Clone)]
pub(crate) struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shelf: Arc<Shelf>,
    workspace: PathBuf,
    bases: Bases,
}

/// One session's image. Dropped, the file is removed, unless it is left to the next server.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    name: Name,
    /// None where it is no memory, but variables by value.
    pub(crate) base: Option<Arc<Base>>,
    /// Bytes of the file, and of what lay beside it when it was found.
    bytes: u64,
    /// Bytes of what was put beside it since.
    more: AtomicU64,
    shelf: Arc<Shelf>,
}

impl Drop for Image {
    fn drop(&mut self) {
        if !self.shelf.stays() {
            self.discard();
            self.shelf.held.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }
}

impl Images {
    /// Images lie in a folder of this server's own below the one that is named, or else below `scratch`.
    ///
    /// # Errors
    /// When it cannot be made or is not this user's alone, or there are no random numbers for a key.
    pub(crate) fn new(bounds: &SleepBounds, scratch: &Path, workspace: &Path) -> io::Result<Self> {
        let shelf = Arc::new(Shelf::new(bounds, scratch)?);
        let bases = Bases::new(Arc::clone(&shelf));
        Ok(Self(Arc::new(Inner { shelf, workspace: workspace.to_owned(), bases })))
    }

    /// Where sessions work.
    pub(crate) fn workspace(&self) -> String {
        self.0.workspace.to_string_lossy().into_owned()
    }

    /// Whether the next server finds what lies here.
    pub(crate) fn is_for_the_next(&self) -> bool {
        self.0.shelf.is_for_the_next()
    }

    /// From now on no file is removed.
    pub(crate) fn leave_to_the_next(&self) {
        self.0.shelf.leave_to_the_next();
    }

    /// The base of the zygote that serves now, written when it is first asked for.
    pub(crate) async fn base(&self, zygote: &Zygote) -> Result<Arc<Base>, String> {
        self.0.bases.of(zygote).await
    }

    /// The server ends, and all sessions have.
    pub(crate) fn end(&self) {
        if self.is_for_the_next() {
            shelf::tidy(&self.0.shelf.folder);
        }
    }

    /// A file in memory for a checkpoint to write itself to.
    pub(crate) fn draft() -> io::Result<OwnedFd> {
        descriptors::memory_file(c"forkpy-image")
    }

    /// Seals what was written there, and keeps it. Blocking.
    pub(crate) fn keep(&self, draft: OwnedFd, base: &Arc<Base>, about: &About) -> Result<Image, ImageError> {
        self.keep_with(draft, Some(base), &About { base: base.id, ..about.clone() })
    }

    /// The same for a file of variables, of which `about` has the names.
    pub(crate) fn keep_values(&self, file: OwnedFd, about: &About) -> Result<Image, ImageError> {
        self.keep_with(file, None, about)
    }

    fn keep_with(&self, draft: OwnedFd, base: Option<&Arc<Base>>, about: &About) -> Result<Image, ImageError> {
        let name = random::bytes::<16>().map_err(ImageError::Read)?;
        let path = self.0.shelf.path_of(&name, "image");
        let bytes = self.0.shelf.write_whole(&path, &name, &about.head(), &mut File::from(draft))?;
        Ok(Image::of(path, name, base.cloned(), (bytes, &self.0.shelf)))
    }
}

impl Image {
    fn of(path: PathBuf, name: Name, base: Option<Arc<Base>>, (bytes, shelf): (u64, &Arc<Shelf>)) -> Self {
        Self { path, name, base, bytes, more: AtomicU64::new(0), shelf: Arc::clone(shelf) }
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + self.more.load(Ordering::Relaxed)
    }

    /// The image and its base, in memory that no process can change, once their seals are found to be right. Blocking.
    pub(crate) fn open(&self) -> Result<(OwnedFd, OwnedFd), ImageError> {
        let image = self.values()?;
        Ok((image, self.base.as_ref().ok_or(ImageError::NoBase)?.open()?))
    }

    /// What lies in the file alone. Blocking.
    pub(crate) fn values(&self) -> Result<OwnedFd, ImageError> {
        let key = &self.shelf.key;
        Ok(sealed::open(&self.path, key, &self.name)?.unpack(key, &self.name)?)
    }

    /// It is of no use any more, whatever else is left to the next server.
    pub(crate) fn discard(&self) {
        for file in [&self.path, &self.since(), &self.beside()] {
            let _ = fs::remove_file(file);
        }
    }

    /// Where it is noted that the session has gone on since.
    fn since(&self) -> PathBuf {
        self.path.with_extension("since")
    }

    /// The session has this image and goes on: notes the number of a cell that begins.
    pub(crate) fn note_cell(&self, cell: u64) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(self.since())?;
        file.write_all_at(&cell.to_le_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::fs::PermissionsExt,
    };

    use super::*;
    use crate::{server::sessions::images::about::Lasting, settings::policy::tests::policy};

    fn images(limit: u64) -> (tempfile::TempDir, Images) {
        let folder = tempfile::tempdir().expect("a folder");
        let images = in_folder(folder.path(), limit);
        (folder, images)
    }

    fn in_folder(folder: &Path, limit: u64) -> Images {
        let bounds = SleepBounds { folder: Some(folder.to_owned()), disk: limit, ..SleepBounds::default() };
        Images::new(&bounds, folder, Path::new("/workspace")).expect("made")
    }

    fn about(session: &str) -> About {
        About {
            base: [0; 16],
            owner: Some(Lasting::User),
            session: session.to_owned(),
            description: String::new(),
            policy: policy(),
            limits: crate::settings::limits::Limits::default(),
            workspace: "/workspace".to_owned(),
            python: "/usr/bin/python3".to_owned(),
            packages: vec!["numpy-2.0".to_owned(), "six-1".to_owned()],
            cell: 3,
            last_cell: 3,
            executed: 3,
            created: 1,
            written: 2,
            checkpoints: Vec::new(),
            by_value: Some((Vec::new(), Vec::new())),
        }
    }

    fn kept(images: &Images, text: &[u8]) -> Result<Image, ImageError> {
        let draft = Images::draft().expect("memory");
        File::from(draft.try_clone().expect("one more")).write_all(text).expect("written");
        images.keep_values(draft, &about("one"))
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("random");
        bytes
    }

    #[test]
    fn what_is_given_back_is_what_was_kept_and_cannot_be_changed() {
        let (_folder, images) = images(1 << 20);
        let image = kept(&images, b"all of it").expect("kept");
        assert_eq!(fs::metadata(&image.path).expect("there").permissions().mode() & 0o777, 0o600);
        let copy = File::from(image.values().expect("right"));
        let mut text = [0; 9];
        copy.read_exact_at(&mut text, 0).expect("read");
        assert_eq!(&text, b"all of it");
        assert!(copy.write_all_at(b"x", 0).is_err(), "sealed");
        let path = image.path.clone();
        drop(image);
        assert!(!path.exists() && images.0.shelf.held.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn a_byte_that_changed_is_seen_wherever_it_is_and_so_is_an_end_that_is_missing() {
        let (_folder, images) = images(1 << 20);
        let image = kept(&images, &noise(5000)).expect("kept");
        let whole = fs::read(&image.path).expect("read");
        for place in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            fs::write(&image.path, &changed).expect("written");
            assert!(matches!(image.values(), Err(ImageError::Changed)), "byte {place}");
        }
        for length in [0, 10, 48, 100, 200, whole.len() - 1] {
            fs::write(&image.path, &whole[..length]).expect("written");
            assert!(matches!(image.values(), Err(ImageError::Changed)), "{length} bytes");
        }
        fs::write(&image.path, [whole.as_slice(), &[0]].concat()).expect("written");
        assert!(matches!(image.values(), Err(ImageError::Changed)), "one byte more");
        fs::write(&image.path, &whole).expect("written");
        assert!(image.values().is_ok(), "as it was");
        fs::remove_file(&image.path).expect("removed");
        assert!(matches!(image.values(), Err(ImageError::Read(_))));
    }

    #[test]
    fn one_image_is_not_taken_for_another_nor_is_one_of_another_key() {
        let (_folder, here) = images(1 << 20);
        let (one, two) = (kept(&here, b"one").expect("kept"), kept(&here, b"two").expect("kept"));
        fs::copy(&two.path, &one.path).expect("replaced");
        assert!(matches!(one.values(), Err(ImageError::Changed)));
        let (_other, others) = images(1 << 20);
        let third = kept(&others, b"one").expect("kept");
        fs::copy(&third.path, &one.path).expect("replaced");
        assert!(matches!(one.values(), Err(ImageError::Changed)));
    }

    #[test]
    fn what_a_server_left_is_the_next_ones_and_what_one_uses_is_not() {
        let (folder, first) = images(1 << 20);
        let image = kept(&first, b"in use").expect("kept");
        image.note_cell(5).expect("noted");
        let second = in_folder(folder.path(), 1 << 20);
        assert!(second.adopt().is_empty() && image.values().is_ok());
        let pid = second.held_elsewhere(|about| about.session == "one");
        assert_eq!(pid, Some(std::process::id()));
        first.leave_to_the_next();
        let left = image.path.clone();
        drop((image, first));
        assert!(left.exists());
        let mut found = second.adopt();
        let adopted = found.pop().expect("one");
        assert_eq!((adopted.about.session.as_str(), adopted.lost()), ("one", Some((4, 5))));
        assert!(found.is_empty() && !left.exists() && adopted.image.values().is_ok());
        assert!(second.adopt().is_empty());
        // Another workspace's stays where it is.
        let third = kept(&second, b"elsewhere").expect("kept");
        second.leave_to_the_next();
        let path = third.path.clone();
        drop((third, adopted, second));
        let bounds = SleepBounds { folder: Some(folder.path().to_owned()), ..SleepBounds::default() };
        let other = Images::new(&bounds, folder.path(), Path::new("/other")).expect("made");
        assert!(other.adopt().is_empty() && path.exists());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_and_so_is_a_key_that_they_may_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let bounds = SleepBounds { folder: Some(folder.path().to_owned()), ..SleepBounds::default() };
        let made = || Images::new(&bounds, folder.path(), Path::new("/workspace"));
        drop(made().expect("made"));
        let key = folder.path().join(shelf::KEY);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
        assert!(made().expect_err("read by all").to_string().contains("chmod 600"));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
        fs::write(&key, "short").expect("written");
        assert!(made().expect_err("short").to_string().contains("cut short"));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(made().expect_err("open to all").to_string().contains("--state-dir"));
    }

    #[test]
    fn what_is_too_much_is_refused_and_counts_no_more() {
        let (_folder, images) = images(10_000);
        let first = kept(&images, &noise(6000)).expect("kept");
        assert!(matches!(kept(&images, &noise(6000)), Err(ImageError::NoRoom { .. })));
        drop(first);
        assert!(kept(&images, &noise(6000)).is_ok(), "room again");
        assert_eq!(images.0.shelf.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_damaged_counts_and_gives_way_the_oldest_first() {
        let (folder, first) = images(20_000);
        let (older, newer) = (kept(&first, &noise(4000)).expect("kept"), kept(&first, &noise(4000)).expect("kept"));
        let paths = [older.path.clone(), newer.path.clone()];
        first.leave_to_the_next();
        drop((older, newer, first));
        for (age, path) in paths.iter().rev().enumerate() {
            fs::write(path, noise(4000)).expect("written");
            let when = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * age as u64);
            File::options().write(true).open(path).and_then(|file| file.set_modified(when)).expect("set");
        }
        let second = in_folder(folder.path(), 10_000);
        assert!(second.adopt().is_empty());
        assert_eq!(second.0.shelf.held.load(Ordering::Relaxed), 8000);
        let image = kept(&second, &noise(5000)).expect("kept");
        assert!(!paths[0].exists() && paths[1].exists(), "the oldest went, and no more than that");
        drop(image);
        assert_eq!(second.0.shelf.held.load(Ordering::Relaxed), 4000);
        assert!(second.adopt().is_empty() && second.0.shelf.held.load(Ordering::Relaxed) == 4000, "counted once");
        assert!(matches!(kept(&second, &noise(11_000)), Err(ImageError::NoRoom { .. })));
        assert!(!paths[1].exists() && second.0.shelf.held.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn variables_beside_an_image_are_neither_the_image_nor_left_behind() {
        let (_folder, images) = images(1 << 20);
        let image = kept(&images, b"memory").expect("kept");
        assert!(image.instead().is_none());
        let draft = Images::draft().expect("memory");
        File::from(draft.try_clone().expect("one more")).write_all(b"variables").expect("written");
        let names = (vec!["a".to_owned()], vec![("b".to_owned(), "a socket".to_owned())]);
        image.keep_beside(draft, &About { by_value: Some(names.clone()), ..about("one") }).expect("kept");
        assert_eq!(image.instead(), Some(names));
        assert_eq!(images.0.shelf.held.load(Ordering::Relaxed), image.bytes());
        let beside = image.beside();
        fs::copy(&image.path, &beside).expect("replaced");
        assert!(image.instead().is_none() && image.values_instead().is_err());
        drop(image);
        assert!(!beside.exists() && images.0.shelf.held.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn packages_that_changed_are_named_once() {
        let now = ["numpy-2.1".to_owned(), "attrs-1".to_owned(), "six-1".to_owned()];
        assert_eq!(about("one").changed_packages(&now), ["attrs", "numpy"]);
    }
}
