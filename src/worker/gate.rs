//! Which cell runs now, and the rule that an interrupt reaches that cell or none.
//!
//! Runs in: worker; main thread (`guard`) and control thread (`interrupt`) share it.
//!
//! A signal that arrives when its cell has just ended would raise in the next one. So the control thread sends it only
//! while holding the lock that names the running cell, and the main thread, once it has taken the name away, lets a
//! signal already under way arrive and throws it out before anything else runs.

use std::time::Instant;

use parking_lot::Mutex;
use pyo3::{PyResult, Python};

use crate::{
    protocol::{CellReport, CellStatus},
    sys::signals::ThreadHandle,
};

#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    main: ThreadHandle,
}

#[derive(Debug, Default)]
struct State {
    running: Option<u64>,
    /// Highest cell that has ended.
    ended: u64,
    /// An interrupt that came before its cell.
    early: Option<u64>,
    /// A signal was sent to the running cell.
    signalled: bool,
}

impl Gate {
    pub fn new(main: ThreadHandle) -> Self {
        Self { state: Mutex::new(State::default()), main }
    }

    /// Control thread: interrupts `cell` if it runs, keeps the wish if it is still to come, forgets it if it is over.
    pub fn interrupt(&self, cell: u64) {
        let mut state = self.state.lock();
        if state.running == Some(cell) {
            state.signalled = true;
            self.main.interrupt();
        } else if cell > state.ended {
            state.early = Some(cell);
        }
    }

    /// Main thread: runs `body` as `cell`. Whatever happens, one report comes back and no interrupt stays behind.
    pub fn guard(&self, py: Python<'_>, cell: u64, body: impl FnOnce() -> PyResult<CellReport>) -> CellReport {
        let started = Instant::now();
        let result = if self.begin(cell) { body() } else { Ok(interrupted()) };
        if self.end(cell) {
            settle_signals(py);
        }
        let mut report = result.unwrap_or_else(|error| super::python::report_of(py, &error));
        report.seconds = started.elapsed().as_secs_f64();
        report
    }

    /// False when the cell was interrupted before it began.
    fn begin(&self, cell: u64) -> bool {
        let mut state = self.state.lock();
        if state.early.take() == Some(cell) {
            return false;
        }
        state.running = Some(cell);
        state.signalled = false;
        true
    }

    /// True when a signal was sent to this cell and may still be under way.
    fn end(&self, cell: u64) -> bool {
        let mut state = self.state.lock();
        state.running = None;
        state.ended = state.ended.max(cell);
        std::mem::take(&mut state.signalled)
    }
}

fn interrupted() -> CellReport {
    CellReport {
        status: CellStatus::Interrupted,
        results: Vec::new(),
        displays: Vec::new(),
        notice: None,
        error: None,
        seconds: 0.0,
    }
}

/// The signal was sent before `end`; a system call delivers it, CPython's check consumes it.
fn settle_signals(py: Python<'_>) {
    std::thread::yield_now();
    let _ = py.check_signals();
}
