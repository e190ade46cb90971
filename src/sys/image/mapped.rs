//! The files that a frozen process has mapped, and whether one is still what it was.
//!
//! Runs in: checkpoint (`of`), the process that is woken and the one that carries an image elsewhere (`of`, `is_as`).
//!
//! A file is the same by its place, number, size and times. Where only the time of its last change of any kind differs (another
//! link to it, other rights, or contents whose own time was set back), its build id decides, if it has one.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
};

use object::{
    Endianness,
    elf::{ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID},
    read::{
        ReadCache,
        elf::{FileHeader, ProgramHeader},
    },
};
use serde::{Deserialize, Serialize};

/// A file as it was when it was mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MappedFile {
    pub(super) path: String,
    device: u64,
    inode: u64,
    size: u64,
    /// When its contents changed, as far as it says.
    changed: (i64, i64),
    /// When anything of it changed, as the kernel says.
    touched: (i64, i64),
    /// What its linker has called it.
    build: Option<Vec<u8>>,
}

impl MappedFile {
    pub(super) fn of(path: &str, status: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: status.dev(),
            inode: status.ino(),
            size: status.len(),
            changed: (status.mtime(), status.mtime_nsec()),
            touched: (status.ctime(), status.ctime_nsec()),
            // One that may be mapped and not be read again goes by the rest.
            build: File::open(path).and_then(build_id).ok().flatten(),
        }
    }

    /// Whether a file is this one.
    pub(super) fn is(&self, path: &str, status: &Metadata) -> bool {
        let now = (status.dev(), status.ino(), status.len(), (status.mtime(), status.mtime_nsec()));
        if self.path != path || (self.device, self.inode, self.size, self.changed) != now {
            return false;
        }
        self.touched == (status.ctime(), status.ctime_nsec())
            || self.build.is_none()
            || File::open(path).and_then(build_id).is_ok_and(|build| build == self.build)
    }
}

/// What the linker has called a program or a library; none of what is neither, or has no name.
fn build_id(file: File) -> io::Result<Option<Vec<u8>>> {
    let cache = ReadCache::new(file);
    let Ok(header) = FileHeader64::<Endianness>::parse(&cache) else { return Ok(None) };
    let found = || -> object::Result<Option<Vec<u8>>> {
        let endian = header.endian()?;
        for segment in header.program_headers(endian, &cache)? {
            let Some(mut notes) = segment.notes(endian, &cache)? else { continue };
            while let Some(note) = notes.next()? {
                if note.name() == ELF_NOTE_GNU && note.n_type(endian) == NT_GNU_BUILD_ID {
                    return Ok(Some(note.desc().to_vec()));
                }
            }
        }
        Ok(None)
    };
    found().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt};

    use super::*;

    /// This program, as a library of a test's own.
    fn copied() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("own.so").to_str().expect("UTF-8").to_owned();
        fs::copy("/proc/self/exe", &path).expect("copied");
        (folder, path)
    }

    fn status(path: &str) -> Metadata {
        fs::metadata(path).expect("there")
    }

    #[test]
    fn a_program_has_a_build_id_and_a_text_has_none() {
        let build = build_id(File::open("/proc/self/exe").expect("there")).expect("read");
        assert_eq!(build.expect("rustc's linker gives one").len(), 20);
        assert_eq!(build_id(File::open("/proc/self/status").expect("there")).expect("read"), None);
    }

    #[test]
    fn another_link_to_a_library_leaves_it_what_it_is_and_other_contents_do_not() {
        let (folder, path) = copied();
        let then = MappedFile::of(&path, &status(&path));
        assert!(then.is(&path, &status(&path)));
        fs::hard_link(&path, folder.path().join("other.so")).expect("linked");
        assert_ne!(then, MappedFile::of(&path, &status(&path)), "the kernel has noted it");
        assert!(then.is(&path, &status(&path)));
        // Other contents of the same size, with the time of the old ones.
        let file = File::options().read(true).write(true).open(&path).expect("ours");
        let time = status(&path).modified().expect("a time");
        let build = then.build.clone().expect("one");
        let whole = fs::read(&path).expect("read");
        let at = whole.windows(build.len()).position(|window| window == build).expect("in it");
        file.write_all_at(&[0x5a; 20], at as u64).expect("written");
        file.set_modified(time).expect("ours");
        assert_eq!(then.changed, MappedFile::of(&path, &status(&path)).changed);
        assert!(!then.is(&path, &status(&path)));
    }
}
