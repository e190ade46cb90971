//! Processes that are, or become, children of the server: which of them are ours, and what to do with the others.
//!
//! Runs in: server. The server is a subreaper, and every living worker is one too, so a child that no code here has
//! registered can only be something that a *dead* worker left behind: a stray, to be ended. With one exception: a checkpoint,
//! and a worker that one wakes, is our child a moment before we can know its number. While such a birth is expected, what is
//! younger than the expectation is left for later.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    process::Command,
    sync::Arc,
};

use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use parking_lot::Mutex;

use crate::sys::processes::{self, Process};

/// The register of our own children: zygotes, workers, checkpoints, tools that prepare the environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children(Arc<Mutex<Register>>);

#[derive(Debug, Default)]
struct Register {
    known: HashSet<i32>,
    /// Births to come: since when, by a number of their own.
    expected: BTreeMap<u64, u64>,
    next: u64,
}

/// A process that has ended, and led a session of the system's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pid: i32,
    /// When that was known, by the clock of [`Process::started`].
    at: u64,
}

impl Ended {
    pub(crate) fn now(pid: i32) -> Self {
        Self { pid, at: processes::ticks_now() }
    }

    /// Whether a process is of its session. The number is given out anew only when none of that is left, to one that is younger.
    fn has_left(self, process: &Process) -> bool {
        process.session == self.pid && process.started <= self.at
    }
}

/// A birth to come. Dropped when the child is registered, or will not come.
#[derive(Debug)]
pub(crate) struct Expected {
    register: Children,
    number: u64,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.register.0.lock().expected.remove(&self.number);
    }
}

impl Children {
    /// Notes a process of ours.
    pub(crate) fn add(&self, pid: i32) {
        self.0.lock().known.insert(pid);
    }

    /// Forgets it, once it has been reaped.
    pub(crate) fn remove(&self, pid: i32) {
        self.0.lock().known.remove(&pid);
    }

    /// From now on a child may appear whose number we have to be told.
    #[must_use]
    pub(crate) fn expect(&self) -> Expected {
        let mut register = self.0.lock();
        register.next += 1;
        let number = register.next;
        register.expected.insert(number, processes::ticks_now());
        Expected { register: self.clone(), number }
    }

    /// Starts a process of ours and notes it before it can be taken for a stray.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<i32> {
        let mut register = self.0.lock();
        let pid = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
        register.known.insert(pid);
        Ok(pid)
    }

    /// Ends a worker (when it still lives), all it started, and strays of workers that died. Reads `/proc`: blocking.
    ///
    /// It looks where they should be, below the worker and among the orphans that fell to the server, for a caller waits. All
    /// processes of the machine are looked at behind it ([`Children::end_what_is_left`]).
    pub(crate) fn kill_family(&self, worker: i32) {
        let own = own_pid();
        let mut spare = self.0.lock().known.clone();
        spare.remove(&worker);
        if processes::orphans(own).is_some() {
            // Asked anew for each process: a zygote may be started while we look.
            processes::kill_seen(|| self.below(worker, own), &spare);
        } else {
            let ended = [Ended::now(worker)];
            processes::kill_families(|process| process.pid == worker || self.is_left(process, &ended, own), &spare);
        }
        self.reap_strays();
    }

    /// A worker and what descends from it, and strays and what descends from them.
    fn below(&self, worker: i32, own: i32) -> Vec<Process> {
        let roots: Vec<Process> = processes::look_up(worker).into_iter().chain(self.strays(own)).collect();
        let descendants: Vec<Process> =
            roots.iter().filter_map(|root| processes::descendants(root.pid)).flatten().collect();
        [roots, descendants].concat()
    }

    fn strays(&self, own: i32) -> Vec<Process> {
        let Some(mut orphans) = processes::orphans(own) else {
            return processes::table().into_iter().filter(|process| self.is_stray(process, own)).collect();
        };
        {
            let register = self.0.lock();
            orphans.retain(|pid| !register.known.contains(pid));
        }
        orphans.into_iter().filter_map(processes::look_up).filter(|process| self.is_stray(process, own)).collect()
    }

    /// Ends what workers have left that ended a while ago, and strays, by the table of all processes: the kernel's lists of
    /// children may lack one while others end, and code of a session can start a process that is the zygote's child. Blocking.
    pub(crate) fn end_what_is_left(&self, ended: &[Ended]) {
        let own = own_pid();
        let spare = self.0.lock().known.clone();
        processes::kill_families(|process| self.is_left(process, ended, own), &spare);
        self.end_strays();
    }

    fn is_left(&self, process: &Process, ended: &[Ended], own: i32) -> bool {
        let is_of_one = || ended.iter().any(|ended| ended.has_left(process));
        let is_ours = || self.0.lock().known.contains(&process.pid) || self.may_be_a_birth(process, own);
        self.is_stray(process, own) || (is_of_one() && !is_ours())
    }

    /// Reaps strays that have ended. Blocking only as far as reading `/proc` is.
    pub(crate) fn reap_strays(&self) {
        for stray in self.strays(own_pid()) {
            let _ = waitpid(Pid::from_raw(stray.pid), Some(WaitPidFlag::WNOHANG));
        }
    }

    /// Ends and reaps strays until there are none, for some seconds: one that was expected and came too late is one.
    /// Blocking.
    pub(crate) fn end_strays(&self) {
        const LOOKS: u32 = 200;
        let own = own_pid();
        for _ in 0..LOOKS {
            if !processes::table().iter().any(|process| self.is_stray(process, own)) {
                return;
            }
            let spare = self.0.lock().known.clone();
            processes::kill_families(|process| self.is_stray(process, own), &spare);
            std::thread::sleep(std::time::Duration::from_millis(10));
            self.reap_strays();
        }
    }

    /// Ends and reaps those of these children that are not registered, and none that came later. Blocking.
    pub(crate) fn end_unknown(&self, mut children: Vec<i32>) {
        const LOOKS: u32 = 200;
        for _ in 0..LOOKS {
            let spare = self.0.lock().known.clone();
            // Until they are reaped here their numbers are their own.
            children.retain(|pid| {
                !spare.contains(pid)
                    && matches!(waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
            });
            if children.is_empty() {
                return;
            }
            processes::kill_families(|process| children.contains(&process.pid), &spare);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn is_stray(&self, process: &Process, own: i32) -> bool {
        process.parent == own && !self.0.lock().known.contains(&process.pid) && !self.may_be_a_birth(process, own)
    }

    /// A child of ours that is not registered and as young as one that is expected.
    fn may_be_a_birth(&self, process: &Process, own: i32) -> bool {
        let register = self.0.lock();
        process.parent == own && register.expected.values().any(|since| process.started >= *since)
    }
}

/// Children that this process has now. Blocking, for a moment.
pub(crate) fn all_now() -> Vec<i32> {
    let own = own_pid();
    processes::table().iter().filter(|process| process.parent == own).map(|process| process.pid).collect()
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn process(pid: i32, parent: i32, session: i32, started: u64) -> Process {
        let (group, state, threads, cpu, memory) = (0, 'S', 1, Duration::ZERO, 0);
        Process { pid, parent, group, session, state, threads, cpu, memory, started }
    }

    #[test]
    fn a_child_that_is_expected_is_no_stray_and_an_older_one_is() {
        let children = Children::default();
        let own = own_pid();
        let child = |pid, started| process(pid, own, 0, started);
        let now = processes::ticks_now();
        let expected = children.expect();
        assert!(!children.is_stray(&child(7, now), own), "it may be the one");
        assert!(children.is_stray(&child(8, now.saturating_sub(100)), own), "it was there before");
        children.add(7);
        drop(expected);
        assert!(!children.is_stray(&child(7, now), own), "registered");
        assert!(children.is_stray(&child(9, now), own), "no child is expected");
    }

    #[test]
    fn what_an_ended_worker_has_left_is_of_its_session_and_no_younger_than_its_end() {
        const ELSEWHERE: i32 = 3;
        let children = Children::default();
        let (own, ended) = (own_pid(), [Ended { pid: 70, at: 1000 }]);
        let is_left = |process: &Process| children.is_left(process, &ended, own);
        assert!(is_left(&process(71, ELSEWHERE, 70, 900)), "a child of the zygote's");
        assert!(!is_left(&process(70, ELSEWHERE, 70, 1001)), "another process has the number by now");
        assert!(!is_left(&process(72, ELSEWHERE, 80, 900)), "of another session");
        children.add(73);
        assert!(!is_left(&process(73, own, 70, 900)), "a checkpoint that has no session of its own yet");
        let _expected = children.expect();
        assert!(!is_left(&process(74, own, 70, processes::ticks_now())), "it may be one");
    }
}
