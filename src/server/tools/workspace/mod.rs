//! Tools for what is in the workspace: files, scripts, packages, notebooks.
//!
//! Runs in: server.

pub(crate) mod files;
pub(crate) mod notebooks;
pub(crate) mod packages;
pub(crate) mod scripts;
