//! One call of a tool: who asks, what for, and how to reach them meanwhile.
//!
//! Runs in: server.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rmcp::{
    RoleServer,
    model::{InputResponses, JsonObject},
    service::RequestContext,
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{arguments, error::ToolError, lane::Lane, notices, sight::Sight};
use crate::server::{
    owner::Owner,
    sessions::{active::Client, handle::Session, orders::Caller, outcome::Fate},
    traces::Parent,
};

/// One call.
pub(crate) struct Call {
    /// The tool that is called.
    pub(crate) tool: &'static str,
    /// The schema of the arguments that it takes.
    pub(crate) takes: &'static JsonObject,
    /// Who calls.
    pub(crate) client: Client,
    /// Whose sessions it is about.
    pub(crate) visitor: Visitor,
    /// The arguments as sent.
    pub(crate) arguments: Option<JsonObject>,
    /// Cancellation and progress.
    pub(crate) context: RequestContext<RoleServer>,
    /// Cancelled when the client's connection has ended: its calls are then not taken back, but left.
    pub(crate) gone: CancellationToken,
    /// What is to be seen of its work while it goes on, for tools whose work may outlive the call.
    pub(crate) sight: Option<Arc<Sight>>,
    /// What it brings if it is the second call for a question (protocol 2026-07-28).
    pub(crate) again: Again,
    /// Where the reply may be written at once.
    pub(crate) lane: Option<Lane>,
    /// What spans of its cells hang on, where it is traced.
    pub(crate) trace: Option<Parent>,
}

/// What a client sends along when a call needed its input, see `asking.rs`.
#[derive(Debug, Default)]
pub(crate) struct Again {
    /// The name that it was given.
    pub(crate) request_state: Option<String>,
    /// Its answers.
    pub(crate) input_responses: Option<InputResponses>,
}

/// An owner who comes in, and whether it has been at its sessions.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    owner: Owner,
    entered: Arc<AtomicBool>,
}

impl Visitor {
    /// It has not been at its sessions yet.
    #[must_use]
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, entered: Arc::default() }
    }

    /// To be asked before anything that is an owner's own is touched or told.
    #[must_use]
    pub(crate) fn owner(&self) -> &Owner {
        self.entered.store(true, Ordering::Relaxed);
        &self.owner
    }

    /// The same for what touches and tells nothing.
    #[must_use]
    pub(crate) fn peek(&self) -> &Owner {
        &self.owner
    }

    /// Whether anything that is an owner's own has been touched or told.
    #[must_use]
    pub(crate) fn has_entered(&self) -> bool {
        self.entered.load(Ordering::Relaxed)
    }
}

impl Call {
    /// Whose sessions it is about.
    #[must_use]
    pub(crate) fn owner(&self) -> &Owner {
        self.visitor.owner()
    }

    /// Takes and reads the arguments.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, root: &Path) -> Result<T, ToolError> {
        arguments::read(self.tool, self.takes, self.arguments.take(), root)
    }

    /// What is to be seen of its work; of a short tool's nothing is.
    pub(crate) fn sight(&self) -> Arc<Sight> {
        self.sight.clone().unwrap_or_default()
    }

    /// Who waits for what a session is asked for.
    pub(crate) fn caller(&self) -> Caller {
        Caller { client: self.client.clone(), cancel: self.context.ct.clone() }
    }

    /// What this client has not been told of a session yet, for a reply to something else than a cell: how things stand
    /// with its variables if they are not simply there, and all of it in words.
    pub(crate) fn news_of(&self, session: &Session) -> (Option<&'static str>, Option<String>) {
        let news = session.life.news(&self.client);
        let fate = news.fate();
        ((fate != Fate::Kept).then(|| fate.word()), notices::news(&session.id, news))
    }
}
