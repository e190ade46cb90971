//! `--state-dir`, seen by a program that is no server: what lies there, what is taken out of it as a copy, and what is put there
//! for the next server.
//!
//! Runs in: `forkpy sessions`, a process of its own. A folder that a server has locked is that server's: nothing is changed in it.
//! What is put there lies in a folder of its own, which is seen when it is whole; a server that runs finds it when the
//! session is asked for (`adopt.rs`).

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    About, ImageError,
    about::ByValue,
    adopt, beside,
    sealed::{self, Broken, Key},
    shelf::{self, LOCK, OWN, Shelf, bytes_of, hex, images_in, unhex},
};
use crate::sys::{
    image::{self, BaseId},
    random,
};

/// A folder that was being made, and is left in part, is of no use after so long.
const STALE: Duration = Duration::from_secs(3600);

/// The folder.
#[derive(Debug)]
pub(crate) struct StateFolder {
    named: PathBuf,
    key: Key,
}

/// A file that lies there.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    /// With what lies beside it.
    pub(crate) bytes: u64,
    pub(crate) written: SystemTime,
    /// The process of the server that has it now.
    pub(crate) server: Option<u32>,
    pub(crate) what: Kind,
}

/// What it is.
#[derive(Debug)]
pub(crate) enum Kind {
    Session {
        about: Box<About>,
        /// The last cell that began after it was written.
        since: Option<u64>,
        /// Variables that lie beside it.
        instead: Option<ByValue>,
    },
    /// Changed, cut short, or sealed with another key.
    Damaged,
    OtherVersion,
    Unreadable(io::Error),
}

/// What a session's files hold.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Memory; or variables, where there is no base.
    pub(crate) body: OwnedFd,
    pub(crate) base: Option<OwnedFd>,
    /// Variables beside memory.
    pub(crate) instead: Option<(OwnedFd, ByValue)>,
}

impl StateFolder {
    /// One that is there.
    ///
    /// # Errors
    /// When it is not there, or others may read or write what they must not.
    pub(crate) fn open(named: &Path) -> io::Result<Self> {
        fs::metadata(named.join(shelf::KEY)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(error.kind(), "no server has kept sessions there"),
            _ => error,
        })?;
        Self::make(named)
    }

    /// The same; it is made where it is not there.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn make(named: &Path) -> io::Result<Self> {
        shelf::check_folder(named)?;
        Ok(Self { named: named.to_owned(), key: shelf::key_of(named)? })
    }

    /// Servers that run with this folder, by process id.
    pub(crate) fn servers(&self) -> Vec<u32> {
        self.folders().iter().filter_map(|folder| locked_by(folder)).collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(&self.named).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_one =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(OWN.as_bytes()));
        folders.filter(is_one).collect()
    }

    /// All that lies there.
    pub(crate) fn stored(&self) -> Vec<Stored> {
        let folders = self.folders().into_iter();
        let mut found: Vec<Stored> = folders
            .flat_map(|folder| {
                let server = locked_by(&folder);
                images_in(&folder).filter_map(|path| self.look_at(path, server)).collect::<Vec<_>>()
            })
            .collect();
        found.sort_by_key(|stored| stored.written);
        found
    }

    fn look_at(&self, path: PathBuf, server: Option<u32>) -> Option<Stored> {
        let written = fs::metadata(&path).and_then(|status| status.modified()).ok()?;
        let what = match adopt::head(&path, &self.key) {
            Ok(about) => {
                let instead = beside::by_value(&path, &self.key);
                Kind::Session { about: Box::new(about), since: adopt::since(&path), instead }
            }
            Err(Broken::Changed) => Kind::Damaged,
            Err(Broken::OtherVersion) => Kind::OtherVersion,
            // It is gone by now: its session has been woken, or another server has it.
            Err(Broken::Read(error)) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(Broken::Read(error)) => Kind::Unreadable(error),
        };
        Some(Stored { bytes: bytes_of(&path), written, server, what, path })
    }

    /// A copy of what a session's files hold, once their seals are found to be right.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(crate) fn read(&self, stored: &Stored, about: &About, with_memory: bool) -> Result<Contents, ImageError> {
        let key = &self.key;
        let name = stored.path.file_stem().and_then(|stem| unhex(stem.to_str()?)).ok_or(ImageError::Changed)?;
        let beside = || beside::read(&stored.path, key, &name);
        let unpacked = |path: &Path, name| sealed::open(path, key, name)?.unpack(key, name);
        if about.by_value.is_some() {
            return Ok(Contents { body: unpacked(&stored.path, &name)?, base: None, instead: None });
        }
        if !with_memory {
            return Ok(Contents { body: beside()?, base: None, instead: None });
        }
        let base = stored.path.with_file_name(format!("{}.base", hex(&about.base)));
        let instead = beside::by_value(&stored.path, key).map(|names| Ok::<_, ImageError>((beside()?, names)));
        Ok(Contents {
            body: unpacked(&stored.path, &name)?,
            base: Some(unpacked(&base, &about.base).map_err(|_| ImageError::NoBase)?),
            instead: instead.transpose()?,
        })
    }

    /// Puts a session there for the next server that looks, within so many bytes for all that lies there.
    ///
    /// # Errors
    /// [`ImageError`]; then nothing is there that was not there before.
    pub(crate) fn put(&self, about: &About, contents: Contents, limit: u64) -> Result<(), ImageError> {
        self.sweep();
        let failed = |source| ImageError::Write { folder: self.named.clone(), source };
        let arrivals = Shelf::for_arrivals(&self.named, limit).map_err(failed)?;
        let folder = arrivals.folder.clone();
        let put = put_into(&arrivals, about, contents);
        let put = put.and_then(|()| arrivals.hand_over().map_err(failed));
        if put.is_err() {
            let _ = fs::remove_dir_all(folder);
        }
        put
    }

    /// Deletes what no server has.
    ///
    /// # Errors
    /// When a server has it by now.
    pub(crate) fn delete(&self, stored: &Stored) -> io::Result<()> {
        let folder = stored.path.parent().unwrap_or(&self.named);
        // No server takes it meanwhile.
        let lock = File::open(folder.join(LOCK))?;
        lock.try_lock()?;
        fs::remove_file(&stored.path)?;
        shelf::remove_all_of(&stored.path);
        shelf::tidy(folder);
        Ok(())
    }

    /// Removes what a process that was killed has left in part.
    fn sweep(&self) {
        for folder in fs::read_dir(&self.named).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = folder.file_name().and_then(|name| name.to_str()?.strip_prefix('.')).and_then(unhex);
            let age = fs::metadata(&folder).and_then(|status| status.modified()).ok().and_then(|at| at.elapsed().ok());
            if name.is_some() && age.is_some_and(|age| age > STALE) && locked_by(&folder).is_none() {
                let _ = fs::remove_dir_all(folder);
            }
        }
    }
}

fn put_into(arrivals: &Shelf, about: &About, contents: Contents) -> Result<(), ImageError> {
    let Contents { body, base, instead } = contents;
    let name = random::bytes::<16>().map_err(ImageError::Read)?;
    let path = arrivals.path_of(&name, "image");
    if let Some(base) = base {
        let id: BaseId = image::base_id(base.as_fd()).map_err(|refusal| ImageError::Read(io::Error::other(refusal)))?;
        arrivals.write(&arrivals.path_of(&id, "base"), &id, &[], &mut File::from(base))?;
    }
    if let Some((values, names)) = instead {
        let head = About { by_value: Some(names), ..about.clone() };
        beside::write(arrivals, (&path, &name), values, &head)?;
    }
    arrivals.write_whole(&path, &name, &about.head(), &mut File::from(body))?;
    Ok(())
}

/// The server that has a folder. Another that looks for what was left at this very moment does not find this folder, and looks
/// again when a session is asked for.
fn locked_by(folder: &Path) -> Option<u32> {
    let mut lock = File::open(folder.join(LOCK)).ok()?;
    if lock.try_lock().is_ok() {
        return None;
    }
    let mut pid = String::new();
    lock.read_to_string(&mut pid).ok()?;
    Some(pid.parse().unwrap_or(0))
}
