//! The list of a bundle's files: what is unpacked is compared with it at every start.
//!
//! A line is `HASH SIZE PATH`. Sizes and times are looked at always; a file whose time is not the packed one is read. What
//! completion alone reads, the most files by far, is looked at only when all is ([`Thoroughness`]).

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::BundleError;

pub const NAME: &str = "lib/MANIFEST";
/// The time of every file that was unpacked and not touched since: 1 January 2000.
pub const TIME: u64 = 946_684_800;

pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Every file below, links left out.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        match entry? {
            kind if kind.is_dir() => found.extend(files(&path)?),
            kind if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Lists what is in `lib` into it.
pub fn write(root: &Path) -> Result<(), BundleError> {
    let lib = root.join("lib");
    let mut text = String::new();
    for path in files(&lib).map_err(BundleError::file("cannot list", &lib))? {
        let bytes = fs::read(&path).map_err(BundleError::file("cannot read", &path))?;
        let own = path.strip_prefix(root).expect("below it");
        let _ = writeln!(text, "{} {} {}", hash(&bytes), bytes.len(), own.display());
    }
    let path = root.join(NAME);
    fs::write(&path, text).map_err(BundleError::file("cannot write", &path))
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// At every start: what the interpreter and the standard library are made of.
    Start,
    /// Every file, and what is in it.
    All,
}

/// The stubs of jedi.
const FOR_COMPLETION: &str = "/jedi/third_party/";

/// Files that are missing or not what was packed. `None`: there is no list, so nothing can be said.
pub fn damaged(root: &Path, how: Thoroughness) -> Option<Vec<PathBuf>> {
    let text = fs::read_to_string(root.join(NAME)).ok()?;
    let mut damaged = Vec::new();
    for line in text.lines() {
        let (expected, rest) = line.split_once(' ')?;
        let (size, name) = rest.split_once(' ')?;
        if how == Thoroughness::Start && name.contains(FOR_COMPLETION) {
            continue;
        }
        if !is_intact(&root.join(name), size.parse().ok()?, expected, how) {
            damaged.push(PathBuf::from(name));
        }
    }
    Some(damaged)
}

fn is_intact(path: &Path, size: u64, expected: &str, how: Thoroughness) -> bool {
    let Ok(found) = path.symlink_metadata() else { return false };
    let is_untouched = how == Thoroughness::Start && found.mtime() == TIME.cast_signed() && found.mtime_nsec() == 0;
    found.is_file()
        && found.len() == size
        && (is_untouched || fs::read(path).is_ok_and(|bytes| hash(&bytes) == expected))
}
