//! The workspace: its files through one handle, what changes in it, and how a file is named as a URI.
//!
//! Runs in: server, most of it on blocking threads. Knows no session, no client and no tool.

pub(crate) mod after;
mod announce;
pub(crate) mod handle;
pub(crate) mod list;
pub(crate) mod outputs;
pub(crate) mod read;
pub(crate) mod receive;
pub(crate) mod script;
pub(crate) mod uri;
pub(crate) mod watch;
pub(crate) mod whole;
pub(crate) mod workplace;
pub(crate) mod write;
