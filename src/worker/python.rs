//! The only file that knows names of Python functions: each is looked up once, in the zygote, and called in workers.
//!
//! Runs in: zygote (`load`), worker main thread (all else), worker pinger thread ([`Pinger`]).

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use pyo3::{
    Py, PyAny, PyErr, PyResult, Python,
    exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError},
    types::{PyAnyMethods, PyBytes, PyTracebackMethods, PyTypeMethods},
};

use super::{
    hazards::Told,
    raw::{self, RawState, RawVariable, state_report, variable},
    terms::Terms,
};
use crate::protocol::{
    CellError, CellReport, CellStatus, NotebookCell, Question, Script, StateReport, Variable, ZygoteSettings,
};
use crate::sys::reserve;

/// Most exceptions that are taken between two requests: a timer may raise again and again.
const MAX_ARRIVALS: usize = 16;
/// What helps when forkpy's own Python fails.
const BROKEN: &str = "forkpy's own code failed in this session: a cell has changed something that all code needs (builtins, \
                      sys, the recursion limit). restart_kernel gives a whole Python; with preserve_state: true it keeps \
                      the variables that it can.";

/// The embedded package's functions.
#[derive(Debug)]
pub(crate) struct Functions {
    start: Py<PyAny>,
    finish: Py<PyAny>,
    look: Py<PyAny>,
    keep: Py<PyAny>,
    mend: Py<PyAny>,
    remember: Py<PyAny>,
    run_cell: Py<PyAny>,
    run_notebook_cell: Py<PyAny>,
    rehearse: Py<PyAny>,
    become_session: Py<PyAny>,
    list_variables: Py<PyAny>,
    save_state: Py<PyAny>,
    load_state: Py<PyAny>,
    keep_values: Py<PyAny>,
    load_kept: Py<PyAny>,
    ping: Py<PyAny>,
    complete: Py<PyAny>,
    inspect: Py<PyAny>,
    variables: Py<PyAny>,
    too_slow: Py<PyAny>,
    run_script: Py<PyAny>,
    enter_own: Py<PyAny>,
    arm_dump: Py<PyAny>,
    dump: Py<PyAny>,
    collect: Py<PyAny>,
    refresh: Py<PyAny>,
    threads: Py<PyAny>,
    keepers: Py<PyAny>,
    before_checkpoint: Py<PyAny>,
    hazards: Py<PyAny>,
    wake: Py<PyAny>,
    needed_paths: Py<PyAny>,
    confine: Py<PyAny>,
}

/// What Python and its environment are made of.
#[derive(Debug)]
pub(super) struct Needed {
    pub folders: Vec<String>,
    pub programs: Vec<String>,
}

impl Functions {
    /// Finds them.
    ///
    /// # Errors
    /// When the embedded package lacks one.
    pub(crate) fn load(py: Python<'_>) -> PyResult<Self> {
        let find = |module: &str, name: &str| -> PyResult<Py<PyAny>> {
            Ok(py.import(format!("forkpy_worker.{module}"))?.getattr(name)?.unbind())
        };
        // pyo3 makes this class when it first takes an error from Python, and panics where that error is want of memory.
        let _ = py.get_type::<pyo3::panic::PanicException>();
        Ok(Self {
            start: find("session.session", "start")?,
            finish: find("session.session", "finish")?,
            look: find("cell.arrivals", "look")?,
            keep: find("cell.arrivals", "keep")?,
            mend: find("report.damaged", "mend")?,
            remember: find("report.damaged", "remember")?,
            run_cell: find("cell.run", "run_cell")?,
            run_notebook_cell: find("cell.notebook", "run_notebook_cell")?,
            rehearse: find("cell.run", "rehearse")?,
            become_session: find("session.session", "become")?,
            list_variables: find("variables.variables", "list_variables")?,
            save_state: find("variables.state", "save")?,
            load_state: find("variables.state", "load")?,
            keep_values: find("variables.state", "keep")?,
            load_kept: find("variables.state", "load_kept")?,
            ping: find("session.probe", "ping")?,
            complete: find("lookup.answers", "complete")?,
            inspect: find("lookup.answers", "inspect_object")?,
            variables: find("lookup.answers", "variables")?,
            too_slow: find("lookup.answers", "TooSlow")?,
            run_script: find("session.script", "run")?,
            arm_dump: find("session.stacks", "arm")?,
            dump: find("session.stacks", "dump")?,
            collect: find("session.probe", "collect")?,
            refresh: find("session.packages", "refresh")?,
            threads: find("session.checkpoint", "threads")?,
            keepers: find("session.checkpoint", "keepers")?,
            before_checkpoint: find("session.checkpoint", "before")?,
            hazards: find("session.checkpoint", "hazards")?,
            wake: find("session.checkpoint", "wake")?,
            enter_own: find("session.own", "enter")?,
            needed_paths: find("session.confined", "needed")?,
            confine: find("session.confined", "begin")?,
        })
    }

    /// Makes this process the session's: namespace, streams, working directory, randomness.
    /// `ask` is what `input()` asks with, `interrupts` says how many were sent to the running cell.
    pub(super) fn start(
        &self,
        py: Python<'_>,
        session: &str,
        settings: &ZygoteSettings,
        (ask, interrupts): (Py<PyAny>, Py<PyAny>),
    ) -> PyResult<()> {
        self.start
            .call1(py, (session, &settings.workspace, &settings.outputs, ask, interrupts, settings.keep_html))
            .map(drop)
    }

    /// What must be readable for Python to work.
    pub(super) fn needed_paths(&self, py: Python<'_>) -> PyResult<Needed> {
        let (folders, programs) = self.needed_paths.call0(py)?.extract(py)?;
        Ok(Needed { folders, programs })
    }

    /// Tells Python that this process is confined, where its files go, and where the proxy is.
    pub(super) fn confine(&self, py: Python<'_>, terms: Terms<'_>, settings: &ZygoteSettings) -> PyResult<()> {
        let Terms { mode, room, proxy, secrets } = terms;
        let (workspace, write) = (&settings.workspace, &settings.confinement.write);
        let room = room.to_string_lossy();
        self.confine.call1(py, (mode.word(), workspace, room, write, proxy, secrets.clone())).map(drop)
    }

    /// Lets this process see the packages of its owner's own, if it has one that has some.
    pub(super) fn enter_own(&self, py: Python<'_>, settings: &ZygoteSettings) -> PyResult<()> {
        settings.own.as_ref().map_or(Ok(()), |root| self.enter_own.call1(py, (root,)).map(drop))
    }

    /// Lets what has arrived between two requests be raised, and keeps it: a signal's handler, an asynchronous exception.
    /// A KeyboardInterrupt is not kept where `sent` says that it is forkpy's own.
    pub(super) fn settle(&self, py: Python<'_>, sent: impl Fn() -> bool) {
        for _ in 0..MAX_ARRIVALS {
            match self.look.call0(py) {
                Ok(_) => return,
                Err(arrived) if sent() && arrived.is_instance_of::<PyKeyboardInterrupt>(py) => {}
                Err(arrived) => self.keep_arrival(py, arrived),
            }
        }
    }

    /// Has the next cell tell of what was raised outside of any.
    pub(super) fn keep_arrival(&self, py: Python<'_>, arrived: PyErr) {
        let _ = self.keep.call1(py, (arrived.into_value(py),));
    }

    /// Runs `atexit` callbacks and flushes; never fails.
    pub(super) fn finish(&self, py: Python<'_>) {
        let _ = self.finish.call0(py);
    }

    pub(super) fn run_cell(
        &self,
        py: Python<'_>,
        cell: u64,
        code: &str,
        notebook: Option<&NotebookCell>,
    ) -> PyResult<CellReport> {
        // It reports on every cell, unless there is no memory even for that. `MemoryLimit::after_cell` takes back.
        let report = match notebook {
            None => self.run_cell.call1(py, (cell, code)),
            Some(NotebookCell { directory, first }) => {
                self.run_notebook_cell.call1(py, (cell, code, directory, *first))
            }
        };
        let report = report.inspect_err(|_| reserve::lend(true))?;
        Ok(raw::report(report.bind(py).extract()?))
    }

    /// Gives a worker that was made for no session its session.
    pub(super) fn become_session(&self, py: Python<'_>, session: &str) {
        let _ = self.become_session.call1(py, (session,));
    }

    /// Touches what a cell touches, so that the next one need not copy those pages; never fails.
    pub(super) fn rehearse(&self, py: Python<'_>) {
        let _ = self.rehearse.call0(py);
    }

    /// Puts back what a cell has taken away from `builtins` and `sys.modules`: then what failed can be tried again.
    fn mended(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        self.mend.call0(py).map(drop).map_err(|_| error)
    }

    pub(super) fn list_variables(&self, py: Python<'_>) -> PyResult<Vec<Variable>> {
        let list = || self.list_variables.call0(py);
        let found: Vec<RawVariable> =
            list().or_else(|error| self.mended(py, error).and_then(|()| list()))?.extract(py)?;
        Ok(found.into_iter().map(variable).collect())
    }

    pub(super) fn save_state(&self, py: Python<'_>, path: &str) -> PyResult<StateReport> {
        let save = || self.save_state.call1(py, (path,));
        state_report(save().or_else(|error| self.mended(py, error).and_then(|()| save()))?.extract(py)?)
    }

    pub(super) fn load_state(&self, py: Python<'_>, path: &str) -> PyResult<StateReport> {
        state_report(self.load_state.call1(py, (path,))?.extract(py)?)
    }

    /// Keeps what can be pickled: folder, descriptor that tells of a call, bytes. `None` when a call came.
    pub(super) fn keep_values(&self, py: Python<'_>, into: (&str, RawFd, u64)) -> PyResult<Option<StateReport>> {
        let kept: Option<RawState> = self.keep_values.call1(py, into)?.extract(py)?;
        kept.map(state_report).transpose()
    }

    pub(super) fn load_kept(&self, py: Python<'_>, folder: &str) -> PyResult<StateReport> {
        state_report(self.load_kept.call1(py, (folder,))?.extract(py)?)
    }

    /// Runs a script to its end, as `__main__`: its exit code, or `None` when a KeyboardInterrupt ended it.
    pub(super) fn run_script(
        &self,
        py: Python<'_>,
        source: &[u8],
        script: &Script,
        workspace: &str,
    ) -> PyResult<Option<i32>> {
        let Script { file, directory, argv, .. } = script;
        self.run_script.call1(py, (PyBytes::new(py, source), file, directory, argv, workspace))?.extract(py)
    }

    /// Forgets what was cached of the disk; comes back with those of these modules that are imported.
    pub(crate) fn refresh(&self, py: Python<'_>, modules: &[String]) -> Vec<String> {
        let answer = self.refresh.call1(py, (modules,));
        answer.and_then(|answer| answer.extract(py)).unwrap_or_default()
    }

    /// Remembers the modules that every fork begins with.
    pub(crate) fn remember(&self, py: Python<'_>) {
        // The modules of the time before are remembered still.
        let _ = self.remember.call0(py);
    }

    pub(super) fn answerer(&self, py: Python<'_>) -> Answerer {
        Answerer {
            complete: self.complete.clone_ref(py),
            inspect: self.inspect.clone_ref(py),
            variables: self.variables.clone_ref(py),
            too_slow: self.too_slow.clone_ref(py),
        }
    }

    /// Names of Python threads that a fork would not have and that would be missed, and the numbers of all that `threading`
    /// knows; 0 for one that is just starting.
    pub(super) fn threads(&self, py: Python<'_>) -> (Vec<String>, Vec<i32>) {
        self.threads.call0(py).and_then(|found| found.extract(py)).unwrap_or_default()
    }

    /// Processes that hold objects of the session's, in words.
    pub(super) fn keepers(&self, py: Python<'_>) -> Vec<String> {
        self.keepers.call0(py).and_then(|found| found.extract(py)).unwrap_or_default()
    }

    /// What a checkpoint must remember and the fork's hooks would overwrite.
    pub(super) fn before_checkpoint(&self, py: Python<'_>) -> PyResult<Option<Told>> {
        let told: Option<(Vec<RawFd>, Vec<String>)> = self.before_checkpoint.call0(py)?.extract(py)?;
        Ok(told.map(Told::from))
    }

    /// What Python knows of what a checkpoint shares with the worker it is of; asked for in the checkpoint.
    pub(super) fn hazards(&self, py: Python<'_>) -> Told {
        let told: PyResult<(Vec<RawFd>, Vec<String>)> = self.hazards.call0(py).and_then(|told| told.extract(py));
        told.map_or_else(|_| Told::default(), Told::from)
    }

    /// Makes a fork of a checkpoint the session's.
    pub(super) fn wake(
        &self,
        py: Python<'_>,
        session: &str,
        (ask, interrupts): (Py<PyAny>, Py<PyAny>),
        keep_random: bool,
    ) -> PyResult<()> {
        self.wake.call1(py, (session, ask, interrupts, keep_random)).map(drop)
    }

    /// The ping's evaluation, in the main thread.
    pub(super) fn probe(&self, py: Python<'_>) -> PyResult<i64> {
        self.ping.call0(py)?.extract(py)
    }

    /// Collects garbage; returns how many objects that were.
    pub(super) fn collect(&self, py: Python<'_>) -> PyResult<u64> {
        self.collect.call0(py)?.extract(py)
    }

    /// What the pinger thread needs. It keeps the black box open for as long as the process lives.
    pub(super) fn pinger(&self, py: Python<'_>, black_box: OwnedFd) -> Pinger {
        Pinger {
            ping: self.ping.clone_ref(py),
            dump: self.dump.clone_ref(py),
            refresh: self.refresh.clone_ref(py),
            black_box,
        }
    }

    /// Lets a signal write all stacks to the black box, with or without the GIL; returns the signal's number.
    pub(super) fn arm_dump(&self, py: Python<'_>, black_box: RawFd) -> PyResult<i32> {
        let signal = libc::SIGRTMAX() - DUMP_BELOW_MAX;
        self.arm_dump.call1(py, (black_box, signal))?;
        Ok(signal)
    }
}

/// An exception that left the package itself: a KeyboardInterrupt at its edge, or its own fault.
pub(super) fn report_of(py: Python<'_>, error: &PyErr) -> CellReport {
    let interrupted = error.is_instance_of::<PyKeyboardInterrupt>(py);
    let full = is_want_of_memory(py, error);
    let kind = match error.get_type(py).name() {
        Ok(_) if full => "MemoryError".to_owned(),
        Ok(name) => name.to_string(),
        Err(_) => "Exception".to_owned(),
    };
    let traceback = error.traceback(py).and_then(|traceback| traceback.format().ok()).unwrap_or_default();
    let hint = (!interrupted && !full).then(|| BROKEN.to_owned());
    let report = CellError { kind, message: error.value(py).to_string(), line: None, traceback, hint };
    CellReport {
        status: if interrupted { CellStatus::Interrupted } else { CellStatus::Error },
        results: Vec::new(),
        displays: Vec::new(),
        notice: None,
        error: Some(report),
        interrupted: false,
        imported: Vec::new(),
    }
}

/// Python has no memory, or the system has none for it: an import reads a folder.
fn is_want_of_memory(py: Python<'_>, error: &PyErr) -> bool {
    let number = || error.value(py).getattr("errno")?.extract::<i32>();
    error.is_instance_of::<PyMemoryError>(py)
        || (error.is_instance_of::<PyOSError>(py) && number().is_ok_and(|number| number == libc::ENOMEM))
}

/// Completion, inspection and the list of variables, in threads of their own.
pub(super) struct Answerer {
    complete: Py<PyAny>,
    inspect: Py<PyAny>,
    variables: Py<PyAny>,
    too_slow: Py<PyAny>,
}

impl Answerer {
    /// What [`Answerer::break_off`] knows the calling thread by.
    pub(super) fn thread_identity() -> libc::c_long {
        // SAFETY: no preconditions. CPython uses the same number on Linux, which is the same bits as a long.
        unsafe { libc::pthread_self() }.cast_signed()
    }

    /// Waits for the GIL and answers with a JSON object; an error without words when it was broken off.
    pub(super) fn answer(&self, question: &Question) -> Result<Result<String, String>, ()> {
        Python::attach(|py| {
            let answer = match question {
                Question::Complete { code, cursor } => self.complete.call1(py, (code, *cursor)),
                Question::Inspect { code, cursor, detail } => self.inspect.call1(py, (code, *cursor, *detail)),
                Question::Variables => self.variables.call0(py),
            };
            match answer.and_then(|answer| answer.extract::<String>(py)) {
                Ok(answer) => Ok(Ok(answer)),
                Err(error) if error.is_instance(py, self.too_slow.bind(py)) => Err(()),
                Err(error) => Ok(Err(error.to_string())),
            }
        })
    }

    /// Whether what takes longest has been imported, so that further answers are quick.
    pub(super) fn is_warm(&self) -> bool {
        Python::attach(|py| {
            let modules = py.import("sys").and_then(|sys| sys.getattr("modules"));
            modules.and_then(|modules| modules.contains("jedi")).unwrap_or(true)
        })
    }

    /// Raises in the thread that answers, wherever it is; nothing when it is gone.
    pub(super) fn break_off(&self, thread: libc::c_long) {
        Python::attach(|_py| {
            // SAFETY: the GIL is held, and the second argument is a class of exceptions that `self` keeps alive.
            let found = unsafe { pyo3::ffi::PyThreadState_SetAsyncExc(thread, self.too_slow.as_ptr()) };
            debug_assert!(found <= 1, "threads have numbers of their own");
        });
    }
}

/// The dump signal, counted from the highest: out of the way of what programs and debuggers use.
const DUMP_BELOW_MAX: i32 = 5;

/// What the pinger thread does with the GIL: the no-op evaluation behind a ping, the dump of all stacks, and a
/// look at what is imported.
pub(super) struct Pinger {
    ping: Py<PyAny>,
    dump: Py<PyAny>,
    refresh: Py<PyAny>,
    black_box: OwnedFd,
}

impl Pinger {
    /// Runs `body`, without the GIL, in a thread that CPython knows from here on: where it has to make a thread's state
    /// and there is no memory, it ends the process. `begun` is called as soon as that is so.
    #[expect(clippy::unused_self, reason = "only the pinger's thread does it")]
    pub(super) fn within(&self, begun: impl FnOnce(), body: impl FnOnce() + Send) {
        Python::attach(|py| {
            begun();
            py.detach(body);
        });
    }

    /// The no-op evaluation behind a ping: waits for the GIL and evaluates; `None` when that raised. A session that is
    /// full is responsive: for want of memory it is evaluated again with the reserve, which no other code can use meanwhile.
    pub(super) fn evaluate(&self) -> Option<i64> {
        Python::attach(|py| {
            let evaluate = || self.ping.call0(py).ok()?.extract(py).ok();
            evaluate().or_else(|| reserve::with(evaluate))
        })
    }

    /// Waits for the GIL and does what [`Functions::refresh`] does; `None` when that raised.
    pub(super) fn refresh(&self, modules: Vec<String>) -> Option<Vec<String>> {
        Python::attach(|py| self.refresh.call1(py, (modules,)).ok()?.extract(py).ok())
    }

    /// Waits for the GIL and writes all stacks to the black box; false when that raised.
    pub(super) fn dump(&self) -> bool {
        Python::attach(|py| self.dump.call1(py, (self.black_box.as_raw_fd(),)).is_ok())
    }
}
