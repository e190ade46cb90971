//! The image of a frozen process: written to a file by the process itself, and woken from it in another process.
//!
//! Runs in: checkpoint (`write`), a fork of the zygote that becomes a checkpoint (`wake`). Never in a process with a second
//! thread. Knows neither Python nor what the process is for.
//!
//! How it goes: the process saves its registers and is cloned (`snapshot`); the clone stands still while the original reads
//! its memory and writes it (`write`), with what the kernel keeps of it (`state`, `files`, `mapped`) and what it is tied to (`ties`).
//! What the image has in common with the zygote that its process came from lies once in a file of its own (`base`).
//! To wake it, a fresh process takes its descriptors (`wake`) and works out what has to change in its memory (`plan`), and a
//! few instructions that need nothing of what they replace make the changes (`restorer`). The woken process goes on in
//! `snapshot`, as if the clone had returned.
//!
//! An image may also be of a program that starts (the zygote): woken, it has the waker's surroundings (`state`), and shows the
//! command line and the environment that it is given (`shown`).
//!
//! An image that was carried to another place is made to fit what is there (`elsewhere`), by a process that wakes none.
//!
//! What cannot be brought back exactly is refused, with the reason (`refusal`): when it is written, where that is known
//! then, and before anything is changed when it is woken.

mod base;
mod desk;
mod elsewhere;
mod files;
mod format;
mod layout;
mod mapped;
mod plan;
mod refusal;
mod restorer;
mod shown;
mod snapshot;
mod state;
mod ties;
mod wake;
mod write;

pub(crate) use self::{
    base::{Which, base_id, write_base},
    elsewhere::{needs, settle_here},
    format::BaseId,
    refusal::Refusal,
    shown::show,
    state::Surroundings,
    wake::wake,
    write::{Written, here, write},
};
