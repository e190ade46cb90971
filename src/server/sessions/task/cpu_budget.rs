//! The processor time that a cell may use, its session's processes included.
//!
//! Runs in: server, in the session's task, for sessions with such a limit. Nothing is polled before the budget can have
//! been used up: N processors give at most N seconds a second, so the next look is due when what is left, used by all of
//! them, would be gone. A cell that ends within milliseconds is never looked at.

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};

use crate::sys::processes;

/// The first look, which finds what was used before this cell.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// Between two looks at least: processor time is counted in ticks of 10 ms.
const SHORTEST: Duration = Duration::from_millis(30);

pub(super) struct CpuBudget {
    worker: i32,
    limit: Duration,
    processors: u32,
    /// What the family had used when the cell began.
    before: Option<Duration>,
    next: Instant,
    looking: Option<JoinHandle<Duration>>,
}

impl CpuBudget {
    pub(super) fn begin(worker: i32, limit: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        Self {
            worker,
            limit,
            processors: u32::try_from(processors).unwrap_or(1),
            before: None,
            next: Instant::now() + FIRST_LOOK,
            looking: None,
        }
    }

    /// The budget of a cell that has used some of it.
    pub(super) fn going_on(worker: i32, limit: Duration, before: Option<Duration>) -> Self {
        Self { before, ..Self::begin(worker, limit) }
    }

    /// What the family had used before the cell, if that is known by now.
    pub(super) fn before(&self) -> Option<Duration> {
        self.before
    }

    /// Comes back once it is used up. Cancel-safe: a look under way is kept.
    pub(super) async fn used_up(&mut self) {
        loop {
            if self.looking.is_none() {
                tokio::time::sleep_until(self.next).await;
            }
            let worker = self.worker;
            let look = self.looking.get_or_insert_with(|| {
                tokio::task::spawn_blocking(move || processes::family_cpu(&processes::table(), worker))
            });
            let total = look.await.unwrap_or_default();
            self.looking = None;
            let used = total.saturating_sub(*self.before.get_or_insert(total));
            let Some(left) = self.limit.checked_sub(used).filter(|left| !left.is_zero()) else { return };
            self.next = Instant::now() + (left / self.processors).max(SHORTEST);
        }
    }
}

/// For a session without a limit: never.
pub(super) async fn used_up(budget: &mut Option<CpuBudget>) {
    match budget {
        Some(budget) => budget.used_up().await,
        None => std::future::pending().await,
    }
}
