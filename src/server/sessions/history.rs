//! The cells of one session with what came of them, bounded in number and size.
//!
//! Runs in: server. Written by the session's task: what a cell came to is noted with its reply, and made into outputs behind it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::server::sessions::{
    ended::Ended,
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
    /// Cells with their code that have yet to be added.
    owed: Vec<(String, Arc<Ended>)>,
    cells: VecDeque<Recorded>,
    bytes: usize,
    left_out: u64,
}

impl Recorded {
    /// A cell with its outcome; `None` when it was not run.
    #[must_use]
    pub(crate) fn new(code: String, outcome: &CellOutcome, ended: Timestamp) -> Option<Self> {
        if outcome.cell == 0 || matches!(outcome.ending, Ending::Refused { .. }) {
            return None;
        }
        Some(Self { number: outcome.cell, code, outputs: outputs::of(outcome), ended, ran: outcome.ran })
    }

    fn size(&self) -> usize {
        self.code.len() + self.outputs.iter().map(Output::size).sum::<usize>() + 200
    }
}

impl History {
    /// Adds a cell; the oldest make room for it. Displays that replace earlier ones do so.
    pub(crate) fn add(&self, cell: Recorded) {
        let mut state = self.0.lock();
        state.settle();
        state.add(cell);
    }

    /// Notes a cell that [`History::settle`] adds.
    pub(super) fn owe(&self, code: String, ended: Arc<Ended>) {
        self.0.lock().owed.push((code, ended));
    }

    /// Adds what was noted.
    pub(super) fn settle(&self) {
        self.0.lock().settle();
    }

    /// Cells that were there before an exec, and how many older ones were not.
    pub(super) fn go_on(&self, cells: impl Iterator<Item = Recorded>, left_out: u64) {
        let mut state = self.0.lock();
        state.cells = cells.collect();
        state.bytes = state.cells.iter().map(Recorded::size).sum();
        state.left_out = left_out;
    }

    /// A copy of the cells, and how many older ones are no longer there.
    #[must_use]
    pub(crate) fn cells(&self) -> (Vec<Recorded>, u64) {
        let mut state = self.0.lock();
        state.settle();
        (state.cells.iter().cloned().collect(), state.left_out)
    }
}

impl State {
    fn settle(&mut self) {
        for (code, ended) in std::mem::take(&mut self.owed) {
            if let Some(recorded) = Recorded::new(code, &ended.outcome, ended.done.when) {
                self.add(recorded);
            }
        }
    }

    fn add(&mut self, mut cell: Recorded) {
        let updates: Vec<Output> = cell.outputs.extract_if(.., |output| output.is_update()).collect();
        for update in &updates {
            let mut known = false;
            for cell in self.cells.iter_mut().chain([&mut cell]) {
                known |= outputs::replace(&mut cell.outputs, update);
            }
            if !known {
                cell.outputs.push(update.clone());
            }
        }
        self.bytes += cell.size();
        self.cells.push_back(cell);
        if !updates.is_empty() {
            // The size of any of them may have changed.
            self.bytes = self.cells.iter().map(Recorded::size).sum();
        }
        while self.cells.len() > MAX_CELLS || (self.bytes > MAX_BYTES && self.cells.len() > 1) {
            let Some(oldest) = self.cells.pop_front() else { break };
            self.bytes -= oldest.size();
            self.left_out += 1;
        }
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
