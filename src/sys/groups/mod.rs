//! A cgroup of one session's own, where the system lets us make one: the kernel then counts its memory, bounds how many
//! processes it has, and how much of the processors.
//!
//! Runs in: server. Version one of cgroups has a folder for each controller, version two
//! one for all; of the three controllers there may be any.
//!
//! - Memory: all that the session's processes have made the kernel keep: their own pages, shared memory (also files in
//!   `/dev/shm` that no process has open any more), buffers of sockets and pipes. Version one does not tell those of pipes and
//!   Unix sockets apart from what it can drop, so they count towards the kernel's own limit only. What a worker has from the
//!   zygote is not its own and does not count. Files that were only read are not memory of the session: the kernel can drop
//!   them.
//! - Processes: the kernel counts threads among them, and copies that forkpy makes of a session. So its limit is above that of
//!   the session, and follows what the guard sees (`server/watch/guard.rs`).
//! - Processors: a share of time in each tenth of a second; who has used it waits for the next one.
//!
//! - `controller.rs`: what can be bounded
//! - `place.rs`: where groups can be made
//! - `group.rs`: one session's

mod controller;
mod group;
mod place;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    controller::Controller,
    group::{Bounds, Group, PackedGroup, can_be_had, end, name_of, sweep},
};
