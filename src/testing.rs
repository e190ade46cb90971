//! What the tests and benchmarks of this package see of the inside. Nothing here is for other programs.
//!
//! Runs in: test and benchmark programs.

pub use crate::{
    protocol::{
        confinement::ConfinementSettings,
        control::{FromControl, ToControl, Urgency},
        frame::{MAX_CONTROL, MAX_FROM_WORKER, MAX_TO_WORKER, MAX_ZYGOTE},
        message::{FromWorker, PROTOCOL_VERSION, ToWorker},
        report::{CellReport, CellStatus},
        zygote::{FromZygote, Purpose, ToZygote, WorkerExit, WorkerLimits, ZygoteSettings},
    },
    server::{
        output::captured::CapturedText,
        sessions::{
            death::Fate,
            outcome::{CellOutcome, Ending},
        },
        workspace::watch::NewFiles,
    },
};

/// Frames by a thread that waits.
pub mod blocking {
    pub use crate::protocol::blocking::{FrameReader, write};
}

pub mod frame {
    pub use crate::protocol::frame::{Assembler, encode};
}

/// What is made for the processes below a server.
pub mod descriptors {
    pub use crate::sys::descriptors::{close_on_exec, memory_file, pipe, send_with};
}

/// The reply to a cell.
pub mod reply {
    pub use crate::server::tools::cells::reply::{cell, text};
}

/// Whether forkpy takes these words, as they stand behind its name.
///
/// # Errors
/// What it says of them.
pub fn command_line(words: &[String]) -> Result<(), String> {
    crate::commands::parse(words)
}
