//! The folder `outputs/` of the workspace, for what the server itself writes there.
//!
//! Runs in: server, on threads that may block. Cells can replace the folder by a link to anywhere: it is opened beneath the
//! workspace and never through a link, and what is made in it is its user's alone.

use std::{io, path::Path};

use cap_fs_ext::{DirExt, OpenOptionsFollowExt};
use cap_std::{
    ambient_authority,
    fs::{Dir, File, OpenOptions, OpenOptionsExt},
};

/// Opens the folder, and makes it if it is gone.
///
/// # Errors
/// When it is no directory, a link for example.
pub(crate) fn open(outputs: &Path) -> io::Result<Dir> {
    let (Some(above), Some(name)) = (outputs.parent(), outputs.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    beneath(&Dir::open_ambient_dir(above, ambient_authority())?, Path::new(name))
}

/// Opens a folder in a folder, and makes it if it is gone.
pub(crate) fn beneath(above: &Dir, name: &Path) -> io::Result<Dir> {
    match above.create_dir(name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    above.open_dir_nofollow(name).map_err(|error| match above.symlink_metadata(name) {
        Ok(found) if !found.is_dir() => {
            let kind = if found.is_symlink() { "a symbolic link" } else { "a file" };
            io::Error::new(error.kind(), format!("{} is {kind} and not a directory", name.display()))
        }
        _ => error,
    })
}

/// Makes a file that was not there.
///
/// # Errors
/// `AlreadyExists`, and the system's others.
pub(crate) fn create(folder: &Dir, name: &str) -> io::Result<File> {
    folder.open_with(
        name,
        OpenOptions::new().write(true).create_new(true).mode(0o600).follow(cap_fs_ext::FollowSymlinks::No),
    )
}

/// Opens a file that was made here, to write on at its end.
pub(crate) fn append(folder: &Dir, name: &str) -> io::Result<File> {
    folder.open_with(name, OpenOptions::new().append(true).follow(cap_fs_ext::FollowSymlinks::No))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let outputs = root.path().join("outputs");
        create(&open(&outputs).expect("made"), "a").expect("made");
        assert_eq!(std::fs::metadata(outputs.join("a")).expect("there").mode() & 0o777, 0o600);
        let elsewhere = tempfile::tempdir().expect("a directory");
        for target in [elsewhere.path(), Path::new("scripts")] {
            std::fs::remove_dir_all(&outputs).or_else(|_| std::fs::remove_file(&outputs)).expect("removed");
            symlink(target, &outputs).expect("a link");
            let error = open(&outputs).expect_err("a link").to_string();
            assert!(error.contains("outputs is a symbolic link"), "{error}");
        }
        assert_eq!(elsewhere.path().read_dir().expect("there").count(), 0);
    }
}
