//! What looks after sessions without being asked: samples, pings, limits, clean-up, and what operators see.
//!
//! Runs in: server. Acts on nothing itself: a wish goes to the task of the session.

pub mod checkpoints;
pub mod cleaner;
pub mod examine;
pub mod exposition;
pub mod guard;
pub mod readiness;
pub mod readings;
pub mod report;
pub mod service_manager;
pub mod shapes;
pub mod supervisor;
