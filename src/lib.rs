#![doc = include_str!("../ARCHITECTURE.md")]
#![warn(unreachable_pub)]

mod bench;
mod bundle;
mod commands;
mod front;
pub mod guide;
mod progress;
mod protocol;
mod server;
mod settings;
mod sys;
#[doc(hidden)]
pub mod testing;
mod worker;
mod zygote;

pub use self::commands::run;
