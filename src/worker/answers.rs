//! Questions about the session's code and objects, answered beside the cell that runs: completion and inspection.
//!
//! Runs in: worker. `begin` is called by the control thread, which never takes the GIL; each question has two threads for
//! as long as it takes: one computes under the GIL, one watches the clock and then breaks the first off. Between questions
//! there is none, so that they hinder no checkpoint and cost an idle session nothing.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;

use super::{python::Answerer, quiet::Quiet, threads};
use crate::protocol::{FromControl, MAX_CONTROL, Question, blocking};

/// How long an answer may take; the server waits a little longer.
const LIMIT: Duration = Duration::from_secs(4);
/// How long until jedi was used: importing it takes seconds where the machine has other work.
const FIRST_LIMIT: Duration = Duration::from_secs(30);
/// How long a computation that was broken off may take to notice.
const NOTICE: Duration = Duration::from_millis(500);
const COMPUTING_STACK: usize = 16 << 20;
const WATCHING_STACK: usize = 256 << 10;

pub(crate) struct Answers {
    writer: Arc<Mutex<UnixStream>>,
    answerer: Arc<Answerer>,
    /// One was answered with jedi there; all after it have [`LIMIT`]. Keys of a dict need no jedi, and prove nothing.
    warm: Arc<AtomicBool>,
    /// One computes at a time.
    turn: Quiet,
}

impl Answers {
    pub(crate) fn new(writer: Arc<Mutex<UnixStream>>, answerer: Answerer, turn: Quiet) -> Self {
        Self { writer, answerer: Arc::new(answerer), warm: Arc::default(), turn }
    }

    /// Answers later, in threads of its own.
    pub(crate) fn begin(&self, nonce: u64, question: Question) {
        let (writer, answerer, turn) = (Arc::clone(&self.writer), Arc::clone(&self.answerer), self.turn.clone());
        let warm = Arc::clone(&self.warm);
        let begun = threads::start("fp-answers", WATCHING_STACK, move || {
            let limit = || if warm.load(Ordering::Relaxed) { LIMIT } else { FIRST_LIMIT };
            let answer = match turn.answering().try_lock_for(limit()) {
                Some(_mine) => {
                    let answer = watch(&answerer, question, limit());
                    if answer.is_ok() && !warm.load(Ordering::Relaxed) {
                        warm.store(answerer.is_warm(), Ordering::Relaxed);
                    }
                    answer
                }
                None => Err("the session is still busy with the question before this one".to_owned()),
            };
            send(&writer, nonce, answer);
        });
        if let Err(error) = begun {
            send(&self.writer, nonce, Err(format!("the session could not start a thread: {error}")));
        }
    }
}

fn send(writer: &Mutex<UnixStream>, nonce: u64, answer: Result<String, String>) {
    let writer = writer.lock();
    if blocking::write(&writer, &FromControl::Answered { nonce, answer }, MAX_CONTROL).is_err() {
        let answer = Err("the answer is too long".to_owned());
        let _ = blocking::write(&writer, &FromControl::Answered { nonce, answer }, MAX_CONTROL);
    }
}

/// Has the answer computed, and the computation broken off when it takes too long.
fn watch(answerer: &Arc<Answerer>, question: Question, limit: Duration) -> Result<String, String> {
    let (done, computed) = bounded(1);
    let (here, identity) = bounded(1);
    let computing = Arc::clone(answerer);
    let thread = threads::start("fp-answer", COMPUTING_STACK, move || {
        let _ = here.send(Answerer::thread_identity());
        let _ = done.send(computing.answer(&question));
    });
    let thread = thread.map_err(|error| format!("the session could not start a thread: {error}"))?;
    let too_slow = || Err(format!("it took longer than {} s", limit.as_secs()));
    let answer = match computed.recv_timeout(limit) {
        Ok(answer) => answer.unwrap_or_else(|()| too_slow()),
        Err(RecvTimeoutError::Disconnected) => Err("the computation panicked".to_owned()),
        Err(RecvTimeoutError::Timeout) => {
            if let Ok(identity) = identity.recv() {
                answerer.break_off(identity);
            }
            computed.recv_timeout(NOTICE).ok().and_then(Result::ok).unwrap_or_else(too_slow)
        }
    };
    // The next question waits for it.
    let _ = thread.join();
    answer
}
