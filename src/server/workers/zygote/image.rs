//! What the image of a zygote depends on, and whether that is so still.
//!
//! Runs in: server, on blocking threads, for it looks at files. Where images lie, and how they are sealed, is a room above
//! ([`Store`]). How one is made and woken is `waking.rs`.
//!
//! An image is of a zygote that was started for it, with the variables in [`is_read_at_the_start`] and no others, so that a file holds
//! nothing of a server's environment. It is kept under a name that comes from all that is known before ([`Key`]), with all files of
//! which it was made ([`Head`]), and once a process has been woken from it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt,
        },
    },
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::spawner::{self, Environment};
use crate::{
    protocol::{Confinement, Library, PROTOCOL_VERSION, ZygoteSettings},
    sys::image,
};

/// Name of an image.
pub(crate) type Name = [u8; 16];
/// An image and its base.
pub(crate) type Files = (OwnedFd, OwnedFd);

/// Where images of zygotes lie. All of it blocks.
pub(crate) trait Store: std::fmt::Debug + Send + Sync {
    /// The files of an image, in memory that no process can change, if there is one and its head is agreed to.
    ///
    /// # Errors
    /// Why it is of no use.
    fn open(&self, name: &Name, agrees: &dyn Fn(&[u8]) -> Result<(), String>) -> Result<Option<Files>, String>;

    /// Keeps them, in the place of what was there. Gives the bytes on disk.
    ///
    /// # Errors
    /// Why not.
    fn keep(&self, name: &Name, head: &[u8], files: Files) -> Result<u64, String>;

    /// It is of no use.
    fn discard(&self, name: &Name);
}

/// How a zygote has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) from_image: bool,
    pub(crate) took: Duration,
    /// Why it is not from an image.
    pub(crate) why: Option<String>,
}

/// Hash secrets, addresses and the like are common to all servers that begin from one image: they are renewed so often.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// Variables that CPython, the C library or OpenSSL look at when they begin.
const READ: [&str; 9] =
    ["GCONV_PATH", "GLIBC_TUNABLES", "HOME", "LANG", "LANGUAGE", "LOCPATH", "SETUPTOOLS_USE_DISTUTILS", "TZ", "TZDIR"];
const READ_BEGINNINGS: [&str; 7] = ["LC_", "LD_", "MALLOC_", "OPENSSL_", "PYTHON", "RUST_", "SSL_"];

/// All others are put into a woken zygote by their names and values.
fn is_read_at_the_start(name: &OsStr) -> bool {
    READ.iter().any(|read| name == *read)
        || READ_BEGINNINGS.iter().any(|begin| name.as_bytes().starts_with(begin.as_bytes()))
}

pub(super) fn read_at_the_start(environment: Environment) -> Environment {
    let mut read: Environment = environment.into_iter().filter(|(name, _)| is_read_at_the_start(name)).collect();
    read.sort();
    read
}

pub(super) fn bytes(environment: Environment) -> Vec<(Vec<u8>, Vec<u8>)> {
    environment.into_iter().map(|(name, value)| (name.into_vec(), value.into_vec())).collect()
}

/// All that a zygote's memory depends on and that is known before there is one.
#[derive(Serialize)]
struct Key<'a> {
    version: (&'static str, u32),
    program: (PathBuf, Option<Look>),
    python: &'a str,
    library: &'a Option<Library>,
    virtual_env: &'a Option<String>,
    python_path: &'a [String],
    mode: Confinement,
    environment: Vec<(Vec<u8>, Vec<u8>)>,
    tunables: Option<Vec<u8>>,
    /// Where relative paths of the variables begin.
    directory: Option<PathBuf>,
    /// Signals that this process ignores, and its children too.
    ignored: String,
    /// Kernel, processor, user, namespaces, confinement of this process.
    here: Vec<u8>,
}

pub(super) fn name_of(settings: &ZygoteSettings, environment: Environment) -> Result<Name, String> {
    let read = read_at_the_start(environment);
    let says_where = read.iter().any(|(name, _)| name.as_bytes().starts_with(b"PYTHON"));
    let program = fs::read_link("/proc/self/exe").map_err(|error| error.to_string())?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let key = Key {
        version: (env!("CARGO_PKG_VERSION"), PROTOCOL_VERSION),
        program: (program, Look::at("/proc/self/exe")),
        python: &settings.python,
        library: &settings.library,
        virtual_env: &settings.virtual_env,
        python_path: &settings.python_path,
        mode: settings.confinement.mode,
        environment: bytes(read),
        tunables: spawner::words(0).1.map(OsString::into_vec),
        directory: says_where.then(|| std::env::current_dir().ok()).flatten(),
        ignored: status.lines().find(|line| line.starts_with("SigIgn")).unwrap_or_default().to_owned(),
        here: image::here().map_err(|refusal| refusal.to_string())?,
    };
    let key = postcard::to_stdvec(&key).map_err(|error| error.to_string())?;
    Ok(Sha256::digest(&key)[..16].try_into().unwrap_or_default())
}

/// A file or folder as it is: device and number, size, time of change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Look(u64, u64, u64, i64, i64);

impl Look {
    pub(super) fn at(path: &str) -> Option<Self> {
        let status = fs::metadata(path).ok()?;
        Some(Self(status.dev(), status.ino(), status.len(), status.mtime(), status.mtime_nsec()))
    }

    pub(super) fn changed(&self) -> Duration {
        let seconds = u64::try_from(self.3).unwrap_or(0);
        Duration::new(seconds, u32::try_from(self.4).unwrap_or(0))
    }
}

/// What lies with an image.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    /// Since 1970.
    pub(super) written: Duration,
    /// Paths of which it was made, and what was there.
    pub(super) origins: Vec<(String, Option<Look>)>,
}

impl Head {
    pub(super) fn agrees(bytes: &[u8]) -> Result<(), String> {
        let head: Self = postcard::from_bytes(bytes).map_err(|_| "its head cannot be read".to_owned())?;
        let age = since_1970().checked_sub(head.written);
        if age.is_none_or(|age| age > OLDEST) {
            return Err(format!("it is older than {} hours", OLDEST.as_secs() / 3600));
        }
        let changed = head.origins.iter().find(|(path, then)| Look::at(path) != *then);
        changed.map_or(Ok(()), |(path, _)| Err(format!("{path} has changed since")))
    }
}

pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// What there is for a start.
pub(super) enum Found {
    Files(Name, Files),
    /// Why there is none; nothing where none is wanted.
    None(Option<String>),
}

/// Why a zygote of these settings has no image.
pub(super) fn not_for(settings: &ZygoteSettings) -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("images of processes are made on x86-64 only".to_owned());
    }
    (!settings.preload.is_empty()).then(|| "what --preload names may look at anything when it is imported".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ZygoteSettings {
        ZygoteSettings {
            library: None,
            python: "/usr/bin/python3".to_owned(),
            virtual_env: None,
            python_path: Vec::new(),
            preload: Vec::new(),
            outputs: "/w/outputs".to_owned(),
            workspace: "/w".to_owned(),
            own: None,
            keep_html: false,
            confinement: crate::protocol::ConfinementSettings::default(),
            faults: String::new(),
        }
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn a_name_depends_on_what_the_interpreter_reads_and_on_nothing_else() {
        let name = |variables: &[(&str, &str)]| name_of(&settings(), environment(variables)).expect("told");
        let usual = name(&[("HOME", "/h"), ("PATH", "/bin"), ("SECRET", "1")]);
        assert_eq!(usual, name(&[("SECRET", "2"), ("HOME", "/h")]));
        for other in [("HOME", "/i"), ("PYTHONHASHSEED", "1"), ("LC_ALL", "C"), ("TZ", "UTC"), ("LD_PRELOAD", "x")] {
            assert_ne!(usual, name(&[("HOME", "/h"), other]), "{other:?}");
        }
        let venv = ZygoteSettings { virtual_env: Some("/v".to_owned()), ..settings() };
        assert_ne!(usual, name_of(&venv, environment(&[("HOME", "/h")])).expect("told"));
        let elsewhere = ZygoteSettings { workspace: "/other".to_owned(), ..settings() };
        assert_eq!(usual, name_of(&elsewhere, environment(&[("HOME", "/h")])).expect("told"));
    }

    #[test]
    fn an_origin_that_changes_or_comes_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.py").to_string_lossy().into_owned();
        let head = |written: Duration| {
            let origins = vec![(path.clone(), Look::at(&path))];
            postcard::to_stdvec(&Head { written, origins }).expect("bytes")
        };
        let before = head(since_1970());
        assert_eq!(Head::agrees(&before), Ok(()));
        fs::write(&path, "1").expect("written");
        assert!(Head::agrees(&before).expect_err("it came").contains("x.py has changed"));
        let now = head(since_1970());
        assert_eq!(Head::agrees(&now), Ok(()));
        fs::write(&path, "12").expect("written");
        assert!(Head::agrees(&now).expect_err("it changed").contains("x.py has changed"));
        assert!(Head::agrees(&head(Duration::ZERO)).expect_err("old").contains("older"));
        assert!(Head::agrees(b"x").is_err());
    }
}
