//! The zygote's end of the socket to its server: the first word, and all that follow.
//!
//! Runs in: zygote, its only thread.

use std::os::{fd::OwnedFd, unix::net::UnixStream};

use nix::unistd::{Pid, setpgid};

use super::error::ZygoteError;
use crate::{
    protocol::{
        FrameError, FromZygote, MAX_ZYGOTE, PROTOCOL_VERSION, ToZygote, ZygoteSettings, blocking, frame::Assembler,
    },
    sys::{descriptors, lifeline},
};

/// What the server wants first.
pub(super) enum First {
    Start(ZygoteSettings),
    /// An image of a zygote.
    Seed(ZygoteSettings),
    /// The zygote of an image; failures that are armed.
    Wake(String),
}

/// The socket to the server: frames in, with descriptors, and frames out.
pub(super) struct Link {
    pub(super) stream: UnixStream,
    pub(super) assembler: Assembler,
    pub(super) received: Vec<OwnedFd>,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, assembler: Assembler::new(MAX_ZYGOTE), received: Vec::new() }
    }

    pub(super) fn send(&self, message: &FromZygote) -> Result<(), FrameError> {
        blocking::write(&self.stream, message, MAX_ZYGOTE)
    }

    /// The first word, and the lifeline that comes along.
    pub(super) fn await_start(&mut self) -> Result<First, ZygoteError> {
        let first = loop {
            match self.assembler.take()? {
                Some(
                    ToZygote::Start { version, .. } | ToZygote::Seed { version, .. } | ToZygote::Wake { version, .. },
                ) if version != PROTOCOL_VERSION => return Err(ZygoteError::Version { theirs: Some(version) }),
                Some(ToZygote::Start { settings, .. }) => break First::Start(settings),
                Some(ToZygote::Seed { settings, .. }) => break First::Seed(settings),
                Some(ToZygote::Wake { faults, .. }) => break First::Wake(faults),
                Some(_) => return Err(ZygoteError::Version { theirs: None }),
                None => {}
            }
            if !self.receive()? {
                return Err(FrameError::Closed.into());
            }
        };
        if !self.received.is_empty() {
            lifeline::adopt(self.received.remove(0));
            // For its forks, until each has asked for itself: they are born into this group.
            setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(std::io::Error::from)?;
            lifeline::hold().and_then(lifeline::Held::lead)?;
        }
        Ok(first)
    }

    /// Takes what has arrived; false at the end of the channel.
    pub(super) fn receive(&mut self) -> Result<bool, ZygoteError> {
        let mut bytes = [0; 16 << 10];
        let count = descriptors::receive_with(&self.stream, &mut bytes, &mut self.received)?;
        self.assembler.push(&bytes[..count]);
        Ok(count > 0)
    }

    /// The next message.
    pub(super) fn read(&mut self) -> Result<ToZygote, ZygoteError> {
        loop {
            if let Some(message) = self.assembler.take()? {
                return Ok(message);
            }
            if !self.receive()? {
                return Err(FrameError::Closed.into());
            }
        }
    }
}
