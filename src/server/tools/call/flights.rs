//! Cells whose calls have gone on without them: what is needed to follow them again.
//!
//! Runs in: server. A question that such a cell asks waits here too, until a call follows the cell.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::asking::Flight;

/// By the number of the session's life, and the cell's.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<(u64, u64), Flight>>);

impl Flights {
    /// The call leaves; the cell goes on.
    pub(crate) fn leave(&self, mut flight: Flight) {
        flight.let_go();
        if !flight.answers() {
            return;
        }
        let mut flights = self.0.lock();
        flights.retain(|_, flight| !flight.is_over());
        flights.insert(flight.key(), flight);
    }

    /// Follows a cell again, if no call does.
    pub(crate) fn follow(&self, key: (u64, u64)) -> Option<Flight> {
        let mut flight = self.0.lock().remove(&key)?;
        flight.take_up();
        Some(flight)
    }
}
