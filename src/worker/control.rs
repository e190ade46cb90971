//! The control thread: answers heartbeats, delivers interrupts, notices that the server is gone. And the pinger, a
//! second small thread that waits for the GIL, so that the first never has to. Questions go to `answers.rs`.
//!
//! Runs in: worker, threads "fp-control" (never takes the GIL) and "fp-pinger" (takes it for what `Job` says).

use std::{
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::{
    EXIT_CHANNEL_LOST,
    answers::Answers,
    gate::Gate,
    leave,
    python::{Answerer, Pinger},
    quiet::Quiet,
    threads,
};
use crate::{
    protocol::{
        DumpRoute, FromControl, MAX_CONTROL, ToControl,
        blocking::{self, FrameReader},
    },
    sys::{crash, descriptors, processes},
};

const CONTROL_STACK: usize = 128 << 10;
const PINGER_STACK: usize = 512 << 10;
/// Pings and the like that may wait for the GIL; more are dropped, the server sees no answer either way.
const WAITING_PINGS: usize = 16;

struct Control {
    reader: FrameReader,
    writer: Arc<Mutex<UnixStream>>,
    gate: Arc<Gate>,
    quiet: Quiet,
    pinger: Option<Sender<Job>>,
    evaluate: Arc<Pinger>,
    answers: Answers,
}

/// What needs the GIL.
enum Job {
    Ping(u64),
    Dump(u64),
    Refresh(u64, Vec<String>),
}

/// Starts the control thread. The pinger starts with the first ping: an idle session that is not asked about has one thread
/// less. With a limit of memory (`early`) it starts now: a session that is full could not start it.
/// Gives the numbers of its two descriptors, for a fork that has to close them.
pub(crate) fn spawn(
    stream: UnixStream,
    gate: Arc<Gate>,
    quiet: &Quiet,
    evaluate: Pinger,
    answerer: Answerer,
    early: bool,
) -> std::io::Result<[RawFd; 2]> {
    let copy: UnixStream = descriptors::copy_high(stream.as_fd())?.into();
    let own = [stream.as_raw_fd(), copy.as_raw_fd()];
    let writer = Arc::new(Mutex::new(copy));
    let reader = FrameReader::in_pieces(stream, MAX_CONTROL, 4 << 10);
    let answers = Answers::new(Arc::clone(&writer), answerer, quiet.clone());
    let quiet = quiet.clone();
    let mut control = Control { reader, writer, gate, quiet, pinger: None, evaluate: Arc::new(evaluate), answers };
    if early {
        control.start_pinger();
    }
    threads::start("fp-control", CONTROL_STACK, || control.listen())?;
    Ok(own)
}

impl Control {
    fn listen(mut self) {
        while let Ok(message) = self.reader.read() {
            match message {
                ToControl::Interrupt { cell, urgency } => self.gate.interrupt(cell, urgency),
                ToControl::Ping { nonce } => {
                    self.say(&FromControl::Heartbeat { nonce });
                    self.hand_over(Job::Ping(nonce));
                }
                ToControl::Ask { nonce, question } => self.answers.begin(nonce, question),
                ToControl::DumpStacks { nonce, route: DumpRoute::Interpreter } => self.hand_over(Job::Dump(nonce)),
                ToControl::DumpStacks { nonce, route: DumpRoute::Signal } => {
                    if crash::dump_now() {
                        self.say(&FromControl::StacksDumped { nonce });
                    }
                }
                ToControl::Refresh { nonce, modules } => self.hand_over(Job::Refresh(nonce, modules)),
            }
        }
        end_with_children()
    }

    fn say(&self, message: &FromControl) {
        let _ = blocking::write(&self.writer.lock(), message, MAX_CONTROL);
    }

    fn hand_over(&mut self, job: Job) {
        if self.pinger.is_none() {
            self.start_pinger();
        }
        if let Some(pinger) = &self.pinger {
            let _ = pinger.try_send(job);
        }
    }

    /// What fails now, for want of memory or of processes, is tried again with the next job.
    fn start_pinger(&mut self) {
        let (sender, receiver) = bounded(WAITING_PINGS);
        let (writer, quiet, evaluate) = (Arc::clone(&self.writer), self.quiet.clone(), Arc::clone(&self.evaluate));
        let started = threads::start("fp-pinger", PINGER_STACK, move || {
            let beginning = quiet.pinging();
            evaluate.within(|| drop(beginning), || work(&receiver, &writer, &quiet, &evaluate));
        });
        self.pinger = started.ok().map(|_| sender);
    }
}

fn work(jobs: &Receiver<Job>, writer: &Mutex<UnixStream>, quiet: &Quiet, evaluate: &Pinger) {
    for job in jobs {
        let working = quiet.pinging();
        let report = match job {
            Job::Ping(nonce) => evaluate.evaluate().map(|value| FromControl::Pong { nonce, value }),
            Job::Refresh(nonce, modules) => {
                evaluate.refresh(modules).map(|imported| FromControl::Refreshed { nonce, imported })
            }
            Job::Dump(nonce) => evaluate.dump().then_some(FromControl::StacksDumped { nonce }),
        };
        drop(working);
        if let Some(report) = report {
            let _ = blocking::write(&writer.lock(), &report, MAX_CONTROL);
        }
    }
}

/// The server is gone. Ends all that this session started and then the worker, without the GIL: it may be held for ever.
fn end_with_children() -> ! {
    processes::end_children();
    leave(EXIT_CHANNEL_LOST)
}
