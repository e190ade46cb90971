//! Timers that are set: a fork has none of them.
//!
//! Runs in: worker, main thread, just before a fork.

use std::time::Duration;

/// What is set, in words: `an alarm in 4.2 s`.
#[must_use]
pub(crate) fn pending() -> Vec<String> {
    // `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`: libc has no names for them.
    const KINDS: [(libc::c_int, &str); 3] =
        [(0, "an alarm"), (1, "an itimer of user time"), (2, "an itimer of processor time")];
    KINDS.iter().filter_map(|(kind, name)| Some(format!("{name} in {:.1} s", left(*kind)?.as_secs_f64()))).collect()
}

fn left(kind: libc::c_int) -> Option<Duration> {
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut timer = libc::itimerval { it_interval: zero, it_value: zero };
    // SAFETY: `timer` outlives the call, which fills it.
    if unsafe { libc::getitimer(kind, &raw mut timer) } != 0 {
        return None;
    }
    let left = Duration::from_secs(timer.it_value.tv_sec.unsigned_abs())
        + Duration::from_micros(timer.it_value.tv_usec.unsigned_abs());
    (!left.is_zero()).then_some(left)
}
