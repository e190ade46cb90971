//! The processes: the zygote, workers, spare workers, checkpoints, and how each begins, is talked to and ends.
//!
//! Runs in: server. Knows what a process is and not what it is for: sessions do.

pub(crate) mod black_box;
pub(crate) mod checkpoint;
pub(crate) mod children;
pub(crate) mod control;
pub(crate) mod door;
pub(crate) mod imports;
pub(crate) mod incarnation;
pub(crate) mod link;
pub(crate) mod packed;
pub(crate) mod process;
pub(crate) mod spares;
pub(crate) mod stacks;
mod twin;
pub(crate) mod view;
pub(crate) mod zygote;
