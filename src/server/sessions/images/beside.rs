//! A session's variables by value, beside its image: for the case that the image does not wake, since the kernel, a library or
//! the program is another by then.
//!
//! Runs in: server, on blocking threads; `forkpy sessions`. The file has its image's name, and a seal of its own, so that neither is
//! taken for the other.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use super::{
    About, Image, ImageError,
    about::ByValue,
    sealed::{self, Broken, Key, Name},
    shelf::{Shelf, unhex},
};

/// What the name of an image becomes in the seal of what lies beside it.
pub(super) fn of(name: &Name) -> Name {
    name.map(|byte| !byte)
}

/// What lies beside an image, if anything does.
pub(super) fn by_value(path: &Path, key: &Key) -> Option<ByValue> {
    let name = path.file_stem().and_then(|stem| unhex(stem.to_str()?))?;
    match sealed::open(&path.with_extension("values"), key, &of(&name)) {
        Ok(opened) => About::of(&opened.head)?.by_value,
        Err(Broken::Read(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), ?error, "what lies beside this image cannot be read");
            None
        }
    }
}

/// The variables themselves.
pub(super) fn read(path: &Path, key: &Key, name: &Name) -> Result<OwnedFd, ImageError> {
    Ok(sealed::open(&path.with_extension("values"), key, &of(name))?.unpack(key, &of(name))?)
}

/// Puts a file of variables beside an image. Gives its bytes.
pub(super) fn write(
    shelf: &Shelf,
    (path, name): (&Path, &Name),
    file: OwnedFd,
    about: &About,
) -> Result<u64, ImageError> {
    shelf.write_whole(&path.with_extension("values"), &of(name), &about.head(), &mut File::from(file))
}

impl Image {
    pub(super) fn beside(&self) -> PathBuf {
        self.path.with_extension("values")
    }

    /// Keeps variables for the case that this image does not wake. Blocking. What there is no room for is left out.
    pub(crate) fn keep_beside(&self, file: OwnedFd, about: &About) -> Result<(), ImageError> {
        let bytes = write(&self.shelf, (&self.path, &self.name), file, about)?;
        self.more.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Names of the variables that are kept for that case, and of those that are not. Blocking.
    pub(crate) fn instead(&self) -> Option<ByValue> {
        by_value(&self.path, &self.shelf.key)
    }

    /// These variables. Blocking.
    pub(crate) fn values_instead(&self) -> Result<OwnedFd, ImageError> {
        read(&self.path, &self.shelf.key, &self.name)
    }
}
