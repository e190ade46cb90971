//! What the kernel says of a worker: memory, threads, processor time, state; and its CPU use as a rate.
//!
//! Runs in: server. Owns the `sysinfo` handle and a short history of processor times. Reading one process costs some
//! tens of microseconds (`/proc/PID/stat`, `/proc/PID/task`).
//!
//! The rate is computed here, from accumulated processor time between two readings: sysinfo's own `cpu_usage` needs a
//! refresh of the whole machine in between, and gives nothing at the first call.

use crate::server::health::evidence::Reading;

use std::{
    collections::{HashMap, VecDeque},
    io,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::sys::processes;

/// A rate over less is noise: processor time is counted in ticks of 10 ms.
const SHORTEST_WINDOW: Duration = Duration::from_millis(250);
/// Readings kept of each process.
const HISTORY: usize = 4;

#[derive(Debug)]
pub(crate) struct Metrics(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    system: System,
    past: HashMap<i32, VecDeque<(Instant, Duration)>>,
}

impl Metrics {
    /// Gets ready to read.
    ///
    /// # Errors
    /// When the system's constants cannot be read.
    pub(crate) fn start() -> io::Result<Self> {
        let system = System::new().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self(Mutex::new(Inner { system, past: HashMap::new() })))
    }

    /// Looks at a process; `None` when it is not there.
    #[must_use]
    pub(crate) fn read(&self, pid: i32) -> Option<Reading> {
        let table = processes::look_up(pid)?;
        let key = Pid::from_u32(u32::try_from(pid).ok()?);
        let mut inner = self.0.lock();
        let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
        inner.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[key]), true, kind);
        let process = inner.system.process(key)?;
        Some(Reading {
            memory: process.memory(),
            threads: table.threads,
            cpu: Duration::from_millis(process.accumulated_cpu_time()),
            state: table.state,
        })
    }

    /// Percent of one processor that the process used lately: since the newest reading that is old enough, or since its
    /// birth. Remembers this reading.
    #[must_use]
    pub(crate) fn cpu_percent(&self, pid: i32, now: &Reading, born: Instant) -> f64 {
        let mut inner = self.0.lock();
        let past = inner.past.entry(pid).or_default();
        let at = Instant::now();
        let old_enough = |(when, _): &&(Instant, Duration)| at.duration_since(*when) >= SHORTEST_WINDOW;
        let (when, cpu) = past.iter().rev().find(old_enough).copied().unwrap_or((born, Duration::ZERO));
        if past.back().is_none_or(|(newest, _)| at.duration_since(*newest) >= SHORTEST_WINDOW) {
            past.push_back((at, now.cpu));
            if past.len() > HISTORY {
                past.pop_front();
            }
        }
        rate(now.cpu.saturating_sub(cpu), at.duration_since(when))
    }

    /// Forgets processes that are not among the living.
    pub(crate) fn retain(&self, living: &[i32]) {
        self.0.lock().past.retain(|pid, _| living.contains(pid));
    }
}

fn rate(used: Duration, window: Duration) -> f64 {
    if window.is_zero() {
        return 0.0;
    }
    (used.as_secs_f64() / window.as_secs_f64() * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_gives_a_rate_already() {
        let metrics = Metrics::start().expect("readable");
        let own = i32::try_from(std::process::id()).expect("small");
        let born = Instant::now();
        while born.elapsed() < Duration::from_millis(100) {
            std::hint::black_box(born);
        }
        let reading = metrics.read(own).expect("this process");
        assert!(reading.memory > 0 && reading.threads >= 1 && reading.cpu > Duration::ZERO);
        assert!(metrics.cpu_percent(own, &reading, born) > 0.0);
    }

    #[test]
    fn half_a_processor_is_fifty_percent() {
        assert!((rate(Duration::from_millis(500), Duration::from_secs(1)) - 50.0).abs() < f64::EPSILON);
    }

    #[test]
    fn nobody_is_read_as_none() {
        assert_eq!(Metrics::start().expect("readable").read(0x3fff_ffff), None);
    }
}
