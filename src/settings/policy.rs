//! Thresholds and recovery policy: of the server, and of each session where it has its own.
//!
//! Runs in: server. Pure. The defaults are the numbers of the health monitoring document: alert at 500 MB, clean up at
//! 1 GB, alert at 80 % of a processor, restart after 5 s without an answer, look every 30 s.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to a session whose worker is dead or hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RecoveryPolicy {
    /// A dead session stays dead, and refuses cells, until restart_kernel
    Manual,
    /// The next cell gets a fresh worker, verified, and is told so
    OnDemand,
    /// Dead sessions get a fresh worker at once; hung ones are interrupted, then restarted
    Auto,
}

impl RecoveryPolicy {
    /// The word that clients see.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::OnDemand => "on-demand",
            Self::Auto => "auto",
        }
    }
}

/// Everything that can be chosen about a session's health.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct HealthPolicy {
    /// Resident memory from which an alert is raised, bytes; 0 is never.
    pub memory_alert: u64,
    /// Resident memory from which garbage is collected and freed memory returned, bytes; 0 is never.
    pub memory_cleanup: u64,
    /// Percent of one processor, as a mean over `interval`, from which an alert is raised; 0 is never.
    pub cpu_alert: f64,
    /// How long a ping may go unanswered before the interpreter counts as hung.
    pub hung_after: Duration,
    /// How often an idle session is examined and pinged; busy ones are looked at every second.
    pub interval: Duration,
    /// What is done about a dead or hung one.
    pub recovery: RecoveryPolicy,
    /// Restarts within `restart_window` after which the session is parked as dead.
    pub restart_budget: u32,
    /// See `restart_budget`.
    pub restart_window: Duration,
    /// Checkpoints that are made without being asked for.
    pub checkpoints: Automatic,
}

/// Changes to a policy; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyChange {
    /// MB from which an alert is raised; 0 is never.
    pub memory_alert: Option<f64>,
    /// MB from which garbage is collected; 0 is never.
    pub memory_cleanup: Option<f64>,
    /// Percent of a processor for an alert; 0 is never.
    pub cpu_alert: Option<f64>,
    /// Seconds without an answer that count as hung.
    pub hung_after: Option<f64>,
    /// Who gives a dead session a fresh worker: restart_kernel, the next cell, or `auto` at once (hung ones too).
    pub recovery: Option<RecoveryPolicy>,
    /// A checkpoint after each good cell, from which a dead session goes on: `last` at once, `auto` when it rests.
    pub checkpoints: Option<Automatic>,
}

/// A value of a health policy that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("health.{name} must be between {low} and {high}, not {value}")]
pub(crate) struct OutOfRange {
    name: &'static str,
    value: f64,
    low: f64,
    high: f64,
}

/// Bytes in the MB of settings.
pub(crate) const MB: f64 = 1024.0 * 1024.0;
/// Most MB that make sense.
const MAX_MB: f64 = 1e9;

impl HealthPolicy {
    /// The policy with changes applied.
    ///
    /// # Errors
    /// Which value is out of range, and what is allowed.
    pub(crate) fn changed(mut self, change: &PolicyChange) -> Result<Self, OutOfRange> {
        if let Some(megabytes) = change.memory_alert {
            self.memory_alert = bytes("memory_alert", megabytes)?;
        }
        if let Some(megabytes) = change.memory_cleanup {
            self.memory_cleanup = bytes("memory_cleanup", megabytes)?;
        }
        if let Some(percent) = change.cpu_alert {
            self.cpu_alert = within("cpu_alert", percent, 0.0, 1e6)?;
        }
        if let Some(seconds) = change.hung_after {
            self.hung_after = Duration::from_secs_f64(within("hung_after", seconds, 0.1, 86400.0)?);
        }
        if let Some(recovery) = change.recovery {
            self.recovery = recovery;
        }
        if let Some(checkpoints) = change.checkpoints {
            self.checkpoints = checkpoints;
        }
        Ok(self)
    }
}

fn bytes(name: &'static str, megabytes: f64) -> Result<u64, OutOfRange> {
    let megabytes = within(name, megabytes, 0.0, MAX_MB)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 1e15")]
    Ok((megabytes * MB) as u64)
}

fn within(name: &'static str, value: f64, low: f64, high: f64) -> Result<f64, OutOfRange> {
    if (low..=high).contains(&value) { Ok(value) } else { Err(OutOfRange { name, value, low, high }) }
}

/// Whether forkpy makes checkpoints by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Automatic {
    /// Only those that are asked for
    Off,
    /// After each cell that ended well one replaces the one before; a session whose worker dies goes on from it
    Last,
    /// The same, once the session has been at rest for a moment, and of what is not too large
    Auto,
}

/// How many there may be, and how large they may grow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Of one session, those that were asked for.
    pub per_session: usize,
    /// Of all sessions, the automatic ones included.
    pub all: usize,
    /// Bytes that all of them hold alone, and half of it those of one session.
    pub memory: u64,
    /// How long a session is at rest before policy `auto` copies it.
    pub after: Duration,
    /// Bytes that a session may hold for that.
    pub of_auto: u64,
}

/// When sessions sleep, and where.
#[derive(Debug, Clone)]
pub(crate) struct SleepBounds {
    /// At rest for so long a session is put to sleep; `None` is never.
    pub after: Option<Duration>,
    /// At rest for so long an image of a session is written, which stays awake; `None` is never.
    pub image_after: Option<Duration>,
    /// The folder of images; else one that ends with the server.
    pub folder: Option<PathBuf>,
    /// Bytes that images may take.
    pub disk: u64,
}

impl Default for SleepBounds {
    fn default() -> Self {
        Self { after: None, image_after: None, folder: None, disk: 4 << 30 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn policy() -> HealthPolicy {
        HealthPolicy {
            memory_alert: 500 << 20,
            memory_cleanup: 1 << 30,
            cpu_alert: 80.0,
            hung_after: Duration::from_secs(5),
            interval: Duration::from_secs(30),
            recovery: RecoveryPolicy::OnDemand,
            restart_budget: 5,
            restart_window: Duration::from_secs(300),
            checkpoints: Automatic::Off,
        }
    }

    #[test]
    fn a_change_touches_what_it_names_and_nothing_else() {
        let change = PolicyChange { memory_alert: Some(1.5), ..PolicyChange::default() };
        let changed = policy().changed(&change).expect("fine");
        assert_eq!(changed, HealthPolicy { memory_alert: 3 << 19, ..policy() });
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for change in [
            PolicyChange { memory_alert: Some(-1.0), ..PolicyChange::default() },
            PolicyChange { hung_after: Some(f64::NAN), ..PolicyChange::default() },
            PolicyChange { cpu_alert: Some(f64::INFINITY), ..PolicyChange::default() },
        ] {
            let error = policy().changed(&change).expect_err("refused");
            assert!(error.to_string().starts_with("health."), "{error}");
        }
    }
}
