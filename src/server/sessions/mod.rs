//! Sessions: the names, one task each that owns the state, and how each cell ends.
//!
//! Runs in: server. Knows no client and no words for one: tools put outcomes into words.

pub(crate) mod active;
pub(crate) mod beginning;
pub(crate) mod checkpoints;
pub(crate) mod context;
pub(crate) mod crashes;
pub(crate) mod death;
pub(crate) mod drain;
mod ended;
pub(crate) mod handle;
pub(crate) mod happened;
pub(crate) mod history;
pub(crate) mod images;
mod kept;
pub(crate) mod life;
pub(crate) mod names;
pub(crate) mod notice;
pub(crate) mod occurrences;
pub(crate) mod oom;
pub(crate) mod orders;
pub(crate) mod outcome;
pub(crate) mod outputs;
pub(crate) mod packed;
pub(crate) mod quotas;
mod readers;
pub(crate) mod registry;
pub(crate) mod returned;
pub(crate) mod runs;
pub(crate) mod status;
pub(crate) mod task;
pub(crate) mod turnover;
