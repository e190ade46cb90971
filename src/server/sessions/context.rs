//! What every session needs of its surroundings.
//!
//! Runs in: server. Made once, shared by all sessions; each field belongs to the room that it comes from.

use std::{path::PathBuf, sync::Arc};

use super::{
    checkpoints::Checkpoints, drain::Drain, images::Images, occurrences::Occurrences, oom::OomCounter, quotas::Quotas,
    turnover::Turnover,
};
use crate::{
    server::{
        egress::proxy::Egress,
        events::Changes,
        health::{HealthPolicy, alerts::Book},
        workers::{children::Children, imports::Imports, spares::Spares, zygote::Zygote},
        workspace::workplace::Workplaces,
    },
    settings::resolve::SessionSettings,
};

/// What every session needs of its surroundings.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub zygote: Zygote,
    /// For ending what a session started.
    pub children: Children,
    pub settings: SessionSettings,
    /// Where sessions work.
    pub places: Workplaces,
    /// Where variables are carried over; ours alone.
    pub scratch: PathBuf,
    /// Where they are carried over by workers, which may be confined.
    pub exchange: PathBuf,
    /// The proxy of confined sessions, if they may reach anything.
    pub egress: Option<Arc<Egress>>,
    /// Whether the kernel has killed for want of memory.
    pub oom: OomCounter,
    /// Thresholds and recovery of sessions that name none.
    pub health: HealthPolicy,
    /// Alerts of all sessions.
    pub alerts: Book,
    /// What has happened to sessions, for clients that ask.
    pub occurrences: Occurrences,
    /// Where changes of resources are announced.
    pub changes: Changes,
    /// Frozen copies of sessions.
    pub checkpoints: Checkpoints,
    /// Where sessions sleep.
    pub images: Images,
    /// What owners may take.
    pub quotas: Arc<Quotas>,
    /// Workers that are ready and belong to no session.
    pub spares: Spares,
    /// What sessions import.
    pub imports: Imports,
    /// Whether new sessions are to go elsewhere.
    pub drain: Drain,
    /// Whether it is about to become another program.
    pub turnover: Turnover,
}
