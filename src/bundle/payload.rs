//! The single file: forkpy's binary, then the packed library, then 64 bytes that say so.
//!
//! Trailer: magic (8 bytes), length of the binary, length of the pack, bytes it takes unpacked (u64, little endian each), SHA-256
//! of all that is before the trailer.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"forkpyB1";
const TRAILER: usize = 64;
/// Hexadecimal digits of a hash that name the directory in the cache.
pub(super) const NAME_LENGTH: usize = 24;

/// What the trailer says.
pub(crate) struct Payload {
    pub binary: u64,
    pub packed: u64,
    pub unpacked: u64,
    pub hash: [u8; 32],
}

impl Payload {
    /// Of this file, if it has one.
    pub(crate) fn find(file: &File) -> Option<Self> {
        let length = file.metadata().ok()?.len();
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, length.checked_sub(TRAILER as u64)?).ok()?;
        let number = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("eight"));
        let found =
            Self { binary: number(8), packed: number(16), unpacked: number(24), hash: trailer[32..].try_into().ok()? };
        (trailer.starts_with(MAGIC) && found.binary.checked_add(found.packed)? + TRAILER as u64 == length)
            .then_some(found)
    }

    pub(crate) fn trailer(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.binary, self.packed, self.unpacked] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.hash);
        bytes
    }

    /// Whether the file still is what was made.
    pub(crate) fn is_intact(&self, mut file: &File) -> io::Result<bool> {
        file.seek(SeekFrom::Start(0))?;
        let mut hash = Sha256::new();
        io::copy(&mut file.take(self.binary + self.packed), &mut HashInto(&mut hash))?;
        Ok(hash.finalize().as_slice() == self.hash)
    }

    /// Name of the directory in the cache.
    pub(crate) fn name(&self) -> String {
        self.hash.iter().take(NAME_LENGTH / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the whole directory.
    pub(crate) fn unpack(&self, mut file: &File, target: &Path) -> io::Result<()> {
        file.seek(SeekFrom::Start(self.binary))?;
        let mut archive = tar::Archive::new(zstd::Decoder::new(file.take(self.packed))?);
        archive.set_preserve_mtime(true);
        archive.unpack(target)?;
        let bin = target.join("bin");
        std::fs::create_dir_all(&bin)?;
        let mut own = File::create(bin.join("forkpy"))?;
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut file.take(self.binary), &mut own)?;
        own.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        for name in ["python", "python3"] {
            std::os::unix::fs::symlink("forkpy", bin.join(name))?;
        }
        Ok(())
    }
}

struct HashInto<'a>(&'a mut Sha256);

impl io::Write for HashInto<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(parts: &[&[u8]]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        parts.iter().for_each(|part| file.write_all(part).expect("written"));
        file
    }

    #[test]
    fn a_trailer_is_found_at_the_end_and_nowhere_else() {
        let (binary, packed) = (b"binary".as_slice(), b"packed library".as_slice());
        let hash = Sha256::digest([binary, packed].concat()).into();
        let made = Payload { binary: 6, packed: 14, unpacked: 100, hash };
        let whole = file(&[binary, packed, &made.trailer()]);
        let found = Payload::find(&whole).expect("a payload");
        assert_eq!((found.binary, found.packed, found.unpacked, found.name().len()), (6, 14, 100, NAME_LENGTH));
        assert!(found.is_intact(&whole).expect("read"));

        let changed = file(&[b"BINARY", packed, &made.trailer()]);
        assert!(!Payload::find(&changed).expect("a payload").is_intact(&changed).expect("read"));
        for parts in [&[binary][..], &[binary, packed], &[binary, &made.trailer()], &[&made.trailer()[1..]]] {
            assert!(Payload::find(&file(parts)).is_none());
        }
    }
}
