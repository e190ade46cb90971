//! A session environment as it lies on the disk: where a managed one is, its marker, lock and log, and what any
//! environment's own files tell of it.
//!
//! Runs in: server. Starts no process; `make` decides and runs the tools.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    server::environment::kinds::{Environment, EnvironmentError, Kind},
    sys::private::{self, Untrusted},
};

/// What sessions are promised: `-m pip` for their users, the others for forkpy's own tools.
const HELPERS: [&str; 4] = ["pip", "psutil", "jedi", "cloudpickle"];
/// Written last into a managed environment.
pub(super) const MARKER: &str = "forkpy.json";
const MARKER_FORMAT: u32 = 1;

/// An install that failed is not tried again before: a machine without a network would pay for it at every start.
const RETRY_AFTER: u64 = 24 * 60 * 60;

/// Where a managed environment is, made or not.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) linked: String,
    /// The interpreter that it is made from.
    base: PathBuf,
    pub(super) root: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) python: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) log: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) python: String,
    pub(super) base: String,
    pub(super) installed: Vec<String>,
    pub(super) missing: Vec<String>,
    /// Why something is missing.
    pub(super) trouble: Option<String>,
    /// When it was last tried to fetch what is missing, in seconds since 1970.
    #[serde(default)]
    pub(super) tried: Option<u64>,
}

impl Record {
    /// Whether it may be tried now to fetch what is missing.
    pub(super) fn is_due(&self) -> bool {
        // A clock that went back must not put it off for years.
        self.tried.is_none_or(|then| now().checked_sub(then).is_none_or(|past| past >= RETRY_AFTER))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_secs())
}

impl Place {
    pub(super) fn new(root: &Path, linked: &str, base: &Path) -> Self {
        let name = format!("{linked}-{:08x}", short_hash(base.as_os_str().as_encoded_bytes()));
        let directory = root.join(&name);
        Self {
            linked: linked.to_owned(),
            base: base.to_owned(),
            root: root.to_owned(),
            python: directory.join("bin/python"),
            directory,
            lock: root.join(format!("{name}.lock")),
            log: root.join(format!("{name}.log")),
        }
    }

    /// What the marker says; none unless the environment was made to the end and its interpreter is still there.
    pub(super) fn record(&self) -> Option<Record> {
        let text = fs::read(self.directory.join(MARKER)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.format == MARKER_FORMAT && record.python == self.linked && self.python.exists()).then_some(record)
    }

    /// What came of trying to fetch what was missing.
    pub(super) fn seal(&self, base: &Path, trouble: Option<String>) -> io::Result<Record> {
        let tried = trouble.is_some().then(now);
        self.seal_in(&self.directory, base, trouble, tried)
    }

    /// Writes the marker into `directory`, which is the environment or is about to become it.
    pub(super) fn seal_in(
        &self,
        directory: &Path,
        base: &Path,
        trouble: Option<String>,
        tried: Option<u64>,
    ) -> io::Result<Record> {
        let missing = self.missing_in(directory);
        let record = Record {
            format: MARKER_FORMAT,
            python: self.linked.clone(),
            base: base.display().to_string(),
            installed: HELPERS.map(str::to_owned).into_iter().filter(|name| !missing.contains(name)).collect(),
            trouble: trouble.filter(|_| !missing.is_empty()),
            missing,
            tried,
        };
        let draft = directory.join(format!("{MARKER}.new"));
        fs::write(&draft, serde_json::to_vec_pretty(&record)?)?;
        fs::rename(draft, directory.join(MARKER))?;
        Ok(record)
    }

    pub(super) fn environment(&self, record: Record) -> Environment {
        let shown = self.directory.display();
        let mut note = format!("sessions use the managed environment {shown} (Python {})", self.linked);
        if let Some(reason) = record.trouble.as_ref().filter(|_| !record.missing.is_empty()) {
            note += &format!(" without {} ({reason}); it is tried again once a day", list(&record.missing));
        }
        Environment {
            python: self.python.clone(),
            root: Some(self.directory.clone()),
            kind: Kind::Managed,
            library: None,
            missing: record.missing,
            note,
        }
    }

    /// Helpers that neither it has nor, where it sees its base's packages, that.
    pub(super) fn missing(&self) -> Vec<String> {
        self.missing_in(&self.directory)
    }

    fn missing_in(&self, directory: &Path) -> Vec<String> {
        let missing = missing_in(directory, &self.linked);
        if missing.is_empty() || !VenvConfig::read(directory).system_packages {
            return missing;
        }
        let of_base = self.base.ancestors().nth(2).map(|root| missing_in(root, &self.linked)).unwrap_or_default();
        missing.into_iter().filter(|name| of_base.contains(name)).collect()
    }

    /// Sees to it that no other user may put something into its place: there is an environment that is this user's, or room
    /// for one.
    pub(super) fn claim(&self) -> Result<(), Untrusted> {
        if self.directory.symlink_metadata().is_ok() {
            private::check(&self.directory)?;
            if self.record().is_some() {
                // One that is only read may be anywhere.
                return Ok(());
            }
        }
        private::make(&self.root)
    }

    pub(super) fn clear(&self) -> io::Result<()> {
        clear(&self.directory)
    }

    /// `site-packages` of the environment.
    pub(super) fn packages(&self, directory: &Path) -> PathBuf {
        directory.join(format!("lib/python{}/site-packages", self.linked))
    }

    pub(super) fn open_lock(&self) -> Result<File, EnvironmentError> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.lock);
        opened.map_err(|error| self.error(error))
    }

    pub(super) fn open_log(&self) -> Result<File, EnvironmentError> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&self.log);
        let fresh = opened.and_then(|log| log.set_len(0).map(|()| log));
        fresh.map_err(|error| self.error(error))
    }

    pub(super) fn error(&self, reason: impl fmt::Display) -> EnvironmentError {
        EnvironmentError::Make { path: self.directory.clone(), reason: reason.to_string() }
    }
}

/// Removes a directory, if it is there.
pub(super) fn clear(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A managed environment that sessions use already and that something is still to be put into.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(super) place: Place,
    pub(super) base: PathBuf,
    /// Tools may be run for it, which run what lies in the environment.
    pub(super) by_tools: bool,
}

impl Unfinished {
    pub(super) fn environment(&self, record: Record) -> Environment {
        self.place.environment(record)
    }
}

/// What `pyvenv.cfg` tells. The standard library writes `version`, uv `version_info`, virtualenv both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct VenvConfig {
    pub(super) version: Option<String>,
    /// It sees the packages of its base, too.
    pub(super) system_packages: bool,
    /// Directory of the interpreter that it was made from.
    pub(super) home: Option<PathBuf>,
}

impl VenvConfig {
    pub(super) fn read(root: &Path) -> Self {
        fs::read_to_string(root.join("pyvenv.cfg")).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut config = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key.trim().to_ascii_lowercase().as_str() {
                "version" | "version_info" => config.version = config.version.or_else(|| major_minor(value)),
                "home" => config.home = Some(PathBuf::from(value.trim())),
                "include-system-site-packages" => config.system_packages = value.trim().eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        config
    }
}

/// `3.11` of ` 3.11.7.final.0`.
fn major_minor(text: &str) -> Option<String> {
    let mut parts = text.trim().split('.');
    let mut number = || -> Option<u32> {
        let part = parts.next()?;
        part[..part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len())].parse().ok()
    };
    Some(format!("{}.{}", number()?, number()?))
}

/// Helpers without a trace in the environment's `site-packages`.
pub(super) fn missing_in(root: &Path, linked: &str) -> Vec<String> {
    let packages = root.join(format!("lib/python{linked}/site-packages"));
    let names: Vec<String> = fs::read_dir(packages)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.to_ascii_lowercase()))
        .filter(|name| name.ends_with(".dist-info"))
        .collect();
    let is_there = |helper: &str| names.iter().any(|name| name.split('-').next() == Some(helper));
    HELPERS.into_iter().filter(|helper| !is_there(helper)).map(str::to_owned).collect()
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

/// FNV-1a: the same in every build, which `std`'s hashers do not promise.
fn short_hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
