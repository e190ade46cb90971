//! The end of a session's worker: how it ended, what it was the end of, and the report on it.
//!
//! Runs in: server, in the session's task. Ending a process is `workers/process.rs`; here it is said what it was.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::state::{Obituary, Task};
use crate::{
    protocol::WorkerExit,
    server::{
        counters,
        health::{errand::Errand, evidence::Phase},
        output::captured::CapturedText,
        sessions::{
            crashes::{self, CrashReport, Crashes, LastCell, OutOfMemory, Point},
            death::{Death, DeathReason, signal_name},
            occurrences::Occurred,
        },
        workers::{stacks, view::WorkerView},
    },
    sys::groups::Group,
};

/// What the kernel's OOM killer leaves behind, and any other SIGKILL.
const KILLED: WorkerExit = WorkerExit::Signal(9);
/// Most bytes of code and of each stream in a report.
const MAX_TEXT: usize = 4 << 10;
/// Most samples in a report.
const MAX_CURVE: usize = 120;

/// A cell's code, time and streams, for a report.
type LastWords<'a> = (&'a str, Duration, &'a CapturedText, &'a CapturedText);

impl Task {
    /// The worker has ended or is about to: learns how, and ends what it started.
    pub(super) async fn bury(
        &mut self,
        reason: DeathReason,
        cell: Option<u64>,
        during: Option<Errand>,
    ) -> Option<Death> {
        let worker = self.worker.take()?;
        self.owed = None;
        let _ = worker.pidfd.readable().await;
        let pid = worker.pid;
        self.shared.update(|status| {
            status.phase = Phase::Dead;
            status.worker = None;
            status.ended = Some(pid);
        });
        let exit = self.around.zygote.endings().see_off(pid, &worker.pidfd).await;
        let (reason, out_of_memory) = self.cause(reason, exit, &worker.view());
        let death = Death { reason, exit, cell, during, report: None };
        let asked_for = reason.is_ordered();
        if !asked_for {
            self.occurred(|| Occurred::Died { reason: reason.word().to_owned(), words: death.describe() });
        }
        if asked_for {
            tracing::debug!(session = %self.id, pid, "worker ended as asked");
        } else {
            tracing::warn!(session = %self.id, pid, "worker {}", death.describe());
        }
        counters::worker_died(death.reason.word());
        self.shared.update(|status| {
            status.restarts += 1;
            status.up_since = None;
            status.last_exit = Some((death.clone(), Timestamp::now()));
        });
        self.announce();
        let seen = self.shared.record(|record| record.last_sight.take()).filter(|(of, _)| *of == pid);
        let evidence = self.evidence.take().or(seen.map(|(_, stacks)| stacks));
        if !asked_for || evidence.is_some() {
            let crashed = worker.control.crash().is_some();
            let stacks = evidence.or_else(|| crashed.then(|| stacks::of_crash(worker.black_box.read())));
            let uptime = worker.born.elapsed();
            self.obituary = Some(Obituary { death: death.clone(), pid, uptime, out_of_memory, stacks });
        }
        Some(death)
    }

    /// The true reason, where the death itself tells more than the code that buries it knows.
    fn cause(&self, reason: DeathReason, exit: WorkerExit, worker: &WorkerView) -> (DeathReason, OutOfMemory) {
        let no = |evidence: &str| OutOfMemory { happened: false, evidence: evidence.to_owned() };
        let condemned = self.shared.update(|status| status.condemned.take());
        if reason == DeathReason::Itself
            && let Some((_, limit)) = condemned.filter(|(pid, _)| *pid == worker.pid)
        {
            if matches!(limit, DeathReason::MemoryLimit { .. }) {
                self.renew_group();
            }
            return (limit, no("forkpy ended the worker itself, for its limit"));
        }
        if reason != DeathReason::Itself {
            return (reason, no("forkpy ended the worker itself"));
        }
        match worker.control.crash() {
            Some(crash) if crash.stack_overflow => {
                (DeathReason::StackOverflow, no("the fatal signal's handler saw the end of the stack"))
            }
            Some(_) => (reason, no("the fatal signal's handler reported it")),
            None if exit != KILLED => (reason, no("the kernel's OOM killer sends SIGKILL, and this was none")),
            None if let Some(limit) = self.filled_its_group() => {
                (limit, no("the kernel ended it for the limit of its memory cgroup"))
            }
            None if self.around.oom.rose() => {
                let evidence = "SIGKILL, while the kernel's count of OOM kills (oom_kill in /proc/vmstat, of the whole \
                                machine) rose";
                (DeathReason::OutOfMemory, OutOfMemory { happened: true, evidence: evidence.to_owned() })
            }
            None => (reason, no("SIGKILL, but the kernel's count of OOM kills (/proc/vmstat) did not rise")),
        }
    }

    /// Whether the kernel has killed something because the session's own cgroup was full: its limit, then.
    fn filled_its_group(&self) -> Option<DeathReason> {
        let group = self.shared.get().group.filter(|group| group.kills() > 0)?;
        let limit = self.limits.memory?;
        let used = group.peak().unwrap_or(limit);
        self.renew_group();
        Some(DeathReason::MemoryLimit { used, limit })
    }

    /// What the dead worker has left in memory, files in `/dev/shm` say, is not the next one's.
    fn renew_group(&self) {
        let group = Group::for_session(self.limits.in_group());
        self.shared.update(|status| status.group = group);
    }

    /// Writes the report on the last death, if one is due; its path relative to the workspace.
    pub(super) async fn file_report(&mut self, last: Option<LastWords<'_>>) -> Option<String> {
        let obituary = self.obituary.take()?;
        let report = self.report(obituary, last);
        let (crashes, session) = (Crashes::new(&self.place.outputs), self.id.clone());
        let written = tokio::task::spawn_blocking(move || crashes.write(&report)).await.ok()?;
        match written {
            Ok(path) => {
                self.shared.update(|status| {
                    if let Some((death, _)) = &mut status.last_exit {
                        death.report = Some(path.clone());
                    }
                });
                self.around.changes.sessions_changed(self.life.owner());
                Some(path)
            }
            Err(error) => {
                tracing::warn!(session = %session, %error, "could not write a crash report");
                None
            }
        }
    }

    fn report(&self, obituary: Obituary, last: Option<LastWords<'_>>) -> CrashReport {
        let Obituary { death, pid, uptime, out_of_memory, stacks } = obituary;
        let (now, when) = (Instant::now(), Timestamp::now());
        let (_, samples) = self.shared.record(|record| record.history.since(now, Duration::from_secs(3600)));
        let curve = samples.iter().filter(|sample| sample.pid == pid).rev().take(MAX_CURVE).map(|sample| Point {
            seconds_before: now.duration_since(sample.at).as_secs_f64(),
            memory_usage: sample.memory,
            cpu_percent: sample.cpu_percent,
        });
        let mut curve: Vec<Point> = curve.collect();
        curve.reverse();
        CrashReport {
            id: crashes::id(when, &self.id, pid),
            session_id: self.id.to_string(),
            owner: self.life.owner().mark(),
            when: when.to_string(),
            pid,
            reason: death.reason.word().to_owned(),
            description: death.describe(),
            method: if death.reason.is_own_doing() { "by itself" } else { "killed by forkpy" }.to_owned(),
            signal: match death.exit {
                WorkerExit::Signal(number) => Some(signal_name(number)),
                WorkerExit::Code(_) | WorkerExit::Unknown => None,
            },
            exit_code: match death.exit {
                WorkerExit::Code(code) => Some(code),
                WorkerExit::Signal(_) | WorkerExit::Unknown => None,
            },
            out_of_memory,
            cell: death.cell.zip(last).map(|(number, (code, ran, stdout, stderr))| LastCell {
                number,
                code: head(code),
                ran_for: ran.as_secs_f64(),
                stdout_tail: tail(&stdout.text),
                stderr_tail: tail(&stderr.text),
            }),
            uptime: uptime.as_secs_f64(),
            curve,
            stacks,
        }
    }
}

fn head(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

fn tail(text: &str) -> String {
    text[text.ceil_char_boundary(text.len().saturating_sub(MAX_TEXT))..].to_owned()
}
