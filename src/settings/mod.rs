//! Settings: what flags, environment variables and the settings file say, checked once.
//!
//! Runs in: server, and commands before they start one. Knows no server and no session.

pub(crate) mod bounds;
pub(crate) mod file;
pub(crate) mod host;
pub(crate) mod hosting;
pub(crate) mod http_bounds;
pub(crate) mod limits;
pub(crate) mod logging;
pub(crate) mod network;
pub(crate) mod oauth;
pub(crate) mod options;
pub(crate) mod paths;
pub(crate) mod policy;
pub(crate) mod replies;
pub(crate) mod resolve;
pub(crate) mod sandbox;
pub(crate) mod secrets;
pub(crate) mod store;
pub(crate) mod tokens;
