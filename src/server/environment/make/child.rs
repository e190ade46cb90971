//! Runs one program to its end, within a time, for those who make environments.
//!
//! Runs in: server. Owns the child, also when the work on it is abandoned: it and its own children end then.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::time::timeout;

use crate::sys::signals;

/// Told of every child process this module starts: `(pid, true)` in the same breath as the start, with no await between,
/// and `(pid, false)` once it has been waited for or given up. In between no other code may reap it.
pub(crate) type ChildHook<'a> = &'a (dyn Fn(u32, bool) + Send + Sync);

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("no time was left for it")]
    NoTime,
    #[error("it took longer than {} s", .0.as_secs_f64().ceil())]
    Slow(Duration),
    #[error(transparent)]
    System(#[from] io::Error),
    /// It said so itself, in its last line.
    #[error("{0}")]
    Said(String),
    #[error("{0}")]
    Failed(ExitStatus),
}

/// Runs a command to its end with its output appended to `output`, never to ours. What it said, or why it failed.
pub(super) async fn run(
    command: Command,
    limit: Duration,
    stdin: Stdio,
    output: &File,
    children: ChildHook<'_>,
) -> Result<String, RunError> {
    let mut command = tokio::process::Command::from(command);
    if limit.is_zero() {
        return Err(RunError::NoTime);
    }
    let begin = output.metadata()?.len();
    let streams = (output.try_clone()?, output.try_clone()?);
    command.stdin(stdin).stdout(streams.0).stderr(streams.1).kill_on_drop(true).process_group(0);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let live_no_longer = move || match signals::die_with_parent(own) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    };
    // SAFETY: between fork and exec the closure makes two system calls and neither allocates nor locks.
    unsafe { command.pre_exec(live_no_longer) };
    let mut child = command.spawn()?;
    let Some(pid) = child.id() else { return Err(io::Error::from_raw_os_error(libc::ESRCH).into()) };
    let mut started = Started { pid, over: false, children };
    children(pid, true);
    let waited = timeout(limit, child.wait()).await;
    if waited.is_err() {
        started.kill();
        let _ = child.wait().await;
    }
    started.over = true;
    drop(started);
    let text = text_from(output, begin);
    match waited {
        Err(_) => Err(RunError::Slow(limit)),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(status)) if status.success() => Ok(text),
        Ok(Ok(status)) => match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            Some(line) => Err(RunError::Said(line.to_owned())),
            None => Err(RunError::Failed(status)),
        },
    }
}

/// A child that the hook has been told of; also when the work on it is abandoned, it and its own children end.
struct Started<'a> {
    pid: u32,
    over: bool,
    children: ChildHook<'a>,
}

impl Started<'_> {
    fn kill(&self) {
        if let Ok(group) = i32::try_from(self.pid) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
        }
        (self.children)(self.pid, false);
    }
}

/// What was appended since `begin`; of much, the end.
fn text_from(output: &File, begin: u64) -> String {
    const MOST: u64 = 64 << 10;
    let end = output.metadata().map_or(begin, |found| found.len());
    let from = begin.max(end.saturating_sub(MOST));
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(from)).unwrap_or(0)];
    match output.read_exact_at(&mut bytes, from) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}
