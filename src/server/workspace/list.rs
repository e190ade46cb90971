//! Walks directories of the workspace, in an order that stays the same.
//!
//! Owns the bounds of a walk. Symbolic links are listed, never followed.
//!
//! Runs in: server, on its blocking threads.

use cap_fs_ext::DirExt;
use cap_std::fs::{Dir, FileType};
use tokio_util::sync::CancellationToken;

use crate::server::workspace::handle::{FileError, Files, Shown, checked, kind, trouble};

/// Entries that one walk looks at.
pub(crate) const MAX_WALK: usize = 200_000;
/// Deepest walk: a tree of it can be read by JSON parsers, which stop at 128 levels.
pub(crate) const MAX_DEPTH: u32 = 50;

#[derive(Debug, Clone)]
pub(crate) struct Survey {
    /// A directory, relative to the workspace.
    pub path: String,
    /// How many levels; 1 is the directory alone.
    pub depth: u32,
    pub files: bool,
    pub directories: bool,
    /// Directories before everything else, and upper and lower case together, as people read a drawing of a directory.
    pub directories_first: bool,
    /// Entries before the page.
    pub skip: usize,
    /// Most entries of the page.
    pub take: usize,
}

/// Something in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Relative to the workspace; a directory's ends in `/`.
    pub path: String,
}

#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The directory, relative to the workspace; `.` is the workspace.
    pub root: String,
    /// The page, in order: sorted within a directory, what a directory holds right after it.
    pub entries: Vec<Entry>,
    /// How many entries there are on all pages.
    pub total: usize,
    /// Directories that were not entered because they lie too deep.
    pub too_deep: u64,
    /// Directories that could not be read.
    pub unreadable: u64,
    /// The walk ended early, after [`MAX_WALK`] entries.
    pub incomplete: bool,
}

impl Files {
    /// Lists a directory.
    ///
    /// # Errors
    /// [`FileError`] for the directory itself; those below that cannot be read are counted.
    pub(crate) fn list(&self, survey: &Survey, cancel: &CancellationToken) -> Result<Listing, FileError> {
        checked(&survey.path)?;
        let fail = |source| trouble("list", &survey.path, source);
        let metadata = self.dir.metadata(&survey.path).map_err(fail)?;
        if !metadata.is_dir() {
            let kind = kind(metadata.file_type());
            return Err(FileError::NotADirectory { path: Shown::new(&survey.path), kind });
        }
        let directory = self.dir.open_dir(&survey.path).map_err(fail)?;
        let real = self.dir.canonicalize(&survey.path).map_err(fail)?;
        let prefix = match real.to_string_lossy().trim_end_matches('/') {
            "" | "." => String::new(),
            words => format!("{words}/"),
        };
        let root = if prefix.is_empty() { ".".to_owned() } else { prefix.trim_end_matches('/').to_owned() };
        let mut walk = Walk { survey, cancel, seen: 0, found: Listing { root, ..Listing::default() } };
        let entries = walk.names(&directory).map_err(fail)?;
        walk.enter(&directory, entries, &prefix, 1)?;
        Ok(walk.found)
    }
}

struct Walk<'a> {
    survey: &'a Survey,
    cancel: &'a CancellationToken,
    seen: usize,
    found: Listing,
}

impl Walk<'_> {
    /// What one directory holds, sorted, as far as the walk may still go.
    fn names(&mut self, directory: &Dir) -> std::io::Result<Vec<(String, Option<FileType>)>> {
        let mut names = Vec::new();
        for entry in directory.entries()? {
            let entry = entry?;
            if self.seen == MAX_WALK {
                self.found.incomplete = true;
                break;
            }
            self.seen += 1;
            names.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type().ok()));
        }
        if self.survey.directories_first {
            let key = |(name, kind): &(String, Option<FileType>)| {
                (!kind.is_some_and(|kind| kind.is_dir()), name.to_lowercase(), name.clone())
            };
            names.sort_by_cached_key(key);
        } else {
            names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        }
        Ok(names)
    }

    /// Most entries are on other pages, and only counted.
    fn count(&mut self, path: impl FnOnce() -> String) {
        let Listing { entries, total, .. } = &mut self.found;
        if *total >= self.survey.skip && entries.len() < self.survey.take {
            entries.push(Entry { path: path() });
        }
        *total += 1;
    }

    fn enter(
        &mut self,
        directory: &Dir,
        names: Vec<(String, Option<FileType>)>,
        prefix: &str,
        depth: u32,
    ) -> Result<(), FileError> {
        if self.cancel.is_cancelled() {
            return Err(FileError::Cancelled(Shown::new(prefix)));
        }
        for (name, file_type) in names {
            if !file_type.is_some_and(|file_type| file_type.is_dir()) {
                if self.survey.files {
                    self.count(|| format!("{prefix}{name}"));
                }
                continue;
            }
            let path = format!("{prefix}{name}/");
            if self.survey.directories {
                self.count(|| path.clone());
            }
            if depth == self.survey.depth {
                self.found.too_deep += 1;
                continue;
            }
            let below = directory.open_dir_nofollow(&name).and_then(|below| Ok((self.names(&below)?, below)));
            match below {
                Ok((names, below)) => self.enter(&below, names, &path, depth + 1)?,
                Err(_) => self.found.unreadable += 1,
            }
        }
        Ok(())
    }
}
