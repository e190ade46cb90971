//! The processes: the zygote, workers, spare workers, checkpoints, and how each begins, is talked to and ends.
//!
//! Runs in: server. Knows what a process is and not what it is for: sessions do.

pub mod black_box;
pub mod checkpoint;
pub mod children;
pub mod control;
pub mod link;
pub mod process;
pub mod spares;
pub mod stacks;
pub(crate) mod view;
pub mod zygote;
