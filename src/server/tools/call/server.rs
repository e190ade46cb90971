//! What a tool may reach: one for the whole server, shared by all connections.
//!
//! Runs in: server. Put together at the start by `server/mod.rs`.

use std::{collections::BTreeMap, sync::Arc};

use super::{asking::Waiting, audit::Audit, error::ToolError, flights::Flights, request::Call, tasks::Tasks};
use crate::{
    server::{
        environment::packages::Packages,
        moves::away::{Away, AwayError},
        owner::Owner,
        scripts::Scripts,
        sessions::{
            active::{ActiveSessions, Choice, Client},
            context::Surroundings,
            handle::Session,
            names::DEFAULT,
            orders::SessionError,
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

/// Tools that see to it by themselves, or that no session is needed for.
const BY_THEMSELVES: [&str; 3] = ["create_session", "delete_session", "list_sessions"];
/// Tools for which no session is brought out of the store.
const ONLY_LOOK: [&str; 4] = ["get_kernel_health", "check_kernel_responsiveness", "list_checkpoints", "dump_stacks"];

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
    /// The store into which sessions are put away.
    pub(crate) away: Option<Arc<Away>>,
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

    /// Sees to it that the session is here that a call means, if it lies in the store; of tools that only look, that it is told
    /// where it lies.
    ///
    /// # Errors
    /// [`AwayError`]: another server has it, or it cannot be brought.
    pub(crate) async fn find(&self, call: &Call) -> Result<(), AwayError> {
        let Some(away) = self.away.as_ref().filter(|_| !BY_THEMSELVES.contains(&call.tool)) else { return Ok(()) };
        let owner = call.visitor.peek();
        let named = call.arguments.as_ref().and_then(|arguments| arguments.get("session_id")?.as_str());
        let choice = self.active.of(&call.client);
        let chosen = choice.as_ref().map(|choice| choice.session.to_string());
        let Some(id) = named.map(str::to_owned).or(chosen) else { return Ok(()) };
        if ONLY_LOOK.contains(&call.tool) {
            return away.look_for(owner, &id).await;
        }
        away.bring(owner, &id).await?;
        if let Some(choice) = choice.filter(|choice| *choice.session == id && away.has_left(choice.life))
            && let Ok(session) = self.registry.get(owner, &id)
        {
            let _ = self.active.switch(&call.client, Choice { life: session.life.number(), ..choice });
        }
        Ok(())
    }

    /// The same for a call that has not come in yet. Of tools that see to it by themselves it is only told where the session is.
    ///
    /// # Errors
    /// [`AwayError`].
    pub(crate) async fn find_at_the_door(
        &self,
        tool: &str,
        named: Option<&str>,
        (client, owner): (&Client, &Owner),
    ) -> Result<(), AwayError> {
        let Some(away) = &self.away else { return Ok(()) };
        let chosen = self.active.of(client).map(|choice| choice.session.to_string());
        let Some(id) = named.map(str::to_owned).or(chosen) else { return Ok(()) };
        match BY_THEMSELVES.contains(&tool) || ONLY_LOOK.contains(&tool) {
            true => away.look_for(owner, &id).await,
            false => away.bring(owner, &id).await,
        }
    }

    /// Sessions of a call's owner that are not here: in the store, or on another server.
    pub(crate) async fn sessions_elsewhere(&self, call: &Call) -> Result<BTreeMap<String, String>, AwayError> {
        match &self.away {
            Some(away) => Ok(away.others_of(call.owner()).await?.into_iter().collect()),
            None => Ok(BTreeMap::new()),
        }
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
