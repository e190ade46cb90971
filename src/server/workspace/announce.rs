//! Announces what happens to files of the workspace.
//!
//! Runs in: server, on the thread of the watcher.

use std::path::Path;

use super::watch::Happening;
use crate::server::{
    events::{Changes, Subject},
    owner::Owner,
};

/// What the watcher of a workspace calls, which may be one owner's alone.
pub(super) fn announcer(changes: Changes, whose: Option<Owner>) -> impl Fn(&Path, Happening) + Send + 'static {
    move |path, happening| {
        if happening != Happening::Written {
            changes.list_changed(whose.as_ref());
        }
        // A cell that makes thousands of files does not wait for names of which nothing is to be heard.
        if !changes.is_watched() {
            return;
        }
        let path = path.to_string_lossy();
        match happening {
            Happening::Appeared | Happening::Gone | Happening::Written => {
                changes.changed(&Subject::File(whose.clone(), path.into_owned()));
            }
            Happening::TreeGone => changes.files_below(whose.as_ref(), &format!("{path}/")),
            Happening::Unknown => changes.files_below(whose.as_ref(), ""),
        }
    }
}
