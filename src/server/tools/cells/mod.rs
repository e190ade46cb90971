//! Tools that run code, and how their outcome is shown.
//!
//! Runs in: server.

pub(crate) mod branches;
pub(crate) mod lookup;
pub mod pictures;
pub mod reply;
pub(crate) mod run;
