//! Which cell or errand runs now, and the rule that an interrupt reaches that one or none.
//!
//! Runs in: worker; main thread (`guard`) and control thread (`interrupt`) share it.
//!
//! A signal that arrives when its cell has just ended would raise in the next one. So the control thread sends it only
//! while holding the lock that names the running cell, and the main thread, once it has taken the name away, lets a
//! signal already under way arrive and throws it out before anything else runs.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::{
    Bound, IntoPyObject, Py, PyAny, PyResult, Python,
    exceptions::PyKeyboardInterrupt,
    types::{PyCFunction, PyDict, PyTuple},
};

use super::{foreground, python::Functions};
use crate::{
    protocol::{CellReport, CellStatus, ERRAND, Urgency},
    sys::{processes, signals::ThreadHandle},
};

#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    main: ThreadHandle,
}

#[derive(Debug, Default)]
struct State {
    running: Option<u64>,
    /// Highest cell that has ended, and highest errand.
    ended: [u64; 2],
    /// When it began, as [`processes::ticks_now`] counts.
    began: u64,
    /// An interrupt that came before its cell.
    early: Option<u64>,
    /// Signals sent to the running cell.
    sent: u32,
    /// No cell runs, but perhaps a handler of the session's own: it hears the interrupt of a cell to come.
    between: bool,
}

impl Gate {
    pub(crate) fn new(main: ThreadHandle) -> Self {
        Self { state: Mutex::new(State::default()), main }
    }

    /// Control thread: interrupts `cell` if it runs, keeps the wish if it is still to come, forgets it if it is over.
    /// What runs in the foreground with it is interrupted too.
    pub(crate) fn interrupt(&self, cell: u64, urgency: Urgency) {
        let mut state = self.state.lock();
        let runs = state.running == Some(cell);
        if !runs && cell > state.ended[kind(cell)] {
            state.early = Some(cell);
        }
        if runs || state.between {
            state.sent += 1;
            // Between cells nothing is of the cell to come.
            let began = if runs { state.began } else { u64::MAX };
            foreground::interrupt(self.main, urgency, began);
        }
    }

    /// Interrupts sent to the cell that runs.
    pub(crate) fn sent(&self) -> u32 {
        self.state.lock().sent
    }

    /// Main thread: lets what has arrived since the last request be raised, and told.
    pub(crate) fn between(&self, py: Python<'_>, functions: &Functions) {
        self.state.lock().between = true;
        functions.settle(py, || self.sent() > 0);
        let sent = {
            let mut state = self.state.lock();
            state.between = false;
            std::mem::take(&mut state.sent)
        };
        if sent > 0 {
            settle_signals(py, functions);
        }
    }

    /// Main thread: runs `body` as `cell`. Whatever happens, one report comes back and no interrupt stays behind.
    pub(crate) fn guard(
        &self,
        py: Python<'_>,
        functions: &Functions,
        cell: u64,
        body: impl FnOnce() -> PyResult<CellReport>,
    ) -> CellReport {
        let begins = self.begin(cell) && {
            functions.settle(py, || self.sent() > 0);
            self.sent() == 0
        };
        let result = if begins { body() } else { Ok(interrupted()) };
        let sent = self.end(cell);
        if sent > 0 {
            settle_signals(py, functions);
        }
        let mut report = result.unwrap_or_else(|error| super::python::report_of(py, &error));
        report.interrupted = sent > 0;
        report
    }

    /// Main thread: does `body` as an errand, which ends with KeyboardInterrupt when it is interrupted.
    pub(crate) fn run<T>(
        &self,
        py: Python<'_>,
        functions: &Functions,
        errand: u64,
        body: impl FnOnce() -> PyResult<T>,
    ) -> PyResult<T> {
        let done = if self.begin(errand) { body() } else { Err(PyKeyboardInterrupt::new_err(())) };
        if self.end(errand) > 0 {
            settle_signals(py, functions);
        }
        done
    }

    /// False when the cell was interrupted before it began.
    fn begin(&self, cell: u64) -> bool {
        let mut state = self.state.lock();
        if state.early.take() == Some(cell) {
            return false;
        }
        state.running = Some(cell);
        state.began = processes::ticks_now();
        state.sent = 0;
        true
    }

    /// How many signals were sent to this cell; one may still be under way.
    fn end(&self, cell: u64) -> u32 {
        let mut state = self.state.lock();
        state.running = None;
        let ended = &mut state.ended[kind(cell)];
        *ended = cell.max(*ended);
        std::mem::take(&mut state.sent)
    }
}

/// Cells and errands are counted apart.
fn kind(number: u64) -> usize {
    usize::from(number & ERRAND != 0)
}

fn interrupted() -> CellReport {
    CellReport {
        status: CellStatus::Interrupted,
        results: Vec::new(),
        displays: Vec::new(),
        notice: None,
        error: None,
        interrupted: false,
        imported: Vec::new(),
    }
}

/// The signal was sent before `end`; a system call delivers it, CPython's check consumes it.
fn settle_signals(py: Python<'_>, functions: &Functions) {
    std::thread::yield_now();
    match py.check_signals() {
        Err(other) if !other.is_instance_of::<PyKeyboardInterrupt>(py) => functions.keep_arrival(py, other),
        _ => {}
    }
}

/// What Python asks by how many interrupts the running cell was sent.
pub(crate) fn function(py: Python<'_>, gate: Arc<Gate>) -> PyResult<Py<PyAny>> {
    let sent = move |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<Py<PyAny>> {
        Ok(gate.sent().into_pyobject(arguments.py())?.into_any().unbind())
    };
    Ok(PyCFunction::new_closure(py, Some(c"interrupts"), None, sent)?.into_any().unbind())
}
