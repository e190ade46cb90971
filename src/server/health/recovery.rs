//! What is done about a sick session, when, and when to give up. Pure: the session's task and the supervisor act.
//!
//! Runs in: server.
//!
//! | seen | `manual` | `on-demand` | `auto` |
//! |---|---|---|---|
//! | memory above the clean-up threshold, idle | – | collect, once a crossing | collect, once a crossing |
//! | hung beyond the limit | – | – (the cell's time-out still holds) | interrupt; restart when that does not arrive |
//! | dead | stays dead; cells are refused | the next cell restarts it | restart at once, then with backoff |
//! | a restart whose worker did not prove itself | – | the next cell tries again | recreate: as new, waiting calls refused |
//! | restart budget used up | – | parked (restarts that did not prove themselves count) | parked (all restarts count) |
//!
//! A step counts when a ping and an evaluation by the main thread have come back. A cell that ends on a living worker
//! makes the ledger blank again; `restart_kernel` does too.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HealthPolicy, RecoveryPolicy, State};
use crate::sys::age;

/// First pause before another restart; it doubles.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Steps remembered.
const STEPS: usize = 8;

/// The rungs of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// Collect garbage and return freed memory to the system.
    Collect,
    /// Interrupt the running cell.
    Interrupt,
    /// End the worker and make another.
    Restart,
    /// Make the session anew: another worker, waiting calls refused, cells counted from the start.
    Recreate,
}

impl Step {
    /// The word that clients see.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Collect => "collect",
            Self::Interrupt => "interrupt",
            Self::Restart => "restart",
            Self::Recreate => "recreate",
        }
    }
}

/// A step that was taken.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Taken {
    /// Which.
    pub step: Step,
    /// A ping and an evaluation came back after it.
    pub verified: bool,
    /// What led to it and what it came to.
    pub detail: String,
    /// Seconds it took.
    pub took: f64,
    /// When (RFC 3339).
    pub when: String,
}

/// What the supervisor asks a session's task to do about a living worker, if anything.
#[must_use]
pub(crate) fn plan(policy: &HealthPolicy, state: State, unanswered: Duration, cleanup_due: bool) -> Option<Step> {
    match (policy.recovery, state) {
        (RecoveryPolicy::Auto, State::Hung) if unanswered >= policy.hung_after => Some(Step::Interrupt),
        (RecoveryPolicy::Manual, _) => None,
        (_, State::Idle) if cleanup_due => Some(Step::Collect),
        _ => None,
    }
}

/// What comes next for a session without a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// A restart, after this pause.
    After(Duration),
    /// No more.
    Park(String),
}

/// Restarts of one session, for backoff and budget.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    #[serde(with = "age::many")]
    restarts: VecDeque<Instant>,
    /// Restarts in a row that were not verified.
    failed: u32,
    parked: Option<String>,
    steps: VecDeque<Taken>,
}

impl Ledger {
    /// When the next restart may be: at once for the first, then with a pause that doubles. `jitter` is from 0 to 1 and
    /// spreads the pause by a quarter either way: ten sessions that died together do not come back together.
    pub(crate) fn next(&mut self, now: Instant, policy: &HealthPolicy, jitter: f64) -> Next {
        if let Some(reason) = &self.parked {
            return Next::Park(reason.clone());
        }
        self.forget_before(now, policy.restart_window);
        let used = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        if used >= policy.restart_budget {
            let last = self.steps.back().map_or_else(String::new, |step| format!("; last: {}", step.detail));
            let reason = format!(
                "its restart budget is used up: {used} restarts within {} s without a cell that ended well{last}",
                policy.restart_window.as_secs_f64()
            );
            self.parked = Some(reason.clone());
            return Next::Park(reason);
        }
        Next::After(pause(used, jitter))
    }

    /// A restart is being made.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.restarts.push_back(now);
    }

    /// The restart just made has proven itself. Where each restart was asked for, it no longer counts: a loop is what
    /// the budget is against.
    pub(crate) fn proven(&mut self, policy: &HealthPolicy) {
        if policy.recovery != RecoveryPolicy::Auto {
            self.restarts.pop_back();
        }
    }

    /// Which rung the next restart is.
    #[must_use]
    pub(crate) fn rung(&self) -> Step {
        if self.failed == 0 { Step::Restart } else { Step::Recreate }
    }

    /// Enters a step.
    pub(crate) fn enter(&mut self, taken: Taken) {
        if matches!(taken.step, Step::Restart | Step::Recreate) {
            self.failed = if taken.verified { 0 } else { self.failed + 1 };
        }
        self.steps.push_back(taken);
        if self.steps.len() > STEPS {
            self.steps.pop_front();
        }
    }

    /// A cell ended on a living worker, or a client restarted the session: all is well again. The steps stay, as history.
    pub(crate) fn succeed(&mut self) {
        if !self.restarts.is_empty() || self.parked.is_some() {
            self.restarts.clear();
            self.failed = 0;
            self.parked = None;
        }
    }

    /// Why nothing more is tried.
    #[must_use]
    pub(crate) fn parked(&self) -> Option<&str> {
        self.parked.as_deref()
    }

    /// Restarts that count against the budget.
    #[must_use]
    pub(crate) fn used(&self) -> u64 {
        self.restarts.len() as u64
    }

    /// The steps taken lately.
    #[must_use]
    pub(crate) fn steps(&self) -> Vec<Taken> {
        self.steps.iter().cloned().collect()
    }

    fn forget_before(&mut self, now: Instant, window: Duration) {
        while self.restarts.front().is_some_and(|first| now.duration_since(*first) > window) {
            self.restarts.pop_front();
        }
    }
}

fn pause(restarts: u32, jitter: f64) -> Duration {
    match restarts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => {
            let full = BACKOFF.saturating_mul(1 << doublings.min(10)).min(MAX_BACKOFF);
            full.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::policy::tests::policy;

    fn taken(step: Step, verified: bool) -> Taken {
        Taken { step, verified, detail: "died".to_owned(), took: 0.0, when: String::new() }
    }

    #[test]
    fn the_pause_doubles_and_the_budget_ends_it() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        let mut pauses = Vec::new();
        let reason = loop {
            match ledger.next(start, &policy(), 0.5) {
                Next::After(pause) => pauses.push(pause.as_millis()),
                Next::Park(reason) => break reason,
            }
            ledger.begin(start);
            ledger.enter(taken(ledger.rung(), false));
        };
        assert_eq!(pauses, [0, 500, 1000, 2000, 4000]);
        assert!(reason.contains("5 restarts within 300 s") && reason.contains("last: died"), "{reason}");
        let later = start + Duration::from_secs(900);
        assert!(matches!(ledger.next(later, &policy(), 0.5), Next::Park(_)), "parked stays parked");
        ledger.succeed();
        assert_eq!((ledger.next(later, &policy(), 0.5), ledger.parked()), (Next::After(Duration::ZERO), None));
    }

    #[test]
    fn rare_deaths_never_use_the_budget_up() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        for turn in 0..100 {
            let now = start + Duration::from_secs(turn * 301);
            assert_eq!(ledger.next(now, &policy(), 0.5), Next::After(Duration::ZERO));
            ledger.begin(now);
        }
    }

    #[test]
    fn jitter_spreads_and_the_pause_is_bounded() {
        assert_eq!((pause(2, 0.0).as_millis(), pause(2, 1.0).as_millis()), (750, 1250));
        assert!(pause(4000, 1.0) <= MAX_BACKOFF.mul_f64(1.25));
    }

    #[test]
    fn a_restart_that_failed_is_followed_by_recreation() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.rung(), Step::Restart);
        ledger.enter(taken(Step::Restart, false));
        assert_eq!(ledger.rung(), Step::Recreate);
        ledger.enter(taken(Step::Recreate, true));
        assert_eq!(ledger.rung(), Step::Restart);
    }

    #[test]
    fn the_plan() {
        let long = Duration::from_secs(6);
        let with = |recovery| HealthPolicy { recovery, ..policy() };
        let (manual, demand, auto) =
            (with(RecoveryPolicy::Manual), with(RecoveryPolicy::OnDemand), with(RecoveryPolicy::Auto));
        let cases = [
            (&auto, State::Hung, long, false, Some(Step::Interrupt)),
            (&auto, State::Hung, Duration::from_secs(4), false, None),
            (&demand, State::Hung, long, false, None),
            (&manual, State::Idle, Duration::ZERO, true, None),
            (&demand, State::Idle, Duration::ZERO, true, Some(Step::Collect)),
            (&auto, State::Busy, Duration::ZERO, true, None),
            (&auto, State::Stopped, long, false, None),
        ];
        for (policy, state, unanswered, due, expected) in cases {
            assert_eq!(plan(policy, state, unanswered, due), expected, "{:?} {state:?}", policy.recovery);
        }
    }
}
