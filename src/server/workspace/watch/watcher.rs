//! Files that appear in the workspace while a cell runs, as the kernel tells them (inotify): nothing is walked per cell.
//!
//! Runs in: server, with one thread of its own ("files") that reads between cells. Reads names in the workspace only:
//! never opens a file, never writes, never follows a link.
//!
//! The kernel queues an event before the call that caused it returns, so reading the queue until it is empty shows all
//! that a cell did before it ended. The reader, a caller or the thread, holds the one lock until it is empty.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use inotify::Inotify;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use parking_lot::Mutex;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    index::{Happening, Index, NewFiles, Observer, entries, is_about_the_path, is_skipped, mask},
    log::{Log, Mark},
    table::Tree,
};

/// Most directories that are watched.
const MAX_DIRECTORIES: usize = 4096;
/// Most new paths that are remembered.
const MAX_LOG: usize = 10_000;
/// Bytes read at a time, some hundreds of events.
const BUFFER: usize = 64 << 10;
/// The thread rests this long after a reading, so that a cell that makes many files does not wake it for each.
const REST_MS: u16 = 10;
/// The thread looks this often whether a caller saw an overflow; its own readings it knows at once.
const LOOK_MS: u16 = 10_000;
/// Stack of the thread; it walks without recursion.
const STACK: usize = 256 << 10;

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
    /// The queue again, as the reactor knows it; none outside of one.
    told: Option<AsyncFd<OwnedFd>>,
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

    /// The same, telling an observer of everything that happens: on the thread or in a caller of this, and it must be quick.
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

    /// Remembers this moment; to be taken before a cell starts. Costs no system call when nothing happened.
    #[must_use]
    pub(crate) fn mark(&self) -> Mark {
        match &self.active {
            Some(active) => active.drained(|index| index.log.mark()),
            None => Mark(Arc::new(0)),
        }
    }

    /// Files that appeared since `mark`, without those that `exclude` knows by their path.
    ///
    /// Costs no system call when nothing happened. New directories that the thread has not met yet are read here, so
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
        let told = tokio::runtime::Handle::try_current().ok().and_then(|_| register(queue.try_clone().ok()?).ok());
        let (stop, writer) = io::pipe()?;
        let state = State { inotify, buffer: vec![0; BUFFER].into_boxed_slice(), index };
        let state = Arc::new(Mutex::new(state));
        let reader = Reader { state: state.clone(), queue, stop };
        let thread = std::thread::Builder::new().name("files".to_owned()).stack_size(STACK);
        let thread = thread.spawn(move || reader.run())?;
        Ok(Self { state, told, stop: Some(writer), thread: Some(thread) })
    }

    /// Does `task` knowing everything that happened before the call; on the reactor, all that happened before what the reactor
    /// has told of. Where it knows of nothing, the kernel is not asked.
    fn drained<T>(&self, task: impl FnOnce(&mut Index) -> T) -> T {
        let mut state = self.state.lock();
        match &self.told {
            Some(told) => {
                let _ = told.try_io(Interest::READABLE, |_| -> io::Result<()> {
                    state.drain();
                    // It is empty: what comes next is told again.
                    Err(io::ErrorKind::WouldBlock.into())
                });
            }
            None => state.drain(),
        }
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

#[expect(deprecated, reason = "the unsafe replacement asks for what holds here: the value owns its descriptor")]
fn register(queue: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(queue, Interest::READABLE)
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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
