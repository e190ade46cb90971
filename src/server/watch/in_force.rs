//! The limits and the sandbox that a session is kept to, as clients read them.
//!
//! Runs in: server. Pure data.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    server::sessions::handle::Session,
    sys::{
        groups::{Controller, Group},
        layers::Layers,
    },
};

/// Limits that a session is kept to; what has none is left out.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct LimitsInForce {
    /// MiB of memory beyond what the interpreter starts with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Who counts it: `cgroup` (the kernel, all of it), or `processes` (forkpy, by what the session's processes have; a file in
    /// /dev/shm that no process has open may be missed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_counted_by: Option<&'static str>,
    /// Seconds of processor time of one cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Processors at a time, all its processes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Who keeps that: `cgroup`, or `none` where the system gives no cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_kept_by: Option<&'static str>,
    /// Seconds for which its processes have waited because they had used that up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_seconds: Option<f64>,
    /// Processes beside the interpreter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Who keeps that: `cgroup` (the kernel refuses to start far more, and forkpy ends a session that stays beyond), or `processes`
    /// (forkpy ends a session that has more).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes_kept_by: Option<&'static str>,
    /// MiB of the workspace and its own directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
    /// Open files of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
    /// Longest time of a cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell_seconds: Option<f64>,
    /// Deleted when unused for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<f64>,
    /// Deleted when so old and at rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Its sandbox: off, workspace or strict.
    pub sandbox: &'static str,
    /// What confines its processes on this machine; known once it has one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sandbox_layers: Vec<String>,
}

impl LimitsInForce {
    /// Of a session.
    pub(crate) fn of(session: &Session) -> Self {
        let limits = &session.limits;
        let status = session.shared.get();
        let group = status.group.as_deref();
        let by = |controller, other| if group.is_some_and(|group| group.keeps(controller)) { "cgroup" } else { other };
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            memory_mb: limits.memory.map(|bytes| bytes >> 20),
            memory_counted_by: limits.memory.map(|_| by(Controller::Memory, "processes")),
            cpu_seconds: seconds(limits.cpu),
            cpus: limits.processors(),
            cpus_kept_by: limits.cpus.map(|_| by(Controller::Cpus, "none")),
            throttled_seconds: group.and_then(Group::throttled).map(|time| time.as_secs_f64()),
            processes: limits.processes,
            processes_kept_by: limits.processes.map(|_| by(Controller::Processes, "processes")),
            disk_mb: limits.disk.map(|bytes| bytes >> 20),
            open_files: limits.open_files,
            cell_seconds: seconds(limits.cell_time),
            idle_seconds: seconds(limits.idle),
            age_seconds: seconds(limits.age),
            sandbox: limits.confinement.word(),
            sandbox_layers: status.worker.and_then(|view| view.layers()).map_or_else(Vec::new, name_layers),
        }
    }
}

/// Layers of a sandbox, in words.
pub(crate) fn name_layers(layers: Layers) -> Vec<String> {
    let landlock = (layers.landlock > 0).then(|| format!("Landlock {}", layers.landlock));
    let others = [
        (layers.seccomp, "seccomp"),
        (layers.network, "network namespace"),
        (layers.messages, "IPC namespace"),
        (layers.users, "user namespace"),
        (layers.code, "no code from written memory"),
    ];
    let others = others.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_owned());
    landlock.into_iter().chain(others).collect()
}
