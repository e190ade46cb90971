//! What a session was like: the last minutes sample by sample, the last day in buckets of five minutes. Bounded.
//!
//! Runs in: server. Pure: the caller that adds a sample gives its time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::State;
use crate::sys::age;

/// Samples kept one by one: five minutes of a busy session, the better part of an hour of an idle one.
const FINE: usize = 300;
/// Length of a bucket.
pub(crate) const BUCKET: Duration = Duration::from_secs(300);
/// Buckets kept: a day.
const COARSE: usize = 288;

/// One look at a session.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    #[serde(with = "age")]
    pub at: Instant,
    pub pid: i32,
    /// Its state as judged then.
    pub state: State,
    /// Resident memory, bytes.
    pub memory: u64,
    /// Processor time of this worker so far.
    pub cpu: Duration,
    /// Percent of one processor since the sample before.
    pub cpu_percent: f64,
    pub threads: u64,
    /// The dearer readings, when this look took them.
    pub deep: Option<Deep>,
}

/// What costs more to read, and is read less often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deep {
    /// Memory with shared pages counted in part, bytes.
    pub proportional: u64,
    /// Memory in swap, bytes.
    pub swap: u64,
    /// Processes that the session started and that live.
    pub subprocesses: u64,
    /// Their resident memory together, bytes.
    pub subprocess_memory: u64,
    /// Their processor time so far.
    pub subprocess_cpu: Duration,
}

/// Five minutes in one line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    #[serde(with = "age")]
    pub from: Instant,
    #[serde(with = "age")]
    pub to: Instant,
    pub samples: u64,
    /// Mean resident memory, bytes.
    pub memory_mean: f64,
    /// Highest resident memory, bytes.
    pub memory_max: u64,
    /// Mean percent of one processor.
    pub cpu_mean: f64,
    /// Highest percent.
    pub cpu_max: f64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct History {
    fine: VecDeque<Sample>,
    coarse: VecDeque<Bucket>,
}

impl History {
    /// Adds a sample; times never go backwards.
    pub(crate) fn push(&mut self, sample: Sample) {
        match self.coarse.back_mut() {
            Some(bucket) if sample.at.duration_since(bucket.from) < BUCKET => bucket.add(&sample),
            _ => {
                self.coarse.push_back(Bucket::of(&sample));
                if self.coarse.len() > COARSE {
                    self.coarse.pop_front();
                }
            }
        }
        self.fine.push_back(sample);
        if self.fine.len() > FINE {
            self.fine.pop_front();
        }
    }

    #[must_use]
    pub(crate) fn last(&self) -> Option<&Sample> {
        self.fine.back()
    }

    /// The newest deep readings of this worker, and when they were taken.
    #[must_use]
    pub(crate) fn last_deep(&self, pid: i32) -> Option<(Instant, Deep)> {
        let of_worker = self.fine.iter().rev().take_while(|sample| sample.pid == pid);
        of_worker.filter_map(|sample| Some((sample.at, sample.deep?))).next()
    }

    /// Percent of one processor that a worker's subprocesses used between the last two deep looks; `None` when there are
    /// no two.
    #[must_use]
    pub(crate) fn subprocess_cpu(&self, pid: i32) -> Option<f64> {
        let of_worker = self.fine.iter().rev().take_while(|sample| sample.pid == pid);
        let mut deep = of_worker.filter_map(|sample| Some((sample.at, sample.deep?.subprocess_cpu)));
        let ((now, used), (then, before)) = (deep.next()?, deep.next()?);
        let elapsed = now.duration_since(then).as_secs_f64();
        (elapsed > 0.0).then(|| used.saturating_sub(before).as_secs_f64() / elapsed * 100.0)
    }

    /// Samples not older than `span`, oldest first; and the buckets before the first of them.
    #[must_use]
    pub(crate) fn since(&self, now: Instant, span: Duration) -> (Vec<Bucket>, Vec<Sample>) {
        let within = |at: Instant| now.duration_since(at) <= span;
        let fine: Vec<Sample> = self.fine.iter().filter(|sample| within(sample.at)).copied().collect();
        let whole = self.fine.len() < FINE || self.fine.front().is_some_and(|first| !within(first.at));
        let first = self.fine.front().map(|sample| sample.at);
        let older = |bucket: &&Bucket| within(bucket.to) && first.is_none_or(|first| bucket.from < first);
        let coarse = if whole { Vec::new() } else { self.coarse.iter().filter(older).copied().collect() };
        (coarse, fine)
    }

    /// Mean percent of one processor that this worker used over the last `span`; `None` while it has not been watched for
    /// that long.
    #[must_use]
    pub(crate) fn mean_cpu(&self, span: Duration) -> Option<f64> {
        let last = self.fine.back()?;
        let then = self
            .fine
            .iter()
            .rev()
            .take_while(|sample| sample.pid == last.pid)
            .find(|sample| last.at.duration_since(sample.at) >= span)?;
        let used = last.cpu.saturating_sub(then.cpu).as_secs_f64();
        Some(used / last.at.duration_since(then.at).as_secs_f64() * 100.0)
    }
}

impl Bucket {
    fn of(sample: &Sample) -> Self {
        Self {
            from: sample.at,
            to: sample.at,
            samples: 1,
            memory_mean: as_f64(sample.memory),
            memory_max: sample.memory,
            cpu_mean: sample.cpu_percent,
            cpu_max: sample.cpu_percent,
        }
    }

    fn add(&mut self, sample: &Sample) {
        self.to = sample.at;
        self.samples += 1;
        let weight = 1.0 / as_f64(self.samples);
        self.memory_mean += (as_f64(sample.memory) - self.memory_mean) * weight;
        self.cpu_mean += (sample.cpu_percent - self.cpu_mean) * weight;
        self.memory_max = self.memory_max.max(sample.memory);
        self.cpu_max = self.cpu_max.max(sample.cpu_percent);
    }
}

#[expect(clippy::cast_precision_loss, reason = "means of byte counts need no more than 52 bits")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(start: Instant, second: u64, memory: u64) -> Sample {
        Sample {
            at: start + Duration::from_secs(second),
            pid: 7,
            state: State::Idle,
            memory,
            cpu: Duration::from_millis(second * 500),
            cpu_percent: 50.0,
            threads: 2,
            deep: None,
        }
    }

    #[test]
    fn a_day_fits_and_no_more() {
        let start = Instant::now();
        let mut history = History::default();
        for second in 0..2 * 86400 {
            history.push(sample(start, second, second));
        }
        let now = start + Duration::from_secs(2 * 86400);
        let (coarse, fine) = history.since(now, Duration::from_secs(86400));
        assert_eq!((history.fine.len(), history.coarse.len()), (FINE, COARSE));
        assert_eq!(fine.len(), FINE);
        assert!(coarse.len() >= COARSE - 2, "{}", coarse.len());
        assert!((coarse[5].memory_mean - (as_f64(coarse[5].memory_max) - 149.5)).abs() < 1e-3);
    }

    #[test]
    fn a_short_span_needs_no_buckets() {
        let start = Instant::now();
        let mut history = History::default();
        (0..1000).for_each(|second| history.push(sample(start, second, 1)));
        let (coarse, fine) = history.since(start + Duration::from_secs(999), Duration::from_secs(60));
        assert_eq!((coarse.len(), fine.len()), (0, 61));
    }

    #[test]
    fn a_mean_needs_the_whole_span_and_one_worker() {
        let start = Instant::now();
        let mut history = History::default();
        (0..30).for_each(|second| history.push(sample(start, second, 1)));
        assert_eq!(history.mean_cpu(Duration::from_secs(30)), None);
        history.push(sample(start, 30, 1));
        assert!((history.mean_cpu(Duration::from_secs(30)).expect("long enough") - 50.0).abs() < 1e-6);
        history.push(Sample { pid: 8, ..sample(start, 31, 1) });
        assert_eq!(history.mean_cpu(Duration::from_secs(30)), None, "another worker begins anew");
    }
}
