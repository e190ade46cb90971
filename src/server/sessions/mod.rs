//! Sessions: the names, one task each that owns the state, and how each cell ends.
//!
//! Runs in: server. Knows no client and no words for one: tools put outcomes into words.

pub mod active;
pub mod checkpoints;
pub mod context;
pub mod crashes;
pub mod death;
pub(crate) mod handle;
pub mod history;
pub mod life;
pub mod names;
pub mod notice;
pub mod oom;
pub mod orders;
pub mod outcome;
pub mod outputs;
pub mod registry;
pub mod status;
pub mod task;
