//! Tools that run code or look at it, and how their outcome is shown.
//!
//! Runs in: server.

mod begun;
pub(crate) mod branches;
pub(crate) mod following;
pub(crate) mod jobs;
pub(crate) mod kept;
pub(crate) mod lookup;
pub(crate) mod pictures;
pub(crate) mod reply;
pub(crate) mod result;
pub(crate) mod run;
pub(crate) mod tasks;
pub(crate) mod variables;
