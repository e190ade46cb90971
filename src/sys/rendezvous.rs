//! Where the servers of one user are found: a directory that is the user's alone, with a socket, a lock, a record and a log
//! for each server, all under the server's name.
//!
//! Runs in: front, server, and the commands that ask after servers. Knows files and sockets; not what is said over them.
//!
//! Who starts a server, or takes its socket away, holds its lock. A socket without a listener was left by a server
//! that was killed; it is replaced.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::{
            fs::{MetadataExt, OpenOptionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};

use super::private;

/// Longest path of a socket, as the kernel has it.
const MAX_PATH: usize = 107;
const MAX_NAME: usize = 64;

/// Why a server cannot be met.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeetingError {
    #[error(
        "the name {0:?} is not allowed: 1 to {MAX_NAME} letters (a-z, A-Z), digits, '_', '-' and '.', beginning with a \
         letter or digit"
    )]
    Name(String),
    #[error("no directory for sockets can be used:{0}\nset XDG_RUNTIME_DIR to a directory that only you may write")]
    NoPlace(String),
    #[error(
        "{} belongs to user {user}, and is not used: what is sent there would run as that user. Remove it, or set \
         XDG_RUNTIME_DIR to a directory that only you may write", path.display()
    )]
    Foreign { path: PathBuf, user: u32 },
    #[error("the path of a socket may have {MAX_PATH} bytes, and {} has more; choose a shorter --name or XDG_RUNTIME_DIR", .0.display())]
    TooLong(PathBuf),
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
}

/// The place of one server.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    directory: PathBuf,
    name: String,
}

/// The lock of a place; let go of when dropped.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "held")] File);

impl Place {
    /// The places where a server of this name may be, the best first.
    pub(crate) fn all(name: &str) -> Result<Vec<Self>, MeetingError> {
        if !is_name(name) {
            return Err(MeetingError::Name(name.chars().take(MAX_NAME + 1).collect()));
        }
        Ok(directories().into_iter().map(|directory| Self { directory, name: name.to_owned() }).collect())
    }

    /// Servers that are there, or have been: every name in every place.
    pub(crate) fn known() -> Vec<Self> {
        let mut found = Vec::new();
        for directory in directories() {
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".sock")?.to_owned()));
            let mut names: Vec<String> = names.filter(|name| is_name(name)).collect();
            names.sort_unstable();
            found.extend(names.into_iter().map(|name| Self { directory: directory.clone(), name }));
        }
        found
    }

    /// The place that a front has found.
    pub(crate) fn at(directory: PathBuf, name: String) -> Self {
        Self { directory, name }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.file("sock")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.file("json")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.file("log")
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}", self.name))
    }

    /// Connects to the server, if there is one. Blocking while its queue of connections is full.
    pub(crate) fn connect(&self) -> Result<Option<UnixStream>, MeetingError> {
        let path = self.socket();
        if path.as_os_str().len() > MAX_PATH {
            return Err(MeetingError::TooLong(path));
        }
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(source) if source.raw_os_error() == Some(libc::ENOTDIR) => {
                return Err(MeetingError::File { what: "cannot use", path, source });
            }
            Err(source) => {
                if let Ok(found) = fs::symlink_metadata(&path)
                    && found.uid() != geteuid().as_raw()
                {
                    return Err(MeetingError::Foreign { path, user: found.uid() });
                }
                return Err(MeetingError::File { what: "cannot connect to", path, source });
            }
        };
        match peer(&stream) {
            Ok(user) if user == geteuid().as_raw() => Ok(Some(stream)),
            Ok(user) => Err(MeetingError::Foreign { path, user }),
            Err(source) => Err(MeetingError::File { what: "cannot ask who listens on", path, source }),
        }
    }

    /// Makes the directory if need be, and waits for the lock.
    pub(crate) fn lock(&self) -> Result<Held, MeetingError> {
        let unusable = |reason| MeetingError::NoPlace(format!("\n  {}: {reason}", self.directory.display()));
        private::make(&self.directory).map_err(unusable)?;
        let path = self.file("lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let locked = opened.and_then(|file| file.lock().map(|()| file));
        locked.map(Held).map_err(|source| MeetingError::File { what: "cannot lock", path, source })
    }

    /// Listens, in the place of a server that is gone. The lock is the caller's.
    pub(crate) fn listen(&self, _held: &Held) -> Result<UnixListener, MeetingError> {
        let path = self.socket();
        if path.as_os_str().len() > MAX_PATH {
            return Err(MeetingError::TooLong(path));
        }
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(MeetingError::File { what: "cannot replace", path, source });
            }
            _ => {}
        }
        UnixListener::bind(&path).map_err(|source| MeetingError::File { what: "cannot make the socket", path, source })
    }

    /// Takes the socket away, if it is this one still.
    pub(crate) fn leave(&self, _held: &Held, identity: Identity) {
        let path = self.socket();
        if Identity::of(&path) == Some(identity) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Which file a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|found| Self(found.dev(), found.ino()))
    }
}

/// The user at the other end of a socket.
pub(crate) fn peer(stream: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(stream, PeerCredentials)?.uid())
}

/// The name of the server for a workspace: its folder's, and a number that tells folders of one name apart.
pub(crate) fn name_for(workspace: &Path) -> String {
    let absolute = std::path::absolute(workspace).unwrap_or_else(|_| workspace.to_owned());
    let whole = existing(&absolute);
    let folder = whole.file_name().unwrap_or_default().to_string_lossy();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let folder: String = folder.chars().filter(is_plain).skip_while(|c| !c.is_ascii_alphanumeric()).take(24).collect();
    // FNV-1a: it only has to be the same tomorrow.
    let hash = whole
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    match folder.is_empty() {
        true => format!("{hash:016x}"),
        false => format!("{folder}-{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff)),
    }
}

/// The path without links, as far as it exists.
fn existing(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (above.canonicalize(), path.strip_prefix(above)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "_-.".contains(character))
}

/// Where servers may be, the best place first.
fn directories() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let temporary = std::env::temp_dir().join(format!("forkpy-{}/run", geteuid()));
    runtime.map(|path| path.join("forkpy")).into_iter().chain([temporary]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path) -> Place {
        Place { directory: directory.join("forkpy"), name: "a".to_owned() }
    }

    #[test]
    fn a_workspace_has_one_name_however_it_is_written() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("Data & Co");
        let before = name_for(&path);
        fs::create_dir(&path).expect("made");
        std::os::unix::fs::symlink(&path, root.path().join("link")).expect("a link");
        assert!(before.starts_with("DataCo-") && is_name(&before), "{before}");
        assert_eq!([name_for(&path), name_for(&root.path().join("link"))], [before.clone(), before.clone()]);
        assert_ne!(name_for(&root.path().join("x/Data & Co")), before);
        assert!(is_name(&name_for(Path::new("/"))) && is_name(&name_for(Path::new("/ä/ö"))));
    }

    #[test]
    fn what_a_dead_server_left_is_replaced_and_a_living_one_is_found() {
        let root = tempfile::tempdir().expect("a directory");
        let place = place(root.path());
        assert!(place.connect().expect("nothing there").is_none());
        let held = place.lock().expect("made");
        drop(place.listen(&held).expect("listens"));
        assert!(place.connect().expect("left").is_none());
        let listener = place.listen(&held).expect("replaced");
        assert!(place.connect().expect("own").is_some());
        let other = Identity(0, 0);
        place.leave(&held, other);
        assert!(place.socket().exists(), "another server's socket stays");
        place.leave(&held, Identity::of(&place.socket()).expect("there"));
        assert!(!place.socket().exists());
        drop(listener);
    }

    #[test]
    fn a_path_that_is_too_long_is_said_to_be() {
        let root = tempfile::tempdir().expect("a directory");
        let place = Place { directory: root.path().join("x".repeat(100)), name: "a".to_owned() };
        assert!(place.connect().expect_err("too long").to_string().contains("107 bytes"));
        assert!(Place::all("../a").is_err() && Place::all("").is_err());
    }
}
