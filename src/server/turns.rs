//! A line of those who wait for their turn at something that only some can have at a time: who is how far from it.
//!
//! Runs in: server. Grants nothing: a semaphore or a lock does that, in the order in which it was asked. Here it can be seen.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The line.
#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Who waits, by number.
    waiting: BTreeSet<u64>,
}

/// A place in the line; dropped, it is left.
#[derive(Debug)]
pub(crate) struct Turn {
    line: Arc<Line>,
    number: u64,
    came: OnceLock<Instant>,
}

impl Line {
    /// At its end.
    pub(crate) fn join(self: &Arc<Self>) -> Arc<Turn> {
        let mut state = self.0.lock();
        state.next += 1;
        let number = state.next;
        state.waiting.insert(number);
        Arc::new(Turn { line: Arc::clone(self), number, came: OnceLock::new() })
    }
}

impl Turn {
    /// The turn has come.
    pub(crate) fn comes(&self) {
        self.line.0.lock().waiting.remove(&self.number);
        let _ = self.came.set(Instant::now());
    }

    /// How long ago the turn came.
    pub(crate) fn lasts(&self) -> Option<Duration> {
        self.came.get().map(Instant::elapsed)
    }

    /// As which number it waits, the next one being 1.
    pub(crate) fn place(&self) -> usize {
        self.line.0.lock().waiting.range(..=self.number).count().max(1)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.0.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_moves_up_when_others_have_their_turn_or_go() {
        let line = Arc::<Line>::default();
        let [first, second, third] = [(); 3].map(|()| line.join());
        assert_eq!([first.place(), second.place(), third.place()], [1, 2, 3]);
        first.comes();
        assert!(first.lasts().is_some() && third.lasts().is_none());
        assert_eq!([second.place(), third.place()], [1, 2]);
        drop(second);
        assert_eq!(third.place(), 1);
    }
}
