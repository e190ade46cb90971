//! Tools that make, choose, list and end sessions.
//!
//! Runs in: server.

use rmcp::model::CallToolResult;

use crate::server::{
    health::evidence::Phase,
    sessions::{registry::DEFAULT, status::Status, task::Session},
    tools::{
        Call, ToolError,
        arguments::{CreateSession, NamedSession, Nothing},
        call::server::Server,
        now, reply,
        results::{CreatedSession, DeletedSession, Metadata, SessionEntry, Sessions, SwitchedSession},
    },
    watch::shapes::LimitsInForce,
};

/// Longest description, characters.
const MAX_DESCRIPTION: usize = 2000;

pub(in crate::server) fn create(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: CreateSession = call.read("create_session")?;
    let description = asked.description.unwrap_or_default();
    if description.chars().count() > MAX_DESCRIPTION {
        let words = format!("`description` may have {MAX_DESCRIPTION} characters");
        return Err(ToolError::Argument(words));
    }
    let policy = server.around.health.changed(&asked.health.unwrap_or_default()).map_err(ToolError::Argument)?;
    let wished = asked.limits.unwrap_or_default().into();
    let own = server.around.settings.limits;
    let limits = own.tightened(&wished).map_err(|error| ToolError::Argument(format!("create_session: {error}")))?;
    let (session, created) = server.registry.create(asked.session_id, description, policy, limits)?;
    let status = session.shared.get();
    reply(&CreatedSession {
        session_id: session.id.to_string(),
        status: if created { "created" } else { "exists" },
        metadata: metadata(&status),
        limits: LimitsInForce::of(&session),
        description: status.description,
        timestamp: now(),
    })
}

pub(in crate::server) fn switch(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: NamedSession = call.read("switch_session")?;
    let session = server.registry.get(&asked.session_id)?;
    let previous = server.active.switch(&call.client, session.id.clone()).ok_or(ToolError::NotRecognised)?;
    reply(&SwitchedSession {
        status: if previous == session.id { "unchanged" } else { "switched" },
        previous_session: previous.to_string(),
        current_session: session.id.to_string(),
        timestamp: now(),
    })
}

pub(in crate::server) fn list(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let Nothing {} = call.read("list_sessions")?;
    let active = server.active.of(&call.client);
    let all = server.registry.all();
    reply(&Sessions {
        total_sessions: all.len() as u64,
        max_sessions: server.registry.max_sessions() as u64,
        sessions: all.iter().map(|session| (session.id.to_string(), entry(server, session, &active))).collect(),
        active_session: active.to_string(),
    })
}

pub(in crate::server) async fn delete(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: NamedSession = call.read("delete_session")?;
    let was_active = *server.active.of(&call.client) == *asked.session_id;
    server.registry.delete(&asked.session_id).await?;
    server.active.forget(&asked.session_id);
    reply(&DeletedSession {
        session_id: asked.session_id,
        status: "deleted",
        was_active,
        new_active_session: was_active.then(|| DEFAULT.to_owned()),
    })
}

fn entry(server: &Server, session: &Session, active: &str) -> SessionEntry {
    let status = session.shared.get();
    SessionEntry {
        active: status.phase != Phase::Dead,
        current: *session.id == *active,
        created_at: status.created.to_string(),
        last_activity: status.last_activity.to_string(),
        execution_count: status.executed,
        uptime: status.created_at.elapsed().as_secs_f64(),
        metadata: metadata(&status),
        health: server.health.report(session, &status),
        description: status.description,
    }
}

fn metadata(status: &Status) -> Metadata {
    Metadata { restarts: status.restarts, waiting: status.waiting as u64 }
}
