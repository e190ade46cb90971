//! Tools for what is in the workspace: files, scripts, packages, notebooks.
//!
//! Runs in: server.

mod drawing;
pub(crate) mod files;
pub(crate) mod notebooks;
pub(crate) mod packages;
pub(crate) mod scripts;
