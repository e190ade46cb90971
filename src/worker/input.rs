//! The cell socket as a worker reads it: requests between cells, and answers to what a running cell asks.
//!
//! Runs in: worker, main thread. A question goes out and its answer comes in while the cell runs, so both readers share
//! one buffer. Only the main thread may ask: it is the one that otherwise reads.

use std::{
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};
use parking_lot::Mutex;
use pyo3::{
    Bound, IntoPyObject, Py, PyAny, PyResult, Python,
    exceptions::PyRuntimeError,
    types::{PyAnyMethods, PyCFunction, PyDict, PyTuple, PyTupleMethods},
};

use crate::{
    protocol::{
        Answer, FrameError, FromWorker, MAX_FROM_WORKER, MAX_TO_WORKER, ToWorker,
        blocking::{self, FrameReader},
    },
    sys::descriptors,
};

/// An interrupt that arrives just before the wait is looked for this often.
const LOOK_MS: u16 = 100;
/// Longest prompt that goes along, in characters.
const MAX_PROMPT: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Requests {
    socket: UnixStream,
    reader: Mutex<FrameReader>,
    /// The process that may use it, which a fork of it is not.
    owner: u32,
    /// The cell that runs; 0 for none.
    cell: AtomicU64,
    may_ask: AtomicBool,
    asked: AtomicU64,
}

impl Requests {
    pub(crate) fn new(cell: &UnixStream) -> std::io::Result<Self> {
        let copy = || descriptors::copy_high(cell.as_fd()).map(|copy: OwnedFd| UnixStream::from(copy));
        Ok(Self {
            socket: copy()?,
            reader: Mutex::new(FrameReader::new(copy()?, MAX_TO_WORKER).with_descriptors()),
            owner: std::process::id(),
            cell: AtomicU64::new(0),
            may_ask: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        })
    }

    /// Waits for the next request. An answer for which a cell no longer waited is none. `interrupted` is called when a
    /// signal has come, or a part of a request.
    pub(crate) fn next_request(&self, py: Python<'_>, interrupted: impl Fn()) -> Result<ToWorker, FrameError> {
        loop {
            match py.detach(|| self.reader.lock().read_some(true))? {
                Some(ToWorker::Input { .. }) => {}
                Some(request) => return Ok(request),
                None => interrupted(),
            }
        }
    }

    /// The descriptor that came with the request just read.
    pub(crate) fn take_descriptor(&self) -> Option<OwnedFd> {
        self.reader.lock().take_descriptors(1)?.pop()
    }

    /// Numbers of its own descriptors, for a fork that has to close them.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.socket.as_raw_fd(), self.reader.lock().stream().as_raw_fd()]
    }

    pub(crate) fn cell_begins(&self, cell: u64, may_ask: bool) {
        self.may_ask.store(may_ask, Ordering::Relaxed);
        self.cell.store(cell, Ordering::Relaxed);
    }

    pub(crate) fn cell_ends(&self) {
        self.cell.store(0, Ordering::Relaxed);
    }

    /// Whether the client can be asked now.
    fn may_ask(&self) -> bool {
        let runs = self.cell.load(Ordering::Relaxed) > 0;
        runs && self.may_ask.load(Ordering::Relaxed) && std::process::id() == self.owner
    }

    /// Asks and waits, without the GIL, until the answer or an interrupt comes.
    fn ask(&self, py: Python<'_>, prompt: &str) -> PyResult<Answer> {
        let question = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let cell = self.cell.load(Ordering::Relaxed);
        let prompt = prompt.chars().take(MAX_PROMPT).collect();
        let wanted = FromWorker::InputWanted { cell, question, prompt };
        blocking::write(&self.socket, &wanted, MAX_FROM_WORKER).map_err(lost)?;
        let mut readable = false;
        loop {
            let message = py.detach(|| self.reader.lock().read_some(readable)).map_err(lost)?;
            match message {
                Some(ToWorker::Input { question: of, answer }) if of == question => return Ok(answer),
                Some(ToWorker::Input { .. }) => continue,
                Some(_) => return Err(PyRuntimeError::new_err("forkpy sent a request while a cell was running")),
                None => {}
            }
            readable = py.detach(|| self.wait());
            py.check_signals()?;
        }
    }

    fn wait(&self) -> bool {
        let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut socket, LOOK_MS) {
            Ok(count) => count > 0,
            Err(Errno::EINTR) => false,
            // Reading has the better words for it.
            Err(_) => true,
        }
    }
}

fn lost(error: FrameError) -> pyo3::PyErr {
    PyRuntimeError::new_err(format!("the connection to forkpy is broken: {error}"))
}

/// What Python asks with: called with a prompt it gives `(kind, text)`, called with nothing whether it may ask.
pub(crate) fn function(py: Python<'_>, requests: Arc<Requests>) -> PyResult<Py<PyAny>> {
    let ask = move |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<Py<PyAny>> {
        let py = arguments.py();
        if arguments.is_empty() {
            return Ok(requests.may_ask().into_pyobject(py)?.to_owned().into_any().unbind());
        }
        let prompt: String = arguments.get_item(0)?.extract()?;
        let answer = if requests.may_ask() { requests.ask(py, &prompt)? } else { Answer::Failed(String::new()) };
        let said = match answer {
            Answer::Line(line) => ("line", line),
            Answer::Declined => ("declined", String::new()),
            Answer::Cancelled => ("cancelled", String::new()),
            Answer::Failed(reason) => ("failed", reason),
        };
        Ok(said.into_pyobject(py)?.into_any().unbind())
    };
    Ok(PyCFunction::new_closure(py, Some(c"ask"), None, ask)?.into_any().unbind())
}
