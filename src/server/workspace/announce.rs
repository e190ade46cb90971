//! Announces what happens to files of the workspace.
//!
//! Runs in: server, on the thread of the watcher.

use std::path::Path;

use super::watch::Happening;
use crate::server::events::{Changes, Subject};

/// What the watcher calls.
pub(in crate::server) fn announcer(changes: Changes) -> impl Fn(&Path, Happening) + Send + 'static {
    move |path, happening| {
        if happening != Happening::Written {
            changes.list_changed();
        }
        // A cell that makes thousands of files does not wait for names of which nothing is to be heard.
        if !changes.is_watched() {
            return;
        }
        let path = path.to_string_lossy();
        match happening {
            Happening::Appeared | Happening::Gone | Happening::Written => {
                changes.changed(&Subject::File(path.into_owned()));
            }
            Happening::TreeGone => changes.files_below(&format!("{path}/")),
            Happening::Unknown => changes.files_below(""),
        }
    }
}
