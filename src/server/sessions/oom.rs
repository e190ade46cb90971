//! Whether the kernel's OOM killer has been at work: its counter in `/proc/vmstat`.
//!
//! Runs in: server. The counter is the whole machine's, so a rise says "probably": a worker that was killed by SIGKILL
//! while it rose is taken for its victim.

use parking_lot::Mutex;

/// The counter as it was at the last two looks: a death is heard of a little after the kill.
#[derive(Debug)]
pub(crate) struct OomCounter(Mutex<(u64, u64)>);

impl OomCounter {
    /// Looks for the first time.
    #[must_use]
    pub(crate) fn start() -> Self {
        let now = read().unwrap_or(0);
        Self(Mutex::new((now, now)))
    }

    /// Whether it has risen since the look before the last; each rise is told once.
    #[must_use]
    pub(crate) fn rose(&self) -> bool {
        let Some(now) = read() else { return false };
        std::mem::replace(&mut *self.0.lock(), (now, now)).0 < now
    }

    /// A quick sample: a rise older than two samples is no longer blamed for a death.
    pub(crate) fn look(&self) {
        if let Some(now) = read() {
            let mut looks = self.0.lock();
            *looks = (looks.1, now);
        }
    }
}

fn read() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

fn parse(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_among_others() {
        assert_eq!(parse("nr_free_pages 1\noom_kill 7\nnuma_hit 2\n"), Some(7));
        assert_eq!(parse("oom_killer 7\n"), None);
    }
}
