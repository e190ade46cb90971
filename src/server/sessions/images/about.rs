//! What the next server has to know of an image: whose it is, and what it is tied to.
//!
//! Runs in: server. Pure data, but for a look at the names of installed packages.

use std::{fs, path::Path, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    server::{health::HealthPolicy, owner::Owner, sessions::happened::KeptByValue},
    settings::limits::Limits,
    sys::image::BaseId,
};

/// Owners that come again under their name with the next server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lasting {
    User,
    Bearer,
    Named(String),
    Unnamed,
    Subject(String),
}

impl Lasting {
    /// None for a client that comes under another name next time.
    pub(crate) fn of(owner: &Owner) -> Option<Self> {
        match owner {
            Owner::User => Some(Self::User),
            Owner::Bearer => Some(Self::Bearer),
            Owner::Named(name) => Some(Self::Named(name.to_string())),
            Owner::Unnamed => Some(Self::Unnamed),
            Owner::Subject(subject) => Some(Self::Subject(subject.to_string())),
            Owner::HttpSession(_) | Owner::Cookie(_) => None,
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::User => Owner::User,
            Self::Bearer => Owner::Bearer,
            Self::Named(name) => Owner::Named(Arc::from(name.as_str())),
            Self::Unnamed => Owner::Unnamed,
            Self::Subject(subject) => Owner::Subject(Arc::from(subject.as_str())),
        }
    }
}

/// Names of variables, and those that are left out with the reason.
pub(crate) type ByValue = (Vec<String>, Vec<(String, String)>);

/// What there is to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    pub base: BaseId,
    /// None: it ends with its server.
    pub owner: Option<Lasting>,
    pub session: String,
    pub description: String,
    pub policy: HealthPolicy,
    pub limits: Limits,
    pub workspace: String,
    /// The interpreter that the session's code is told to be run by. Empty where the server ended before it had one.
    pub python: String,
    /// What is installed beside it, by name and version.
    pub packages: Vec<String>,
    /// The last cell whose effects it has, and the last that had run.
    pub cell: u64,
    pub last_cell: u64,
    pub executed: u64,
    /// Milliseconds since 1970: when the session was made, and when the image was.
    pub created: i64,
    pub written: i64,
    /// Named checkpoints, which end with their server.
    pub checkpoints: Vec<String>,
    /// Variables by value, where there could be no image: names, and those that are left out with the reason.
    pub by_value: Option<ByValue>,
}

impl About {
    pub(super) fn head(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    pub(super) fn of(head: &[u8]) -> Option<Self> {
        postcard::from_bytes(head).ok()
    }

    /// Its variables, where there is no memory.
    pub(crate) fn kept_by_value(&self) -> Option<KeptByValue> {
        let (names, left_out) = self.by_value.clone()?;
        Some(KeptByValue { cell: self.cell, names, left_out })
    }

    pub(crate) fn written_at(&self) -> Timestamp {
        Timestamp::from_millisecond(self.written).unwrap_or_default()
    }

    pub(crate) fn created_at(&self) -> Timestamp {
        Timestamp::from_millisecond(self.created).unwrap_or_default()
    }

    /// What is installed now and was not then, or the other way round; the names of the packages.
    pub(crate) fn changed_packages(&self, now: &[String]) -> Vec<String> {
        let other = |one: &[String], two: &[String]| -> Vec<String> {
            one.iter().filter(|package| !two.contains(package)).map(|package| name_of(package).to_owned()).collect()
        };
        let mut changed = other(&self.packages, now);
        changed.extend(other(now, &self.packages));
        changed.sort();
        changed.dedup();
        changed
    }
}

fn name_of(package: &str) -> &str {
    package.split_once('-').map_or(package, |(name, _)| name)
}

/// Names and versions of what is installed beside an interpreter: the folders that installers leave for each.
pub(crate) fn packages(python: &str) -> Vec<String> {
    let Some(root) = Path::new(python).parent().and_then(Path::parent) else { return Vec::new() };
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let libraries =
        entries(&root.join("lib")).filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"python"));
    let mut found: Vec<String> = libraries
        .flat_map(|library| entries(&library.path().join("site-packages")))
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".dist-info")?.to_owned()))
        .collect();
    found.sort();
    found
}
