//! What people do with forkpy on a command line besides serving: the options, and the commands that set it up.
//!
//! Runs in: a process of its own, before or instead of a server. May start forkpy servers, as any client does.

pub mod attach;
pub mod cli;
pub mod doctor;
pub mod error;
pub mod install;
pub mod servers;
pub mod shell;
