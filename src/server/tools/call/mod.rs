//! What every tool call has: who asks, its arguments, what it may reach, progress, questions to the user, and the reply.
//!
//! Runs in: server. Knows no tool: the table in `tools/mod.rs` and the families next to it use this room.

pub(crate) mod arguments;
pub(crate) mod asking;
pub(crate) mod audit;
pub(crate) mod clients;
pub(crate) mod error;
pub(crate) mod flights;
mod forgiving;
mod icons;
pub(crate) mod lane;
mod links;
pub(crate) mod notices;
pub(crate) mod patience;
pub(crate) mod progress;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod schema;
pub(crate) mod server;
pub(crate) mod sight;
pub(crate) mod tasks;
pub(crate) mod texts;
pub(crate) mod tool;
