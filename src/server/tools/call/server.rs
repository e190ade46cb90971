//! What a tool may reach: one for the whole server, shared by all connections.
//!
//! Runs in: server. Put together at the start by `server/mod.rs`.

use std::sync::Arc;

use super::{asking::Waiting, audit::Audit, error::ToolError, flights::Flights, request::Call, tasks::Tasks};
use crate::{
    server::{
        environment::packages::Packages,
        owner::Owner,
        scripts::Scripts,
        sessions::{
            active::ActiveSessions, context::Surroundings, handle::Session, names::DEFAULT, orders::SessionError,
            registry::Registry,
        },
        watch::{readings::Metrics, report::Ward},
        workspace::{
            handle::{FileError, Files},
            workplace::Workplace,
        },
    },
    settings::replies::Structured,
};

/// What all connections share.
pub(crate) struct Server {
    /// Sessions by owner and name.
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
    /// Calls that have become tasks.
    pub(crate) tasks: Tasks,
    /// Names of the tools that clients are told of.
    pub(crate) listed: Vec<&'static str>,
    /// Whether replies hold structured content.
    pub(crate) structured: Structured,
    /// Where calls are written down.
    pub(crate) audit: Option<Audit>,
}

impl Server {
    /// Where an owner's sessions work.
    pub(crate) fn place(&self, owner: &Owner) -> Result<Arc<Workplace>, FileError> {
        self.around.places.of(owner)
    }

    /// The files of a call's owner.
    pub(crate) fn files(&self, call: &Call) -> Result<Files, FileError> {
        Ok(self.place(call.visitor.peek())?.files.clone())
    }

    /// The same, to which it may write more.
    pub(crate) fn files_with_room(&self, call: &Call) -> Result<Files, ToolError> {
        let owner = call.visitor.peek();
        self.around.quotas.may_write(owner).map_err(SessionError::from)?;
        Ok(self.place(owner)?.files.clone())
    }

    /// The session that a call means: the one it names among its owner's, else the client's active one.
    pub(crate) fn session(&self, call: &Call, named: Option<&str>) -> Result<Session, ToolError> {
        let owner = call.owner();
        let session = match (named, self.active.of(&call.client)) {
            (Some(id), _) => self.registry.get(owner, id)?,
            (None, Some(choice)) => self.registry.chosen(owner, &choice)?,
            (None, None) => self.registry.get(owner, DEFAULT)?,
        };
        session.life.used_by(&call.client);
        Ok(session)
    }
}

/// The server's one thread waits for no disk.
pub(crate) async fn blocking<T: Send + 'static, E: Into<ToolError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ToolError> {
    tokio::task::spawn_blocking(work).await.map_err(FileError::Lost)?.map_err(Into::into)
}
