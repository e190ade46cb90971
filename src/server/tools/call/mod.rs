//! What every tool call has: its schema, progress, questions to the user, links.
//!
//! Runs in: server.

pub(in crate::server) mod asking;
pub(crate) mod links;
pub(crate) mod progress;
pub(crate) mod schema;
pub(crate) mod server;
