//! Tools that copy sessions, and take them back to what they were.
//!
//! Runs in: server. Thin: `server/checkpoints` keeps them, `session/rollback.rs` makes and restores them.

use std::sync::Arc;

use rmcp::model::CallToolResult;

use crate::{
    server::{
        health::errand::Errand,
        sessions::{
            checkpoints::{self, Checkpoint, StoreError},
            orders::{BrokenOff, Caller, CheckpointWish, SessionError},
            registry::Fork,
        },
        tools::{
            Call, ToolError,
            arguments::{CheckpointSession, DeleteCheckpoint, ForkSession, ListCheckpoints, RestoreCheckpoint},
            call::server::Server,
            now, reply,
            results::{
                CheckpointEntry, CheckpointList, DeletedCheckpoint, ForkedSession, MadeCheckpoint, RestoredCheckpoint,
            },
        },
        watch::shapes::LimitsInForce,
    },
    sys::processes,
};

/// Longest description, characters.
const MAX_DESCRIPTION: usize = 2000;

pub(in crate::server) async fn checkpoint(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: CheckpointSession = call.read("checkpoint_session")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    if let Some(name) = asked.name.as_ref().filter(|name| !checkpoints::is_name(name)) {
        return Err(SessionError::from(StoreError::BadName(name.chars().take(80).collect())).into());
    }
    let wish = CheckpointWish { name: asked.name, force: asked.force.unwrap_or(false), kept: true };
    let made = session.checkpoint(wish, call.caller()).await?;
    // One that does not come that far is none, and is not listed.
    let mut warnings = warnings(&made, &call.caller()).await.inspect_err(|_| {
        drop(server.around.checkpoints.delete(&session.life, &made.name));
    })?;
    warnings.extend(call.news_of(&session).1);
    reply(&MadeCheckpoint {
        status: "created",
        session_id: session.id.to_string(),
        checkpoint: measured(made).await,
        warnings,
        timestamp: now(),
    })
}

pub(in crate::server) async fn list(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ListCheckpoints = call.read("list_checkpoints")?;
    let session = asked.session_id.as_deref().map(|id| server.registry.get(id)).transpose()?;
    let held = server.around.checkpoints.of(session.as_ref().map(|session| &session.life));
    let mut entries = Vec::with_capacity(held.len());
    for checkpoint in held {
        entries.push(measured(checkpoint).await);
    }
    reply(&CheckpointList {
        total: entries.len() as u64,
        memory: entries.iter().map(|entry| entry.memory).sum(),
        memory_limit: server.around.checkpoints.bounds().memory,
        checkpoints: entries,
    })
}

pub(in crate::server) async fn restore(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: RestoreCheckpoint = call.read("restore_checkpoint")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let from = server.around.checkpoints.get(&session.life, &asked.name).map_err(SessionError::from)?;
    let warnings = warnings(&from, &call.caller()).await?;
    session.restore(Arc::clone(&from), asked.keep_random.unwrap_or(false), call.caller()).await?;
    reply(&RestoredCheckpoint {
        status: "restored",
        session_id: session.id.to_string(),
        checkpoint: from.name.to_string(),
        after_cell: (from.cell > 0).then_some(from.cell),
        pid: session.shared.get().worker.map(|worker| worker.pid),
        warnings,
        timestamp: now(),
    })
}

pub(in crate::server) async fn fork(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ForkSession = call.read("fork_session")?;
    let source = server.session(&call.client, asked.session_id.as_deref())?;
    let description = asked.description.unwrap_or_default();
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(ToolError::Argument(format!("`description` may have {MAX_DESCRIPTION} characters")));
    }
    server.registry.may_create(&asked.new_session_id)?;
    let from = match &asked.checkpoint {
        Some(name) => server.around.checkpoints.get(&source.life, name).map_err(SessionError::from)?,
        None => {
            let wish = CheckpointWish { name: None, force: asked.force.unwrap_or(false), kept: false };
            source.checkpoint(wish, call.caller()).await?
        }
    };
    let caller = call.caller();
    let mut warnings = warnings(&from, &caller).await?;
    let fork = Fork { id: &asked.new_session_id, description, by: &call.client, source: &source, from: &from };
    let session = unless_taken_back(&source.id, &caller, server.registry.fork(fork)).await??;
    session.life.used_by(&call.client);
    if asked.checkpoint.is_none() {
        warnings.extend(call.news_of(&source).1);
    }
    reply(&ForkedSession {
        status: "created",
        session_id: session.id.to_string(),
        forked_from: source.id.to_string(),
        checkpoint: asked.checkpoint,
        after_cell: (from.cell > 0).then_some(from.cell),
        warnings,
        limits: LimitsInForce::of(&session),
        timestamp: now(),
    })
}

pub(in crate::server) fn delete(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: DeleteCheckpoint = call.read("delete_checkpoint")?;
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let deleted = server.around.checkpoints.delete(&session.life, &asked.name).map_err(SessionError::from)?;
    reply(&DeletedCheckpoint { status: "deleted", session_id: session.id.to_string(), name: deleted.name.to_string() })
}

/// Waits for a copy, until the call is taken back: the copy is then let go.
pub(in crate::server) async fn unless_taken_back<T>(
    session: &str,
    caller: &Caller,
    work: impl Future<Output = T>,
) -> Result<T, SessionError> {
    tokio::select! {
        biased;
        () = caller.cancel.cancelled() => {
            Err(SessionError::BrokenOff { session: session.to_owned(), errand: Errand::Checkpoint, why: BrokenOff::Cancelled })
        }
        done = work => Ok(done),
    }
}

/// What a checkpoint does not hold.
pub(in crate::server) async fn warnings(checkpoint: &Checkpoint, caller: &Caller) -> Result<Vec<String>, ToolError> {
    let mut warnings = unless_taken_back(&checkpoint.of.session, caller, checkpoint.hazards()).await??;
    if !checkpoint.missing.is_empty() {
        let threads = checkpoint.missing.join(", ");
        warnings.insert(0, format!("threads do not survive a fork, and the copy has none of these: {threads}"));
    }
    Ok(warnings)
}

/// With what it holds now; the kernel walks its page tables for that.
async fn measured(checkpoint: Arc<Checkpoint>) -> CheckpointEntry {
    let pid = checkpoint.pid;
    let memory = tokio::task::spawn_blocking(move || processes::private_memory(pid)).await.ok().flatten();
    if let Some(memory) = memory {
        checkpoint.note_memory(memory);
    }
    CheckpointEntry::new(&checkpoint, memory.unwrap_or_else(|| checkpoint.memory()))
}
