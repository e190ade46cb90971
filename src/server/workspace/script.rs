//! Finds the script that a path means, and opens it: what runs later is this open file, whatever becomes of its name.
//!
//! Runs in: server, on its blocking threads.

use std::{fs::File, io, path::PathBuf};

use crate::server::workspace::handle::{FileError, Files, Shown, checked, place, split, trouble};

/// More is data, not a program.
const MAX_SCRIPT: u64 = 16 << 20;

#[derive(Debug)]
pub(crate) struct OpenScript {
    pub file: File,
    /// Relative to the workspace.
    pub path: String,
    pub full_path: PathBuf,
    /// Directory that the file itself lies in, links followed.
    pub directory: PathBuf,
}

impl Files {
    /// Opens a script: at `path`, else below `scripts/`, where `.py` may be left out as in `save_script`.
    ///
    /// # Errors
    /// [`FileError`]; anything but a regular file of a sensible size is refused.
    pub(crate) fn open_script(&self, path: &str) -> Result<OpenScript, FileError> {
        checked(path)?;
        let saved = format!("scripts/{path}");
        let completed = format!("{saved}.py");
        for place in [path, &saved, &completed] {
            match self.open_script_at(place) {
                Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Err(FileError::NoScript(Shown::new(path)))
    }

    fn open_script_at(&self, path: &str) -> Result<OpenScript, FileError> {
        let fail = |source| trouble("read", path, source);
        let file = self.open_regular(path)?;
        let size = file.metadata().map_err(fail)?.len();
        if size > MAX_SCRIPT {
            return Err(FileError::TooLarge { path: Shown::new(path), size, most: MAX_SCRIPT });
        }
        let (parent, name) =
            split(path).ok_or_else(|| FileError::Unusable { path: Shown::new(path), reason: "it names no file" })?;
        let relative = place(&self.dir, parent, name).map_err(fail)?;
        let real = self.dir.canonicalize(path).map_err(fail)?;
        let directory = real.parent().map_or_else(|| self.root.clone(), |parent| self.root.join(parent));
        Ok(OpenScript { file, full_path: self.root.join(&relative), path: relative, directory })
    }
}
