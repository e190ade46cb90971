//! Files that appear in the workspace, as the kernel tells them: nothing is walked for a cell.
//!
//! Runs in: server. `watcher.rs` owns the lock and the thread, `index.rs` what was learnt, `table.rs` which directories are
//! watched, `log.rs` what is new since when.

mod index;
mod log;
mod table;
mod watcher;

pub use self::index::NewFiles;
pub(crate) use self::{
    index::{Happening, is_skipped, is_watched},
    log::Mark,
    watcher::Watcher,
};
