//! The file that a client reads: found behind links, read without its byte order mark, written whole.
//!
//! Runs in: a process of its own.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use crate::commands::error::SetupError;

const MARK: char = '\u{feff}';

/// A configuration as it is.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it is, or will be.
    pub path: PathBuf,
    pub text: String,
    pub exists: bool,
    /// It begins with a byte order mark, which stays.
    marked: bool,
}

/// Reads it; one that is not there is empty.
pub(super) fn read(named: &Path) -> Result<Found, SetupError> {
    // Some keep their configurations elsewhere, and a link in its place, perhaps to a file that is still to be made.
    let path = named.canonicalize().unwrap_or_else(|_| behind(named));
    let fail = |source| SetupError::File { what: "failed to read", path: path.clone(), source };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found { path, text: String::new(), exists: false, marked: false });
        }
        Err(error) => return Err(fail(error)),
    };
    let wrong = |reason: &str| SetupError::Configuration { path: path.clone(), reason: reason.to_owned() };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8: save it as UTF-8 first"))?;
    let (marked, text) = match text.strip_prefix(MARK) {
        Some(rest) => (true, rest.to_owned()),
        None => (false, text),
    };
    Ok(Found { path, text, exists: true, marked })
}

/// What a link leads to that leads nowhere yet.
fn behind(named: &Path) -> PathBuf {
    match fs::read_link(named) {
        Ok(target) => named.parent().unwrap_or(Path::new(".")).join(target),
        Err(_) => named.to_owned(),
    }
}

/// The text before goes to a file of its own first; the new one takes the place of the old in one step.
pub(super) fn write(found: &Found, text: &str) -> Result<Option<PathBuf>, SetupError> {
    let file = &found.path;
    let fail = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| SetupError::File { what, path, source }
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(fail("failed to make", folder))?;
    let mark = if found.marked { MARK.to_string() } else { String::new() };
    let mut backup = None;
    let permissions = file.metadata().ok().map(|found| found.permissions());
    if found.exists {
        // A new file could take its place all the same; but who made it read-only does not want it to change.
        let read_only = permissions.as_ref().is_some_and(|found| found.mode() & 0o222 == 0);
        if read_only || access(file, AccessFlags::W_OK).is_err() {
            return Err(SetupError::Configuration {
                path: file.clone(),
                reason: "it is read-only; `forkpy install --print` shows what to enter where it comes from".to_owned(),
            });
        }
        let path = beside(file);
        fs::write(&path, format!("{mark}{}", found.text)).map_err(fail("failed to write", &path))?;
        if let Some(permissions) = &permissions {
            let _ = fs::set_permissions(&path, permissions.clone());
        }
        backup = Some(path);
    }
    let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(fail("failed to write beside", file))?;
    draft.write_all(format!("{mark}{text}").as_bytes()).map_err(fail("failed to write beside", file))?;
    if let Some(permissions) = permissions {
        let _ = draft.as_file().set_permissions(permissions);
    }
    draft.persist(file).map_err(|error| fail("failed to replace", file)(error.error))?;
    Ok(backup)
}

fn beside(file: &Path) -> PathBuf {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = |more: String| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{now}{more}.backup"));
        PathBuf::from(name)
    };
    let names = std::iter::once(name(String::new())).chain((2..).map(|number| name(format!("-{number}"))));
    names.into_iter().find(|path| !path.exists()).unwrap_or_else(|| name(String::new()))
}
