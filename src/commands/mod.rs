//! What people do with forkpy on a command line besides serving: the options, and the commands that set it up.
//!
//! Runs in: a process of its own, before or instead of a server. May start forkpy servers, as any client does.

mod attach;
mod cli;
mod deploy;
mod doctor;
mod error;
mod guide;
mod install;
mod licences;
mod markdown;
mod passphrase;
mod run;
mod servers;
mod sessions;
mod shell;
mod token;

pub(crate) use self::install::parse;
pub use self::run::run;
