//! Paths as people write them in configurations, where no shell expands `~` and `$HOME`.
//!
//! Runs in: any role, while it reads its command line. Reads the environment and the user's entry; touches no file but to see
//! whether the current directory can be written.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, User, access, geteuid};

/// A path of the command line, of a variable or of the settings file.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    let (begin, rest) = text.split_once('/').map_or((text, None), |(begin, rest)| (begin, Some(rest)));
    let Some(folder) = leading(begin)? else { return Ok(text.into()) };
    // Slashes that follow do not make the rest a path of its own.
    Ok(rest.map_or_else(|| folder.clone(), |rest| folder.join(rest.trim_start_matches('/'))))
}

/// What `~`, `~user`, `$NAME` or `${NAME}` stands for; none where it is an ordinary name.
fn leading(begin: &str) -> Result<Option<PathBuf>, String> {
    if let Some(user) = begin.strip_prefix('~') {
        let named = || User::from_name(user).ok().flatten().map(|user| user.dir);
        let found = if user.is_empty() { home() } else { named() };
        return found.map(Some).ok_or_else(|| match user {
            "" => "there is no home directory to put for ~: write the path in full".to_owned(),
            user => format!("there is no user {user:?}: write the path in full"),
        });
    }
    let Some(name) = begin.strip_prefix('$') else { return Ok(None) };
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    if name == "HOME" {
        return home().map(Some).ok_or_else(|| "HOME is not set: write the path in full".to_owned());
    }
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match env::var_os(name).filter(|value| is_name && !value.is_empty()) {
        Some(value) => Ok(Some(value.into())),
        None => Err(format!("the variable {name} is not set: write the path in full")),
    }
}

/// The user's home: HOME, else what the system knows.
pub(crate) fn home() -> Option<PathBuf> {
    let named = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = named.or_else(|| User::from_uid(geteuid()).ok().flatten().map(|user| user.dir));
    home.filter(|home| home.is_absolute())
}

/// The workspace of those who name none: below the current directory, or below the home where clients start their servers in
/// `/` or in a folder that cannot be written.
pub(crate) fn default_workspace() -> OsString {
    let usual = OsString::from("workspace");
    if fits(Path::new(".")) && env::current_dir().is_ok_and(|here| here != Path::new("/")) {
        return usual;
    }
    match home().map(|home| home.join("forkpy")) {
        Some(workspace) => workspace.into(),
        None => usual,
    }
}

/// Whether a workspace can be made in this directory, or is there.
fn fits(here: &Path) -> bool {
    let workspace = here.join("workspace");
    let place = if workspace.is_dir() { &workspace } else { here };
    access(place, AccessFlags::W_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_is_expanded() {
        let home = home().expect("a home");
        assert_eq!(path("~"), Ok(home.clone()));
        assert_eq!(path("~/data"), Ok(home.join("data")));
        assert_eq!(path("~//data"), Ok(home.join("data")));
        assert_eq!(path("$HOME/a b"), Ok(home.join("a b")));
        assert_eq!(path("${HOME}/x"), Ok(home.join("x")));
        for plain in ["/a/~", "a/$HOME", "data~", "./~", ""] {
            assert_eq!(path(plain), Ok(PathBuf::from(plain)));
        }
        for (wrong, word) in [("~no_such_user_/x", "no_such_user_"), ("$NO_SUCH_VARIABLE_/x", "NO_SUCH_VARIABLE_")] {
            assert!(path(wrong).expect_err(wrong).contains(word));
        }
        assert!(path("${workspaceFolder}").expect_err("a client's variable").contains("workspaceFolder"));
    }
}
