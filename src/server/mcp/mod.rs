//! MCP towards clients: the two transports, the handler of rmcp, resources.
//!
//! Runs in: server. The only room that knows rmcp beside `tools`, and the only one that knows axum.

#[cfg(feature = "conformance")]
pub(crate) mod conformance;
mod envelope;
pub(crate) mod error;
mod events;
pub(in crate::server) mod fronts;
mod greeting;
pub(crate) mod handler;
pub(crate) mod http;
pub(crate) mod identity;
mod introduction;
pub(crate) mod knowledge;
mod needs;
pub(crate) mod resources;
pub(crate) mod stdio;
mod traced;
