//! The regular files of the workspace in one order, from any place in it on: pages that stay right while files come and go.
//!
//! Runs in: server, on its blocking threads. Links are not followed; directories that the watcher skips are skipped.
//!
//! A page begins behind a *path*, not at a number: what is made or deleted before it moves nothing.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    path::{Path, PathBuf},
};

use cap_fs_ext::DirExt;
use cap_std::fs::Dir;
use tokio_util::sync::CancellationToken;

use crate::server::workspace::{
    handle::{FileError, Files, Shown, trouble},
    list::{MAX_DEPTH, MAX_WALK},
    watch::is_skipped,
};

/// Bytes of names in a page; as URIs they take up to three times that.
const MAX_NAMES: usize = 200_000;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundFile {
    /// From the workspace on.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

impl Files {
    /// At most `most` files that come after a path, and whether there are more.
    ///
    /// # Errors
    /// [`FileError`] when the workspace cannot be read; directories in it that cannot be are left out.
    pub(crate) fn after(
        &self,
        path: Option<&str>,
        most: usize,
        cancel: &CancellationToken,
    ) -> Result<(Vec<FoundFile>, bool), FileError> {
        let after: Vec<&str> = path.map(|path| path.split('/').collect()).unwrap_or_default();
        let mut walk = Walk { most, cancel, bytes: 0, more: false, found: Vec::new() };
        let names = names(&self.dir, after.first().copied()).map_err(|source| trouble("list", ".", source))?;
        walk.enter(&self.dir, names, "", &after, 1)?;
        Ok((walk.found, walk.more))
    }

    /// Paths in the workspace that begin so, directories with a `/` behind; nothing where there is none.
    #[must_use]
    pub(crate) fn beginning(&self, begun: &str, most: usize) -> Vec<String> {
        let (parent, start) = begun.rsplit_once('/').map_or(("", begun), |(parent, start)| (parent, start));
        let parent_path = if parent.is_empty() { Path::new(".") } else { Path::new(parent) };
        let Ok(directory) = self.dir.open_dir(parent_path) else { return Vec::new() };
        let Ok(mut found) = names(&directory, Some(start)) else { return Vec::new() };
        let mut values = Vec::new();
        while let Some(Reverse((name, is_directory))) = found.pop() {
            if values.len() == most || !name.starts_with(start) {
                break;
            }
            let path: PathBuf = [parent, &name].iter().collect();
            values.push(format!("{}{}", path.display(), if is_directory { "/" } else { "" }));
        }
        values
    }
}

/// Names that are not before `from`, the first at hand, and whether they are directories.
type Names = BinaryHeap<Reverse<(String, bool)>>;

fn names(directory: &Dir, from: Option<&str>) -> io::Result<Names> {
    let mut names = Vec::new();
    for entry in directory.entries()?.take(MAX_WALK) {
        let entry = entry?;
        // A name that is not UTF-8 has no URI here.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if from.is_none_or(|from| &*name >= from) && (kind.is_dir() || kind.is_file()) {
            names.push(Reverse((name, kind.is_dir())));
        }
    }
    Ok(names.into())
}

struct Walk<'a> {
    most: usize,
    cancel: &'a CancellationToken,
    bytes: usize,
    more: bool,
    found: Vec<FoundFile>,
}

impl Walk<'_> {
    /// `after` is what the page begins behind, from this directory on; empty when all of it is wanted.
    fn enter(
        &mut self,
        directory: &Dir,
        mut names: Names,
        prefix: &str,
        after: &[&str],
        depth: u32,
    ) -> Result<(), FileError> {
        if self.cancel.is_cancelled() {
            return Err(FileError::Cancelled(Shown::new(prefix)));
        }
        while let Some(Reverse((name, is_directory))) = names.pop() {
            let is_on_the_way = after.first() == Some(&&*name);
            if is_directory {
                if depth == MAX_DEPTH || is_skipped(name.as_ref()) {
                    continue;
                }
                let rest = if is_on_the_way { &after[1..] } else { &[] };
                let below = directory.open_dir_nofollow(&name);
                let below = below.and_then(|below| Ok((self::names(&below, rest.first().copied())?, below)));
                if let Ok((names, below)) = below {
                    self.enter(&below, names, &format!("{prefix}{name}/"), rest, depth + 1)?;
                }
            } else if !is_on_the_way {
                self.take(directory, &name, prefix);
            }
            if self.more {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, directory: &Dir, name: &str, prefix: &str) {
        let Ok(metadata) = directory.symlink_metadata(name) else { return };
        let path = format!("{prefix}{name}");
        if self.found.len() == self.most || self.bytes + path.len() > MAX_NAMES {
            self.more = true;
            return;
        }
        self.bytes += path.len();
        self.found.push(FoundFile { path, size: metadata.len() });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::settings::resolve::Workspace;

    fn workspace(paths: &[&str]) -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().expect("tempdir");
        for path in paths {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, "x").expect("written");
        }
        let files = Files::open(&Workspace { root: directory.path().to_owned() }).expect("opened");
        (directory, files)
    }

    fn page(files: &Files, after: Option<&str>, most: usize) -> (Vec<String>, bool) {
        let (found, more) = files.after(after, most, &CancellationToken::new()).expect("listed");
        (found.into_iter().map(|found| found.path).collect(), more)
    }

    #[test]
    fn pages_of_any_size_make_the_same_list() {
        let all = ["a", "a.b/x", "b/c/d", "b/c/e", "b/f", "b.txt", "z"];
        let (_directory, files) = workspace(&all);
        let mut sorted = all.to_vec();
        sorted.sort_by_key(|path| path.split('/').collect::<Vec<_>>());
        for most in 1..9 {
            let (mut list, mut after) = (Vec::new(), None::<String>);
            loop {
                let (found, more) = page(&files, after.as_deref(), most);
                list.extend(found);
                after = list.last().cloned();
                if !more {
                    break;
                }
                assert_eq!(list.len() % most, 0);
            }
            assert_eq!(list, sorted, "{most}");
        }
    }

    #[test]
    fn a_page_begins_behind_a_path_that_is_gone() {
        let (directory, files) = workspace(&["a", "b/1", "b/2", "c"]);
        fs::remove_dir_all(directory.path().join("b")).expect("removed");
        assert_eq!(page(&files, Some("b/1"), 9), (vec!["c".to_owned()], false));
        fs::write(directory.path().join("b"), "now a file").expect("written");
        assert_eq!(page(&files, Some("a"), 1), (vec!["b".to_owned()], true));
        assert_eq!(page(&files, Some(""), 1), (vec!["a".to_owned()], true));
    }

    #[test]
    fn hidden_directories_and_links_are_left_out() {
        let (directory, files) = workspace(&[".hidden", ".git/config", "node_modules/m", "d/__pycache__/c", "d/x"]);
        std::os::unix::fs::symlink("d", directory.path().join("link")).expect("a link");
        std::os::unix::fs::symlink("d/x", directory.path().join("file-link")).expect("a link");
        assert_eq!(page(&files, None, 9), (vec![".hidden".to_owned(), "d/x".to_owned()], false));
    }

    #[test]
    fn a_path_is_completed() {
        let (_directory, files) = workspace(&["data/one.csv", "data/other", "date", "x"]);
        assert_eq!(files.beginning("da", 9), ["data/", "date"]);
        assert_eq!(files.beginning("data/", 9), ["data/one.csv", "data/other"]);
        assert_eq!(files.beginning("data/o", 1), ["data/one.csv"]);
        assert!(files.beginning("../", 9).is_empty() && files.beginning("nowhere/x", 9).is_empty());
    }
}
