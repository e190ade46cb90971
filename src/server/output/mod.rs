//! What processes write: captured within bounds, shown live, the whole kept in a file.
//!
//! Runs in: server. Knows streams and files, no sessions.

pub mod capture;
pub mod captured;
pub mod live;
pub mod marks;
pub mod numbers;
pub(crate) mod pipe;
pub mod screen;
pub mod spill;
pub mod streams;
