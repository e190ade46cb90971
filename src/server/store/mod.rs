//! The store that several servers share (`--store`): sessions that are put away, who has which session, and which servers live.
//!
//! Runs in: server. Knows names, numbers and sealed bytes; what a session is made of is `moves`. Nothing here is decided by a clock
//! that two machines would have to agree on: order comes from numbers, and silence is measured by each server for itself.
//!
//! | file | has |
//! |---|---|
//! | `objects.rs` | objects in a folder or a bucket, each request with a limit (crate `object_store`) |
//! | `web.rs` | the way to a bucket: HTTP by hyper |
//! | `seals.rs` | what is derived from the key of the store |
//! | `handle.rs` | the store as one server sees it: its key, its name, files that go and come |
//! | `facts.rs` | what is known: leases, numbers, signs |
//! | `leases.rs` | who has a session: numbered objects, of which the highest counts |
//! | `beats.rs` | signs of life |
//! | `error.rs` | why it was not done |
//!
//! In the store lie, below the prefix:
//!
//! - `forkpy-store`: by which a server finds out whether it has the right key, and whether the store keeps conditions.
//! - `sessions/OWNER/SESSION/NUMBER`: leases. Owner and session are hashes with the key.
//! - `images/ID`: what a session was put away as. A lease names it.
//! - `servers/ID`: a server's sign of life.

mod beats;
mod error;
mod facts;
mod handle;
mod leases;
mod objects;
mod seals;
mod web;

pub(crate) use self::{
    error::StoreError,
    facts::{Held, Kept, Lease, State, Whose, beat},
    handle::Store,
};

#[cfg(test)]
mod tests;
