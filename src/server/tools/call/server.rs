//! What a tool may reach: one for the whole server, shared by all connections.
//!
//! Runs in: server. Pure data: put together at the start by `server/mod.rs`.

use std::sync::Arc;

use super::asking::Waiting;
use crate::{
    server::{
        environment::packages::Packages,
        scripts::Scripts,
        sessions::{active::ActiveSessions, context::Surroundings, registry::Registry},
        watch::{readings::Metrics, report::Ward},
        workspace::handle::Files,
    },
    settings::resolve::Workspace,
};

/// What all connections share.
pub(crate) struct Server {
    /// Sessions by name.
    pub registry: Arc<Registry>,
    /// Active sessions of clients.
    pub active: ActiveSessions,
    /// What sessions need.
    pub around: Arc<Surroundings>,
    /// Readings of workers.
    pub metrics: Arc<Metrics>,
    /// The health of sessions.
    pub health: Ward,
    /// Packages of the session environment.
    pub packages: Arc<Packages>,
    /// Scripts that run now.
    pub scripts: Arc<Scripts>,
    /// Cells whose client is to call again with an answer.
    pub waiting: Waiting,
    /// The directories.
    pub workspace: Workspace,
    /// What is in them.
    pub files: Files,
}
