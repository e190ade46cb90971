//! System calls, and with `embed` nearly all `unsafe` of the program, behind safe functions.
//!
//! Runs in: all three processes. Knows neither Python nor MCP nor the protocol.

pub(crate) mod age;
mod caller;
pub(crate) mod capabilities;
pub(crate) mod crash;
pub(crate) mod descriptors;
pub(crate) mod door;
pub(crate) mod fault;
pub(crate) mod forks;
pub(crate) mod groups;
pub(crate) mod guarded;
pub(crate) mod huge_pages;
pub(crate) mod image;
pub(crate) mod landlock;
pub(crate) mod layers;
pub(crate) mod lifeline;
mod marks;
pub(crate) mod memory;
pub(crate) mod namespaces;
mod no_forks;
pub(crate) mod open_files;
pub(crate) mod ownership;
pub(crate) mod parcel;
pub(crate) mod pidfd;
pub(crate) mod private;
pub(crate) mod processes;
pub(crate) mod programs;
pub(crate) mod random;
pub(crate) mod rendezvous;
pub(crate) mod reserve;
pub(crate) mod room;
pub(crate) mod scratch;
pub(crate) mod seccomp;
pub(crate) mod shared_memory;
pub(crate) mod sibling;
pub(crate) mod signals;
pub(crate) mod stacks;
pub(crate) mod threads;
pub(crate) mod timers;
pub(crate) mod usage;
