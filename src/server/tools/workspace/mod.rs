//! Tools for the workspace: where it is, files, scripts, packages, notebooks.
//!
//! Runs in: server.

mod drawing;
pub(crate) mod files;
pub(crate) mod notebooks;
pub(crate) mod packages;
pub(crate) mod place;
pub(crate) mod scripts;
