//! Why a zygote ends other than by its server's wish.
//!
//! Runs in: zygote. Pure data.

use nix::errno::Errno;

use crate::protocol::{FrameError, PROTOCOL_VERSION};

/// Why a zygote ends other than by its server's wish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZygoteError {
    /// The server's socket broke or spoke another language.
    #[error("server channel failed: {0}")]
    Channel(#[from] FrameError),
    /// The first frame was not a `Start` of our version.
    #[error("server speaks protocol {theirs:?}, this zygote speaks {PROTOCOL_VERSION}")]
    Version {
        /// Its version, if it sent `Start` at all.
        theirs: Option<u32>,
    },
    /// CPython did not start.
    #[error("failed to start Python: {0}")]
    Interpreter(String),
    /// A system call failed.
    #[error("system call failed: {0}")]
    System(#[from] std::io::Error),
}

impl From<Errno> for ZygoteError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}
