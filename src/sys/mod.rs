//! System calls, and with `embed` nearly all `unsafe` of the program, behind safe functions.
//!
//! Runs in: all three processes. Knows neither Python nor MCP nor the protocol.

pub mod crash;
pub mod descriptors;
pub mod fault;
pub mod forks;
pub mod landlock;
pub mod lifeline;
pub mod memory;
pub mod memory_group;
mod no_forks;
pub mod open_files;
pub mod ownership;
pub mod pidfd;
pub mod private;
pub mod processes;
pub mod programs;
pub(crate) mod rendezvous;
pub mod reserve;
pub mod scratch;
pub mod shared_memory;
pub mod sibling;
pub mod signals;
pub mod stacks;
pub mod threads;
pub mod timers;
pub mod usage;
