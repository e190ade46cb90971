//! Directories that no other user may change: what is kept there is run later, as its user.
//!
//! Runs in: any process, on a thread that may block. Owns the rule; where the directories are is others' business.
//!
//! The rule: the directory is its user's or root's, and no other user may write it. The same holds for every directory above
//! it, but those may be sticky, as /tmp is: then others cannot take away what is not theirs. Links on the way are followed
//! when they are the user's or root's.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

use nix::unistd::{AccessFlags, access, getegid, geteuid};

const STICKY: u32 = 0o1000;
/// As many as the kernel follows.
const MOST_LINKS: u32 = 40;

/// Why a directory must not be used, or cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untrusted {
    #[error("{0}")]
    Make(#[source] io::Error),
    #[error("{}: {source}", path.display())]
    Look { path: PathBuf, source: io::Error },
    #[error("{} is one link too many", .0.display())]
    Links(PathBuf),
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("{} belongs to user {owner}", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    #[error("others may write {} (mode {mode:o})", path.display())]
    Open { path: PathBuf, mode: u32 },
}

/// Makes the directory if need be, and those above it, for its user alone.
///
/// # Errors
/// Why it must not be used, or cannot be, in words.
pub(crate) fn make(place: &Path) -> Result<(), Untrusted> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(place);
    made.map_err(Untrusted::Make)?;
    check(place)?;
    access(place, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| Untrusted::Make(errno.into()))
}

/// Whether a directory that is there keeps the rule.
///
/// # Errors
/// Where it does not, in words.
pub(crate) fn check(place: &Path) -> Result<(), Untrusted> {
    walk(place, true)
}

/// Whether a directory below which one is to be made keeps the rule.
pub(crate) fn check_above(place: &Path) -> Result<(), Untrusted> {
    walk(place, false)
}

fn walk(place: &Path, is_own: bool) -> Result<(), Untrusted> {
    let place = std::path::absolute(place).map_err(Untrusted::Make)?;
    let mut left: VecDeque<OsString> = place.components().map(|part| part.as_os_str().to_owned()).collect();
    let mut path = PathBuf::new();
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if Path::new(&part).components().next() == Some(Component::ParentDir) {
            path.pop();
            continue;
        }
        path.push(part);
        let found = fs::symlink_metadata(&path).map_err(|source| Untrusted::Look { path: path.clone(), source })?;
        let is_last = is_own && left.is_empty();
        if found.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(Untrusted::Links(path));
            }
            owned(&path, &found)?;
            let target = fs::read_link(&path).map_err(|source| Untrusted::Look { path: path.clone(), source })?;
            path.pop();
            target.components().rev().for_each(|part| left.push_front(part.as_os_str().to_owned()));
            continue;
        }
        if !found.is_dir() {
            return Err(Untrusted::NotADirectory(path));
        }
        owned(&path, &found)?;
        unwritable(&path, &found, is_last)?;
    }
    Ok(())
}

fn owned(path: &Path, found: &Metadata) -> Result<(), Untrusted> {
    let owner = found.uid();
    if owner == geteuid().as_raw() || owner == 0 || is_unmapped(owner) {
        return Ok(());
    }
    Err(Untrusted::Foreign { path: path.to_owned(), owner })
}

fn unwritable(path: &Path, found: &Metadata, is_last: bool) -> Result<(), Untrusted> {
    let mode = found.mode();
    let by_others = mode & 0o002 != 0;
    // A group of the user's own name has no other user in it; root's has only trusted ones.
    let own_group = found.gid() == getegid().as_raw() && (found.gid() == geteuid().as_raw() || found.gid() == 0);
    let by_group = mode & 0o020 != 0 && !own_group && found.gid() != 0;
    if (by_others || by_group) && (is_last || mode & STICKY == 0) {
        return Err(Untrusted::Open { path: path.to_owned(), mode: mode & 0o7777 });
    }
    Ok(())
}

/// In a user namespace that does not map everybody, root outside is shown as this user.
fn is_unmapped(owner: u32) -> bool {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let all_mapped = text("/proc/self/uid_map").split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    !all_mapped && text("/proc/sys/kernel/overflowuid").trim().parse() == Ok(owner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn what_others_may_write_is_refused_in_every_component() {
        let root = tempfile::tempdir().expect("a directory");
        let place = root.path().join("a/b/envs");
        make(&place).expect("a place of its own");
        assert_eq!(fs::metadata(&place).expect("made").mode() & 0o777, 0o700);
        for (part, open) in [("a/b/envs", 0o777), ("a/b/envs", 0o1777), ("a/b", 0o777), ("a", 0o702)] {
            let part = root.path().join(part);
            mode(&part, open);
            let refused = make(&place).expect_err("others may write it").to_string();
            assert!(refused.contains("others may write"), "{refused}");
            mode(&part, 0o700);
        }
        mode(&root.path().join("a"), 0o1777);
        make(&place).expect("sticky");
    }

    #[test]
    fn links_are_followed_and_what_they_lead_to_is_looked_at() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("far/open")).expect("made");
        symlink("far/open", root.path().join("near")).expect("a link");
        make(&root.path().join("near/envs")).expect("through a link of ours");
        mode(&root.path().join("far"), 0o777);
        assert!(check(&root.path().join("near/envs")).is_err());
        symlink("round", root.path().join("round")).expect("a link");
        assert!(check(&root.path().join("round")).is_err());
        fs::write(root.path().join("file"), "").expect("written");
        assert!(make(&root.path().join("file")).is_err());
    }

    #[test]
    fn what_another_user_owns_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().expect("a directory");
        let place = root.path().join("a/envs");
        make(&place).expect("a place of its own");
        for part in ["a", "a/envs"] {
            let part = root.path().join(part);
            chown(&part, Some(12_345), None).expect("root may");
            let refused = make(&place).expect_err("it is another's").to_string();
            assert!(refused.contains("belongs to user 12345"), "{refused}");
            chown(&part, Some(0), None).expect("root may");
        }
    }
}
