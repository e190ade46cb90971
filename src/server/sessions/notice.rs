//! What a cell's reply has to say beside its output: facts, in the order in which they are to be read.
//!
//! Runs in: server. Pure data. The words are made at the edge (`tools/call/notices.rs`).

use super::happened::Event;

/// One thing to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It happened before the cell, and this client has not been told.
    Before(Event),
    /// The same, and this client cannot be recognised: it may have been told, or have ordered it.
    Perhaps(Vec<Event>),
    /// It happened while the cell ran, or by it.
    Meanwhile {
        event: Event,
        /// How the session gets its next worker, where it has none.
        next: NextWorker,
    },
    /// As asked for: the session is as before the cell.
    RolledBack { cell: u64 },
    /// That was asked for, and was not possible.
    NotRolledBack { reason: String },
    /// `restart_kernel` with `preserve_state` was called while the cell ran.
    MadeWay,
    /// The supervisor found the cell hung and interrupted it.
    Healed {
        /// What came of it.
        detail: String,
    },
    /// What the interpreter has to say of the cell, in its own words.
    OfTheCell(String),
}

/// How a session without a worker gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextWorker {
    OnOrder,
    /// With the next cell.
    WithTheNextCell,
    Soon,
}
