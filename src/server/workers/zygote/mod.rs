//! The server's end of the zygote: it is started by running our own binary again, asked for workers, heard of their ends,
//! and replaced when it dies.
//!
//! Runs in: server. One task owns the socket (`owner.rs`) and is the only one that sees a frame; all others hold a
//! [`Zygote`] handle.

mod births;
mod exits;
mod handle;
mod image;
mod owner;
mod spawner;
mod stage;
mod starting;
mod waking;

pub(in crate::server) use self::exits::Exits;
pub(crate) use self::{
    births::{Ends, GreetError, NewScript, NewWorker, Renewed, ZygoteError},
    handle::{Reach, Zygote},
    image::{Begun, Files, Name as ImageName, Store},
    spawner::Spawner,
    stage::Stage,
};
