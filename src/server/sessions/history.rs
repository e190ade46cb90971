//! The cells of one session with what came of them, bounded in number and size.
//!
//! Runs in: server. Written by a call when its reply is ready; a push and a few additions.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::server::sessions::{
    outcome::{CellOutcome, Ending},
    outputs::{self, Output},
};

/// Most cells that are kept.
const MAX_CELLS: usize = 1000;
/// Most bytes that they and their outputs take.
const MAX_BYTES: usize = 32 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    /// Its number in the session.
    pub number: u64,
    pub code: String,
    /// What came of it.
    pub outputs: Vec<Output>,
    pub ended: Timestamp,
    /// How long it ran.
    pub ran: Duration,
}

/// The cells of a session, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    cells: VecDeque<Recorded>,
    bytes: usize,
    left_out: u64,
}

impl Recorded {
    /// A cell with its outcome; `None` when it was not run.
    #[must_use]
    pub(crate) fn new(code: String, outcome: &CellOutcome) -> Option<Self> {
        if outcome.cell == 0 || matches!(outcome.ending, Ending::Refused { .. }) {
            return None;
        }
        let (ended, ran) = (Timestamp::now(), outcome.ran);
        Some(Self { number: outcome.cell, code, outputs: outputs::of(outcome), ended, ran })
    }

    fn size(&self) -> usize {
        self.code.len() + self.outputs.iter().map(Output::size).sum::<usize>() + 200
    }
}

impl History {
    /// Adds a cell; the oldest make room for it. Displays that replace earlier ones do so.
    pub(crate) fn add(&self, mut cell: Recorded) {
        let mut state = self.0.lock();
        let updates: Vec<Output> = cell.outputs.extract_if(.., |output| output.is_update()).collect();
        for update in &updates {
            let mut known = false;
            for cell in state.cells.iter_mut().chain([&mut cell]) {
                known |= outputs::replace(&mut cell.outputs, update);
            }
            if !known {
                cell.outputs.push(update.clone());
            }
        }
        state.bytes += cell.size();
        state.cells.push_back(cell);
        if !updates.is_empty() {
            // The size of any of them may have changed.
            state.bytes = state.cells.iter().map(Recorded::size).sum();
        }
        while state.cells.len() > MAX_CELLS || (state.bytes > MAX_BYTES && state.cells.len() > 1) {
            let Some(oldest) = state.cells.pop_front() else { break };
            state.bytes -= oldest.size();
            state.left_out += 1;
        }
    }

    /// A copy of the cells, and how many older ones are no longer there.
    #[must_use]
    pub(crate) fn cells(&self) -> (Vec<Recorded>, u64) {
        let state = self.0.lock();
        (state.cells.iter().cloned().collect(), state.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(number: u64, text: &str) -> Recorded {
        let outputs = vec![Output::Stream { name: "stdout", text: text.to_owned(), whole: None }];
        Recorded { number, code: String::new(), outputs, ended: Timestamp::UNIX_EPOCH, ran: Duration::ZERO }
    }

    #[test]
    fn the_oldest_make_room() {
        let history = History::default();
        for number in 1..=1200 {
            history.add(cell(number, "x"));
        }
        let (cells, left_out) = history.cells();
        assert_eq!((cells.len(), left_out, cells[0].number), (1000, 200, 201));
        history.add(cell(1201, &"y".repeat(40 << 20)));
        let (cells, left_out) = history.cells();
        assert_eq!((cells.len(), left_out, cells[0].number), (1, 1200, 1201));
    }
}
