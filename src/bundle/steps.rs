//! Steps that all parts of a bundle share: copying a tree, listing a folder, running a program.
//!
//! Runs in: `forkpy bundle`.

use crate::bundle::BundleError;
use std::{
    fs::{self},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, BundleError> {
    let entries = fs::read_dir(directory).map_err(BundleError::file("cannot list", directory))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Copies a directory's content, links as links, but for what is not `wanted` (a path below it).
pub(crate) fn copy_tree(from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), BundleError> {
    fn copy(from: &Path, to: &Path, below: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), BundleError> {
        fs::create_dir_all(to).map_err(BundleError::file("cannot make", to))?;
        for path in list(from)? {
            let Some(name) = path.file_name() else { continue };
            let (below, target) = (below.join(name), to.join(name));
            if !wanted(&below) {
                continue;
            }
            let found = path.symlink_metadata().map_err(BundleError::file("cannot look at", &path))?;
            if found.is_dir() {
                copy(&path, &target, &below, wanted)?;
            } else if found.is_symlink() {
                let place = fs::read_link(&path).map_err(BundleError::file("cannot read", &path))?;
                symlink(place, &target).map_err(BundleError::file("cannot make", &target))?;
            } else {
                fs::copy(&path, &target).map_err(BundleError::file("cannot copy", &path))?;
            }
        }
        Ok(())
    }
    copy(from, to, Path::new(""), wanted)
}

/// Runs a program to its end; its output is shown when it fails.
pub(crate) fn run(command: &mut Command) -> Result<(), BundleError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = format!("{program} {}", words.join(" "));
    let output =
        command.output().map_err(|error| BundleError::Program { program: program.clone(), how: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    let tail: Vec<&str> = said.lines().rev().take(15).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(BundleError::Program { program, how: format!("ended with {}:\n{}", output.status, tail.join("\n")) })
}
