//! Tools that run code, and how their outcome is shown.
//!
//! Runs in: server.

pub(crate) mod branches;
pub(crate) mod lookup;
pub(crate) mod notices;
pub(crate) mod pictures;
pub(crate) mod reply;
pub(crate) mod run;
