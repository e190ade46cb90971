//! What clients may send to the tools that tell of health.
//!
//! Runs in: server. Pure.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{server::health::RecoveryPolicy, settings::policy::Automatic};

/// `get_kernel_health`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct GetKernelHealth {
    /// Session to look at; the active one when left out.
    pub session_id: Option<String>,
    /// Also the series of the past so long: `90s`, `5m`, `24h`. At most 24h.
    pub history: Option<String>,
}

/// `list_crashes`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListCrashes {
    /// Only those of this session; it need not exist any more.
    pub session_id: Option<String>,
    /// Most reports, the newest first. Default 20.
    pub limit: Option<u64>,
    /// One report, whole.
    pub id: Option<String>,
}

/// `configure_health`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ConfigureHealth {
    /// Session to configure; the active one when left out.
    pub session_id: Option<String>,
    /// MB of resident memory from which an alert is raised; 0 is never.
    pub memory_alert: Option<f64>,
    /// MB of resident memory from which garbage is collected and freed memory returned to the system; 0 is never.
    pub memory_cleanup: Option<f64>,
    /// Percent of one processor, as a mean over the interval, from which an alert is raised; 0 is never.
    pub cpu_alert: Option<f64>,
    /// Seconds that a ping may go unanswered before the interpreter counts as hung.
    pub hung_after: Option<f64>,
    /// `manual`: a dead session stays dead until restart_kernel. `on-demand`: the next cell gets a fresh worker.
    /// `auto`: a fresh worker at once, and hung sessions are interrupted, then restarted.
    pub recovery: Option<RecoveryPolicy>,
    /// `last`: after each cell that ended well a checkpoint replaces the one before, and when the worker dies the session
    /// goes on from it, with its variables. `off`: no checkpoint is made without being asked for.
    pub checkpoints: Option<Automatic>,
}

/// `check_kernel_responsiveness`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CheckResponsiveness {
    /// Seconds to wait for an answer. Default 5.
    pub timeout: Option<f64>,
    /// Session to check; the active one when left out.
    pub session_id: Option<String>,
}
