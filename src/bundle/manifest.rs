//! The lists of a bundle's files: what is unpacked is compared with them, with the first at every start.
//!
//! A line is `HASH SIZE PATH`. Sizes and times are looked at always; a file whose time is not the packed one is read. What
//! pip and completion alone read, the most files by far, stands in the second list and is looked at only when all is
//! ([`Thoroughness`]).

use std::{
    fmt::Write as _,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::{AtFlags, OFlag, open},
    sys::stat::{Mode, SFlag, fstatat},
};
use sha2::{Digest, Sha256};

use super::BundleError;

pub(crate) const NAME: &str = "lib/MANIFEST";
const MORE: &str = "lib/MANIFEST.more";
/// Is in a bundle when all of it is there.
pub(crate) const COMPLETE: &str = "lib/COMPLETE";
/// What stands in it.
const FOR_MORE: [&str; 2] = ["/jedi/third_party/", "/site-packages/pip/"];
/// The small program that makes a single file of this directory.
pub(super) const LAUNCHER: &str = "lib/launcher";
/// Threads that look, at a start: most of it is waiting for the kernel's tables.
const LOOKERS: usize = 2;
/// The time of every file that was unpacked and not touched since: 1 January 2000.
pub(crate) const TIME: u64 = 946_684_800;

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Every file below, links left out.
pub(crate) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
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

/// Lists what is in `lib`.
pub(crate) fn write(root: &Path) -> Result<(), BundleError> {
    let lib = root.join("lib");
    let (mut first, mut second) = (String::new(), String::new());
    for path in files(&lib).map_err(BundleError::file("cannot list", &lib))? {
        let own = path.strip_prefix(root).unwrap_or(&path);
        if [NAME, MORE, COMPLETE].iter().any(|list| own == Path::new(list)) {
            continue;
        }
        let bytes = fs::read(&path).map_err(BundleError::file("cannot read", &path))?;
        let name = own.to_string_lossy();
        let text = if is_for_later(own) { &mut second } else { &mut first };
        let _ = writeln!(text, "{} {} {name}", hash(&bytes), bytes.len());
    }
    for (list, text) in [(NAME, first), (MORE, second)] {
        let path = root.join(list);
        fs::write(&path, text).map_err(BundleError::file("cannot write", &path))?;
    }
    Ok(())
}

/// Whether no start waits for this file of a bundle.
pub(super) fn is_for_later(name: &Path) -> bool {
    let text = name.to_string_lossy();
    name == Path::new(LAUNCHER) || FOR_MORE.iter().any(|part| text.contains(part))
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thoroughness {
    /// At every start: the interpreter, the standard library, and packages but for pip and completion's stubs.
    Start,
    /// Every file, and what is in it.
    All,
}

/// Files that are missing or not what was packed. `None`: there is no list, so nothing can be said. At a start it has two
/// threads for as long as it takes; there is one before and after.
pub(crate) fn damaged(root: &Path, how: Thoroughness) -> Option<Vec<PathBuf>> {
    let mut text = fs::read_to_string(root.join(NAME)).ok()?;
    if how == Thoroughness::All {
        text += &fs::read_to_string(root.join(MORE)).ok()?;
    }
    let lines: Vec<&str> = text.lines().collect();
    let share = lines.len().div_ceil(LOOKERS).max(1);
    let parts: Vec<Option<Vec<PathBuf>>> = thread::scope(|scope| {
        let lookers = lines.chunks(share).map(|lines| scope.spawn(move || damaged_of(lines, root, how)));
        let lookers: Vec<_> = lookers.collect();
        lookers.into_iter().map(|looker| looker.join().ok().flatten()).collect()
    });
    Some(parts.into_iter().collect::<Option<Vec<_>>>()?.concat())
}

fn damaged_of(lines: &[&str], root: &Path, how: Thoroughness) -> Option<Vec<PathBuf>> {
    let mut damaged = Vec::new();
    // Files of a folder stand together: it is looked up once.
    let mut folder: (&str, Option<OwnedFd>) = ("", None);
    for line in lines {
        let (expected, rest) = line.split_once(' ')?;
        let (size, name) = rest.split_once(' ')?;
        let (parent, file) = name.rsplit_once('/')?;
        if folder.1.is_none() || folder.0 != parent {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            folder = (parent, open(&root.join(parent), flags, Mode::empty()).ok());
        }
        let is_intact = folder.1.as_ref().is_some_and(|parent| {
            let look = Look { parent, file, path: &root.join(name) };
            look.is_intact(size.parse().unwrap_or(u64::MAX), expected, how)
        });
        if !is_intact {
            damaged.push(PathBuf::from(name));
        }
    }
    Some(damaged)
}

/// A file in its folder.
struct Look<'a> {
    parent: &'a OwnedFd,
    file: &'a str,
    path: &'a Path,
}

impl Look<'_> {
    fn is_intact(&self, size: u64, expected: &str, how: Thoroughness) -> bool {
        let Ok(found) = fstatat(self.parent, self.file, AtFlags::AT_SYMLINK_NOFOLLOW) else { return false };
        let is_untouched =
            how == Thoroughness::Start && found.st_mtime == TIME.cast_signed() && found.st_mtime_nsec == 0;
        SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG
            && u64::try_from(found.st_size) == Ok(size)
            && (is_untouched || fs::read(self.path).is_ok_and(|bytes| hash(&bytes) == expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        let packed = std::time::UNIX_EPOCH + std::time::Duration::from_secs(TIME);
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(packed)).expect("touched");
    }

    #[test]
    fn what_is_missing_or_changed_is_found() {
        let root = tempfile::tempdir().expect("a folder");
        let lib = root.path().join("lib/python3.11");
        fs::create_dir_all(lib.join("site-packages/pip")).expect("made");
        let names = ["a.py", "b.py", "c.py", "site-packages/pip/d.py"].map(|name| lib.join(name));
        for name in &names {
            fs::write(name, "text").expect("written");
        }
        write(root.path()).expect("listed");
        names.iter().for_each(|name| touch(name));
        let found = |how| damaged(root.path(), how).expect("a list");
        assert_eq!(found(Thoroughness::All), Vec::<PathBuf>::new());

        // Touched and the same is whole; of the same size and time it is whole at a start, and not to who reads.
        fs::write(&names[0], "text").expect("written");
        fs::write(&names[1], "TEXT").expect("written");
        touch(&names[1]);
        fs::remove_file(&names[2]).expect("removed");
        fs::write(&names[3], "").expect("written");
        let below = |name: &str| PathBuf::from(format!("lib/python3.11/{name}"));
        assert_eq!(found(Thoroughness::Start), [below("c.py")]);
        assert_eq!(found(Thoroughness::All), [below("b.py"), below("c.py"), below("site-packages/pip/d.py")]);
        assert_eq!(damaged(&root.path().join("elsewhere"), Thoroughness::Start), None);
    }
}
