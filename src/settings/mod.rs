//! Settings: what flags, environment variables and the settings file say, checked once.
//!
//! Runs in: server, and commands before they start one. Knows no server and no session.

pub(crate) mod bounds;
pub mod file;
pub mod host;
pub mod http_bounds;
pub mod limits;
pub mod logging;
pub mod options;
pub mod policy;
pub mod resolve;
