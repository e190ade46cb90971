//! Which paths are new since when, as far as a moment was marked.
//!
//! Runs in: server. Pure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use super::table::subtree;

/// A moment, see [`Watcher::mark`]. What happened later is remembered as long as this lives.
#[derive(Debug, Clone)]
pub(crate) struct Mark(pub(super) Arc<u64>);

/// New paths in the order of their appearance.
#[derive(Debug)]
pub(super) struct Log {
    /// Number of the last thing that happened.
    pub(super) now: u64,
    /// A mark before this number may have missed something.
    pub(super) gap: u64,
    pub(super) by_time: BTreeMap<u64, Arc<Path>>,
    pub(super) by_path: BTreeMap<Arc<Path>, u64>,
    /// Ascending. Only what is later than a living mark is kept.
    pub(super) marks: Vec<Weak<u64>>,
    pub(super) max: usize,
}

impl Log {
    pub(super) fn new(max: usize) -> Self {
        Self { now: 0, gap: 0, by_time: BTreeMap::new(), by_path: BTreeMap::new(), marks: Vec::new(), max }
    }

    pub(super) fn mark(&mut self) -> Mark {
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
    pub(super) fn record(&mut self, path: PathBuf) {
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

    pub(super) fn remove(&mut self, path: &Path) {
        if let Some(time) = self.by_path.remove(path) {
            self.by_time.remove(&time);
        }
    }

    pub(super) fn remove_tree(&mut self, top: &Path) {
        for (path, _) in subtree(&self.by_path, top) {
            self.remove(&path);
        }
    }

    /// Something may have been missed until now.
    pub(super) fn gap(&mut self) {
        self.now += 1;
        self.gap = self.now;
    }

    pub(super) fn since(&self, mark: u64) -> impl Iterator<Item = &Path> {
        self.by_time.range(mark + 1..).map(|(_, path)| &**path)
    }
}
