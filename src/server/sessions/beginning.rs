//! What a session begins with: its name and what it may take, and where its first state comes from.
//!
//! Runs in: server. Pure data: the registry makes it, the session and its task read it.

use super::{images::adopt::Adopted, life::Life, returned::Returned};
use crate::{
    server::{health::HealthPolicy, workers::link::Worker},
    settings::limits::Limits,
};

/// What a session begins with.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// Its life, and with it its name.
    pub(crate) life: Life,
    /// What its maker says of it.
    pub(crate) description: String,
    pub(crate) policy: HealthPolicy,
    /// What it may take.
    pub(crate) limits: Limits,
    pub(crate) origin: Origin,
}

/// Where its first state comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// From nowhere: its worker begins to be made.
    Afresh,
    /// A checkpoint woke this worker.
    Copy {
        worker: Box<Worker>,
        /// The last cell that had run in it.
        cell: u64,
    },
    /// It sleeps, as a server before this one has left it.
    Asleep(Box<Adopted>),
    /// It was there before an exec, and goes on.
    Returned(Box<Returned>),
}
