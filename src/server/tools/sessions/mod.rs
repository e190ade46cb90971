//! Tools for sessions: their lives, checkpoints, saved variables, health.
//!
//! Runs in: server.

pub(crate) mod checkpoints;
pub(crate) mod health;
pub(crate) mod lifecycle;
pub(crate) mod saved;
