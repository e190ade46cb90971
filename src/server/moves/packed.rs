//! What lies in a file: a tar archive, packed by zstd, sealed (`age.rs`). First what there is to know of the session, then its memory with
//! what that has in common with others, or its variables.
//!
//! Runs in: `forkpy sessions`, a process of its own. Nothing of a file is believed before it has been read to its end.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, Read, Seek, Write},
    os::fd::OwnedFd,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    age::{Closed, Opener, Sealer},
    error::Variables,
};
use crate::{
    server::sessions::images::{about::About, outside::Contents},
    sys::descriptors,
};

/// What a program that does not know the form refuses.
pub(super) const FORM: u32 = 1;
/// What counts is the size of the file, which travels.
const LEVEL: i32 = 3;
/// Longest description of a session.
const LONGEST: u64 = 16 << 20;
const ABOUT: &str = "session.json";
const MEMORY: &str = "memory";
const COMMON: &str = "common";
const VARIABLES: &str = "variables";

/// Which form a file has, and who wrote it.
#[derive(Debug, Serialize, Deserialize)]
struct Form {
    form: u32,
    forkpy: String,
}

/// What there is to know of the session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) about: About,
    /// Digests of the files that its memory needs where it wakes.
    pub(super) needs: BTreeMap<PathBuf, String>,
    /// Names of variables that lie beside the memory.
    pub(super) instead: Option<Variables>,
}

/// What was in a file.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) manifest: Manifest,
    pub(super) contents: Contents,
}

/// Why a file is of no use.
#[derive(Debug)]
pub(super) enum Useless {
    Closed(Closed),
    OtherForm(String),
    /// There is no memory for so many bytes; so many are free.
    Large(u64, u64),
}

impl Useless {
    /// In words, and whether the file itself is to blame.
    pub(super) fn told(self) -> (String, bool) {
        match self {
            Self::Closed(Closed::Read(error)) => (format!("it cannot be read: {error}"), false),
            Self::Closed(Closed::Passphrase) => ("it was sealed with another key".to_owned(), true),
            Self::Closed(closed) => (closed.to_string(), true),
            Self::OtherForm(version) => {
                (format!("it was written by forkpy {version}, in a form that this one does not know"), false)
            }
            Self::Large(size, free) => {
                (format!("it holds {} MB, and {} MB of memory are free", size >> 20, free >> 20), false)
            }
        }
    }
}

impl From<io::Error> for Useless {
    fn from(error: io::Error) -> Self {
        // What comes from a reader of ours has been wrapped once or more on its way.
        let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<io::Error>()
                && let Some(inner) = io.get_ref()
            {
                cause = Some(inner);
                continue;
            }
            match inner.downcast_ref::<Closed>() {
                Some(Closed::Damaged) => return Self::Closed(Closed::Damaged),
                _ => cause = inner.source(),
            }
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                Self::Closed(Closed::Damaged)
            }
            _ => Self::Closed(Closed::Read(error)),
        }
    }
}

/// Writes all of it.
pub(super) fn write<W: Write>(
    to: W,
    sealing: (&str, u8),
    manifest: &Manifest,
    contents: Contents,
    random: impl Fn() -> io::Result<[u8; 16]>,
) -> io::Result<W> {
    let packer = zstd::stream::write::Encoder::new(Sealer::begin(to, sealing, random)?, LEVEL)?;
    let mut archive = tar::Builder::new(packer);
    let form = Form { form: FORM, forkpy: env!("CARGO_PKG_VERSION").to_owned() };
    let about = serde_json::to_vec(&(form, manifest))?;
    append(&mut archive, ABOUT, about.len() as u64, about.as_slice())?;
    let Contents { body, base, instead } = contents;
    let has_memory = base.is_some();
    for (name, file) in [
        (if has_memory { MEMORY } else { VARIABLES }, Some(body)),
        (COMMON, base),
        (VARIABLES, instead.map(|(values, _)| values)),
    ] {
        let Some(mut file) = file.map(File::from) else { continue };
        file.rewind()?;
        append(&mut archive, name, file.metadata()?.len(), file)?;
    }
    archive.into_inner()?.finish()?.finish()
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, size: u64, from: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, from)
}

/// Reads a file to its end. `free` tells how much memory there is.
pub(super) fn read(from: impl BufRead, passphrase: &str, free: impl Fn() -> u64) -> Result<Unpacked, Useless> {
    let opener = Opener::begin(from, passphrase).map_err(Useless::Closed)?;
    let packed = io::BufReader::new(opener);
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::with_buffer(packed)?.single_frame());
    let (mut manifest, mut files) = (None, BTreeMap::new());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if manifest.is_none() {
            manifest = Some(read_about(&mut entry, &name)?);
            continue;
        }
        let (size, free) = (entry.size(), free());
        if size > free {
            return Err(Useless::Large(size, free));
        }
        let mut file = File::from(descriptors::memory_file(c"forkpy-session")?);
        if io::copy(&mut entry, &mut file)? != size {
            return Err(Useless::Closed(Closed::Damaged));
        }
        files.insert(name, OwnedFd::from(file));
    }
    // To the very end of what is sealed: only there it is known that nothing was cut off.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    io::copy(&mut rest.finish(), &mut io::sink())?;
    let another = || Useless::Closed(Closed::Another);
    let manifest = manifest.ok_or_else(another)?;
    let mut take = |name: &str| files.remove(name);
    let contents = match (take(MEMORY), take(COMMON), take(VARIABLES), &manifest.instead) {
        (Some(body), Some(base), Some(values), Some(names)) => {
            Contents { body, base: Some(base), instead: Some((values, names.clone())) }
        }
        (Some(body), Some(base), None, _) => Contents { body, base: Some(base), instead: None },
        (None, None, Some(body), _) if manifest.about.by_value.is_some() => {
            Contents { body, base: None, instead: None }
        }
        _ => return Err(another()),
    };
    Ok(Unpacked { manifest, contents })
}

fn read_about(entry: &mut impl Read, name: &str) -> Result<Manifest, Useless> {
    let another = || Useless::Closed(Closed::Another);
    if name != ABOUT {
        return Err(another());
    }
    let mut text = Vec::new();
    entry.take(LONGEST).read_to_end(&mut text)?;
    let (Form { form, forkpy }, rest): (Form, serde_json::Value) =
        serde_json::from_slice(&text).map_err(|_| another())?;
    let known = (form == FORM).then(|| serde_json::from_value(rest).ok()).flatten();
    known.ok_or(Useless::OtherForm(forkpy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_piece_is_told_from_a_disk_that_fails() {
        let wrapped = io::Error::other(io::Error::other(Closed::Damaged));
        assert!(matches!(Useless::from(wrapped), Useless::Closed(Closed::Damaged)));
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(matches!(Useless::from(denied), Useless::Closed(Closed::Read(_))));
    }
}
