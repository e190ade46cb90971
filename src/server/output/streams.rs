//! A process that is followed from its start to its end: output read, time kept, interrupted, killed.
//!
//! Runs in: server. Used for scripts and for the tools that install packages; sessions have workers instead. Owns no
//! process: its maker reaps it.

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{io::unix::AsyncFd, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    capture::Capture,
    live::Stream,
    peephole::{Audience, Look, Looks, Peek},
};
pub(crate) use crate::server::output::captured::Method;
use crate::{
    server::output::{captured::CapturedText, pipe::Output},
    sys::pidfd::PidFd,
};

/// Whose doing the end of a process was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    Itself,
    /// Its time was over.
    TimedOut {
        limit: Duration,
        /// How it was ended.
        method: Method,
    },
    /// The client took the call back, or went.
    Cancelled {
        /// How it was ended.
        method: Method,
    },
}

/// What bounds a process' life.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// How long it may run.
    pub limit: Duration,
    /// From interrupt to kill.
    pub grace: Duration,
    /// Cancelled when the client takes the call back.
    pub cancel: CancellationToken,
    /// Cancelled when the server ends.
    pub stop: CancellationToken,
}

/// One process, which leads a process group, and what it has written.
pub(crate) struct Followed {
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: AsyncFd<PidFd>,
    outputs: [Output; 2],
    captures: [Capture; 2],
    looks: Option<Looks>,
}

/// How its output is kept: at most this much, the whole under `outputs/` by a name, and told to a listener.
pub(crate) struct Keeping<'a> {
    /// Bytes of each stream.
    pub cap: usize,
    pub outputs: &'a Path,
    /// How names of files begin.
    pub name: String,
    /// Who hears of it at once, and may look at it.
    pub audience: Audience,
}

impl Followed {
    /// Takes over a process and the read ends of its output.
    ///
    /// # Errors
    /// When the reactor does not take them.
    pub(crate) fn new(pid: i32, pidfd: AsyncFd<PidFd>, pipes: [OwnedFd; 2], keeping: Keeping<'_>) -> io::Result<Self> {
        let [stdout, stderr] = pipes;
        let outputs = [Output::new(stdout)?, Output::new(stderr)?];
        let capture = |stream, word: &str| {
            let file = format!("{}-{word}.txt", keeping.name);
            let mut capture = Capture::new(keeping.cap, keeping.outputs, file);
            if let Some(live) = &keeping.audience.live {
                capture.tell(Arc::clone(live), stream);
            }
            capture
        };
        let captures = [capture(Stream::Stdout, "stdout"), capture(Stream::Stderr, "stderr")];
        Ok(Self { pid, pidfd, outputs, captures, looks: keeping.audience.looks })
    }

    /// Reads its output until it has ended, and sees to that when its time is over or its call is cancelled.
    pub(crate) async fn follow(&mut self, bounds: &Bounds) -> Course {
        let mut next_step = Instant::now() + bounds.limit;
        let mut course = Course::Itself;
        let mut killed = false;
        loop {
            let [out, err] = &mut self.outputs;
            let [out_capture, err_capture] = &mut self.captures;
            // What decides stands before what flows: a process that never stops printing must still meet its time-out.
            tokio::select! {
                biased;
                () = bounds.stop.cancelled(), if !killed => {
                    course = Course::Cancelled { method: Method::Kill };
                    killed = true;
                    self.kill();
                }
                () = bounds.cancel.cancelled(), if course == Course::Itself => {
                    course = Course::Cancelled { method: Method::Interrupt };
                    self.interrupt();
                    next_step = Instant::now() + bounds.grace;
                }
                () = tokio::time::sleep_until(next_step), if !killed => {
                    if course == Course::Itself {
                        course = Course::TimedOut { limit: bounds.limit, method: Method::Interrupt };
                        self.interrupt();
                        next_step = Instant::now() + bounds.grace;
                    } else {
                        course = course.by_kill();
                        killed = true;
                        self.kill();
                    }
                }
                _ = self.pidfd.readable() => return course,
                Peek { from, reply } = Looks::next(&mut self.looks) => {
                    let ((stdout, out), (stderr, err)) = (out_capture.since(from[0]), err_capture.since(from[1]));
                    let _ = reply.send(Look { stdout, stderr, up_to: [out, err] });
                }
                Ok(()) = out_capture.ready(out) => out_capture.take(out, |_| {}),
                Ok(()) = err_capture.ready(err) => err_capture.take(err, |_| {}),
            }
            for capture in &mut self.captures {
                capture.pause().await;
            }
        }
    }

    /// Reads what is left in the pipes after its end.
    pub(crate) fn drain(&mut self) {
        for (output, capture) in self.outputs.iter_mut().zip(&mut self.captures) {
            capture.drain(output, false, |_| {});
        }
    }

    /// Both streams, for a reply.
    #[must_use]
    pub(crate) async fn finish(self) -> [CapturedText; 2] {
        let [stdout, stderr] = self.captures;
        [stdout.finish().await, stderr.finish().await]
    }

    /// As Ctrl-C does: to the process and what runs with it.
    fn interrupt(&self) {
        // Its process group has its number as soon as it leads one, and the number is its own until it is reaped.
        if killpg(Pid::from_raw(self.pid), Signal::SIGINT).is_err() {
            let _ = self.pidfd.get_ref().signal(Signal::SIGINT);
        }
    }

    fn kill(&self) {
        let _ = self.pidfd.get_ref().signal(Signal::SIGKILL);
    }
}

impl Course {
    fn by_kill(self) -> Self {
        let method = Method::Kill;
        match self {
            Self::TimedOut { limit, .. } => Self::TimedOut { limit, method },
            Self::Itself | Self::Cancelled { .. } => Self::Cancelled { method },
        }
    }

    /// The sentence on it, when it was not the process' own doing.
    #[must_use]
    pub(crate) fn sentence(self) -> Option<String> {
        let how = |method| match method {
            Method::NotStarted => "it was not run",
            Method::Interrupt | Method::Caught => "it was interrupted",
            Method::Kill => "an interrupt did not end it, so it was killed",
        };
        match self {
            Self::Itself => None,
            Self::TimedOut { limit, method } => {
                Some(format!("The time limit of {} s was over: {}.", limit.as_secs_f64(), how(method)))
            }
            Self::Cancelled { method } => Some(format!("The call was cancelled: {}.", how(method))),
        }
    }
}
