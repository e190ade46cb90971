//! What looks after sessions without being asked: samples, pings, limits, clean-up, and what operators see.
//!
//! Runs in: server. Acts on nothing itself: a wish goes to the task of the session.

pub(crate) mod checkpoints;
pub(crate) mod cleaner;
pub(crate) mod disk;
pub(crate) mod examine;
pub(crate) mod exposition;
pub(crate) mod generations;
mod giving_back;
pub(crate) mod guard;
pub(crate) mod in_force;
pub(crate) mod owners;
pub(crate) mod readiness;
pub(crate) mod readings;
pub(crate) mod report;
pub(crate) mod service_manager;
pub(crate) mod shapes;
pub(crate) mod supervisor;
