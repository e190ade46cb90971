//! What a tool may reach: one for the whole server, shared by all connections.
//!
//! Runs in: server. Put together at the start by `server/mod.rs`.

use std::sync::Arc;

use super::{asking::Waiting, error::ToolError, flights::Flights};
use crate::{
    server::{
        environment::packages::Packages,
        scripts::Scripts,
        sessions::{
            active::{ActiveSessions, Client},
            context::Surroundings,
            handle::Session,
            names::DEFAULT,
            registry::Registry,
        },
        watch::{readings::Metrics, report::Ward},
        workspace::handle::{FileError, Files},
    },
    settings::{replies::Structured, resolve::Workspace},
};

/// What all connections share.
pub(crate) struct Server {
    /// Sessions by name.
    pub(crate) registry: Arc<Registry>,
    /// Active sessions of clients.
    pub(crate) active: ActiveSessions,
    /// What sessions need.
    pub(crate) around: Arc<Surroundings>,
    /// Readings of workers.
    pub(crate) metrics: Arc<Metrics>,
    /// The health of sessions.
    pub(crate) health: Ward,
    /// Packages of the session environment.
    pub(crate) packages: Arc<Packages>,
    /// Scripts that run now.
    pub(crate) scripts: Arc<Scripts>,
    /// Cells whose client is to call again with an answer.
    pub(crate) waiting: Waiting,
    /// Cells that go on without a call.
    pub(crate) flights: Flights,
    /// The directories.
    pub(crate) workspace: Workspace,
    /// What is in them.
    pub(crate) files: Files,
    /// The tools that clients are told of.
    pub(crate) listed: Vec<rmcp::model::Tool>,
    /// Whether replies hold structured content.
    pub(crate) structured: Structured,
}

impl Server {
    /// The session that a call means: the one it names, else the client's active one.
    pub(crate) fn session(&self, client: &Client, named: Option<&str>) -> Result<Session, ToolError> {
        let session = match (named, self.active.of(client)) {
            (Some(id), _) => self.registry.get(id)?,
            (None, Some(choice)) => self.registry.chosen(&choice)?,
            (None, None) => self.registry.get(DEFAULT)?,
        };
        session.life.used_by(client);
        Ok(session)
    }
}

/// The server's one thread waits for no disk.
pub(crate) async fn blocking<T: Send + 'static, E: Into<ToolError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ToolError> {
    tokio::task::spawn_blocking(work).await.map_err(FileError::Lost)?.map_err(Into::into)
}
