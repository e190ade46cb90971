//! Role 1, the server: sessions, health, and MCP towards clients.
//!
//! Runs in: server, tokio. Never pyo3, never fork.

pub mod capture;
pub mod children;
pub mod outcome;
pub mod session;
pub mod status;
pub mod worker_link;
pub mod zygote_client;
