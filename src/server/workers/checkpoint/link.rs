//! What is said to a checkpoint over its socket, and what it answers.
//!
//! Runs in: server. Owns how far that conversation is.

use std::os::fd::BorrowedFd;

use super::errors::{LIMIT, Useless};
use crate::{
    protocol::{
        FromCheckpoint, PROTOCOL_VERSION, ToCheckpoint,
        asynchronous::{FrameReader, FrameWriter},
    },
    sys::fault,
};

#[derive(Debug)]
pub(super) struct Link {
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
    pub(super) state: State,
}

#[derive(Debug, Clone)]
pub(super) enum State {
    Settling,
    /// Ready; what it does not hold, in words.
    Frozen {
        hazards: Vec<String>,
        binding: Vec<String>,
    },
    Broken(Useless),
}

impl Link {
    pub(super) async fn settled(&mut self) -> Result<Vec<String>, Useless> {
        if matches!(self.state, State::Settling) {
            self.state = match self.read().await {
                Ok(FromCheckpoint::Frozen { version: PROTOCOL_VERSION, hazards, binding }) => {
                    State::Frozen { hazards, binding }
                }
                Ok(FromCheckpoint::WakeFailed { message }) => State::Broken(Useless::NotWoken(message)),
                Ok(_) => State::Broken(Useless::Version),
                Err(reason) => State::Broken(reason),
            };
        }
        match &self.state {
            State::Frozen { hazards, .. } => Ok(hazards.clone()),
            State::Broken(reason) => Err(reason.clone()),
            State::Settling => Err(Useless::OutOfTurn),
        }
    }

    pub(super) async fn wake(&mut self, wish: ToCheckpoint, passed: &[BorrowedFd<'_>]) -> Result<i32, Useless> {
        let sent = self.writer.write_with(&wish, passed).map_err(Useless::from);
        let answer = match sent {
            Ok(()) => self.read().await,
            Err(reason) => Err(reason),
        };
        match answer {
            Ok(FromCheckpoint::Woken { pid }) => Ok(pid),
            // It stands as before, and may be asked again.
            Ok(FromCheckpoint::WakeFailed { message }) => Err(Useless::NotForked(message)),
            Ok(FromCheckpoint::Frozen { .. } | FromCheckpoint::Asleep { .. } | FromCheckpoint::NotAsleep { .. }) => {
                self.give_up(Useless::OutOfTurn)
            }
            Err(reason) => self.give_up(reason),
        }
    }

    fn give_up(&mut self, reason: Useless) -> Result<i32, Useless> {
        self.state = State::Broken(reason.clone());
        Err(reason)
    }

    pub(super) async fn read(&mut self) -> Result<FromCheckpoint, Useless> {
        match tokio::time::timeout(fault::limit(LIMIT), self.reader.read()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Useless::Silent),
        }
    }
}
