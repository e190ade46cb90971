//! Role 3, a worker: one session's process. Entered by fork, never returns.
//!
//! Runs in: worker, main thread. Reads a request from its cell socket, runs it, writes the reply; nothing stands between.
//! Pings and interrupts come over the other socket, to `control.rs`. No tokio, no logging, no reading of settings.

mod answers;
pub(crate) mod asleep;
mod checkpoint;
pub(crate) mod confinement;
mod control;
mod foreground;
mod gate;
mod hazards;
mod input;
mod outputs;
mod python;
mod quiet;
mod raw;
mod rlimits;
pub(crate) mod script;
mod terms;
mod threads;

use std::{
    io::Write,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use pyo3::Python;
pub(crate) use python::Functions;

use self::{confinement::Entry, gate::Gate, input::Requests, outputs::Outputs, quiet::Quiet, rlimits::MemoryLimit};
use crate::{
    protocol::{
        FrameError, FromControl, FromWorker, MAX_CONTROL, MAX_FROM_WORKER, PROTOCOL_VERSION, ToWorker, WorkerLimits,
        ZygoteSettings, blocking, frame,
    },
    sys::{crash, descriptors, fault, lifeline, memory, ownership, processes, signals},
};

/// Exit code of a worker that could not even start.
pub(crate) const EXIT_START_FAILED: i32 = 70;
/// Exit code of a worker whose server went away or spoke nonsense.
pub(crate) const EXIT_CHANNEL_LOST: i32 = 71;

/// What a new worker is to be: its session and its five descriptors.
#[derive(Debug)]
pub(crate) struct Assignment {
    /// The session it serves.
    pub session: String,
    /// What it is kept to.
    pub limits: WorkerLimits,
    pub cell: OwnedFd,
    pub control: OwnedFd,
    /// Write end of the pipe for descriptor 1.
    pub stdout: OwnedFd,
    /// Write end of the pipe for descriptor 2.
    pub stderr: OwnedFd,
    /// Where stacks are written; the server reads it also when this process is gone.
    pub black_box: OwnedFd,
}

/// What a worker goes on with that a checkpoint woke, beside all that is in its memory.
struct Continued {
    keep_random: bool,
    memory: Option<MemoryLimit>,
}

/// What a worker is a fork of.
enum Origin<'a> {
    /// What it is to be shut into.
    Zygote(Option<Entry<'a>>),
    /// It is confined as that was.
    Checkpoint(Continued),
}

/// A worker at its work, as a checkpoint has to know it.
struct Workbench<'a> {
    session: String,
    pid: u32,
    limits: WorkerLimits,
    functions: &'a Functions,
    settings: &'a ZygoteSettings,
    requests: Arc<Requests>,
    gate: Arc<Gate>,
    outputs: Outputs,
    quiet: Quiet,
    memory: Option<MemoryLimit>,
    /// Its own, which a fork of it has to close.
    descriptors: Vec<RawFd>,
}

/// Lives the worker's life in the child of a fork.
pub(crate) fn run(
    py: Python<'_>,
    assignment: Assignment,
    functions: &Functions,
    settings: &ZygoteSettings,
    entry: Option<Entry<'_>>,
) -> ! {
    lead(|| live(py, assignment, functions, settings, Origin::Zygote(entry)))
}

/// The same in a fork of a checkpoint: the session goes on.
fn wake(
    py: Python<'_>,
    assignment: Assignment,
    functions: &Functions,
    settings: &ZygoteSettings,
    from: Continued,
) -> ! {
    lead(|| live(py, assignment, functions, settings, Origin::Checkpoint(from)))
}

fn lead(life: impl FnOnce() -> Result<(), FrameError>) -> ! {
    let lived = catch_unwind(AssertUnwindSafe(life));
    let code = match lived {
        Ok(Ok(())) => 0,
        Ok(Err(_)) => EXIT_CHANNEL_LOST,
        Err(_) => EXIT_START_FAILED,
    };
    // The control thread does this too when the server is gone, but this exit would cut it short.
    processes::end_children();
    leave(code)
}

/// Ends the process at once: nothing of the zygote's that this fork inherited may be run down here.
fn leave(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes what a fork of a worker has no use for.
fn close(descriptor: RawFd) {
    // SAFETY: it is the worker's, of which this is a fork: the owner of the number lives in threads that are not here, or
    // in frames that are never returned to.
    unsafe { libc::close(descriptor) };
}

fn live(
    py: Python<'_>,
    assignment: Assignment,
    functions: &Functions,
    settings: &ZygoteSettings,
    from: Origin<'_>,
) -> Result<(), FrameError> {
    let session = assignment.session.clone();
    let limits = assignment.limits;
    let (cell, control, black_box, outputs) = settle(assignment, &from)?;
    let gate = Arc::new(Gate::new(signals::ThreadHandle::current()));
    let requests = Arc::new(Requests::new(&cell)?);
    let ask = input::function(py, Arc::clone(&requests)).map_err(std::io::Error::other)?;
    let calls = (ask, gate::function(py, Arc::clone(&gate)).map_err(std::io::Error::other)?);
    match &from {
        Origin::Zygote(entry) => {
            functions.start(py, &session, settings, calls).map_err(std::io::Error::other)?;
            entry
                .map_or(Ok(()), |entry| functions.confine(py, entry.told(), settings))
                .map_err(std::io::Error::other)?;
            functions.enter_own(py, settings).map_err(std::io::Error::other)?;
            crash::install(control.as_raw_fd(), |signal, stack_overflow| {
                frame::encode(&FromControl::Crashing { signal, stack_overflow }, MAX_CONTROL).unwrap_or_default()
            })?;
        }
        Origin::Checkpoint(from) => {
            functions.wake(py, &session, calls, from.keep_random).map_err(std::io::Error::other)?;
            crash::adopt(control.as_raw_fd());
        }
    }
    crash::arm_dump(functions.arm_dump(py, black_box.as_raw_fd()).map_err(std::io::Error::other)?);
    let mut descriptors = vec![cell.as_raw_fd(), black_box.as_raw_fd()];
    descriptors.extend(requests.descriptors());
    descriptors.extend(outputs.descriptors());
    let quiet = Quiet::default();
    threads::begin_anew();
    let (pinger, answerer) = (functions.pinger(py, black_box), functions.answerer(py));
    descriptors.extend(control::spawn(control, Arc::clone(&gate), &quiet, pinger, answerer, limits.memory.is_some())?);
    let pid = std::process::id();
    ownership::take()?;
    // Every descriptor of ours is in its place now. What a checkpoint woke has its limits from the worker before.
    let (woken, memory) = match from {
        Origin::Zygote(_) => (false, rlimits::apply(limits)?),
        Origin::Checkpoint(from) => (true, from.memory),
    };
    let hello = FromWorker::Hello { version: PROTOCOL_VERSION, pid: i32::try_from(pid).unwrap_or(0) };
    let _ = fault::at("worker.hello", 0);
    blocking::write(&cell, &hello, MAX_FROM_WORKER)?;
    if woken || session.is_empty() {
        functions.rehearse(py);
    }
    let bench =
        Workbench { session, pid, limits, functions, settings, requests, gate, outputs, quiet, memory, descriptors };
    let served = serve(py, &cell, bench);
    functions.finish(py);
    served
}

/// Makes the process its own: session leader, own output, no signal state of the process it is a fork of. A fork of the zygote
/// has none of its descriptors either; one of a checkpoint keeps those that the session's code has opened.
fn settle(assignment: Assignment, from: &Origin<'_>) -> Result<(UnixStream, UnixStream, OwnedFd, Outputs), FrameError> {
    let of_zygote = matches!(from, Origin::Zygote(_));
    // One of a checkpoint that is refused it, for want of a descriptor, still hears of the server's end unless it is stopped.
    let held = lifeline::hold();
    nix::unistd::setsid().map_err(std::io::Error::from)?;
    let led = held.and_then(lifeline::Held::lead);
    if of_zygote {
        led?;
    }
    if of_zygote {
        signals::reset_after_fork();
    }
    signals::become_subreaper();
    signals::prefer_as_oom_victim();
    set_title(&assignment.session);
    descriptors::null_stdin()?;
    descriptors::redirect(assignment.stdout.as_fd(), 1)?;
    descriptors::redirect(assignment.stderr.as_fd(), 2)?;
    descriptors::unbuffer_c_output();
    let cell = UnixStream::from(descriptors::move_high(assignment.cell)?);
    let control = descriptors::move_high(assignment.control)?;
    let black_box = descriptors::move_high(assignment.black_box)?;
    let outputs = Outputs::new(descriptors::move_high(assignment.stdout)?, descriptors::move_high(assignment.stderr)?);
    if let Origin::Zygote(Some(entry)) = from {
        // What it is made of is closed next.
        entry.cage.enter(entry.room, &cell)?;
    }
    if of_zygote {
        let [stdout, stderr] = outputs.borrowed();
        let mut kept = vec![cell.as_fd(), control.as_fd(), black_box.as_fd(), stdout, stderr];
        kept.extend(lifeline::end());
        // SAFETY: everything else belongs to values of the zygote's that this process never drops: `run` ends by `_exit`.
        unsafe { descriptors::close_all_but(&kept) };
    }
    Ok((cell, UnixStream::from(control), black_box, outputs))
}

fn set_title(session: &str) {
    signals::set_title(&if session.is_empty() { "fp-spare".to_owned() } else { format!("fp:{session}") });
}

/// Request, reply, request, reply, until the server closes its side.
fn serve(py: Python<'_>, cell: &UnixStream, mut bench: Workbench<'_>) -> Result<(), FrameError> {
    loop {
        let request = match bench.requests.next_request(py, || bench.gate.between(py, bench.functions)) {
            Ok(request) => request,
            Err(FrameError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let ToWorker::Become { session } = request {
            set_title(&session);
            bench.functions.become_session(py, &session);
            bench.session = session;
            continue;
        }
        let reply = answer(py, &bench, request);
        if let Some(memory) = &mut bench.memory {
            memory.after_cell();
        }
        if ownership::is_child() {
            // The cell called os.fork and this is its child, at the end of the code it was to run.
            leave_forked_child(py, bench.functions, &reply);
        }
        let number = match &reply {
            FromWorker::CellDone { cell, .. } => *cell,
            _ => 0,
        };
        let _ = fault::at("worker.reply", number);
        if fault::at("worker.half", number) {
            return send_half(cell, &reply);
        }
        let forked = matches!(reply, FromWorker::Checkpointed { .. });
        let ran = matches!(reply, FromWorker::CellDone { .. });
        send(cell, reply)?;
        if ran {
            // Behind the reply: the next cell needs it, and this one's client does not.
            bench.outputs.mend();
        }
        let _ = fault::at("worker.replied", number);
        if forked {
            bench.functions.rehearse(py);
        }
    }
}

/// The fault `worker.half`: the process ends in the middle of a frame.
fn send_half(mut cell: &UnixStream, reply: &FromWorker) -> Result<(), FrameError> {
    let bytes = frame::encode(reply, MAX_FROM_WORKER)?;
    cell.write_all(&bytes[..bytes.len() / 2])?;
    leave(EXIT_CHANNEL_LOST)
}

/// Sends a reply; one that is too large is replaced by the news that it is.
fn send(cell: &UnixStream, reply: FromWorker) -> Result<(), FrameError> {
    match blocking::write(cell, &reply, MAX_FROM_WORKER) {
        Err(FrameError::TooLong { length, cap }) => {
            let message = format!("reply of {length} bytes exceeds the cap of {cap}");
            blocking::write(cell, &FromWorker::Failed { message }, MAX_FROM_WORKER)
        }
        other => other,
    }
}

fn answer(py: Python<'_>, bench: &Workbench<'_>, request: ToWorker) -> FromWorker {
    let Workbench { functions, gate, requests, .. } = bench;
    if !matches!(request, ToWorker::RunCell { .. }) {
        gate.between(py, functions);
    }
    match request {
        ToWorker::RunCell { cell, code, may_ask, notebook } => {
            requests.cell_begins(cell, may_ask);
            let mut report = gate.guard(py, functions, cell, || functions.run_cell(py, cell, &code, notebook.as_ref()));
            requests.cell_ends();
            if let Some(words) = bench.outputs.led_away() {
                let told = report.notice.take().map(|told| told + " ");
                report.notice = Some(told.unwrap_or_default() + words);
            }
            FromWorker::CellDone { cell, report }
        }
        ToWorker::ListVariables { errand } => match gate.run(py, functions, errand, || functions.list_variables(py)) {
            Ok(variables) => FromWorker::Variables(variables),
            Err(error) => FromWorker::Failed { message: error.to_string() },
        },
        ToWorker::SaveState { errand, path } => {
            state(gate.run(py, functions, errand, || functions.save_state(py, &path)))
        }
        ToWorker::LoadState { errand, path } => {
            state(gate.run(py, functions, errand, || functions.load_state(py, &path)))
        }
        ToWorker::KeepValues { errand, folder, limit } => {
            let Some(stop) = requests.take_descriptor() else {
                return FromWorker::Failed { message: "the descriptor did not come along".to_owned() };
            };
            let keep = || functions.keep_values(py, (&folder, stop.as_raw_fd(), limit));
            match gate.run(py, functions, errand, keep) {
                Ok(Some(report)) => FromWorker::State(report),
                Ok(None) => FromWorker::GaveWay,
                Err(error) => FromWorker::Failed { message: error.to_string() },
            }
        }
        ToWorker::LoadKept { errand, folder } => {
            state(gate.run(py, functions, errand, || functions.load_kept(py, &folder)))
        }
        ToWorker::Checkpoint { errand, number, force } => {
            let made = gate.run(py, functions, errand, || Ok(checkpoint::make(py, bench, number, force)));
            made.unwrap_or_else(|error| FromWorker::Failed { message: error.to_string() })
        }
        ToWorker::Probe if fault::at("worker.probe", 0) => FromWorker::Probed { value: 3 },
        ToWorker::Probe => match functions.probe(py) {
            Ok(value) => FromWorker::Probed { value },
            Err(error) => FromWorker::Failed { message: error.to_string() },
        },
        ToWorker::Collect { errand } => match gate.run(py, functions, errand, || functions.collect(py)) {
            Ok(objects) => {
                memory::return_freed();
                FromWorker::Collected { objects }
            }
            Err(error) => FromWorker::Failed { message: error.to_string() },
        },
        ToWorker::Become { .. } => FromWorker::Failed { message: "it serves a session already".to_owned() },
        ToWorker::Input { .. } => FromWorker::Failed { message: "an answer that nothing asked for".to_owned() },
    }
}

fn state(result: pyo3::PyResult<crate::protocol::StateReport>) -> FromWorker {
    match result {
        Ok(report) => FromWorker::State(report),
        Err(error) => FromWorker::Failed { message: error.to_string() },
    }
}

fn leave_forked_child(py: Python<'_>, functions: &Functions, reply: &FromWorker) -> ! {
    use crate::protocol::CellStatus;
    functions.finish(py);
    let code = match reply {
        FromWorker::CellDone { report, .. } => match report.status {
            CellStatus::Ok => 0,
            CellStatus::Exited(code) => code,
            CellStatus::Error | CellStatus::Interrupted => 1,
        },
        _ => 1,
    };
    leave(code)
}
