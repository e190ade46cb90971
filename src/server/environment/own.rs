//! The environment that is an owner's alone (`--workspaces`), where installs of that owner go.
//!
//! Runs in: server. Owns when it is made for an install: a process of the owner's makes it for itself, so that it is made with
//! the rights of that process and no more.

use std::path::Path;

use super::{errand::errand, error::PackageError};
use crate::server::{scripts::Scripts, sessions::context::Surroundings};

/// Makes it; the file is where the answer goes.
const MAKE: &str = "import sys\nfrom forkpy_worker.session.own import answer\nanswer(*sys.argv[1:])\n";

/// The interpreter of an owner's own environment: the tool that is told of it installs there.
pub(crate) fn python(root: &Path) -> String {
    root.join("bin/python").to_string_lossy().into_owned()
}

/// Makes it where no process of the owner's has yet. Only for owners whose sessions are not confined.
///
/// # Errors
/// [`PackageError`] when it cannot be made.
pub(super) async fn make(around: (&Surroundings, &Scripts), root: &Path) -> Result<(), PackageError> {
    errand(around, MAKE, &[&root.to_string_lossy()]).await
}
