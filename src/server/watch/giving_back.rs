//! When the server gives memory back to the system: after sessions have ended.
//!
//! Runs in: server, in the supervisor. Pure: the caller brings the number of sessions and the time. The C library keeps what
//! is freed between blocks that are still used: a server that had a thousand sessions stayed as large as with them.

use std::time::{Duration, Instant};

/// Shortest time from one look to the next.
const PAUSE: Duration = Duration::from_secs(60);
/// Looks after an end at which memory is given back: replies are kept for a minute and more, and go later than their session.
const TIMES: u32 = 3;
/// Fewer sessions leave nothing that is worth it.
const MANY: usize = 16;

/// What was seen.
pub(super) struct GivingBack {
    looked: Instant,
    /// Most sessions since memory was given back.
    most: usize,
    owed: u32,
}

impl GivingBack {
    pub(super) fn new(now: Instant) -> Self {
        Self { looked: now, most: 0, owed: 0 }
    }

    /// Whether it is to be done now.
    pub(super) fn is_due(&mut self, sessions: usize, now: Instant) -> bool {
        self.most = self.most.max(sessions);
        if now.duration_since(self.looked) < PAUSE {
            return false;
        }
        self.looked = now;
        if self.most >= sessions + MANY {
            (self.most, self.owed) = (sessions, TIMES);
        }
        let due = self.owed > 0;
        self.owed = self.owed.saturating_sub(1);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_some_times_after_many_sessions_have_ended_and_not_after_a_few() {
        let begin = Instant::now();
        let mut giving = GivingBack::new(begin);
        let mut at = |minute: u32, sessions| giving.is_due(sessions, begin + PAUSE * minute);
        assert!(!at(0, 1000), "too early");
        assert!(!at(1, 1000), "none has ended");
        assert!(!at(2, 990), "few have");
        assert_eq!([3, 4, 5, 6].map(|minute| at(minute, 10)), [true, true, true, false]);
        assert!(!at(7, 2), "few have");
        assert!(!at(7, 100) && at(8, 20), "a burst between two looks counts");
    }
}
