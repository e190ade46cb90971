//! Checkpoints: a fork of an idle worker that stands still, and what it wakes.
//!
//! Runs in: worker, main thread (`make`); checkpoint, its only thread (`stand`), up to the fork in which a worker wakes.
//! A checkpoint holds everything the session has: variables, imports, open files. It does nothing until it is asked to
//! wake a worker, which is a fork of it again; so it can be woken any number of times. Its end is that of its socket.
//!
//! Each page that a checkpoint writes to is memory that the machine has twice. So it runs no Python: CPython's work after
//! a fork is done in what it wakes. Where the session has registered fork hooks, it is done here, for such a hook may
//! hang or kill, and a checkpoint that cannot be woken is none.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use pyo3::{Python, ffi};

use super::{
    Assignment, Continued, Workbench,
    asleep::{self, Written},
    close,
    hazards::{self, Hazards, Left, Told},
    leave, threads,
};
use crate::{
    protocol::{
        FrameError, FromCheckpoint, FromWorker, MAX_ZYGOTE, PROTOCOL_VERSION, Purpose, ToCheckpoint,
        blocking::{self, FrameReader},
    },
    sys::{
        descriptors, fault, lifeline,
        open_files::{self, Position},
        sibling::{self, Side},
        signals, timers,
    },
};

/// Bytes of the frames a checkpoint gets; they are small.
const CHUNK: usize = 4 << 10;

/// Makes a checkpoint of this worker. Comes back in the worker only.
pub(crate) fn make(py: Python<'_>, bench: &Workbench<'_>, number: u64, force: bool) -> FromWorker {
    let failed = |message: String| FromWorker::Failed { message };
    let Some(link) = bench.requests.take_descriptor() else {
        return failed("the checkpoint's socket did not come along".to_owned());
    };
    let missing = threads::lost_in_a_fork(py, bench.functions);
    if !missing.is_empty() && !force {
        return FromWorker::Threaded(missing);
    }
    let told = match bench.functions.before_checkpoint(py) {
        Ok(told) => told,
        Err(error) => return failed(error.to_string()),
    };
    let _ = fault::at("worker.checkpoint", number);
    match fork(py, bench) {
        Ok((Side::Parent { child }, _)) => {
            let _ = fault::at("worker.checkpointed", number);
            FromWorker::Checkpointed { pid: child, missing }
        }
        Ok((Side::Child, moment)) => stand(py, bench, UnixStream::from(link), number, (&moment, told)),
        Err(error) => failed(format!("the system refused the fork: {error}")),
    }
}

/// How far CPython is with the fork that made this checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Between its two calls: no Python may run here.
    Before,
    /// Behind both.
    After,
}

/// What is true at the moment of the fork only: the worker goes on, and moves its files.
struct Moment {
    positions: Vec<Position>,
    timers: Vec<String>,
}

/// Forks while our own threads are out of Python, and out of the locks they take there.
fn fork(py: Python<'_>, bench: &Workbench<'_>) -> io::Result<(Side, Moment)> {
    // Forgotten in the child, where it is locked for ever and not asked for.
    let quiet = bench.quiet.lock_all(py);
    // SAFETY: the GIL is held, and the two calls around the fork are CPython's own, in its order; the child makes its call
    // when it is told to, and does nothing of Python's before.
    unsafe { ffi::PyOS_BeforeFork() };
    // Behind the session's own hooks, which may read and write.
    let moment = Moment { positions: open_files::positions(&bench.descriptors), timers: timers::pending() };
    // SAFETY: the threads that the child has not are ours, which are quiet, and those that were refused or accepted.
    let side = unsafe { sibling::fork() };
    if matches!(side, Ok(Side::Child)) {
        std::mem::forget(quiet);
    } else {
        // SAFETY: as above.
        unsafe { ffi::PyOS_AfterFork_Parent() };
    }
    side.map(|side| (side, moment))
}

fn stand(
    py: Python<'_>,
    bench: &Workbench<'_>,
    link: UnixStream,
    number: u64,
    (moment, told): (&Moment, Option<Told>),
) -> ! {
    let mut reader = match descriptors::move_high(OwnedFd::from(link)) {
        Ok(link) => FrameReader::in_pieces(UnixStream::from(link), MAX_ZYGOTE, CHUNK).with_descriptors(),
        Err(_) => leave(super::EXIT_START_FAILED),
    };
    let _ = fault::at("checkpoint.settle", number);
    if !matches!(reader.read(), Ok(ToCheckpoint::Settle)) {
        leave(0);
    }
    // Before the session's hooks run: what they read and write here is the copy's.
    let shared = open_files::own(&moment.positions);
    if be_silent().is_err() {
        leave(super::EXIT_START_FAILED);
    }
    if settle(bench).is_err() {
        leave(super::EXIT_START_FAILED);
    }
    let (stage, told) = match told {
        Some(told) => (Stage::Before, told),
        None => {
            // SAFETY: this is the child of the fork in `fork`, which holds the GIL; nothing of Python's has run since.
            unsafe { ffi::PyOS_AfterFork_Child() };
            (Stage::After, bench.functions.hazards(py))
        }
    };
    let left = Left { worker: bench.pid, shared, timers: &moment.timers, link: reader.stream().as_raw_fd() };
    let hazards = hazards::all(told, &left);
    let _ = fault::at("checkpoint.frozen", number);
    let code = match serve(py, bench, &mut reader, &hazards, (number, stage)) {
        Ok(()) | Err(FrameError::Closed) => 0,
        Err(_) => super::EXIT_CHANNEL_LOST,
    };
    leave(code)
}

/// Lets go of the worker's output. Its numbers come first: there may be no other that the session is allowed.
fn be_silent() -> io::Result<()> {
    close(1);
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    if nowhere.as_raw_fd() != 1 {
        descriptors::redirect(nowhere.as_fd(), 1)?;
    }
    descriptors::redirect(nowhere.as_fd(), 2)?;
    if nowhere.as_raw_fd() <= 2 {
        // It is one of those now.
        std::mem::forget(nowhere);
    }
    Ok(())
}

/// Lets go of all that is the worker's: its sockets, its terminal session.
fn settle(bench: &Workbench<'_>) -> io::Result<()> {
    // One that is refused it, for want of a descriptor, still hears of the server's end unless it is stopped.
    let held = lifeline::hold();
    nix::unistd::setsid()?;
    let _ = held.and_then(lifeline::Held::lead);
    signals::prefer_as_oom_victim();
    signals::set_title(&format!("fp-ckpt:{}", bench.session));
    for descriptor in &bench.descriptors {
        close(*descriptor);
    }
    Ok(())
}

fn serve(
    py: Python<'_>,
    bench: &Workbench<'_>,
    reader: &mut FrameReader,
    hazards: &Hazards,
    (number, stage): (u64, Stage),
) -> Result<(), FrameError> {
    let say = |reader: &FrameReader, message: &FromCheckpoint| blocking::write(reader.stream(), message, MAX_ZYGOTE);
    let frozen = || FromCheckpoint::Frozen {
        version: PROTOCOL_VERSION,
        hazards: hazards.words.clone(),
        binding: hazards.binding.clone(),
    };
    say(reader, &frozen())?;
    let mut wakes = 0;
    loop {
        let answer = match reader.read()? {
            ToCheckpoint::Settle => continue,
            ToCheckpoint::Wake { session, keep_random } => {
                wakes += 1;
                wake(py, bench, reader, Wish { session, keep_random, number, wakes, stage })
            }
            ToCheckpoint::Sleep => match asleep::write(reader, hazards, number) {
                Written::Woken => {
                    asleep::settle(&bench.session, number)?;
                    frozen()
                }
                Written::Answer(answer) => answer,
            },
        };
        say(reader, &answer)?;
    }
}

/// What is to be woken.
struct Wish {
    session: String,
    keep_random: bool,
    /// Numbers of the checkpoint and of the wake, for tests.
    number: u64,
    wakes: u64,
    stage: Stage,
}

/// Forks a worker. Comes back in the checkpoint only.
fn wake(py: Python<'_>, bench: &Workbench<'_>, reader: &mut FrameReader, wish: Wish) -> FromCheckpoint {
    let Wish { session, keep_random, number, wakes, stage } = wish;
    let count = Purpose::Session { name: String::new() }.descriptors();
    let Some([cell, control, stdout, stderr, black_box]) =
        reader.take_descriptors(count).and_then(|passed| <[OwnedFd; 5]>::try_from(passed).ok())
    else {
        return FromCheckpoint::WakeFailed { message: "descriptors did not arrive".to_owned() };
    };
    let _ = fault::at("checkpoint.wake", number);
    let ours = [&cell, &control, &stdout, &stderr, &black_box].map(AsRawFd::as_raw_fd);
    match fork_again(py, stage, &ours) {
        Ok(Side::Child) => {
            let _ = fault::at("checkpoint.woken", wakes);
            close(reader.stream().as_raw_fd());
            let limits = bench.limits;
            let assignment = Assignment { session, limits, cell, control, stdout, stderr, black_box };
            let from = Continued { keep_random, memory: bench.memory.clone() };
            super::wake(py, assignment, bench.functions, bench.settings, from)
        }
        Ok(Side::Parent { child }) => FromCheckpoint::Woken { pid: child },
        Err(error) => FromCheckpoint::WakeFailed { message: error.to_string() },
    }
}

/// Forks a worker, which has files of its own as this checkpoint has: what one worker reads, the next one reads again.
fn fork_again(_gil_held: Python<'_>, stage: Stage, passed: &[RawFd]) -> io::Result<Side> {
    if stage == Stage::After {
        // SAFETY: the GIL is held, this process has one thread, and the calls around the fork are CPython's own, in its
        // order: those of a checkpoint that stands between them are made in what it wakes.
        unsafe { ffi::PyOS_BeforeFork() };
    }
    let positions = open_files::positions(passed);
    // SAFETY: as above.
    let side = unsafe { sibling::fork() };
    if matches!(side, Ok(Side::Child)) {
        // What must stay shared was told when the checkpoint was made.
        let _ = open_files::own(&positions);
        // SAFETY: as above.
        unsafe { ffi::PyOS_AfterFork_Child() };
    } else if stage == Stage::After {
        // SAFETY: as above.
        unsafe { ffi::PyOS_AfterFork_Parent() };
    }
    side
}
