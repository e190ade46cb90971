//! What every tool call has: its schema, progress, questions to the user, links.
//!
//! Runs in: server.

pub(in crate::server) mod asking;
pub mod links;
pub mod notices;
pub(crate) mod progress;
pub mod schema;
pub(crate) mod server;
