//! The environment of sessions: found or made, and the packages in it.
//!
//! Runs in: server; what is slow runs in child processes.

mod borrowed;
mod confined;
mod errand;
pub(crate) mod error;
pub(crate) mod installer;
pub(crate) mod kinds;
pub(crate) mod make;
pub(crate) mod own;
pub(crate) mod packages;
pub(crate) mod place;
pub(crate) mod survey;
pub(crate) mod wanted;
pub(crate) mod wheels;
