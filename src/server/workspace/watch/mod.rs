//! Files that appear in the workspace while a cell runs, as the kernel tells them (inotify): nothing is walked per cell.
//!
//! Runs in: server, with one thread of its own ("files") that reads between cells. Reads names in the workspace only:
//! never opens a file, never writes, never follows a link.
//!
//! The kernel queues an event before the call that caused it returns, so reading the queue until it is empty shows all
//! that a cell did before it ended. Whoever reads, a caller or the thread, holds the one lock until it is empty.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::OsStr,
    fmt,
    fs::FileType,
    io::{self, PipeReader, PipeWriter},
    ops::Bound,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread::JoinHandle,
};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use parking_lot::Mutex;

/// Most paths in one [`NewFiles`]; the rest is counted.
pub(crate) const MAX_PATHS: usize = 100;
/// Most directories that are watched.
const MAX_DIRECTORIES: usize = 4096;
/// Most new paths that are remembered.
const MAX_LOG: usize = 10_000;
/// Most entries that are looked at when one directory tree appears.
const MAX_SCAN: usize = 100_000;
/// Bytes read at a time, some hundreds of events.
const BUFFER: usize = 64 << 10;
/// The thread rests this long after a reading, so that a cell that makes many files does not wake it for each.
const REST_MS: u16 = 10;
/// The thread looks this often whether a caller saw an overflow; its own readings it knows at once.
const LOOK_MS: u16 = 10_000;
/// Stack of the thread; it walks without recursion.
const STACK: usize = 256 << 10;

/// Files that appeared, see [`Watcher::since`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewFiles {
    /// Paths from the workspace on, separated by `/`, sorted; at most [`MAX_PATHS`].
    pub paths: Vec<String>,
    /// How many more there were.
    pub omitted: usize,
    /// Whether some may be missing: too much happened at once, the watcher was not yet ready or could not start, or there
    /// are directories that it does not watch (too many, or the user's watches are used up).
    pub incomplete: bool,
}

/// What happened to a path, for whoever watches over all of them.
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
struct Observer(Box<Telling>);

type Telling = dyn Fn(&Path, Happening) + Send;

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// A moment, see [`Watcher::mark`]. What happened later is remembered as long as this lives.
#[derive(Debug, Clone)]
pub(crate) struct Mark(Arc<u64>);

/// Watches the workspace.
///
/// It knows that a file appeared, not who made it: a file that another session makes while a cell runs is listed with
/// that cell too.
///
/// *Appeared* means a name that was not there: made, linked or moved in (also by moving its directory), and not gone
/// again. Links and other things that are not directories count as files. A file that is written anew keeps its name
/// and is not listed; one that is removed and made again is, and so is one that another file was renamed over, as the
/// kernel does not tell these from new ones.
///
/// Not seen: what lies in hidden directories, `node_modules` and `__pycache__`, behind links to directories, and beyond
/// the first 4096 directories (see [`Watcher::is_partial`]). Files that existed before the watch of their directory
/// was in place are never listed, unless the directory itself is new.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// `None` where inotify cannot be had.
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    state: Arc<Mutex<State>>,
    /// Closing it ends the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// What one lock guards: the queue and all that was learnt from it.
#[derive(Debug)]
struct State {
    inotify: Inotify,
    buffer: Box<[u8]>,
    index: Index,
}

#[derive(Debug)]
struct Index {
    root: Arc<Path>,
    watches: Watches,
    tree: Tree,
    log: Log,
    /// Walks that are still owed, by the start or by an overflow; the tree may have holes until they are done.
    walks_due: usize,
    /// Whether a directory stays unwatched for want of watches.
    partial: bool,
    max_directories: usize,
    observer: Option<Observer>,
    /// Directories in which writing is watched too, with how many asked for it.
    writes: HashMap<PathBuf, usize>,
}

/// Watched directories, by path from the root on. The root is the empty path.
#[derive(Debug, Default)]
struct Tree {
    by_id: HashMap<i32, Arc<Path>>,
    by_path: BTreeMap<Arc<Path>, WatchDescriptor>,
}

/// New paths in the order of their appearance.
#[derive(Debug)]
struct Log {
    /// Number of the last thing that happened.
    now: u64,
    /// Whoever marked before this number may have missed something.
    gap: u64,
    by_time: BTreeMap<u64, Arc<Path>>,
    by_path: BTreeMap<Arc<Path>, u64>,
    /// Ascending. Only what is later than a living mark is kept.
    marks: Vec<Weak<u64>>,
    max: usize,
}

struct Reader {
    state: Arc<Mutex<State>>,
    /// The queue again, to wait for it without the lock.
    queue: OwnedFd,
    stop: PipeReader,
}

impl Watcher {
    /// Watches `root` from now on. Its directories are added behind, by the thread; until then results are
    /// `incomplete`. Without inotify (the user's limit of instances, say) this warns and all results are empty.
    ///
    /// # Errors
    /// When `root` is no directory or the thread cannot be started.
    #[cfg(test)]
    fn start(root: &Path) -> io::Result<Self> {
        Self::start_with(root, MAX_DIRECTORIES, MAX_LOG, None)
    }

    /// The same, telling somebody of everything that happens: on the thread or in a caller of this, and it must be quick.
    pub(crate) fn start_observed(
        root: &Path,
        observer: impl Fn(&Path, Happening) + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_with(root, MAX_DIRECTORIES, MAX_LOG, Some(Observer(Box::new(observer))))
    }

    fn start_with(root: &Path, max_directories: usize, max_log: usize, observer: Option<Observer>) -> io::Result<Self> {
        let root: Arc<Path> = root.canonicalize()?.into();
        let begun = Inotify::init().and_then(|inotify| {
            let mut watches = inotify.watches();
            let descriptor = watches.add(&*root, mask())?;
            Ok((inotify, watches, descriptor))
        });
        let (inotify, watches, descriptor) = match begun {
            Ok(begun) => begun,
            Err(error) if is_about_the_path(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "inotify cannot be used: new files are not listed");
                return Ok(Self { active: None });
            }
        };
        let mut tree = Tree::default();
        tree.insert(Path::new(""), descriptor);
        let index = Index {
            root,
            watches,
            tree,
            log: Log::new(max_log),
            walks_due: 1,
            partial: false,
            max_directories,
            observer,
            writes: HashMap::new(),
        };
        Ok(Self { active: Some(Active::start(inotify, index)?) })
    }

    /// Remembers this moment; to be taken before a cell starts. Costs one system call when nothing happened.
    #[must_use]
    pub(crate) fn mark(&self) -> Mark {
        match &self.active {
            Some(active) => active.drained(|index| index.log.mark()),
            None => Mark(Arc::new(0)),
        }
    }

    /// Files that appeared since `mark`, without those that `exclude` knows by their path.
    ///
    /// Costs one system call when nothing happened. New directories that the thread has not met yet are read here, so
    /// a cell that moves a large tree in may keep the caller for some tens of milliseconds.
    #[must_use]
    pub(crate) fn since(&self, mark: &Mark, exclude: impl Fn(&str) -> bool) -> NewFiles {
        match &self.active {
            Some(active) => active.drained(|index| index.since(*mark.0, exclude)),
            None => NewFiles { incomplete: true, ..NewFiles::default() },
        }
    }

    /// Whether anything is seen at all.
    #[must_use]
    pub(crate) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Tells of writing to the files in a directory too, as long as the result lives. The directory need not be there yet.
    #[must_use]
    pub(crate) fn watch_writes(this: &Arc<Self>, directory: &Path) -> WriteWatch {
        if let Some(active) = &this.active {
            let mut state = active.state.lock();
            *state.index.writes.entry(directory.to_owned()).or_insert(0) += 1;
            state.index.refresh(directory);
        }
        WriteWatch { watcher: Arc::clone(this), directory: directory.to_owned() }
    }

    /// Whether directories are left out: too many, no watches left, or no inotify at all.
    #[cfg(test)]
    fn is_partial(&self) -> bool {
        self.active.as_ref().is_none_or(|active| active.state.lock().index.partial)
    }
}

/// Keeps writing watched, see [`Watcher::watch_writes`].
#[derive(Debug)]
pub(crate) struct WriteWatch {
    watcher: Arc<Watcher>,
    directory: PathBuf,
}

impl Drop for WriteWatch {
    fn drop(&mut self) {
        let Some(active) = &self.watcher.active else { return };
        let mut state = active.state.lock();
        let left = state.index.writes.get_mut(&self.directory).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            state.index.writes.remove(&self.directory);
            state.index.refresh(&self.directory);
        }
    }
}

impl Active {
    fn start(inotify: Inotify, index: Index) -> io::Result<Self> {
        let queue = inotify.as_fd().try_clone_to_owned()?;
        let (stop, writer) = io::pipe()?;
        let state = State { inotify, buffer: vec![0; BUFFER].into_boxed_slice(), index };
        let state = Arc::new(Mutex::new(state));
        let reader = Reader { state: state.clone(), queue, stop };
        let thread = std::thread::Builder::new().name("files".to_owned()).stack_size(STACK);
        let thread = thread.spawn(move || reader.run())?;
        Ok(Self { state, stop: Some(writer), thread: Some(thread) })
    }

    /// Does `task` knowing everything that happened before the call.
    fn drained<T>(&self, task: impl FnOnce(&mut Index) -> T) -> T {
        let mut state = self.state.lock();
        state.drain();
        task(&mut state.index)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It looks for the end before each directory and in every wait, so this is short.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Reads until the queue is empty. New directories are read on the way, and what they bring is in the queue too.
    fn drain(&mut self) {
        loop {
            match self.inotify.read_events(&mut self.buffer) {
                Ok(events) => events.for_each(|event| self.index.apply(&event)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.index.fall_short(&error.to_string());
                    return;
                }
            }
        }
    }
}

impl Index {
    fn apply(&mut self, event: &Event<&OsStr>) {
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

    fn tell(&self, path: &Path, happening: Happening) {
        if let Some(observer) = &self.observer {
            (observer.0)(path, happening);
        }
    }

    fn appeared(&mut self, path: PathBuf) {
        self.tell(&path, Happening::Appeared);
        self.log.record(path);
    }

    /// A directory is gone, and its watch with it.
    fn ended(&mut self, id: i32) {
        if self.tree.remove(id).is_some_and(|path| path.as_os_str().is_empty()) {
            self.fall_short("the workspace directory was removed");
        }
    }

    /// Takes in a new directory and everything below. First the watch, then the look: what was put in before the watch
    /// is seen by the look, what comes later is in the queue, and what is in both counts once.
    fn adopt(&mut self, top: PathBuf) {
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
    fn forget(&mut self, top: &Path) {
        for (_, descriptor) in subtree(&self.tree.by_path, top) {
            self.tree.remove(descriptor.get_watch_descriptor_id());
            // Fails where the directory is gone, as the watch is then.
            let _ = self.watches.remove(descriptor);
        }
        self.tell(top, Happening::TreeGone);
        self.log.remove_tree(top);
    }

    /// What to be told of a directory, by who asks.
    fn mask_of(&self, directory: &Path) -> WatchMask {
        let writes = if self.writes.contains_key(directory) { WatchMask::MODIFY } else { WatchMask::empty() };
        mask() | writes
    }

    /// Asks for a watched directory again, with what is wanted of it now.
    fn refresh(&mut self, directory: &Path) {
        if self.tree.by_path.contains_key(directory) {
            self.watch(directory);
        }
    }

    /// Whether `directory` is watched now.
    fn watch(&mut self, directory: &Path) -> bool {
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
    fn fall_short(&mut self, reason: &str) {
        self.log.gap();
        if !std::mem::replace(&mut self.partial, true) {
            tracing::warn!(reason, watched = self.tree.by_path.len(), "some new files will not be listed");
        }
    }

    fn since(&self, mark: u64, exclude: impl Fn(&str) -> bool) -> NewFiles {
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

impl Tree {
    fn path(&self, descriptor: &WatchDescriptor) -> Option<&Arc<Path>> {
        self.by_id.get(&descriptor.get_watch_descriptor_id())
    }

    /// Notes a watch; gives back the one that had the path until now, if that was another.
    fn insert(&mut self, path: &Path, descriptor: WatchDescriptor) -> Option<WatchDescriptor> {
        let id = descriptor.get_watch_descriptor_id();
        let path: Arc<Path> = path.into();
        // The kernel gives one watch for one directory: under another path, it was renamed and the event was lost.
        if let Some(old) = self.by_id.insert(id, path.clone()).filter(|old| *old != path) {
            self.by_path.remove(&old);
        }
        let stale = self.by_path.insert(path, descriptor)?;
        (stale.get_watch_descriptor_id() != id).then(|| {
            self.by_id.remove(&stale.get_watch_descriptor_id());
            stale
        })
    }

    fn remove(&mut self, id: i32) -> Option<Arc<Path>> {
        let path = self.by_id.remove(&id)?;
        self.by_path.remove(&path);
        Some(path)
    }
}

impl Log {
    fn new(max: usize) -> Self {
        Self { now: 0, gap: 0, by_time: BTreeMap::new(), by_path: BTreeMap::new(), marks: Vec::new(), max }
    }

    fn mark(&mut self) -> Mark {
        let mark = Mark(Arc::new(self.now));
        self.marks.retain(|mark| mark.strong_count() > 0);
        self.marks.push(Arc::downgrade(&mark.0));
        // Others may be dropped meanwhile, so the oldest is the first that still answers.
        let oldest = self.marks.iter().find_map(Weak::upgrade).map_or(self.now, |oldest| *oldest);
        while let Some(entry) = self.by_time.first_entry().filter(|entry| *entry.key() <= oldest) {
            self.by_path.remove(&entry.remove());
        }
        mark
    }

    /// Notes a new path. One that is noted already was not removed since and keeps its time.
    fn record(&mut self, path: PathBuf) {
        let is_wanted = self.marks.iter().any(|mark| mark.strong_count() > 0);
        if !is_wanted || self.by_path.contains_key(path.as_path()) {
            return;
        }
        self.now += 1;
        let path: Arc<Path> = path.into();
        self.by_time.insert(self.now, path.clone());
        self.by_path.insert(path, self.now);
        if self.by_time.len() > self.max
            && let Some((time, path)) = self.by_time.pop_first()
        {
            self.by_path.remove(&path);
            self.gap = self.gap.max(time);
        }
    }

    fn remove(&mut self, path: &Path) {
        if let Some(time) = self.by_path.remove(path) {
            self.by_time.remove(&time);
        }
    }

    fn remove_tree(&mut self, top: &Path) {
        for (path, _) in subtree(&self.by_path, top) {
            self.remove(&path);
        }
    }

    /// Something may have been missed until now.
    fn gap(&mut self) {
        self.now += 1;
        self.gap = self.now;
    }

    fn since(&self, mark: u64) -> impl Iterator<Item = &Path> {
        self.by_time.range(mark + 1..).map(|(_, path)| &**path)
    }
}

impl Reader {
    fn run(&self) {
        loop {
            let due = self.state.lock().index.walks_due;
            if due > 0 {
                if !self.walk() {
                    return;
                }
                let index = &mut self.state.lock().index;
                index.walks_due -= due;
                index.log.gap();
                continue;
            }
            if self.is_over(Some(self.queue.as_fd()), LOOK_MS) {
                return;
            }
            self.state.lock().drain();
            if self.is_over(None, REST_MS) {
                return;
            }
        }
    }

    /// Watches all directories there are, those near the root first; the lock is free in between. Whether it got to the
    /// end. Files are not noted: if they are new, their directory's watch or its appearance tells.
    fn walk(&self) -> bool {
        let root = self.state.lock().index.root.clone();
        let mut todo = VecDeque::from([PathBuf::new()]);
        while let Some(directory) = todo.pop_front() {
            if self.is_over(None, 0) {
                return false;
            }
            if self.state.lock().index.watch(&directory) {
                let below = entries(&root, &directory).filter(|(_, kind)| kind.is_dir()).map(|(path, _)| path);
                todo.extend(below.filter(|path| !path.file_name().is_some_and(is_skipped)));
            }
        }
        true
    }

    /// Waits for something to read, if there is a queue to wait for, for the end, or for the time. Whether it is the end.
    fn is_over(&self, queue: Option<BorrowedFd<'_>>, milliseconds: u16) -> bool {
        let mut descriptors = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        descriptors.extend(queue.map(|queue| PollFd::new(queue, PollFlags::POLLIN)));
        match poll(&mut descriptors, PollTimeout::from(milliseconds)) {
            Ok(_) => descriptors[0].any() == Some(true),
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => false,
            Err(error) => {
                self.state.lock().index.fall_short(&format!("failed to wait for events: {error}"));
                true
            }
        }
    }
}

/// What to be told of a directory. Not `CLOSE_WRITE`: it comes for old files as for new ones, and those had a `CREATE`.
fn mask() -> WatchMask {
    let appears = WatchMask::CREATE | WatchMask::MOVED_TO;
    appears | WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW
}

/// Whether a watch failed for the directory's own sake: gone, replaced, or not ours to read.
fn is_about_the_path(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotADirectory | NotFound | PermissionDenied)
}

/// Whether what happens to a file of this path, from the workspace on, is seen at all.
#[must_use]
pub(crate) fn is_watched(path: &Path) -> bool {
    path.parent().is_none_or(|directory| !directory.components().any(|part| is_skipped(part.as_os_str())))
}

/// Directories full of files that nobody asked for. `.git` and `.venv` are among the hidden.
#[must_use]
pub(crate) fn is_skipped(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "node_modules" || name == "__pycache__"
}

/// What is in `directory`, with paths from the root on; nothing, if it cannot be read.
fn entries(root: &Path, directory: &Path) -> impl Iterator<Item = (PathBuf, FileType)> {
    let found = std::fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
    found.filter_map(|entry| Some((directory.join(entry.file_name()), entry.file_type().ok()?)))
}

/// `top` and all below it. Paths are compared by component, so these are neighbours.
fn subtree<V: Clone>(map: &BTreeMap<Arc<Path>, V>, top: &Path) -> Vec<(Arc<Path>, V)> {
    let from_top = map.range::<Path, _>((Bound::Included(top), Bound::Unbounded));
    from_top.take_while(|(path, _)| path.starts_with(top)).map(|(path, value)| (path.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests;
