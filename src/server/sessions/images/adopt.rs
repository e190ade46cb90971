//! What servers before this one have left, which ended with an order or without: their sessions sleep on here.
//!
//! Runs in: server, at its start and where a session is asked for that is not there. A server that ends, however it does, lets go of
//! the lock in its folder. Who gets that lock has the images there for the time, and moves those of its own workspace into
//! its own folder: a move is one step, so no two servers have the same image.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

use crate::server::{
    health::evidence::Phase,
    sessions::status::{Sleeping, Status},
};

use super::{
    About, Image, Images,
    sealed::{self, Broken, Key},
    shelf::{Damaged, LOCK, OWN, bytes_of, hex, images_in, tidy, unhex},
};

/// A session that was left.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) about: About,
    pub(crate) image: Image,
    /// The last cell that began after the image was written.
    pub(crate) since: Option<u64>,
}

impl Adopted {
    pub(crate) fn last_cell(&self) -> u64 {
        self.about.last_cell.max(self.since.unwrap_or(0))
    }

    /// Cells whose effects it has not.
    pub(crate) fn lost(&self) -> Option<(u64, u64)> {
        (self.about.cell < self.last_cell()).then_some((self.about.cell + 1, self.last_cell()))
    }

    /// What is to be seen of it.
    pub(in crate::server::sessions) fn show(&self, status: &mut Status) {
        let About { executed, cell, .. } = self.about;
        status.asleep = Some(Sleeping { bytes: self.image.bytes(), since: self.about.written_at(), cell });
        status.created = self.about.created_at();
        status.executed = executed;
        status.up_since = Some(Instant::now());
        status.phase = Phase::Asleep;
    }
}

/// The last cell that its session began after an image was written.
pub(super) fn since(path: &Path) -> Option<u64> {
    let mut number = [0; 8];
    let file = File::open(path.with_extension("since")).ok()?;
    file.read_exact_at(&mut number, 0).ok().map(|()| u64::from_le_bytes(number))
}

/// What there is to know of an image.
pub(super) fn head(path: &Path, key: &Key) -> Result<About, Broken> {
    let name = path.file_stem().and_then(|stem| unhex(stem.to_str()?)).ok_or(Broken::Changed)?;
    // A head whose seal is right and that cannot be read was written by another forkpy.
    About::of(&sealed::open(path, key, &name)?.head).ok_or(Broken::OtherVersion)
}

impl Images {
    /// Takes over what was left here by servers that have ended, of this workspace. The newest comes first. Blocking.
    pub(crate) fn adopt(&self) -> Vec<Adopted> {
        let (mut found, mut damaged): (Vec<Adopted>, Vec<Damaged>) = Default::default();
        for folder in self.folders() {
            // Held until this is done; a folder that is gone has been tidied away by another.
            let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
            if lock.try_lock().is_ok() {
                found.extend(images_in(&folder).filter_map(|path| self.take_over(&path)));
                damaged.extend(images_in(&folder).filter_map(|path| self.damaged(path)));
                tidy(&folder);
            }
        }
        self.0.shelf.note_damaged(damaged);
        found.sort_by_key(|adopted| std::cmp::Reverse(adopted.about.written));
        found
    }

    /// The server that has a session of this name, by process id.
    pub(crate) fn held_elsewhere(&self, is_it: impl Fn(&About) -> bool) -> Option<u32> {
        self.folders().into_iter().find_map(|folder| {
            let mut lock = File::open(folder.join(LOCK)).ok().filter(|lock| lock.try_lock().is_err())?;
            let mut pid = String::new();
            lock.read_to_string(&mut pid).ok()?;
            images_in(&folder).any(|path| self.about(&path).is_some_and(|about| is_it(&about))).then_some(())?;
            pid.parse().ok()
        })
    }

    /// Those of other servers.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = self.0.shelf.named.iter().flat_map(fs::read_dir).flatten().flatten().map(|entry| entry.path());
        let is_one = |path: &PathBuf| {
            let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(OWN));
            named && *path != self.0.shelf.folder
        };
        entries.filter(is_one).collect()
    }

    /// What there is to know of an image, if it is one of this workspace.
    fn about(&self, path: &Path) -> Option<About> {
        let about = self.head(path);
        about.filter(|about| Path::new(&about.workspace) == self.0.workspace && about.owner.is_some())
    }

    /// The same for an image of any workspace.
    pub(super) fn head(&self, path: &Path) -> Option<About> {
        match head(path, &self.0.shelf.key) {
            Ok(about) => Some(about),
            // Those are counted, and told of, as such.
            Err(Broken::Changed) => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), ?error, "is no image of a session that can be woken here");
                None
            }
        }
    }

    /// A file of which no session can be told any more.
    fn damaged(&self, path: PathBuf) -> Option<Damaged> {
        if !matches!(head(&path, &self.0.shelf.key), Err(Broken::Changed)) {
            return None;
        }
        let written = fs::metadata(&path).and_then(|status| status.modified()).ok()?;
        Some(Damaged { bytes: bytes_of(&path), written, path })
    }

    fn take_over(&self, path: &Path) -> Option<Adopted> {
        let about = self.about(path)?;
        let name = path.file_stem().and_then(|stem| unhex(stem.to_str()?))?;
        let (from, base) =
            (path.with_file_name(format!("{}.base", hex(&about.base))), self.0.shelf.path_of(&about.base, "base"));
        let is_memory = about.by_value.is_none();
        // Images of other workspaces may have the same base.
        if is_memory && !base.exists() && fs::hard_link(&from, &base).is_err() {
            tracing::warn!(
                session = about.session,
                "its image cannot be woken: what it has in common with others is gone"
            );
        }
        let since = since(path);
        let own = self.0.shelf.path_of(&name, "image");
        fs::rename(path, &own).ok()?;
        for end in ["since", "values"] {
            let _ = fs::rename(path.with_extension(end), own.with_extension(end));
        }
        let bytes = bytes_of(&own);
        self.0.shelf.held.fetch_add(bytes, Ordering::Relaxed);
        let base = is_memory.then(|| self.0.bases.known(about.base, base));
        let image = Image::of(own, name, base, (bytes, &self.0.shelf));
        Some(Adopted { about, image, since })
    }
}
