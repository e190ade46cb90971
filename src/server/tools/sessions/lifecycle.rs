//! Tools that make, choose, list and end sessions.
//!
//! Runs in: server.

use rmcp::model::CallToolResult;

use crate::server::{
    health::evidence::Phase,
    sessions::{active::Choice, handle::Session, names::DEFAULT, status::Status},
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
    let (session, created) = server.registry.create(asked.session_id, description, policy, limits, &call.client)?;
    session.life.used_by(&call.client);
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
    let choice = Choice { session: session.id.clone(), life: session.life.number() };
    let previous = server.active.of(&call.client);
    if !server.active.switch(&call.client, choice.clone()) {
        return Err(ToolError::NotRecognised);
    }
    session.life.used_by(&call.client);
    let unchanged = previous.as_ref().map_or(*session.id == *DEFAULT, |previous| *previous == choice);
    reply(&SwitchedSession {
        status: if unchanged { "unchanged" } else { "switched" },
        previous_session: name_of(previous.as_ref()).to_owned(),
        current_session: session.id.to_string(),
        timestamp: now(),
    })
}

pub(in crate::server) fn list(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let Nothing {} = call.read("list_sessions")?;
    let choice = server.active.of(&call.client);
    let notice = choice.as_ref().and_then(|choice| server.registry.chosen(choice).err()).map(|gone| gone.to_string());
    let active = if notice.is_none() { name_of(choice.as_ref()) } else { "" };
    let all = server.registry.all();
    reply(&Sessions {
        total_sessions: all.len() as u64,
        max_sessions: server.registry.max_sessions() as u64,
        sessions: all.iter().map(|session| (session.id.to_string(), entry(server, session, active))).collect(),
        active_session: name_of(choice.as_ref()).to_owned(),
        notice,
    })
}

pub(in crate::server) async fn delete(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: NamedSession = call.read("delete_session")?;
    let session = server.registry.get(&asked.session_id)?;
    let choice = server.active.of(&call.client);
    let was_active = choice.is_some_and(|choice| choice.life == session.life.number());
    server.registry.delete(&asked.session_id).await?;
    if was_active {
        server.active.leave(&call.client);
    }
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

/// The session that calls of a client go to.
fn name_of(choice: Option<&Choice>) -> &str {
    choice.map_or(DEFAULT, |choice| &choice.session)
}

fn metadata(status: &Status) -> Metadata {
    Metadata { restarts: status.restarts, waiting: status.waiting as u64 }
}
