//! `forkpy attach`: what a stdio client starts when its sessions are to outlive it. A thin process that finds the user's
//! server, or starts it, and passes messages on.
//!
//! Runs in: a process of its own, one thread, no runtime. Knows of a message its id and its method and nothing else; holds
//! a message only until it is whole. When the server ends under it, it says so to every request that is open, and takes the
//! next message to a new server, to which it introduces the client again.
//!
//! `meet.rs` finds or starts the server, `pass.rs` is the loop, `lines.rs` what is known of messages on their way,
//! `client.rs` the client's end.

mod client;
mod lines;
mod meet;
mod pass;

pub(crate) use self::{
    meet::{AttachError, Meeting},
    pass::run,
};
