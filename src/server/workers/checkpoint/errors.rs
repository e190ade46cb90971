//! Why a checkpoint cannot be used, or has not written itself.
//!
//! Runs in: server. Facts; sentences of sessions are made at the edge.

use std::{io, sync::Arc, time::Duration};

use crate::{protocol::FrameError, server::workers::zygote::GreetError};

/// How long a checkpoint may take for what a fork has to do in its child, and for a fork.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// A checkpoint cannot be used to start a worker.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {name:?} cannot be used: {why}")]
pub(crate) struct CheckpointError {
    pub(crate) name: String,
    #[source]
    pub(crate) why: Useless,
}

/// Why.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Useless {
    #[error("its session has been deleted")]
    Over,
    #[error("its process has ended")]
    Ended,
    #[error("its process did not answer within {} s", LIMIT.as_secs())]
    Silent,
    #[error("it did not speak our protocol version")]
    Version,
    #[error("it spoke out of turn")]
    OutOfTurn,
    #[error("{0}")]
    Frame(Arc<FrameError>),
    /// It stands as before, and may be asked again.
    #[error("no worker could be forked of it: {0}")]
    NotForked(String),
    #[error("it could not be woken: {0}")]
    NotWoken(String),
    #[error("{0}")]
    NotReady(Arc<GreetError>),
    #[error("the server is out of descriptors: {0}")]
    Io(Arc<io::Error>),
    #[error("the server failed: {0}")]
    Panic(Arc<tokio::task::JoinError>),
}

impl From<io::Error> for Useless {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<FrameError> for Useless {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed | FrameError::Io(_) => Self::Ended,
            other => Self::Frame(Arc::new(other)),
        }
    }
}

/// A checkpoint has not written itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotWritten {
    /// What would be lost, a sentence each; it stands as before.
    #[error("{}", .0.join("; "))]
    Lost(Vec<String>),
    #[error("{0}")]
    Useless(#[source] Useless),
}
