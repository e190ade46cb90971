//! `--tokens FILE`: who may come in over HTTP, by the hash of each one's token, and what each may take.
//!
//! Runs in: server; `forkpy token new` writes an entry. The file is read at the start, where a fault in it is an error, and again
//! when it has changed, where a fault leaves what was: a file that is being edited locks out none of those in it. A file that is
//! gone, or that all users may read, lets in none of them. Tokens themselves are nowhere: neither in the file nor in memory.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::RwLock;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::protocol::Confinement;

/// Bytes that such a file may have.
const MOST: u64 = 4 << 20;
/// Letters that an owner's name may have.
const MAX_NAME: usize = 64;
/// How tokens begin, so that a person and a scanner of secrets recognise one.
const SIGN: &str = "forkpy_";

type Hash = [u8; 32];

/// What an owner may take, where that is less than the server's own limits.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rights {
    /// How its sessions are confined at least.
    pub sandbox: Confinement,
    /// Sessions at a time.
    pub sessions: Option<usize>,
    /// Cells that run or wait at a time.
    pub cells: Option<usize>,
    /// Seconds that its cells may run in a day (UTC), together.
    pub seconds: Option<f64>,
    /// Bytes of memory that its sessions hold together.
    pub memory: Option<u64>,
    /// Bytes of its workspace.
    pub disk: Option<u64>,
    /// Sees what concerns all owners: metrics.
    pub admin: bool,
}

/// The file, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    token: Vec<Entry>,
    subjects: Option<Subjects>,
}

/// What each subject of an issuer may take (`--oauth-issuer`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subjects {
    sandbox: Option<String>,
    #[serde(default)]
    quota: Quota,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    owner: String,
    sha256: OneOrMore,
    sandbox: Option<String>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    quota: Quota,
}

/// Of two, one may be the new token and one the old.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Quota {
    sessions: Option<usize>,
    cells: Option<usize>,
    cell_seconds_a_day: Option<f64>,
    memory_mb: Option<u64>,
    disk_mb: Option<u64>,
}

impl Quota {
    fn rights(self, owner: &str, sandbox: Option<String>, admin: bool) -> Result<Rights, String> {
        let sandbox = sandbox.map_or(Ok(Confinement::Off), |word| word.parse())?;
        let Self { sessions, cells, cell_seconds_a_day: seconds, memory_mb, disk_mb } = self;
        if seconds.is_some_and(|seconds| !seconds.is_finite() || seconds < 0.0) {
            return Err(format!("the cell-seconds-a-day of {owner} are no number of seconds"));
        }
        let bytes = |megabytes: Option<u64>| megabytes.map(|megabytes| megabytes.saturating_mul(1 << 20));
        Ok(Rights { sandbox, sessions, cells, seconds, memory: bytes(memory_mb), disk: bytes(disk_mb), admin })
    }
}

/// What is known of who may come in.
#[derive(Debug, Default)]
struct Known {
    /// Hash of a token, and whose it is.
    hashes: HashMap<Hash, Arc<str>>,
    rights: HashMap<Arc<str>, Rights>,
    subjects: Option<Rights>,
}

impl Known {
    fn all(&self) -> impl Iterator<Item = &Rights> {
        self.rights.values().chain(&self.subjects)
    }
}

const COMMON_DISK: &str =
    "disk-mb is a quota of an owner's workspace, and there is one workspace for all: add --workspaces DIR";

/// When a file was as it was read.
type Stamp = (u64, u64, i64, i64, Option<SystemTime>);

#[derive(Debug)]
struct State {
    stamp: Option<Stamp>,
    known: Known,
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokensError {
    #[error("failed to read the tokens from {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("all users may read the tokens' file {}: chmod 600 it", path.display())]
    Open { path: PathBuf },
    #[error("the tokens' file {} is not as it should be: {reason}", path.display())]
    Text { path: PathBuf, reason: String },
    #[error("failed to write the tokens' file {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{0:?} is no owner's name: 1 to {MAX_NAME} letters (a-z, A-Z), digits, '_', '-', '.' and '@', beginning with a letter or digit"
    )]
    Name(String),
    #[error("owner {owner:?} has a token in {} already; to give it another, replace its sha256 there, or add to it: sha256 = [\"old\", \"new\"]", path.display())]
    Twice { owner: String, path: PathBuf },
}

/// All who may come in.
#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    workspaces: Workspaces,
    state: RwLock<State>,
}

/// How many workspaces there are: a quota of disk is one of an owner's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workspaces {
    /// One for all.
    Common,
    /// One for each owner (`--workspaces`), or the reader does not care.
    Each,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokensError`] when it is not as it should be.
    pub(crate) fn read(path: &Path, workspaces: Workspaces) -> Result<Arc<Self>, TokensError> {
        let (stamp, known) = load(path, workspaces)?;
        if known.hashes.is_empty() && known.subjects.is_none() {
            let reason = "there is no [[token]] in it; forkpy token new OWNER makes one".to_owned();
            return Err(TokensError::Text { path: path.to_owned(), reason });
        }
        let state = RwLock::new(State { stamp: Some(stamp), known });
        Ok(Arc::new(Self { path: path.to_owned(), workspaces, state }))
    }

    /// Whose token this is.
    #[must_use]
    pub(crate) fn owner_of(&self, token: &str) -> Option<Arc<str>> {
        self.look();
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        // How long this takes depends on the hash, which tells nothing of the token: a client cannot choose it.
        self.state.read().known.hashes.get(&hash).map(Arc::clone)
    }

    /// What an owner may take; one that is not in the file any more has what all have.
    #[must_use]
    pub(crate) fn rights_of(&self, owner: &str) -> Rights {
        self.state.read().known.rights.get(owner).cloned().unwrap_or_default()
    }

    /// What each subject of an issuer may take.
    #[must_use]
    pub(crate) fn rights_of_subjects(&self) -> Rights {
        self.state.read().known.subjects.clone().unwrap_or_default()
    }

    /// The narrowest sandbox of an owner.
    #[must_use]
    pub(crate) fn narrowest(&self) -> Confinement {
        self.state.read().known.all().map(|rights| rights.sandbox).max().unwrap_or_default()
    }

    /// Whether memory or disk of anyone has a quota.
    #[must_use]
    pub(crate) fn limit_room(&self) -> bool {
        self.state.read().known.all().any(|rights| rights.disk.is_some() || rights.memory.is_some())
    }

    /// Reads the file again if it has changed.
    fn look(&self) {
        let stamp = std::fs::metadata(&self.path).ok().map(|found| stamp_of(&found));
        if self.state.read().stamp == stamp {
            return;
        }
        let mut state = self.state.write();
        match load(&self.path, self.workspaces) {
            Ok((stamp, known)) => {
                tracing::info!(
                    "the tokens were read again from {}: {} owners",
                    self.path.display(),
                    known.rights.len()
                );
                *state = State { stamp: Some(stamp), known };
            }
            Err(error @ TokensError::Text { .. }) => {
                tracing::error!("{error}; what was in it before still counts");
                state.stamp = stamp;
            }
            Err(error) => {
                tracing::error!("{error}; none of its tokens counts until that is mended");
                *state = State { stamp, known: Known::default() };
            }
        }
    }
}

fn stamp_of(found: &std::fs::Metadata) -> Stamp {
    (found.ino(), found.len(), found.ctime(), found.ctime_nsec(), found.modified().ok())
}

fn load(path: &Path, workspaces: Workspaces) -> Result<(Stamp, Known), TokensError> {
    let read = |source| TokensError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(read)?;
    let found = file.metadata().map_err(read)?;
    if found.mode() & 0o006 != 0 {
        return Err(TokensError::Open { path: path.to_owned() });
    }
    let text = io::read_to_string(file.take(MOST)).map_err(read)?;
    let wrong = |reason| TokensError::Text { path: path.to_owned(), reason };
    let known = known_in(&text).map_err(wrong)?;
    if workspaces == Workspaces::Common && known.all().any(|rights| rights.disk.is_some()) {
        return Err(wrong(COMMON_DISK.to_owned()));
    }
    Ok((stamp_of(&found), known))
}

fn known_in(text: &str) -> Result<Known, String> {
    let text: Text = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let mut known = Known::default();
    for Entry { owner, sha256, sandbox, admin, quota } in text.token {
        if !is_name(&owner) {
            return Err(TokensError::Name(owner).to_string());
        }
        let name: Arc<str> = owner.as_str().into();
        if known.rights.contains_key(&name) {
            return Err(format!(
                "owner {owner:?} is there twice; an owner of several tokens has sha256 = [\"...\", \"...\"]"
            ));
        }
        let hashes = match sha256 {
            OneOrMore::One(hash) => vec![hash],
            OneOrMore::More(hashes) => hashes,
        };
        for hash in hashes {
            let hash = hash_in(&hash).ok_or_else(|| format!("the sha256 of {owner:?} is not 64 hexadecimal digits"))?;
            if let Some(other) = known.hashes.get(&hash) {
                return Err(format!("{other:?} and {owner:?} have the same token"));
            }
            known.hashes.insert(hash, Arc::clone(&name));
        }
        let rights = quota.rights(&format!("{owner:?}"), sandbox, admin)?;
        known.rights.insert(name, rights);
    }
    let rights = text.subjects.map(|Subjects { sandbox, quota }| quota.rights("[subjects]", sandbox, false));
    known.subjects = rights.transpose()?;
    Ok(known)
}

fn hash_in(text: &str) -> Option<Hash> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 || !bytes.is_ascii() {
        return None;
    }
    let mut hash = Hash::default();
    for (byte, digits) in hash.iter_mut().zip(bytes.chunks(2)) {
        let digit = |letter: u8| char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(hash)
}

fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@');
    text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(is_letter)
}

/// A new token, and its entry in the file.
#[derive(Debug)]
pub(crate) struct New {
    pub token: String,
    pub entry: String,
}

impl New {
    /// Makes one up.
    ///
    /// # Errors
    /// When the name cannot be one, or the system has no random numbers.
    pub(crate) fn of(owner: &str) -> Result<Self, TokensError> {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        if !is_name(owner) {
            return Err(TokensError::Name(owner.to_owned()));
        }
        // 244 random bits.
        let random = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
        let token = format!("{SIGN}{}", URL_SAFE_NO_PAD.encode(random));
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { entry: format!("[[token]]\nowner = \"{owner}\"\nsha256 = \"{hash}\"\n"), token })
    }

    /// Adds it to the file, which is made when it is missing.
    ///
    /// # Errors
    /// When the file is not as it should be, has such an owner, or cannot be written.
    pub(crate) fn add_to(&self, path: &Path, owner: &str) -> Result<(), TokensError> {
        let write = |source| TokensError::Write { path: path.to_owned(), source };
        if path.exists() {
            let (_, known) = load(path, Workspaces::Each)?;
            if known.rights.contains_key(owner) {
                return Err(TokensError::Twice { owner: owner.to_owned(), path: path.to_owned() });
            }
        }
        let mut file = std::fs::File::options().append(true).create(true).mode(0o600).open(path).map_err(write)?;
        let gap = if file.metadata().map_err(write)?.len() == 0 { "" } else { "\n" };
        // In one piece: a server may read it meanwhile.
        file.write_all(format!("{gap}{}", self.entry).as_bytes()).map_err(write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    #[test]
    fn an_entry_is_an_owner_a_hash_and_what_it_may_take() {
        let text = format!(
            "[[token]]\nowner = \"a\"\nsha256 = \"{HASH}\"\nsandbox = \"strict\"\nadmin = true\n\
             [token.quota]\nsessions = 2\ncells = 3\ncell-seconds-a-day = 60\nmemory-mb = 5\n\
             [subjects]\nquota = {{ disk-mb = 1 }}\n"
        );
        let known = known_in(&text).expect("as it should be");
        let rights = Rights {
            sandbox: Confinement::Strict,
            sessions: Some(2),
            cells: Some(3),
            seconds: Some(60.0),
            memory: Some(5 << 20),
            disk: None,
            admin: true,
        };
        assert_eq!(known.subjects.as_ref().map(|rights| (rights.disk, rights.sessions)), Some((Some(1 << 20), None)));
        assert_eq!((known.hashes.len(), &known.rights["a"]), (1, &rights));
        let new = New::of("me@example.org").expect("a name");
        let known = known_in(&new.entry).expect("its own words");
        let hash: Hash = Sha256::digest(new.token.as_bytes()).into();
        assert!(known.hashes.contains_key(&hash));
        assert!(!new.entry.contains(&new.token));
    }

    /// Also where the quota is added while the server runs: it would not be kept, and no word would say so.
    #[test]
    fn a_quota_of_disk_needs_workspaces_of_the_owners_own() {
        use std::{fs, os::unix::fs::PermissionsExt};

        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("tokens.toml");
        let new = New::of("ann").expect("a name");
        let write = |more: &str| {
            fs::write(&path, format!("{}{more}", new.entry)).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        };
        write("quota = { cells = 3 }\n");
        let tokens = Tokens::read(&path, Workspaces::Common).expect("as it should be");
        write("quota = { cells = 4, disk-mb = 5 }\n");
        assert!(tokens.owner_of(&new.token).is_some(), "what was in it before still counts");
        assert_eq!((tokens.rights_of("ann").cells, tokens.rights_of("ann").disk), (Some(3), None));
        let error = Tokens::read(&path, Workspaces::Common).expect_err("one workspace").to_string();
        assert!(error.contains("add --workspaces"), "{error}");
        assert_eq!(Tokens::read(&path, Workspaces::Each).expect("one each").rights_of("ann").disk, Some(5 << 20));
    }

    #[test]
    fn an_entry_that_is_none_says_why() {
        let one = format!("[[token]]\nowner = \"a\"\nsha256 = \"{HASH}\"\n");
        for (text, expected) in [
            ("nonsense".to_owned(), "expected"),
            (format!("{one}{one}"), "\"a\" is there twice"),
            (one.replace(HASH, "abc"), "64 hexadecimal digits"),
            (one.replace(HASH, &HASH.replace('2', "g")), "64 hexadecimal digits"),
            (one.replace("\"a\"", "\"a b\""), "is no owner's name"),
            (one.replace("\"a\"", "\"\""), "is no owner's name"),
            (format!("{one}colour = \"red\"\n"), "colour"),
            (format!("{one}sandbox = \"tight\"\n"), "is none of off"),
            (format!("{one}[token.quota]\nsessions = -1\n"), "sessions"),
            (format!("{one}[token.quota]\ncell-seconds-a-day = inf\n"), "no number of seconds"),
            (format!("{one}[[token]]\nowner = \"b\"\nsha256 = [\"{HASH}\"]\n"), "have the same token"),
            ("[[token]]\nowner = \"a\"\n".to_owned(), "sha256"),
        ] {
            let reason = known_in(&text).expect_err(&text);
            assert!(reason.contains(expected), "{text}: {reason}");
        }
    }
}
