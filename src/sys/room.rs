//! A confined session's own folder: its temporary files, and what stands in for its home directory.
//!
//! Runs in: server. Lies in the server's scratch directory, for its user alone. Removed when the last of those goes who hold
//! it: the worker, its checkpoints, and what they wake.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::layers::Layers;

/// Where rooms are made.
#[derive(Debug, Clone)]
pub(crate) struct Rooms {
    above: PathBuf,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    /// What confines those in it, once the first of them has said so.
    pub layers: OnceLock<Layers>,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Rooms {
    /// Below a directory of the server's, which exists.
    #[must_use]
    pub(crate) fn below(scratch: &Path) -> Self {
        Self { above: scratch.to_owned() }
    }

    /// Makes one.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub(crate) fn make(&self) -> io::Result<Arc<Room>> {
        let path = self.above.join(format!("room-{}", NUMBERS.fetch_add(1, Ordering::Relaxed)));
        let own = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        own(&path)?;
        let room = Room { path, layers: OnceLock::new() };
        ["tmp", "home"].iter().try_for_each(|name| own(&room.path.join(name)))?;
        Ok(Arc::new(room))
    }
}

impl Room {
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        // It may hold gigabytes: not on the thread that serves. Processes of the session may still be ending in it; what is
        // left goes with the server's own directory.
        std::thread::spawn(move || std::fs::remove_dir_all(path));
    }
}
