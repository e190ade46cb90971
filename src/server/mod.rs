//! Role 1, the server: sessions, health, and MCP towards clients.
//!
//! Runs in: server, tokio on one thread. Never pyo3, never fork.
//!
//! `run.rs` puts the rooms together.

pub(crate) mod counters;
pub(crate) mod egress;
pub(crate) mod environment;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod mcp;
pub(crate) mod moves;
pub(crate) mod oauth;
pub(crate) mod output;
pub(crate) mod owner;
pub(crate) mod restart;
mod run;
pub(crate) mod scope;
pub(crate) mod scripts;
pub(crate) mod sessions;
pub(crate) mod store;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod traces;
pub(crate) mod turns;
pub(crate) mod watch;
pub(crate) mod workers;
pub(crate) mod workspace;

pub(crate) use self::{
    restart::{cannot, understood},
    run::{check, serve},
};
