//! Where images of zygotes lie: a folder that servers of one user share, with a key of its own.
//!
//! Runs in: server, on blocking threads. Knows files, and not what makes them fit (`workers/zygote/image.rs`). An image is two files.
//! The small one is sealed as those of sessions are; its head names the other one, which has the pages, and has a seal for each piece
//! of it. So what does not belong together is not given out, whatever servers write at a time. Pages lie there as they are: a start
//! waits for them, and unpacking takes longer than reading. They are copied into memory that no process can change, piece by piece,
//! and it is the copy whose seals are compared.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    sealed::{self, Broken, Key},
    shelf,
};
use crate::{
    server::workers::zygote::{Files, ImageName as Name, Store},
    sys::{descriptors, random},
};

/// Ends of names.
const IMAGE: &str = "zygote";
const PAGES: &str = "pages";
const PART: &str = "part";
/// So many images are kept, the newest.
const KEPT: usize = 6;
/// No image with its base takes more.
const LARGEST: u64 = 256 << 20;
/// What was being written for so long was left by a server that was killed.
const STALE: Duration = Duration::from_secs(600);
/// What has a seal of its own, and how much of it is carried at once.
const PIECE: u64 = 2 << 20;
const CARRIED: usize = 256 << 10;
/// Threads that copy.
const THREADS: usize = 2;
/// What the key of the pages' seals is derived for.
const PURPOSE: &str = "forkpy 2026 pages of a zygote's image";

/// What the small file says of the other one.
#[derive(Debug, Serialize, Deserialize)]
struct Pages {
    /// Its name.
    id: Name,
    /// Bytes of the image, and of its base behind it.
    lengths: [u64; 2],
    /// Of each piece of the image, then of the base.
    seals: Vec<[u8; 32]>,
}

/// A piece: of which file, from where in that, how long, from where in the pages.
#[derive(Debug, Clone, Copy)]
struct Piece {
    file: usize,
    at: u64,
    length: u64,
    from: u64,
}

impl Pages {
    fn pieces(lengths: [u64; 2]) -> Vec<Piece> {
        let of = |file: usize, before: u64| {
            let starts = (0..lengths[file]).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX));
            starts.map(move |at| Piece { file, at, length: PIECE.min(lengths[file] - at), from: before + at })
        };
        of(0, 0).chain(of(1, lengths[0])).collect()
    }

    fn is_sound(&self) -> bool {
        let total = self.lengths[0].checked_add(self.lengths[1]);
        total.is_some_and(|total| total <= LARGEST) && Self::pieces(self.lengths).len() == self.seals.len()
    }
}

/// Carries a piece, and gives its seal.
fn carry(
    key: &[u8; 32],
    (number, piece): (usize, Piece),
    (from, at): (&File, u64),
    to: Option<(&File, u64)>,
) -> io::Result<[u8; 32]> {
    let mut seal = blake3::Hasher::new_keyed(key);
    seal.update(&(number as u64).to_le_bytes());
    let mut buffer = vec![0; CARRIED];
    let mut done = 0;
    while done < piece.length {
        let count = usize::try_from(piece.length - done).unwrap_or(CARRIED).min(CARRIED);
        from.read_exact_at(&mut buffer[..count], at + done)?;
        seal.update(&buffer[..count]);
        if let Some((to, at)) = to {
            to.write_all_at(&buffer[..count], at + done)?;
        }
        done += count as u64;
    }
    Ok(*seal.finalize().as_bytes())
}

/// The folder.
#[derive(Debug)]
pub(crate) struct ZygoteImages {
    folder: PathBuf,
}

impl ZygoteImages {
    /// Made when there is something for it.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{}.{IMAGE}", shelf::hex(name)))
    }

    fn pages(&self, name: &Name, id: &Name) -> PathBuf {
        self.folder.join(format!("{}-{}.{PAGES}", shelf::hex(name), shelf::hex(id)))
    }

    fn key(&self) -> Result<Key, String> {
        let found = shelf::check_folder(&self.folder).and_then(|()| shelf::key_of(&self.folder));
        found.map_err(|error| format!("{}: {error}", self.folder.display()))
    }

    /// Files of the folder that end so.
    fn files(&self, end: &str) -> Vec<(SystemTime, PathBuf)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let ends_so = entries.filter(|path| path.extension().is_some_and(|found| found == end));
        let mut files: Vec<_> = ends_so.filter_map(|path| Some((written(&path)?, path))).collect();
        files.sort();
        files
    }

    /// Removes all but the newest images, and what belongs to none.
    fn tidy(&self) {
        let mut images = self.files(IMAGE);
        let older = images.len().saturating_sub(KEPT);
        for (_, path) in images.drain(..older) {
            let _ = fs::remove_file(path);
        }
        let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let kept: Vec<String> = images.iter().map(|(_, path)| stem(path)).collect();
        let is_stale = |at: &SystemTime| at.elapsed().is_ok_and(|age| age > STALE);
        let all = self.files(PAGES);
        for (at, path) in &all {
            let own = stem(path);
            let of = own.split('-').next().unwrap_or_default();
            let is_last =
                all.iter().rfind(|(_, other)| stem(other).starts_with(of)).map(|(_, last)| last) == Some(path);
            // Another server may be about to write the image of one that is new.
            if (!kept.iter().any(|kept| kept == of) || !is_last) && is_stale(at) {
                let _ = fs::remove_file(path);
            }
        }
        for (_, path) in self.files(PART).into_iter().filter(|(at, _)| is_stale(at)) {
            let _ = fs::remove_file(path);
        }
    }

    /// Has a file be written, in one step for all who look.
    fn write(&self, path: &Path, how: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let part = self.folder.join(format!("{}.{PART}", uuid::Uuid::new_v4().simple()));
        let written = how(&part).and_then(|()| fs::rename(&part, path));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Copies the pages into memory, where they are right.
    fn copy(&self, (name, key): (&Name, &Key), pages: &Pages) -> Result<Files, Broken> {
        let from = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(self.pages(name, &pages.id))?;
        let memory = |length: u64| {
            let file = File::from(descriptors::sealable_memory_file(c"forkpy-zygote")?);
            file.set_len(length).map(|()| file)
        };
        let to = [memory(pages.lengths[0])?, memory(pages.lengths[1])?];
        let key = blake3::derive_key(PURPOSE, key);
        let (pieces, next) = (Pages::pieces(pages.lengths), AtomicUsize::new(0));
        let work = || -> Result<(), Broken> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = pieces.get(number) else { return Ok(()) };
                let seal = carry(&key, (number, *piece), (&from, piece.from), Some((&to[piece.file], piece.at)))?;
                // Compared in a time that tells nothing.
                if blake3::Hash::from_bytes(seal) != blake3::Hash::from_bytes(pages.seals[number]) {
                    return Err(Broken::Changed);
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..THREADS).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(Broken::Read(io::ErrorKind::Other.into()))));
            others.fold(own, |all, one| all.and(one))
        })?;
        let [image, base] = to;
        sealed::make_final(&image)?;
        sealed::make_final(&base)?;
        Ok((image.into(), base.into()))
    }
}

fn written(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|status| status.modified()).ok()
}

fn words(broken: Broken) -> String {
    match broken {
        Broken::Changed => "its file was changed, cut short or replaced".to_owned(),
        Broken::OtherVersion => "it was written by another version of forkpy".to_owned(),
        Broken::Read(error) => format!("it cannot be read: {error}"),
    }
}

impl Store for ZygoteImages {
    fn open(&self, name: &Name, agrees: &dyn Fn(&[u8]) -> Result<(), String>) -> Result<Option<Files>, String> {
        let path = self.path(name);
        if !path.try_exists().unwrap_or(true) {
            return Ok(None);
        }
        let key = self.key()?;
        let opened = sealed::open(&path, &key, name).map_err(words)?;
        let (pages, head) =
            postcard::take_from_bytes::<Pages>(&opened.head).map_err(|_| words(Broken::OtherVersion))?;
        if !pages.is_sound() {
            return Err(words(Broken::Changed));
        }
        agrees(head)?;
        self.copy((name, &key), &pages).map(Some).map_err(words)
    }

    fn keep(&self, name: &Name, head: &[u8], (image, base): Files) -> Result<u64, String> {
        let key = self.key()?;
        let refused = |error: io::Error| format!("it cannot be written to {}: {error}", self.folder.display());
        let files = [image, base].map(File::from);
        let length = |file: &File| file.metadata().map(|status| status.len());
        let lengths = [length(&files[0]).map_err(refused)?, length(&files[1]).map_err(refused)?];
        let mut pages = Pages { id: random::bytes().map_err(refused)?, lengths, seals: Vec::new() };
        let pages_path = self.pages(name, &pages.id);
        let sealing = blake3::derive_key(PURPOSE, &key);
        self.write(&pages_path, |path| {
            let to = File::options().write(true).create_new(true).mode(0o600).open(path)?;
            for (number, piece) in Pages::pieces(lengths).into_iter().enumerate() {
                let from = (&files[piece.file], piece.at);
                pages.seals.push(carry(&sealing, (number, piece), from, Some((&to, piece.from)))?);
            }
            to.sync_data()
        })
        .map_err(refused)?;
        if !pages.is_sound() {
            let _ = fs::remove_file(&pages_path);
            return Err(format!("it takes more than {} MB", LARGEST >> 20));
        }
        let head = [postcard::to_stdvec(&pages).unwrap_or_default().as_slice(), head].concat();
        let nothing = || descriptors::memory_file(c"forkpy-nothing").map(File::from);
        let written = self
            .write(&self.path(name), |path| sealed::write(path, (&key, name), &head, &mut nothing()?, &mut |_| Ok(())));
        written.map_err(|error| {
            let _ = fs::remove_file(&pages_path);
            refused(error)
        })?;
        self.tidy();
        Ok(lengths.iter().sum::<u64>() + head.len() as u64)
    }

    fn discard(&self, name: &Name) {
        let _ = fs::remove_file(self.path(name));
    }
}
