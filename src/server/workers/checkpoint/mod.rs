//! Checkpoints: forks of workers that stand still, and of which workers are forked again.
//!
//! Runs in: server. `making.rs` is how one begins, `standing.rs` what it is and does, `link.rs` what is said to it, `packed.rs`
//! how it goes to another program, `errors.rs` why it is of no use.

mod errors;
mod link;
mod making;
mod packed;
mod standing;

pub(crate) use self::{
    errors::{CheckpointError, NotWritten},
    making::{Birth, Making, of_image, write_base},
    packed::PackedCheckpoint,
    standing::{Checkpoint, LAST, newest},
};
