//! Tests of `server/workspace/watch`.
//!
//! Runs in: the test binary.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    time::{Duration, Instant},
};

use inotify::{Event, EventMask};
use tempfile::TempDir;

use super::*;

struct Place {
    directory: TempDir,
    watcher: Watcher,
}

impl Place {
    /// A workspace with `directories` and, in each and at the top, a file `old`.
    fn new(directories: &[&str]) -> Self {
        Self::with_limits(directories, MAX_DIRECTORIES, MAX_LOG)
    }

    fn with_limits(directories: &[&str], max_directories: usize, max_log: usize) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        for name in directories.iter().chain(&["."]) {
            fs::create_dir_all(directory.path().join(name)).expect("directory");
            fs::write(directory.path().join(name).join("old"), "x").expect("file");
        }
        let watcher = Watcher::start_with(directory.path(), max_directories, max_log, None).expect("watcher");
        let place = Self { directory, watcher };
        place.settle();
        place
    }

    fn state(&self) -> &Mutex<State> {
        &self.watcher.active.as_ref().expect("inotify").state
    }

    /// Waits for the thread to have walked.
    fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.state().lock().index.walks_due > 0 {
            assert!(Instant::now() < end, "the walk does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str) {
        fs::write(self.path(name), "x").expect("write");
    }

    fn mkdir(&self, name: &str) {
        fs::create_dir_all(self.path(name)).expect("mkdir");
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("rename");
    }

    /// Paths, where all must be told.
    fn since(&self, mark: &Mark) -> Vec<String> {
        let files = self.watcher.since(mark, |_| false);
        assert_eq!((files.omitted, files.incomplete), (0, false));
        files.paths
    }
}

#[test]
fn new_files_are_listed_in_order_and_once() {
    let place = Place::new(&["a/b"]);
    let mark = place.watcher.mark();
    for name in ["z", "a/b/c", "a/y", ".hidden"] {
        place.write(name);
        place.write(name);
    }
    assert_eq!(place.since(&mark), [".hidden", "a/b/c", "a/y", "z"]);
    assert_eq!(place.since(&mark).len(), 4, "asking does not forget");
    let some = place.watcher.since(&mark, |path| path.starts_with("a/"));
    assert_eq!(some.paths, [".hidden", "z"]);
    assert!(place.since(&place.watcher.mark()).is_empty());
}

#[test]
fn old_files_and_files_that_went_are_not_listed() {
    let place = Place::new(&["a"]);
    let mark = place.watcher.mark();
    place.write("old");
    place.write("a/old");
    place.write("gone");
    fs::remove_file(place.path("gone")).expect("remove");
    place.write("before");
    place.rename("before", "a/after");
    place.write("left");
    let outside = tempfile::tempdir().expect("tempdir");
    fs::rename(place.path("left"), outside.path().join("left")).expect("rename");
    assert_eq!(place.since(&mark), ["a/after"]);
}

#[test]
fn what_is_moved_in_is_listed() {
    let place = Place::new(&[]);
    let outside = tempfile::tempdir_in(place.directory.path().parent().expect("parent")).expect("tempdir");
    fs::create_dir_all(outside.path().join("tree/deep/.git")).expect("mkdir");
    for name in ["file", "tree/one", "tree/deep/two", "tree/deep/.git/three"] {
        fs::write(outside.path().join(name), "x").expect("write");
    }
    let mark = place.watcher.mark();
    for name in ["file", "tree"] {
        fs::rename(outside.path().join(name), place.path(name)).expect("rename");
    }
    assert_eq!(place.since(&mark), ["file", "tree/deep/two", "tree/one"]);
}

#[test]
fn files_put_at_once_into_new_directories_are_listed() {
    let place = Place::new(&["a"]);
    for round in 0..200 {
        let mark = place.watcher.mark();
        let directory = format!("a/{round}/b/c");
        place.mkdir(&directory);
        place.write(&format!("a/{round}/early"));
        place.write(&format!("{directory}/f"));
        let mut expected = vec![format!("{directory}/f"), format!("a/{round}/early")];
        expected.sort();
        assert_eq!(place.since(&mark), expected);
        place.write(&format!("{directory}/late"));
        assert_eq!(place.since(&mark).len(), 3);
    }
}

#[test]
fn a_directory_that_is_moved_takes_its_files_along() {
    let place = Place::new(&["a", "a/b"]);
    let mark = place.watcher.mark();
    place.write("a/b/new");
    place.rename("a", "z");
    place.write("z/b/more");
    assert_eq!(place.since(&mark), ["z/b/more", "z/b/new", "z/b/old", "z/old"]);
    fs::remove_dir_all(place.path("z")).expect("remove");
    assert!(place.since(&mark).is_empty());
    place.mkdir("a/b");
    place.write("a/b/again");
    assert_eq!(place.since(&mark), ["a/b/again"]);
    let state = place.state().lock();
    assert_eq!((state.index.tree.by_id.len(), state.index.tree.by_path.len()), (3, 3));
}

#[test]
fn links_are_listed_but_not_followed() {
    let outside = tempfile::tempdir().expect("tempdir");
    let place = Place::new(&["a"]);
    symlink(outside.path(), place.path("early")).expect("link");
    let mark = place.watcher.mark();
    symlink(outside.path(), place.path("a/link")).expect("link");
    fs::write(outside.path().join("secret"), "x").expect("write");
    place.mkdir("b");
    symlink(outside.path(), place.path("b/link")).expect("link");
    place.write("a/link/other");
    assert_eq!(place.since(&mark), ["a/link", "b/link"]);
}

#[test]
fn hidden_and_library_directories_are_skipped() {
    let names = [".git/objects", ".venv", "a/node_modules/x", "a/__pycache__"];
    let place = Place::new(&names);
    let mark = place.watcher.mark();
    for name in names {
        place.write(&format!("{name}/f"));
        place.mkdir(&format!("new/{name}"));
        place.write(&format!("new/{name}/f"));
    }
    place.write("a/f");
    assert_eq!(place.since(&mark), ["a/f"]);
    assert_eq!(place.state().lock().index.tree.by_path.len(), 4);
}

#[test]
fn more_than_a_hundred_are_counted() {
    let place = Place::new(&[]);
    let mark = place.watcher.mark();
    (0..250).for_each(|number| place.write(&format!("{number:03}")));
    let files = place.watcher.since(&mark, |path| path == "000");
    assert_eq!((files.paths.len(), files.omitted, files.incomplete), (100, 149, false));
    assert_eq!((&*files.paths[0], &*files.paths[99]), ("001", "100"));
}

#[test]
fn marks_overlap() {
    let place = Place::new(&[]);
    let first = place.watcher.mark();
    place.write("1");
    let second = place.watcher.mark();
    place.write("2");
    drop(place.watcher.mark());
    assert_eq!(place.since(&first), ["1", "2"]);
    assert_eq!(place.since(&second), ["2"]);
    drop(first);
    place.write("3");
    let third = place.watcher.mark();
    assert_eq!(place.state().lock().index.log.by_time.len(), 2, "what only the first could ask for is forgotten");
    drop((second, third));
    place.write("4");
    let fourth = place.watcher.mark();
    let state = place.state().lock();
    let log = &state.index.log;
    assert_eq!((log.by_time.len(), log.by_path.len(), log.marks.len()), (0, 0, 1));
    drop((state, fourth));
}

#[test]
fn the_log_is_bounded_and_says_so() {
    let place = Place::with_limits(&[], 10, 5);
    let mark = place.watcher.mark();
    (0..7).for_each(|number| place.write(&format!("{number}")));
    let files = place.watcher.since(&mark, |_| false);
    assert_eq!(files.paths, ["2", "3", "4", "5", "6"]);
    assert!(files.incomplete && !place.watcher.is_partial());
    let mark = place.watcher.mark();
    place.write("x");
    assert_eq!(place.since(&mark), ["x"]);
}

#[test]
fn directories_are_bounded_and_the_shallow_come_first() {
    let place = Place::with_limits(&["a/deep", "b/deep"], 3, MAX_LOG);
    assert!(place.watcher.is_partial());
    let mark = place.watcher.mark();
    for name in ["f", "a/f", "b/f", "a/deep/f"] {
        place.write(name);
    }
    let found = place.watcher.since(&mark, |_| false);
    assert_eq!(found.paths, ["a/f", "b/f", "f"]);
    assert!(found.incomplete, "what is in a/deep is not seen, and every list says so");
    place.mkdir("c");
    fs::remove_dir_all(place.path("a")).expect("remove");
    place.mkdir("d");
    let mark = place.watcher.mark();
    place.write("d/f");
    assert_eq!(place.watcher.since(&mark, |_| false).paths, ["d/f"], "a watch that is free is used again");
}

#[test]
fn after_an_overflow_the_tree_is_walked_again() {
    let place = Place::new(&["a"]);
    let mark = place.watcher.mark();
    {
        let mut state = place.state().lock();
        // As if the event of `lost` had been dropped by the kernel.
        place.mkdir("lost");
        let State { inotify, buffer, index } = &mut *state;
        inotify.read_events(buffer).expect("events").for_each(drop);
        let wd = index.tree.by_path[Path::new("")].clone();
        index.apply(&Event { wd, mask: EventMask::Q_OVERFLOW, cookie: 0, name: None });
    }
    place.write("wakes the thread");
    assert!(place.watcher.since(&mark, |_| false).incomplete);
    place.write("and again");
    place.settle();
    assert!(place.watcher.since(&mark, |_| false).incomplete);
    let mark = place.watcher.mark();
    place.write("lost/found");
    assert_eq!(place.since(&mark), ["lost/found"]);
}

/// A watcher that tells everything, and what it has told since the last look.
fn observed(directories: &[&str]) -> (Place, impl Fn() -> Vec<(String, Happening)> + use<>) {
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let telling = Arc::clone(&told);
    let mut place = Place::new(directories);
    let observer = move |path: &Path, what| telling.lock().push((path.to_string_lossy().into_owned(), what));
    place.watcher = Watcher::start_observed(place.directory.path(), observer).expect("watcher");
    place.settle();
    let look = move || {
        let mut told = std::mem::take(&mut *told.lock());
        told.dedup();
        told
    };
    (place, look)
}

#[test]
fn an_observer_is_told_of_everything_once_it_happened() {
    use Happening::{Appeared, Gone, TreeGone, Unknown};
    let (place, told) = observed(&["a"]);
    let seen = || {
        drop(place.watcher.mark());
        told()
    };
    place.write("new");
    assert_eq!(seen(), [("new".to_owned(), Appeared)]);
    place.write("new");
    assert_eq!(seen(), []);
    fs::rename(place.path("new"), place.path("a/new")).expect("rename");
    assert_eq!(seen(), [("new".to_owned(), Gone), ("a/new".to_owned(), Appeared)]);
    place.mkdir("b/c");
    place.write("b/c/deep");
    assert_eq!(seen(), [("b/c/deep".to_owned(), Appeared)]);
    fs::rename(place.path("b"), place.directory.path().join(".hidden")).expect("rename");
    assert_eq!(seen(), [("b".to_owned(), TreeGone)]);
    let mut state = place.state().lock();
    let wd = state.index.tree.by_path[Path::new("")].clone();
    state.index.apply(&Event { wd, mask: EventMask::Q_OVERFLOW, cookie: 0, name: None });
    drop(state);
    assert_eq!(told(), [(String::new(), Unknown)]);
}

#[test]
fn writing_is_told_where_somebody_asked_for_it_also_in_directories_that_come_later() {
    let (place, told) = observed(&["a"]);
    let place_watcher = |place: Place| (Arc::new(place.watcher), place.directory);
    let (watcher, directory) = place_watcher(place);
    let written = |name: &str| {
        fs::write(directory.path().join(name), "more").expect("write");
        drop(watcher.mark());
        told().contains(&(name.to_owned(), Happening::Written))
    };
    assert!(!written("a/old") && !written("old"));
    let (one, other) =
        (Watcher::watch_writes(&watcher, Path::new("a")), Watcher::watch_writes(&watcher, Path::new("a")));
    let later = Watcher::watch_writes(&watcher, Path::new("later"));
    assert!(written("a/old") && !written("old"));
    drop(one);
    assert!(written("a/old"));
    drop(other);
    assert!(!written("a/old"));
    fs::create_dir(directory.path().join("later")).expect("mkdir");
    written("later/x");
    assert!(written("later/x"));
    drop(later);
    assert!(!written("later/x"));
}

#[test]
fn names_need_not_be_text() {
    let place = Place::new(&[]);
    let mark = place.watcher.mark();
    for name in [&b"\xff"[..], b"\xfe"] {
        fs::write(place.directory.path().join(OsStr::from_bytes(name)), "x").expect("write");
    }
    assert_eq!(place.since(&mark), ["\u{fffd}"]);
}

#[test]
fn a_workspace_that_is_no_directory_is_an_error_and_one_that_goes_is_said() {
    let place = Place::new(&["w"]);
    assert!(Watcher::start(&place.path("old")).is_err());
    assert!(Watcher::start(&place.path("nowhere")).is_err());
    let watcher = Watcher::start(&place.path("w")).expect("watcher");
    let inner = Place { directory: tempfile::tempdir().expect("tempdir"), watcher };
    // While the walk has the directory open, it is not quite gone.
    inner.settle();
    let mark = inner.watcher.mark();
    fs::remove_dir_all(place.path("w")).expect("remove");
    assert!(inner.watcher.since(&mark, |_| false).incomplete && inner.watcher.is_partial());
}

#[test]
fn without_inotify_nothing_is_listed() {
    let watcher = Watcher { active: None };
    let files = watcher.since(&watcher.mark(), |_| false);
    assert!(files.incomplete && files.paths.is_empty() && watcher.is_partial());
}

#[test]
fn callers_and_the_thread_read_together_and_nothing_is_lost() {
    let place = Place::new(&[]);
    std::thread::scope(|scope| {
        for session in 0..4 {
            let place = &place;
            scope.spawn(move || {
                for cell in 0..50 {
                    let mark = place.watcher.mark();
                    let name = format!("{session}/{cell}/f");
                    place.mkdir(&format!("{session}/{cell}"));
                    place.write(&name);
                    let files = place.watcher.since(&mark, |path| path != name);
                    assert_eq!((files.paths, files.incomplete), (vec![name], false));
                }
            });
        }
    });
}
