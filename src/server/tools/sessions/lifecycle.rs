//! Tools that make, choose, list, restart and end sessions.
//!
//! Runs in: server.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{Timestamp, Unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    protocol::Confinement,
    server::{
        health::{HealthStatus, State, evidence::Phase},
        sessions::{
            active::Choice,
            beginning::{Beginning, Origin},
            handle::Session,
            names::{DEFAULT, made_up},
            orders::{Restarted, Slept},
            status::{Sleeping, Status},
        },
        tools::call::{
            arguments::checked_description,
            error::ToolError,
            patience::in_turn,
            progress,
            reply::{Reply, now},
            request::Call,
            schema::is_zero,
            server::Server,
        },
        watch::{in_force::LimitsInForce, shapes::Health},
    },
    settings::{limits::Wished, policy::PolicyChange},
};

/// `sleep_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct SleepSession {
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Where it cannot sleep as it is: with what pickles alone; the others are named. Default false.
    pub(crate) by_value: Option<bool>,
}

/// `sleep_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Asleep {
    /// `asleep`.
    pub(crate) status: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// The last cell whose effects are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_cell: Option<u64>,
    /// Bytes of its file.
    pub(crate) disk: u64,
    /// Since when (RFC 3339).
    pub(crate) since: String,
    /// It sleeps with these variables alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by_value: Option<Vec<String>>,
    /// Variables that are lost, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) left_out: BTreeMap<String, String>,
    /// Why it could not sleep as it was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) why: Vec<String>,
}

/// `restart_kernel`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RestartKernel {
    /// Carry over what can be pickled; the others are named. Default false.
    pub(crate) preserve_state: Option<bool>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

/// `create_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CreateSession {
    /// Up to 64 letters, digits, '_', '-', '.'. Made up when left out.
    #[schemars(length(min = 1))]
    pub(crate) session_id: Option<String>,
    /// What it is for.
    pub(crate) description: Option<String>,
    /// Thresholds of its own: MB, percent of a processor, seconds; 0 is never.
    pub(crate) health: Option<PolicyChange>,
    /// Tighter than the server's. Of a cell: cpu_seconds, cell_seconds; idle_seconds and age_seconds end the session.
    pub(crate) limits: Option<SessionLimits>,
    /// A narrower sandbox than the server's.
    pub(crate) sandbox: Option<SandboxMode>,
}

/// How a session is confined.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SandboxMode {
    Off,
    Workspace,
    Strict,
}

impl From<SandboxMode> for Confinement {
    fn from(asked: SandboxMode) -> Self {
        match asked {
            SandboxMode::Off => Self::Off,
            SandboxMode::Workspace => Self::Workspace,
            SandboxMode::Strict => Self::Strict,
        }
    }
}

/// Limits of one session.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionLimits {
    /// MiB of memory.
    pub(crate) memory_mb: Option<f64>,
    /// Processor time of a cell.
    pub(crate) cpu_seconds: Option<f64>,
    /// Processors at a time; slowed down beyond.
    pub(crate) cpus: Option<f64>,
    /// Processes it may start.
    pub(crate) processes: Option<u32>,
    /// MiB that the workspace may hold, with its own directory.
    pub(crate) disk_mb: Option<f64>,
    /// Open files of a process.
    pub(crate) open_files: Option<u32>,
    /// Longest time of a cell.
    pub(crate) cell_seconds: Option<f64>,
    /// Deleted when unused so long.
    pub(crate) idle_seconds: Option<f64>,
    /// Deleted when so old and at rest.
    pub(crate) age_seconds: Option<f64>,
}

impl From<SessionLimits> for Wished {
    fn from(asked: SessionLimits) -> Self {
        Self {
            memory_mb: asked.memory_mb,
            cpu_seconds: asked.cpu_seconds,
            cpus: asked.cpus,
            processes: asked.processes,
            disk_mb: asked.disk_mb,
            open_files: asked.open_files,
            cell_seconds: asked.cell_seconds,
            idle_seconds: asked.idle_seconds,
            age_seconds: asked.age_seconds,
            confinement: None,
        }
    }
}

/// `list_sessions`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListSessions {
    /// Health of each session as get_kernel_health gives it. Default false: status and state.
    pub(crate) detail: Option<bool>,
}

/// `switch_session` and `delete_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NamedSession {
    /// Name of an existing session.
    pub(crate) session_id: String,
}

/// `restart_kernel`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Restart {
    /// Always true; a restart that failed is an error.
    pub(crate) restarted: bool,
    /// The session.
    pub(crate) session_id: String,
    /// As asked.
    pub(crate) preserve_state: bool,
    /// Variables that the old interpreter saved.
    pub(crate) preserved_vars: Vec<String>,
    /// Variables that the new interpreter has again.
    pub(crate) restored_vars: Vec<String>,
    /// Variables that were not carried over, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) lost_vars: BTreeMap<String, String>,
    /// Process id of the new worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// What to know about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
    /// When (RFC 3339).
    pub(crate) timestamp: String,
}

/// `create_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct CreatedSession {
    /// Its name.
    pub(crate) session_id: String,
    /// `created`, or `exists` when there was one of this name.
    pub(crate) status: &'static str,
    /// What it is for.
    pub(crate) description: String,
    /// Further facts.
    pub(crate) metadata: Metadata,
    /// Limits it is kept to.
    pub(crate) limits: LimitsInForce,
    /// The server that it lives on, where several serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// When (RFC 3339).
    pub(crate) timestamp: String,
}

/// Facts about a session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Metadata {
    /// Workers it has had beyond the first.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) restarts: u64,
    /// Calls that wait for their turn.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) waiting: u64,
}

/// `switch_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SwitchedSession {
    /// The session that was active.
    pub(crate) previous_session: String,
    /// The one that is now, for this client.
    pub(crate) current_session: String,
    /// `switched`, or `unchanged`.
    pub(crate) status: &'static str,
    /// When (RFC 3339).
    pub(crate) timestamp: String,
}

/// `list_sessions`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Sessions {
    /// All of them by name.
    pub(crate) sessions: BTreeMap<String, SessionEntry>,
    /// The one that calls of this client go to; it may have ended, see `notice`.
    pub(crate) active_session: String,
    /// What became of the active session, when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
    /// Those that are not here: in the store, or on another server.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) elsewhere: BTreeMap<String, String>,
    /// How many there are.
    pub(crate) total_sessions: u64,
    /// How many there may be.
    pub(crate) max_sessions: u64,
}

/// One session in a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SessionEntry {
    /// It has a worker, or is getting one.
    pub(crate) active: bool,
    /// It is this client's active session.
    pub(crate) current: bool,
    /// What it is for.
    pub(crate) description: String,
    /// When it was made (RFC 3339).
    pub(crate) created_at: String,
    /// When it was last used (RFC 3339).
    pub(crate) last_activity: String,
    /// Cells run.
    pub(crate) execution_count: u64,
    /// Seconds since it was made.
    pub(crate) uptime: f64,
    /// Further facts.
    pub(crate) metadata: Metadata,
    /// Its status and state; with `detail` as get_kernel_health gives it.
    #[schemars(with = "Map<String, Value>")]
    pub(crate) health: Told,
}

/// How a session is, in short or whole.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Told {
    Brief { status: HealthStatus, state: State },
    Whole(Box<Health>),
}

/// `delete_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DeletedSession {
    /// Its name.
    pub(crate) session_id: String,
    /// `deleted`.
    pub(crate) status: &'static str,
    /// It was this client's active session.
    pub(crate) was_active: bool,
    /// The active session now, when that has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) new_active_session: Option<String>,
}

pub(crate) async fn create(
    server: &Server,
    call: &Call,
    asked: CreateSession,
) -> Result<Reply<CreatedSession>, ToolError> {
    let description = checked_description(asked.description)?;
    let policy = server.around.health.changed(&asked.health.unwrap_or_default());
    let policy = policy.map_err(|error| ToolError::Argument(error.to_string()))?;
    let confinement = asked.sandbox.map(Confinement::from);
    let wished = Wished { confinement, ..asked.limits.unwrap_or_default().into() };
    let settings = &server.around.settings;
    let refuse = |error: &dyn std::fmt::Display| ToolError::Argument(format!("create_session: {error}"));
    let own = settings.limits.confined(server.around.quotas.rights(call.owner()).sandbox);
    let limits = own.tightened(&wished).map_err(|error| refuse(&error))?;
    settings.sandbox.check(limits.confinement).map_err(|error| refuse(&error))?;
    let beginning = |life| Beginning { life, description, policy, limits, origin: Origin::Afresh };
    let id = asked.session_id.unwrap_or_else(made_up);
    if let Some(away) = &server.away {
        away.claim(call.owner(), &id).await?;
    }
    let made = server.registry.create(call.owner(), Some(id.clone()), &call.client, beginning);
    if let (Err(_), Some(away)) = (&made, &server.away) {
        away.ended(call.owner(), &id).await;
    }
    let (session, created) = made?;
    session.life.used_by(&call.client);
    let status = session.shared.get();
    Ok(Reply::of(CreatedSession {
        session_id: session.id.to_string(),
        status: if created { "created" } else { "exists" },
        metadata: metadata(&status),
        limits: LimitsInForce::of(&session),
        description: status.description,
        server: settings.server_name.clone(),
        timestamp: now(),
    }))
}

pub(crate) async fn switch(
    server: &Server,
    call: &Call,
    asked: NamedSession,
) -> Result<Reply<SwitchedSession>, ToolError> {
    let session = server.registry.get(call.owner(), &asked.session_id)?;
    let choice = Choice { session: session.id.clone(), life: session.life.number() };
    let previous = server.active.of(&call.client);
    if !server.active.switch(&call.client, choice.clone()) {
        return Err(ToolError::NotRecognised);
    }
    session.life.used_by(&call.client);
    let unchanged = previous.as_ref().map_or(*session.id == *DEFAULT, |previous| *previous == choice);
    Ok(Reply::of(SwitchedSession {
        status: if unchanged { "unchanged" } else { "switched" },
        previous_session: name_of(previous.as_ref()).to_owned(),
        current_session: session.id.to_string(),
        timestamp: now(),
    }))
}

pub(crate) async fn list(server: &Server, call: &Call, asked: ListSessions) -> Result<Reply<Sessions>, ToolError> {
    let choice = server.active.of(&call.client);
    let notice = choice
        .as_ref()
        .and_then(|choice| server.registry.chosen(call.owner(), choice).err())
        .map(|gone| gone.to_string());
    let active = if notice.is_none() { name_of(choice.as_ref()) } else { "" };
    let whole = asked.detail.unwrap_or(false);
    let all = server.registry.of(call.owner());
    Ok(Reply::of(Sessions {
        elsewhere: server.sessions_elsewhere(call).await?,
        total_sessions: all.len() as u64,
        max_sessions: server.registry.max_sessions() as u64,
        sessions: all.iter().map(|session| (session.id.to_string(), entry(server, session, active, whole))).collect(),
        active_session: name_of(choice.as_ref()).to_owned(),
        notice,
    }))
}

pub(crate) async fn delete(
    server: &Server,
    call: &Call,
    asked: NamedSession,
) -> Result<Reply<DeletedSession>, ToolError> {
    let choice = server.active.of(&call.client);
    let lay_in_store = match &server.away {
        Some(away) => away.delete(call.owner(), &asked.session_id).await?,
        None => false,
    };
    let was_active = if lay_in_store {
        choice.is_some_and(|choice| *choice.session == asked.session_id)
    } else {
        let session = server.registry.get(call.owner(), &asked.session_id)?;
        server.registry.delete(call.owner(), &asked.session_id).await?;
        if let Some(away) = &server.away {
            away.ended(call.owner(), &asked.session_id).await;
        }
        choice.is_some_and(|choice| choice.life == session.life.number())
    };
    if was_active {
        server.active.leave(&call.client);
    }
    Ok(Reply::of(DeletedSession {
        session_id: asked.session_id,
        status: "deleted",
        was_active,
        new_active_session: was_active.then(|| DEFAULT.to_owned()),
    }))
}

fn entry(server: &Server, session: &Session, active: &str, whole: bool) -> SessionEntry {
    let status = session.shared.get();
    let health = server.health.report(session, &status);
    SessionEntry {
        active: status.phase != Phase::Dead,
        current: *session.id == *active,
        created_at: in_seconds(status.created),
        last_activity: in_seconds(status.last_activity),
        execution_count: status.executed,
        uptime: (status.created_at.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        metadata: metadata(&status),
        health: if whole {
            Told::Whole(Box::new(health))
        } else {
            Told::Brief { status: health.status, state: health.state }
        },
        description: status.description,
    }
}

/// A moment, no finer than a list needs.
fn in_seconds(moment: Timestamp) -> String {
    moment.round(Unit::Second).unwrap_or(moment).to_string()
}

/// The session that calls of a client go to.
fn name_of(choice: Option<&Choice>) -> &str {
    choice.map_or(DEFAULT, |choice| &choice.session)
}

fn metadata(status: &Status) -> Metadata {
    Metadata { restarts: status.restarts, waiting: status.waiting as u64 }
}

pub(crate) async fn sleep(server: &Server, call: &Call, asked: SleepSession) -> Result<Reply<Asleep>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let by_value = asked.by_value.unwrap_or(false);
    let slept = in_turn(server, call, &session, |caller| session.sleep(by_value, caller)).await?;
    let Slept { sleeping, by_value, why } = slept;
    let kept = by_value.map(Arc::unwrap_or_clone);
    let (names, left_out) = kept.map(|kept| (kept.names, kept.left_out)).unzip();
    let left_out = left_out.unwrap_or_default().into_iter().collect();
    Ok(Reply::of(Asleep { by_value: names, left_out, why, ..Asleep::new(&session, sleeping) }))
}

impl Asleep {
    pub(super) fn new(session: &Session, sleeping: Sleeping) -> Self {
        Self {
            status: "asleep",
            session_id: session.id.to_string(),
            after_cell: (sleeping.cell > 0).then_some(sleeping.cell),
            disk: sleeping.bytes,
            since: in_seconds(sleeping.since),
            by_value: None,
            left_out: BTreeMap::new(),
            why: Vec::new(),
        }
    }
}

pub(crate) async fn restart(server: &Server, call: &Call, asked: RestartKernel) -> Result<Reply<Restart>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let preserve_state = asked.preserve_state.unwrap_or(false);
    let Restarted { mut preserved, mut restored, lost, notice } =
        progress::of_session(&call.context, &session, None, session.restart(preserve_state, call.caller())).await?;
    preserved.sort_unstable();
    restored.sort_unstable();
    Ok(Reply::of(Restart {
        restarted: true,
        session_id: session.id.to_string(),
        preserve_state,
        preserved_vars: preserved,
        restored_vars: restored,
        lost_vars: lost,
        pid: session.shared.get().worker.map(|worker| worker.pid),
        notice,
        timestamp: now(),
    }))
}
