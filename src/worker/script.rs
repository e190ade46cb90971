//! A script's process: runs one file as `__main__`, ends as `python` does, and is no session.
//!
//! Runs in: worker role, in a process of its own; main thread, and one thread "lifeline" that never takes the GIL. Owns how
//! the process is set up and left. No frames travel: the server sees output, the process' end and its exit status.
//!
//! Like a session's worker it leads a process group and is a subreaper, so that whatever it starts can be found and ended.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use pyo3::{Python, ffi};

use super::{EXIT_CHANNEL_LOST, EXIT_START_FAILED, Functions, confinement::Entry, leave, rlimits};
use crate::{
    protocol::{Script, WorkerLimits, ZygoteSettings},
    sys::{descriptors, processes, signals},
};

const LIFELINE_STACK: usize = 128 << 10;
/// What `python` exits with when it could not flush its last output.
const EXIT_NOT_FLUSHED: i32 = 120;

/// What the process is to do: a script and its four descriptors.
#[derive(Debug)]
pub(crate) struct Errand {
    pub script: Script,
    /// What it is kept to.
    pub limits: WorkerLimits,
    pub source: OwnedFd,
    /// Its end means that the server is gone, or wants this to end.
    pub lifeline: OwnedFd,
    /// Write end of the pipe for descriptor 1.
    pub stdout: OwnedFd,
    /// Write end of the pipe for descriptor 2.
    pub stderr: OwnedFd,
}

/// Lives the process' life in the child of a fork.
pub(crate) fn run(
    py: Python<'_>,
    errand: Errand,
    functions: &Functions,
    settings: &ZygoteSettings,
    entry: Option<Entry<'_>>,
) -> ! {
    let lived = catch_unwind(AssertUnwindSafe(|| live(py, errand, functions, settings, entry)));
    let reason = match lived {
        Ok(Ok(ending)) => end_as_python_does(ending),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a panic".to_owned(),
    };
    let _ = writeln!(io::stderr(), "forkpy: the script's process could not be made ready: {reason}");
    leave(EXIT_START_FAILED)
}

fn live(
    py: Python<'_>,
    errand: Errand,
    functions: &Functions,
    settings: &ZygoteSettings,
    entry: Option<Entry<'_>>,
) -> io::Result<Option<i32>> {
    let script = errand.script.clone();
    let source = settle(errand, entry)?;
    entry.map_or(Ok(()), |entry| functions.confine(py, entry.told(), settings)).map_err(io::Error::other)?;
    functions.enter_own(py, settings).map_err(io::Error::other)?;
    functions.run_script(py, &source, &script, &settings.workspace).map_err(io::Error::other)
}

/// Makes the process its own, and reads the script.
fn settle(errand: Errand, entry: Option<Entry<'_>>) -> io::Result<Vec<u8>> {
    let Errand { script, limits, source, lifeline, stdout, stderr } = errand;
    // First, so that a later failure is heard.
    descriptors::null_stdin()?;
    descriptors::redirect(stdout.as_fd(), 1)?;
    descriptors::redirect(stderr.as_fd(), 2)?;
    descriptors::unbuffer_c_output();
    let held = crate::sys::lifeline::hold()?;
    nix::unistd::setsid()?;
    held.lead()?;
    signals::reset_after_fork();
    signals::become_subreaper();
    signals::prefer_as_oom_victim();
    let name = script.file.rsplit('/').next().unwrap_or_default();
    signals::set_title(&format!("fp-run:{name}"));
    let mut text = Vec::new();
    File::from(source.try_clone()?).read_to_end(&mut text)?;
    let lifeline = UnixStream::from(descriptors::move_high(lifeline)?);
    std::mem::forget((source, stdout, stderr));
    if let Some(entry) = entry {
        // What it is made of is closed next.
        entry.cage.enter(entry.room, &lifeline)?;
    }
    let kept: Vec<_> = [lifeline.as_fd()].into_iter().chain(crate::sys::lifeline::end()).collect();
    // SAFETY: everything else belongs to values of the zygote's that this process never drops, or was forgotten above.
    unsafe { descriptors::close_all_but(&kept) };
    hold(lifeline)?;
    rlimits::apply(limits)?;
    Ok(text)
}

/// Ends the process and all it started when the server lets go, without the GIL: it may be held for ever.
fn hold(mut lifeline: UnixStream) -> io::Result<()> {
    let wait = move || {
        // Signals are the main thread's: one that came here would not wake it.
        let _ = SigSet::all().thread_block();
        // Nothing is ever sent, so whatever comes back is the end.
        let _ = lifeline.read(&mut [0]);
        processes::end_children();
        leave(EXIT_CHANNEL_LOST)
    };
    thread::Builder::new().name("lifeline".into()).stack_size(LIFELINE_STACK).spawn(wait)?;
    Ok(())
}

/// Joins threads, runs `atexit`, runs down the interpreter; then exits, or dies of SIGINT as a shell's user expects.
fn end_as_python_does(ending: Option<i32>) -> ! {
    // SAFETY: the main thread, which holds the GIL; no Python object is touched by this process after it.
    let flushed = unsafe { ffi::Py_FinalizeEx() };
    if ending.is_none() {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: SIG_DFL runs no code of ours.
        let _ = unsafe { sigaction(Signal::SIGINT, &default) };
        let _ = raise(Signal::SIGINT);
    }
    let code = match ending {
        _ if flushed < 0 => EXIT_NOT_FLUSHED,
        // SIGINT is blocked: the code that a shell gives to its death.
        None => 130,
        Some(code) => code,
    };
    // SAFETY: not called from a signal handler, and Python is gone; what C libraries have registered runs.
    unsafe { libc::exit(code) }
}
