//! A sealed file: what cannot be read with another key, under another name, changed or cut short.
//!
//! Runs in: server, on blocking threads. Knows bytes only. A file has a head, which can be read alone, and a body, which is packed;
//! each has a seal of its own, over its name too, so that no file is taken for another. A body is unpacked into memory, up to the
//! length that its head says, and is given to no process before its seal is found to be right.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use hmac::{Hmac, KeyInit, Mac};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use sha2::Sha256;

use crate::sys::descriptors;

/// Begin of each file, of whatever version.
const KIND: &[u8] = b"forkpy image ";
/// Begin of each file of this version.
const MAGIC: &[u8; 16] = b"forkpy image 3\r\n";
/// Where its parts begin: the seals of head and body, their lengths (head, body as it is unpacked), the head.
const SEALS: usize = 16;
const LENGTHS: usize = SEALS + 64;
const HEAD: usize = LENGTHS + 16;
/// No head is longer.
const LONGEST_HEAD: u64 = 1 << 20;
/// Bytes that are carried at once.
const PIECE: usize = 256 << 10;
/// What counts is time: the first level packs memory to a third or less.
const LEVEL: i32 = 1;

pub(super) type Key = [u8; 32];
/// Name of a file.
pub(super) type Name = [u8; 16];

/// Why there is nothing to be had of a file.
#[derive(Debug)]
pub(super) enum Broken {
    Read(io::Error),
    /// Changed, cut short, replaced, or of another key.
    Changed,
    /// Of another version of forkpy.
    OtherVersion,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Changed,
            _ => Self::Read(error),
        }
    }
}

fn seal(key: &Key, what: &[u8], name: &Name) -> Hmac<Sha256> {
    // A key may have any length.
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut seal = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    seal.update(what);
    seal.update(name);
    seal
}

fn seal_of_head(key: &Key, name: &Name, lengths: &[u8], head: &[u8]) -> Hmac<Sha256> {
    let mut seal = seal(key, b"head", name);
    seal.update(lengths);
    seal.update(head);
    seal
}

fn seal_of_body(key: &Key, name: &Name, head: &[u8]) -> Hmac<Sha256> {
    let mut seal = seal(key, b"body", name);
    seal.update(head);
    seal
}

/// Writes a new file. `room` is asked before each piece is written.
pub(super) fn write(
    path: &Path,
    (key, name): (&Key, &Name),
    head: &[u8],
    body: &mut File,
    room: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    io::Seek::rewind(body)?;
    let mut lengths = [0; 16];
    lengths[..8].copy_from_slice(&(head.len() as u64).to_le_bytes());
    lengths[8..].copy_from_slice(&body.metadata()?.len().to_le_bytes());
    let sealed_head = seal_of_head(key, name, &lengths, head).finalize().into_bytes();
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let whole = [MAGIC.as_slice(), &sealed_head, &[0; 32], &lengths, head].concat();
    room(whole.len() as u64)?;
    file.write_all(&whole)?;
    let to = Sealing { file: &mut file, seal: seal_of_body(key, name, &sealed_head), room };
    let mut packer = zstd::stream::write::Encoder::new(to, LEVEL)?;
    carry(body, &mut |piece| packer.write_all(piece))?;
    let sealed_body = packer.finish()?.seal.finalize().into_bytes();
    file.write_all_at(&sealed_body, (SEALS + 32) as u64)?;
    file.sync_data()
}

struct Sealing<'a> {
    file: &'a mut File,
    seal: Hmac<Sha256>,
    room: &'a mut dyn FnMut(u64) -> io::Result<()>,
}

impl Write for Sealing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.room)(bytes.len() as u64)?;
        self.file.write_all(bytes)?;
        self.seal.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file whose head is right.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) head: Vec<u8>,
    file: File,
    sealed_head: [u8; 32],
    sealed_body: [u8; 32],
    body: u64,
}

/// Opens a file and checks its head.
pub(super) fn open(path: &Path, key: &Key, name: &Name) -> Result<Opened, Broken> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
        let words = "the file belongs to another user";
        return Err(Broken::Read(io::Error::new(io::ErrorKind::PermissionDenied, words)));
    }
    let mut begin = [0; HEAD];
    file.read_exact(&mut begin)?;
    let word = |at: usize| u64::from_le_bytes(begin[at..at + 8].try_into().unwrap_or_default());
    let part = |at: usize| <[u8; 32]>::try_from(&begin[at..at + 32]).unwrap_or_default();
    let (length, body) = (word(LENGTHS), word(LENGTHS + 8));
    let is_of_another =
        begin[..MAGIC.len()] != *MAGIC && begin.starts_with(KIND) && begin[..MAGIC.len()].ends_with(b"\r\n");
    if is_of_another {
        return Err(Broken::OtherVersion);
    }
    if begin[..MAGIC.len()] != *MAGIC || length > LONGEST_HEAD {
        return Err(Broken::Changed);
    }
    let mut head = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact(&mut head)?;
    let (sealed_head, sealed_body) = (part(SEALS), part(SEALS + 32));
    let seal = seal_of_head(key, name, &begin[LENGTHS..], &head);
    seal.verify_slice(&sealed_head).map_err(|_| Broken::Changed)?;
    Ok(Opened { head, file, sealed_head, sealed_body, body })
}

impl Opened {
    /// The body, in memory that no process can change, once its seal is found to be right.
    pub(super) fn unpack(self, key: &Key, name: &Name) -> Result<OwnedFd, Broken> {
        let mut copy = File::from(descriptors::sealable_memory_file(c"forkpy-image")?);
        let mut seal = seal_of_body(key, name, &self.sealed_head);
        let checking = io::BufReader::with_capacity(PIECE, Checking { file: self.file, seal: &mut seal });
        let mut packed = zstd::stream::read::Decoder::with_buffer(checking)?.single_frame();
        let mut left = self.body;
        // What is changed cannot be unpacked, or into too much.
        carry(&mut packed, &mut |piece| {
            left = left.checked_sub(piece.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
            copy.write_all(piece).map_err(NoMemory::wrap)
        })
        .map_err(|error| NoMemory::unwrap(error).map_or(Broken::Changed, Broken::Read))?;
        let mut rest = packed.finish();
        // One byte more is too much already, and a file may be as long as it likes.
        if left != 0 || rest.read(&mut [0])? != 0 {
            return Err(Broken::Changed);
        }
        drop(rest);
        seal.verify_slice(&self.sealed_body).map_err(|_| Broken::Changed)?;
        make_final(&copy)?;
        io::Seek::rewind(&mut copy)?;
        Ok(copy.into())
    }
}

/// There was no memory for what was unpacked: that is no fault of the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoMemory(io::Error);

impl NoMemory {
    fn wrap(error: io::Error) -> io::Error {
        io::Error::other(Self(error))
    }

    fn unwrap(error: io::Error) -> Option<io::Error> {
        error.into_inner()?.downcast::<Self>().ok().map(|own| own.0)
    }
}

struct Checking<'a> {
    file: File,
    seal: &'a mut Hmac<Sha256>,
}

impl Read for Checking<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.seal.update(&bytes[..count]);
        Ok(count)
    }
}

/// From now on no process can change what a file in memory holds.
pub(super) fn make_final(copy: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(copy.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

fn carry(from: &mut dyn Read, to: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            count => to(&piece[..count])?,
        }
    }
}
