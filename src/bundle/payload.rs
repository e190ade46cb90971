//! The single file: a launcher, three packed parts, then 88 bytes that say so.
//!
//! The parts are forkpy's program, its library, and the rest: what no start waits for (pip, jedi's stubs). Each is packed by
//! zstd; library and rest are archives. Trailer: magic (8 bytes), length of the launcher and of each part, bytes of the
//! program and of all files unpacked (u64, little endian each), SHA-256 of all that is before the trailer.
//!
//! Runs in: the launcher, which reads; `forkpy bundle`, which writes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};

use super::manifest;

const MAGIC: &[u8; 8] = b"forkpyB2";
const TRAILER: usize = 88;
/// Hexadecimal digits of a hash that name the directory in the cache.
pub(super) const NAME_LENGTH: usize = 24;
/// Names the single file to what it has unpacked.
pub(crate) const SINGLE_FILE: &str = "FORKPY_SINGLE_FILE";

/// A part of the single file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Program,
    Library,
    Rest,
}

/// What the trailer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    pub launcher: u64,
    /// In the order of [`Part`].
    pub parts: [u64; 3],
    /// Length of the program, unpacked.
    pub program: u64,
    pub unpacked: u64,
    pub hash: [u8; 32],
}

impl Payload {
    /// Of this file, if it has one.
    pub(crate) fn find(file: &File) -> Option<Self> {
        let length = file.metadata().ok()?.len();
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, length.checked_sub(TRAILER as u64)?).ok()?;
        let number = |at: usize| u64::from_le_bytes(trailer[8 * at..8 * at + 8].try_into().expect("eight"));
        let found = Self {
            launcher: number(1),
            parts: [number(2), number(3), number(4)],
            program: number(5),
            unpacked: number(6),
            hash: trailer[56..].try_into().ok()?,
        };
        (trailer.starts_with(MAGIC) && found.end()?.checked_add(TRAILER as u64)? == length).then_some(found)
    }

    pub(crate) fn trailer(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.launcher].iter().chain(&self.parts).chain(&[self.program, self.unpacked]) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.hash);
        bytes
    }

    /// Where the trailer begins.
    fn end(&self) -> Option<u64> {
        self.parts.iter().try_fold(self.launcher, |sum, part| sum.checked_add(*part))
    }

    /// Name of the directory in the cache.
    pub(crate) fn name(&self) -> String {
        self.hash.iter().take(NAME_LENGTH / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the file still is what was made.
    pub(crate) fn is_intact(&self, file: &File) -> io::Result<bool> {
        let mut hash = Sha256::new();
        let mut reader = Reader { file, at: 0, end: self.end().unwrap_or(0) };
        let mut buffer = vec![0; 1 << 18];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(hash.finalize().as_slice() == self.hash),
                count => hash.update(&buffer[..count]),
            }
        }
    }

    fn reader<'a>(&self, part: Part, file: &'a File) -> Reader<'a> {
        let index = part as usize;
        let at = self.launcher + self.parts[..index].iter().sum::<u64>();
        Reader { file, at, end: at + self.parts[index] }
    }

    /// Writes the program and the names that it has besides.
    pub(crate) fn unpack_program(&self, file: &File, target: &Path) -> io::Result<()> {
        let bin = target.join("bin");
        fs::create_dir_all(&bin)?;
        let mut own = File::options().write(true).create_new(true).mode(0o755).open(bin.join("forkpy"))?;
        io::copy(&mut zstd::Decoder::new(self.reader(Part::Program, file))?, &mut own)?;
        own.set_permissions(fs::Permissions::from_mode(0o755))?;
        for name in ["python", "python3"] {
            std::os::unix::fs::symlink("forkpy", bin.join(name))?;
        }
        Ok(())
    }

    /// Writes the files of an archive.
    pub(crate) fn unpack(&self, part: Part, file: &File, target: &Path) -> io::Result<()> {
        let mut archive = tar::Archive::new(zstd::Decoder::new(self.reader(part, file))?);
        let time = UNIX_EPOCH + Duration::from_secs(manifest::TIME);
        let mut folder = PathBuf::new();
        let mut content = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = entry.path()?.into_owned();
            if !name.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a name in the archive leads out of it"));
            }
            let path = target.join(&name);
            let parent = path.parent().unwrap_or(target);
            if folder != parent {
                fs::create_dir_all(parent)?;
                parent.clone_into(&mut folder);
            }
            content.clear();
            entry.read_to_end(&mut content)?;
            let mut options = File::options();
            let mut own = options.write(true).create_new(true).mode(entry.header().mode()?).open(&path)?;
            own.write_all(&content)?;
            own.set_modified(time)?;
        }
        Ok(())
    }
}

/// A part of a file, for one of several readers at a time.
struct Reader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(parts: &[&[u8]]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        parts.iter().for_each(|part| file.write_all(part).expect("written"));
        file
    }

    fn made(parts: [&[u8]; 3]) -> Payload {
        let hash = Sha256::digest([b"launcher".as_slice(), &parts.concat()].concat()).into();
        Payload { launcher: 8, parts: parts.map(|part| part.len() as u64), program: 7, unpacked: 100, hash }
    }

    #[test]
    fn a_trailer_is_found_at_the_end_and_nowhere_else() {
        let (launcher, parts) = (b"launcher".as_slice(), [b"program".as_slice(), b"library", b"rest"]);
        let made = made(parts);
        let whole = file(&[launcher, &parts.concat(), &made.trailer()]);
        let found = Payload::find(&whole).expect("a payload");
        assert_eq!((&found, found.name().len()), (&made, NAME_LENGTH));
        assert!(found.is_intact(&whole).expect("read"));

        let changed = file(&[b"LAUNCHER", &parts.concat(), &made.trailer()]);
        assert!(!Payload::find(&changed).expect("a payload").is_intact(&changed).expect("read"));
        for parts in [&[launcher][..], &[launcher, parts[0]], &[launcher, &made.trailer()], &[&made.trailer()[1..]]] {
            assert!(Payload::find(&file(parts)).is_none());
        }
    }

    #[test]
    fn parts_are_unpacked_each_by_itself() {
        let archive = |name: &str, content: &str| {
            let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).expect("packs"));
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).expect("packed");
            builder.into_inner().expect("packed").finish().expect("packed")
        };
        let program = zstd::encode_all(&b"program"[..], 1).expect("packed");
        let (library, rest) = (archive("lib/a/b.py", "code"), archive("lib/a/pip/c.py", "more"));
        let parts = [&program[..], &library, &rest];
        let made = made(parts);
        let whole = file(&[b"launcher", &parts.concat(), &made.trailer()]);
        let place = tempfile::tempdir().expect("a directory");
        let read = |name: &str| fs::read_to_string(place.path().join(name)).ok();
        made.unpack_program(&whole, place.path()).expect("unpacked");
        made.unpack(Part::Library, &whole, place.path()).expect("unpacked");
        assert_eq!((read("bin/python3").as_deref(), read("lib/a/b.py").as_deref()), (Some("program"), Some("code")));
        assert_eq!(read("lib/a/pip/c.py"), None);
        made.unpack(Part::Rest, &whole, place.path()).expect("unpacked");
        assert_eq!(read("lib/a/pip/c.py").as_deref(), Some("more"));
        assert!(made.unpack(Part::Rest, &whole, place.path()).is_err(), "nothing is written over");
    }
}
