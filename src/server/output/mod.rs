//! What processes write: captured within bounds, shown live, the whole kept in a file.
//!
//! Runs in: server. Knows streams and files, no sessions.

pub(crate) mod capture;
pub(crate) mod captured;
pub(crate) mod live;
pub(crate) mod marks;
pub(crate) mod numbers;
pub(crate) mod peephole;
pub(crate) mod pipe;
pub(crate) mod screen;
pub(crate) mod spill;
pub(crate) mod streams;
