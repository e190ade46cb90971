//! A worker as the other rooms see it: its process, and the ways to ask it something beside a cell.
//!
//! Runs in: server. Pure data.

use std::{sync::Arc, time::Instant};

use super::{black_box::BlackBox, control::Control};
use crate::sys::{layers::Layers, room::Room};

/// A worker as seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct WorkerView {
    pub pid: i32,
    /// When it was forked.
    pub born: Instant,
    pub control: Arc<Control>,
    /// Its stacks, when asked for or crashed.
    pub black_box: Arc<BlackBox>,
    /// Its own folder, when it is confined.
    pub room: Option<Arc<Room>>,
}

impl WorkerView {
    /// What shuts it in, when it is confined.
    #[must_use]
    pub(crate) fn layers(&self) -> Option<Layers> {
        self.room.as_ref()?.layers.get().copied()
    }
}
