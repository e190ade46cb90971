//! Small files read as a whole, for tools that cannot work on a part: lists of requirements, notebooks. And the real place
//! of a file, for programs that are given its name.
//!
//! Runs in: server, on its blocking threads.

use std::{io::Read, path::PathBuf};

use crate::server::workspace::handle::{FileError, Files, Shown, trouble};

impl Files {
    /// All of a text file.
    ///
    /// # Errors
    /// [`FileError`]: also when it is larger than `most`, or no UTF-8.
    pub(crate) fn text(&self, path: &str, most: u64) -> Result<String, FileError> {
        let fail = |source| trouble("read", path, source);
        let mut file = self.open_regular(path)?;
        let size = file.metadata().map_err(fail)?.len();
        if size > most {
            return Err(FileError::TooLarge { path: Shown::new(path), size, most });
        }
        let mut bytes = Vec::new();
        // One more than allowed: it may have grown since.
        (&mut file).take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > most {
            return Err(FileError::TooLarge { path: Shown::new(path), size: bytes.len() as u64, most });
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| FileError::NotUtf8 { path: Shown::new(path), offset: error.utf8_error().valid_up_to() })?;
        Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }

    /// Where a file with contents really is, links followed, absolute.
    ///
    /// # Errors
    /// [`FileError`], as for reading it.
    pub(crate) fn locate(&self, path: &str) -> Result<PathBuf, FileError> {
        self.open_regular(path)?;
        let real = self.dir.canonicalize(path).map_err(|source| trouble("find", path, source))?;
        Ok(self.root.join(real))
    }
}
