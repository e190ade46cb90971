//! A worker as the other rooms see it: its process, and the ways to ask it something beside a cell.
//!
//! Runs in: server. Pure data.

use std::{sync::Arc, time::Instant};

use super::{black_box::BlackBox, control::Control};
use crate::sys::layers::Layers;

/// A worker as seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct WorkerView {
    pub pid: i32,
    /// When it was forked.
    pub born: Instant,
    pub control: Arc<Control>,
    /// Its stacks, when asked for or crashed.
    pub black_box: Arc<BlackBox>,
    /// What shuts it in, when it is confined.
    pub layers: Option<Layers>,
}
