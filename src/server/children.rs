//! Processes that are, or become, children of the server: which of them are ours, and what to do with the others.
//!
//! Runs in: server. The server is a subreaper, and every living worker is one too, so a child that nobody here has
//! registered can only be something that a *dead* worker left behind: a stray, to be ended.

use std::{collections::HashSet, io, process::Command, sync::Arc};

use nix::{
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};
use parking_lot::Mutex;

use crate::sys::processes::{self, Process};

/// The register of our own children: zygotes, workers, tools that prepare the environment.
#[derive(Debug, Clone, Default)]
pub struct Children(Arc<Mutex<HashSet<i32>>>);

impl Children {
    /// Notes a process of ours.
    pub fn add(&self, pid: i32) {
        self.0.lock().insert(pid);
    }

    /// Forgets it, once it has been reaped.
    pub fn remove(&self, pid: i32) {
        self.0.lock().remove(&pid);
    }

    /// Starts a process of ours and notes it before anybody can take it for a stray.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&self, command: &mut Command) -> io::Result<i32> {
        let mut known = self.0.lock();
        let pid = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
        known.insert(pid);
        Ok(pid)
    }

    /// Ends a worker (when it still lives), all it started, and strays of workers that died. Reads `/proc`: blocking.
    pub fn kill_family(&self, worker: i32) {
        let own = own_pid();
        let mut spare = self.0.lock().clone();
        spare.remove(&worker);
        // Asked anew for each process: a zygote may be started while we look.
        let is_root =
            |process: &Process| process.pid == worker || process.session == worker || self.is_stray(process, own);
        processes::kill_families(is_root, &spare);
        self.reap_strays();
    }

    /// Reaps strays that have ended. Blocking only as far as reading `/proc` is.
    pub fn reap_strays(&self) {
        let own = own_pid();
        for stray in processes::table().iter().filter(|process| self.is_stray(process, own)) {
            let _ = waitpid(Pid::from_raw(stray.pid), Some(WaitPidFlag::WNOHANG));
        }
    }

    fn is_stray(&self, process: &Process, own: i32) -> bool {
        process.parent == own && !self.0.lock().contains(&process.pid)
    }
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}
