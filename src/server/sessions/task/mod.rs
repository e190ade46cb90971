//! One session: a task that solely owns its worker, runs its cells one after the other and gives each exactly one ending.
//!
//! Runs in: server, one task a session. `live.rs` is its loop; `state.rs` what it holds.

mod along;
mod burial;
mod by_value;
mod cell;
mod cpu_budget;
mod departing;
mod ending;
mod errands;
mod follow;
mod keeping;
mod leaving;
mod live;
mod question;
mod recover;
mod restart;
mod rollback;
mod sleeping;
mod state;
mod underway;
mod waking;

pub(super) use self::state::{Seat, Task};
