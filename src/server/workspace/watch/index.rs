//! All that was learnt from the kernel's events: which directories are watched, and what appeared.
//!
//! Runs in: server, under the watcher's lock. Reads the names in directories; never opens a file.

use serde::{Deserialize, Serialize};

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt,
    fs::FileType,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use inotify::{Event, EventMask, WatchMask, Watches};

use super::{
    log::Log,
    table::{Tree, subtree},
};

/// Most paths in one [`NewFiles`]; the rest is counted.
pub(crate) const MAX_PATHS: usize = 100;
/// Most entries that are looked at when one directory tree appears.
const MAX_SCAN: usize = 100_000;
/// Files that appeared, see [`Watcher::since`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFiles {
    /// Paths from the workspace on, separated by `/`, sorted; at most [`MAX_PATHS`].
    pub paths: Vec<String>,
    /// How many more there were.
    pub omitted: usize,
    /// Whether some may be missing: too much happened at once, the watcher was not yet ready or could not start, or there
    /// are directories that it does not watch (too many, or the user's watches are used up).
    pub incomplete: bool,
}

impl NewFiles {
    /// Files that appeared later.
    pub(crate) fn add(&mut self, later: Self) {
        self.incomplete |= later.incomplete;
        self.omitted += later.omitted;
        self.paths.extend(later.paths);
        self.paths.sort();
        self.paths.dedup();
        self.omitted += self.paths.len().saturating_sub(MAX_PATHS);
        self.paths.truncate(MAX_PATHS);
    }
}

/// What happened to a path, for an observer of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A file came, or another took its name.
    Appeared,
    Gone,
    /// A file's contents changed; told only where [`Watcher::watch_writes`] asked for it.
    Written,
    /// A directory went with all below it.
    TreeGone,
    /// Events were lost; the path is empty.
    Unknown,
}

/// Told of all that happens, while the watcher's lock is held: it must not wait, nor call the watcher.
pub(super) struct Observer(pub(super) Box<Telling>);

pub(super) type Telling = dyn Fn(&Path, Happening) + Send;

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) root: Arc<Path>,
    pub(super) watches: Watches,
    pub(super) tree: Tree,
    pub(super) log: Log,
    /// Walks that are still owed, by the start or by an overflow; the tree may have holes until they are done.
    pub(super) walks_due: usize,
    /// Whether a directory stays unwatched for want of watches.
    pub(super) partial: bool,
    pub(super) max_directories: usize,
    pub(super) observer: Option<Observer>,
    /// Directories in which writing is watched too, with how many asked for it.
    pub(super) writes: HashMap<PathBuf, usize>,
}

impl Index {
    pub(super) fn apply(&mut self, event: &Event<&OsStr>) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            self.walks_due += 1;
            self.log.gap();
            self.tell(Path::new(""), Happening::Unknown);
        } else if event.mask.contains(EventMask::IGNORED) {
            self.ended(event.wd.get_watch_descriptor_id());
        } else if let (Some(name), Some(directory)) = (event.name, self.tree.path(&event.wd)) {
            let path = directory.join(name);
            if event.mask.contains(EventMask::MODIFY) {
                return self.tell(&path, Happening::Written);
            }
            let appears = event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
            match (event.mask.contains(EventMask::ISDIR), appears) {
                (true, true) if is_skipped(name) => {}
                (true, true) => self.adopt(path),
                (true, false) => self.forget(&path),
                (false, true) => self.appeared(path),
                (false, false) => {
                    self.tell(&path, Happening::Gone);
                    self.log.remove(&path);
                }
            }
        }
    }

    pub(super) fn tell(&self, path: &Path, happening: Happening) {
        if let Some(observer) = &self.observer {
            (observer.0)(path, happening);
        }
    }

    pub(super) fn appeared(&mut self, path: PathBuf) {
        self.tell(&path, Happening::Appeared);
        self.log.record(path);
    }

    /// A directory is gone, and its watch with it.
    pub(super) fn ended(&mut self, id: i32) {
        if self.tree.remove(id).is_some_and(|path| path.as_os_str().is_empty()) {
            self.fall_short("the workspace directory was removed");
        }
    }

    /// Takes in a new directory and everything below. First the watch, then the look: what was put in before the watch
    /// is seen by the look, what comes later is in the queue, and what is in both counts once.
    pub(super) fn adopt(&mut self, top: PathBuf) {
        let root = self.root.clone();
        let mut todo = vec![top];
        let mut left = MAX_SCAN;
        while let Some(directory) = todo.pop() {
            if !self.watch(&directory) {
                continue;
            }
            for (path, kind) in entries(&root, &directory) {
                if left == 0 {
                    return self.fall_short("too much appeared at once");
                }
                left -= 1;
                if !kind.is_dir() {
                    self.appeared(path);
                } else if !path.file_name().is_some_and(is_skipped) {
                    todo.push(path);
                }
            }
        }
    }

    /// A directory was removed or moved away. Its watches know it under the old name, so they go even if it lives on.
    pub(super) fn forget(&mut self, top: &Path) {
        for (_, descriptor) in subtree(&self.tree.by_path, top) {
            self.tree.remove(descriptor.get_watch_descriptor_id());
            // Fails where the directory is gone, as the watch is then.
            let _ = self.watches.remove(descriptor);
        }
        self.tell(top, Happening::TreeGone);
        self.log.remove_tree(top);
    }

    /// What to be told of a directory, by who asks.
    pub(super) fn mask_of(&self, directory: &Path) -> WatchMask {
        let writes = if self.writes.contains_key(directory) { WatchMask::MODIFY } else { WatchMask::empty() };
        mask() | writes
    }

    /// Asks for a watched directory again, with what is wanted of it now.
    pub(super) fn refresh(&mut self, directory: &Path) {
        if self.tree.by_path.contains_key(directory) {
            self.watch(directory);
        }
    }

    /// Whether `directory` is watched now.
    pub(super) fn watch(&mut self, directory: &Path) -> bool {
        let is_known = self.tree.by_path.contains_key(directory);
        if !is_known && self.tree.by_path.len() >= self.max_directories {
            self.fall_short("the workspace has too many directories");
            return false;
        }
        // Also if known: another directory may have taken the name.
        match self.watches.add(self.root.join(directory), self.mask_of(directory)) {
            Ok(descriptor) => {
                if let Some(stale) = self.tree.insert(directory, descriptor) {
                    let _ = self.watches.remove(stale);
                }
                true
            }
            Err(error) => {
                if !is_about_the_path(&error) {
                    self.fall_short(&format!("no more watches (fs.inotify.max_user_watches): {error}"));
                }
                false
            }
        }
    }

    /// Something is not watched, now and later.
    pub(super) fn fall_short(&mut self, reason: &str) {
        self.log.gap();
        if !std::mem::replace(&mut self.partial, true) {
            tracing::warn!(reason, watched = self.tree.by_path.len(), "some new files will not be listed");
        }
    }

    pub(super) fn since(&self, mark: u64, exclude: impl Fn(&str) -> bool) -> NewFiles {
        let mut paths: Vec<String> = self
            .log
            .since(mark)
            .map(|path| path.to_string_lossy().into_owned())
            .filter(|path| !exclude(path))
            .collect();
        paths.sort_unstable();
        // Names that are not UTF-8 may become the same.
        paths.dedup();
        let omitted = paths.len().saturating_sub(MAX_PATHS);
        paths.truncate(MAX_PATHS);
        NewFiles { paths, omitted, incomplete: self.partial || self.walks_due > 0 || self.log.gap > mark }
    }
}

/// What to be told of a directory. Not `CLOSE_WRITE`: it comes for old files as for new ones, and those had a `CREATE`.
pub(super) fn mask() -> WatchMask {
    let appears = WatchMask::CREATE | WatchMask::MOVED_TO;
    appears | WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW
}

/// Whether a watch failed for the directory's own sake: gone, replaced, or not ours to read.
pub(super) fn is_about_the_path(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotADirectory | NotFound | PermissionDenied)
}

/// Whether what happens to a file of this path, from the workspace on, is seen at all.
#[must_use]
pub(crate) fn is_watched(path: &Path) -> bool {
    path.parent().is_none_or(|directory| !directory.components().any(|part| is_skipped(part.as_os_str())))
}

/// Directories full of files that no call asked for. `.git` and `.venv` are among the hidden.
#[must_use]
pub(crate) fn is_skipped(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "node_modules" || name == "__pycache__"
}

/// What is in `directory`, with paths from the root on; nothing, if it cannot be read.
pub(super) fn entries(root: &Path, directory: &Path) -> impl Iterator<Item = (PathBuf, FileType)> {
    let found = std::fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
    found.filter_map(|entry| Some((directory.join(entry.file_name()), entry.file_type().ok()?)))
}
