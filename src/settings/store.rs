//! `--store`: where sessions are put away for whichever server is asked for them next, with which key, and when.
//!
//! Runs in: server, and commands before they start one. Reads the file of the key, once.

use std::{
    fmt,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use sha2::{Digest, Sha256};

use super::{bounds::seconds, paths::path};

/// Where sessions are put away for any server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Several servers")]
pub(crate) struct StoreOptions {
    /// Folder, or s3://BUCKET/PREFIX (with the variables AWS_…), into which sessions are put away: when they rest, and when the
    /// server drains or ends. Whichever server with the same store is asked for one next has it. Needs --store-key and
    /// --server-name, and takes the place of --state-dir
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX", env = "FORKPY_STORE")]
    pub store: Option<String>,

    /// File whose first line is the key of --store, the same for all its servers: 32 visible characters or more
    #[arg(long, value_name = "FILE", env = "FORKPY_STORE_KEY", value_parser = path)]
    pub store_key: Option<PathBuf>,

    /// Seconds without use after which a session is put away into --store. 0 is never
    #[arg(long, value_name = "SECONDS", env = "FORKPY_PUT_AWAY_AFTER", default_value_t = 900.0, value_parser = seconds)]
    pub put_away_after: f64,
}

impl StoreOptions {
    /// The store, if there is one. Sessions may change what lies below these folders.
    ///
    /// # Errors
    /// [`StoreConfigError`].
    pub(crate) fn resolve(
        &self,
        server: Option<&str>,
        state_dir: Option<&Path>,
        changeable: &[&Path],
    ) -> Result<Option<StoreSettings>, StoreConfigError> {
        let Some(text) = &self.store else { return Ok(None) };
        let server = server.filter(|name| !name.is_empty());
        let server = server.ok_or(StoreConfigError::Lacks("--server-name, another one for each server"))?.to_owned();
        let file = self.store_key.as_deref().ok_or(StoreConfigError::Lacks("--store-key"))?;
        if state_dir.is_some() {
            return Err(StoreConfigError::StateDir);
        }
        let (place, key) = (StorePlace::read(text)?, StoreKey::read(file)?);
        let folder = if let StorePlace::Folder(folder) = &place { Some(folder.as_path()) } else { None };
        for path in [Some(file), folder].into_iter().flatten() {
            let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            if changeable.iter().any(|above| real.starts_with(above)) {
                return Err(StoreConfigError::Within(real));
            }
        }
        let after = (self.put_away_after > 0.0).then(|| Duration::from_secs_f64(self.put_away_after));
        Ok(Some(StoreSettings { place, key, server, after }))
    }
}

/// Where objects lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StorePlace {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

/// What objects are sealed with.
#[derive(Clone)]
pub(crate) struct StoreKey([u8; 32]);

impl fmt::Debug for StoreKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StoreKey")
    }
}

impl StoreKey {
    /// Of a line of text.
    #[must_use]
    pub(crate) fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    #[must_use]
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The store of a server.
#[derive(Debug, Clone)]
pub(crate) struct StoreSettings {
    pub(crate) place: StorePlace,
    pub(crate) key: StoreKey,
    /// How this server is called.
    pub(crate) server: String,
    /// Without use for so long a session is put away; `None` is never.
    pub(crate) after: Option<Duration>,
}

/// Letters that a key has at least.
const SHORTEST: usize = 32;
/// Bytes of its file that are read.
const LONGEST: u64 = 64 << 10;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreConfigError {
    #[error("--store {0:?} is neither a folder nor s3://BUCKET/PREFIX")]
    Place(String),
    #[error("--store needs {0}")]
    Lacks(&'static str),
    #[error("--store takes the place of --state-dir: leave that out")]
    StateDir,
    #[error("the key of the store, {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the key of the store, {}, may be read by others: chmod 600 it", .0.display())]
    Open(PathBuf),
    #[error("the key of the store, {}: its first line must be at least {SHORTEST} visible characters (openssl rand -hex 32)", .0.display())]
    Short(PathBuf),
    #[error("sessions may read or change {}: put it elsewhere than below the workspace and --allow-write", .0.display())]
    Within(PathBuf),
}

impl StorePlace {
    /// What `--store` names.
    ///
    /// # Errors
    /// [`StoreConfigError::Place`].
    pub(crate) fn read(text: &str) -> Result<Self, StoreConfigError> {
        let wrong = || StoreConfigError::Place(text.to_owned());
        match text.split_once("://") {
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let (bucket, prefix) = (bucket.to_owned(), prefix.trim_matches('/').to_owned());
                if bucket.is_empty() { Err(wrong()) } else { Ok(Self::Bucket { bucket, prefix }) }
            }
            Some(_) => Err(wrong()),
            None if text.is_empty() => Err(wrong()),
            None => std::path::absolute(text).map(Self::Folder).map_err(|_| wrong()),
        }
    }
}

impl StoreKey {
    /// The first line of a file that only its user, or root for it, can read.
    ///
    /// # Errors
    /// [`StoreConfigError`].
    pub(crate) fn read(path: &Path) -> Result<Self, StoreConfigError> {
        let failed = |source| StoreConfigError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let status = file.metadata().map_err(failed)?;
        // What a cluster mounts belongs to root, and to the group of the server's user.
        let others = if status.uid() == 0 { 0o007 } else { 0o077 };
        if status.mode() & others != 0 {
            return Err(StoreConfigError::Open(path.to_owned()));
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
        let line = text.lines().next().unwrap_or_default().trim();
        match line.len() >= SHORTEST && line.chars().all(|letter| letter.is_ascii_graphic()) {
            true => Ok(Self::of(line)),
            false => Err(StoreConfigError::Short(path.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_bucket() {
        let bucket = |bucket: &str, prefix: &str| StorePlace::Bucket { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!(StorePlace::read("s3://b/p/q/").expect("right"), bucket("b", "p/q"));
        assert_eq!(StorePlace::read("s3://b").expect("right"), bucket("b", ""));
        assert_eq!(StorePlace::read("/a/b").expect("right"), StorePlace::Folder("/a/b".into()));
        for wrong in ["", "s3://", "s3:///p", "gs://b/p", "http://b"] {
            assert!(StorePlace::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_long_and_its_file_is_its_users_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
            StoreKey::read(&path)
        };
        let long = "k".repeat(SHORTEST);
        let key = write(&format!("{long}\nmore\n"), 0o600).expect("right");
        assert!(key.bytes() == StoreKey::of(&long).bytes() && !format!("{key:?}").contains('k'));
        assert!(matches!(write(&long, 0o604), Err(StoreConfigError::Open(_))));
        assert!(matches!(write(&long[1..], 0o600), Err(StoreConfigError::Short(_))));
        assert!(matches!(write(&format!("{long} a space"), 0o600), Err(StoreConfigError::Short(_))));
        assert!(matches!(StoreKey::read(&folder.path().join("none")), Err(StoreConfigError::Read { .. })));
    }
}
