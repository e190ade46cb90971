//! How a worker ended, and what that meant for the session's variables.
//!
//! Runs in: server. Pure data and pure functions: no I/O, no MCP.

use serde::{Deserialize, Serialize};

use std::time::Duration;

use crate::{
    protocol::{WorkerExit, attach::ServerEnd},
    server::health::errand::Errand,
};

/// Why and how a worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// The reason, apart from the method.
    pub reason: DeathReason,
    /// Exit code or signal.
    pub exit: WorkerExit,
    /// The cell that was running.
    pub cell: Option<u64>,
    /// What the session did for a caller, when no cell ran.
    pub during: Option<Errand>,
    /// The crash report, relative to the workspace.
    pub report: Option<String>,
}

/// The reason of a worker's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeathReason {
    /// The code did it: a crash or an exit call.
    Itself,
    /// The end of the main thread's stack was reached.
    StackOverflow,
    /// The kernel's OOM killer, as its counter says.
    OutOfMemory,
    /// A time-out or cancellation whose interrupt did not arrive.
    Unresponsive,
    /// The supervisor, under recovery policy `auto`: no answer to pings, and no interrupt arrived.
    Hung,
    /// A new worker that did not prove itself by a ping and an evaluation.
    Unverified,
    /// The worker's socket carried bytes that are not the protocol's.
    ProtocolBroken,
    Restart,
    Delete,
    /// Another server had taken the session up, which had no sign of life of this one.
    Elsewhere,
    /// All its processes together took more memory than its limit.
    MemoryLimit {
        /// Bytes.
        used: u64,
        /// Bytes.
        limit: u64,
    },
    /// Its cell had used its processor time, and no interrupt reached it.
    CpuLimit {
        limit: Duration,
    },
    /// It had more processes than its limit.
    ProcessLimit {
        count: u32,
        limit: u32,
    },
    /// The workspace, with its own directory, held more than its limit, and it wrote on.
    DiskLimit {
        /// Bytes.
        used: u64,
        /// Bytes.
        limit: u64,
    },
    /// The server itself ended, and all workers with it.
    Server {
        /// How, as the next server has found it written.
        end: ServerEnd,
    },
    /// No client had used the session for long.
    Idle {
        /// How long that may be.
        limit: Duration,
    },
    /// The session was too old.
    Age {
        /// How old it may become.
        limit: Duration,
    },
    /// All sessions of its owner together took more memory than the owner's quota.
    OwnerMemory {
        /// Bytes.
        used: u64,
        /// Bytes.
        limit: u64,
    },
    /// Its owner's workspace held more than the owner's quota, and it wrote on.
    OwnerDisk {
        /// Bytes.
        used: u64,
        /// Bytes.
        limit: u64,
    },
}

impl DeathReason {
    /// The worker ended by itself, or by the system, and not by forkpy's hand.
    #[must_use]
    pub fn is_own_doing(self) -> bool {
        matches!(self, Self::Itself | Self::StackOverflow | Self::OutOfMemory)
    }

    /// The word clients see.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Itself => "died",
            Self::StackOverflow => "stack_overflow",
            Self::OutOfMemory => "out_of_memory",
            Self::Unresponsive => "unresponsive",
            Self::Hung => "hung",
            Self::Unverified => "unverified",
            Self::ProtocolBroken => "protocol_broken",
            Self::Restart => "restart",
            Self::Delete => "delete",
            Self::Elsewhere => "elsewhere",
            Self::MemoryLimit { .. } => "memory_limit",
            Self::CpuLimit { .. } => "cpu_limit",
            Self::ProcessLimit { .. } => "process_limit",
            Self::DiskLimit { .. } => "disk_limit",
            Self::Server { .. } => "server_ended",
            Self::Idle { .. } => "idle",
            Self::Age { .. } => "age",
            Self::OwnerMemory { .. } => "owner_memory",
            Self::OwnerDisk { .. } => "owner_disk",
        }
    }

    /// Whether the session was told to end, and its code has no part in it.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        let by_a_client = matches!(self, Self::Restart | Self::Delete);
        by_a_client || self.is_rest() || matches!(self, Self::Elsewhere | Self::Server { .. })
    }

    /// Whether the session was only put to rest: that it has no worker is no reason for an alarm.
    #[must_use]
    pub fn is_rest(self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Age { .. })
    }

    /// What became of a session, for those who ask for it later: `was cleaned up after 30 min without use (--idle-ttl)`.
    #[must_use]
    pub fn cleaned_up(self) -> String {
        match self {
            Self::Idle { limit } => format!("was cleaned up after {} without use (idle limit)", time(limit)),
            Self::Age { limit } => format!("was cleaned up at the age of {} (age limit)", time(limit)),
            Self::Delete => "was deleted by delete_session".to_owned(),
            Self::Elsewhere => {
                "was ended because another server has taken the session up, which had no sign of life of this one"
                    .to_owned()
            }
            Self::Server { end } => format!("ended with its server, which {}", server_ended(end)),
            _ => "was ended".to_owned(),
        }
    }
}

/// What became of the session's variables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// All there, as the cell left them.
    #[default]
    Kept,
    /// The namespace that held them is gone.
    Lost,
    /// The worker is gone, and the session has gone on from a checkpoint.
    Restored,
    /// As before the cell, because it was to be so when it does not end well.
    RolledBack,
}

impl Fate {
    /// The word in `state`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Lost => "lost",
            Self::Restored => "restored",
            Self::RolledBack => "rolled_back",
        }
    }

    /// Of two things that happened, what matters more for who counts on the variables.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
        let weight = |fate| match fate {
            Self::Kept => 0,
            Self::RolledBack => 1,
            Self::Restored => 2,
            Self::Lost => 3,
        };
        if weight(other) > weight(self) { other } else { self }
    }
}

/// A worker died and its session went on from a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The last cell whose effects are there.
    pub from: u64,
    /// First and last of the cells whose effects are not.
    pub lost: Option<(u64, u64)>,
}

impl Recovered {
    /// `recovered_from: cell 12, lost: cell 13`.
    #[must_use]
    pub fn describe(&self) -> String {
        let from = if self.from == 0 { "the beginning".to_owned() } else { format!("cell {}", self.from) };
        match self.lost {
            None => format!("recovered_from: {from}, lost: nothing"),
            Some((first, last)) if first == last => format!("recovered_from: {from}, lost: cell {last}"),
            Some((first, last)) => format!("recovered_from: {from}, lost: cells {first} to {last}"),
        }
    }
}

impl Death {
    /// One sentence without its full stop, for people: `killed by SIGSEGV in cell 3`.
    #[must_use]
    pub fn describe(&self) -> String {
        let how = match (self.reason, self.exit) {
            (DeathReason::StackOverflow, _) => "overflowed its stack and was ended by SIGSEGV".to_owned(),
            (DeathReason::OutOfMemory, _) => "was killed by the kernel because memory ran out".to_owned(),
            (DeathReason::Unresponsive, _) => "was killed because an interrupt did not reach it".to_owned(),
            (DeathReason::Hung, _) => {
                "was killed by the supervisor because it hung and an interrupt did not reach it".to_owned()
            }
            (DeathReason::Unverified, _) => "was killed because it did not answer a ping and an evaluation".to_owned(),
            (DeathReason::ProtocolBroken, _) => {
                "was killed because its socket carried bytes that are not forkpy's (did the code write to descriptors \
                 it does not own?)"
                    .to_owned()
            }
            (DeathReason::Restart, _) => "was ended by restart_kernel".to_owned(),
            (DeathReason::Delete, _) => "was ended by delete_session".to_owned(),
            (DeathReason::MemoryLimit { used, limit }, _) => format!(
                "was killed because its processes together took {} MiB of memory and its limit is {} MiB",
                used >> 20,
                limit >> 20
            ),
            (DeathReason::CpuLimit { limit }, _) => format!(
                "was killed because its cell had used the {} s of processor time that are its limit and no interrupt \
                 reached it",
                limit.as_secs_f64()
            ),
            (DeathReason::ProcessLimit { count, limit }, _) => {
                format!("was killed because it had started {count} processes and its limit is {limit}")
            }
            (DeathReason::DiskLimit { used, limit }, _) => format!(
                "was killed because it went on writing when the workspace and its own directory held {} MiB and its \
                 limit is {} MiB; delete_file and the like make room",
                used >> 20,
                limit >> 20
            ),
            (DeathReason::OwnerMemory { used, limit }, _) => format!(
                "was killed because the sessions of its owner together took {} MiB of memory and their quota is {} MiB \
                 (memory-mb); delete_session or restart_kernel of others makes room",
                used >> 20,
                limit >> 20
            ),
            (DeathReason::OwnerDisk { used, limit }, _) => format!(
                "was killed because it went on writing when its owner's workspace held {} MiB and the quota is {} MiB \
                 (disk-mb); delete_file makes room",
                used >> 20,
                limit >> 20
            ),
            (DeathReason::Elsewhere | DeathReason::Server { .. }, _) => self.reason.cleaned_up(),
            (DeathReason::Idle { .. } | DeathReason::Age { .. }, _) => self.reason.cleaned_up(),
            (DeathReason::Itself, WorkerExit::Code(code)) => format!("exited with code {code}"),
            (DeathReason::Itself, WorkerExit::Signal(signal)) => {
                format!("was ended by {}", signal_name(signal))
            }
            (DeathReason::Itself, WorkerExit::Unknown) => "ended; its exit status could not be read".to_owned(),
        };
        match (self.cell, self.during) {
            (Some(cell), _) => format!("{how} in cell {cell}"),
            (None, _) if self.reason.is_ordered() => how,
            (None, Some(errand)) => format!("{how} while no cell was running (the session {})", errand.doing()),
            (None, None) => format!("{how} while no cell was running"),
        }
    }
}

/// How a server ended, behind its name.
fn server_ended(end: ServerEnd) -> &'static str {
    match end {
        ServerEnd::Killed => "was killed or crashed",
        ServerEnd::Stopped => "was stopped",
        ServerEnd::Idle => "no client had used for long",
    }
}

/// `30 min` for 1800 seconds.
fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 7200 && seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds >= 120 && seconds % 60 == 0 => format!("{} min", seconds / 60),
        _ => format!("{} s", time.as_secs_f64()),
    }
}

/// `SIGSEGV` for 11.
#[must_use]
pub(crate) fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_names_signal_and_cell() {
        let death = Death {
            reason: DeathReason::Itself,
            exit: WorkerExit::Signal(11),
            cell: Some(3),
            during: None,
            report: None,
        };
        assert_eq!(death.describe(), "was ended by SIGSEGV in cell 3");
    }
}
