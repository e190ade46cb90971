//! Which directories are watched, by the kernel's number and by path.
//!
//! Runs in: server. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    path::Path,
    sync::Arc,
};

use inotify::WatchDescriptor;

/// Watched directories, by path from the root on. The root is the empty path.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) by_id: HashMap<i32, Arc<Path>>,
    pub(super) by_path: BTreeMap<Arc<Path>, WatchDescriptor>,
}

impl Tree {
    pub(super) fn path(&self, descriptor: &WatchDescriptor) -> Option<&Arc<Path>> {
        self.by_id.get(&descriptor.get_watch_descriptor_id())
    }

    /// Notes a watch; gives back the one that had the path until now, if that was another.
    pub(super) fn insert(&mut self, path: &Path, descriptor: WatchDescriptor) -> Option<WatchDescriptor> {
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

    pub(super) fn remove(&mut self, id: i32) -> Option<Arc<Path>> {
        let path = self.by_id.remove(&id)?;
        self.by_path.remove(&path);
        Some(path)
    }
}

/// `top` and all below it. Paths are compared by component, so these are neighbours.
pub(super) fn subtree<V: Clone>(map: &BTreeMap<Arc<Path>, V>, top: &Path) -> Vec<(Arc<Path>, V)> {
    let from_top = map.range::<Path, _>((Bound::Included(top), Bound::Unbounded));
    from_top.take_while(|(path, _)| path.starts_with(top)).map(|(path, value)| (path.clone(), value.clone())).collect()
}
