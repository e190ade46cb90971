//! Tools that copy sessions, and take them back to what they were.
//!
//! Runs in: server. Thin: `sessions/checkpoints.rs` keeps them, `sessions/task/rollback.rs` makes and restores them.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    protocol::{Missed, list_missed},
    server::{
        health::errand::Errand,
        sessions::{
            checkpoints::{self, Checkpoint, StoreError},
            handle::Session,
            orders::{BrokenOff, Caller, CheckpointWish, SessionError},
            registry::{RegistryError, making::Fork},
        },
        tools::call::{
            arguments::checked_description,
            error::{ToolError, refuse},
            patience::in_turn,
            reply::{Reply, now},
            request::Call,
            server::Server,
        },
        tools::sessions::lifecycle::Asleep,
        watch::in_force::LimitsInForce,
    },
    sys::processes,
};

/// Most sessions that one call makes.
const MAX_FORKS: u32 = 256;
/// Workers that are greeted at a time: a checkpoint forks them one by one.
const SIDE_BY_SIDE: usize = 8;

/// `checkpoint_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CheckpointSession {
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Its name. Made up when left out.
    #[schemars(length(min = 1))]
    pub(crate) name: Option<String>,
    /// Although threads run, which it will not have.
    pub(crate) force: Option<bool>,
}

/// `list_checkpoints`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListCheckpoints {
    /// Only those of this session; those of all when left out.
    pub(crate) session_id: Option<String>,
}

/// `restore_checkpoint`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RestoreCheckpoint {
    /// Its name; `last` is the automatic one.
    pub(crate) name: String,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Let random numbers repeat. Default false.
    pub(crate) keep_random: Option<bool>,
}

/// `fork_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ForkSession {
    /// Name of the new session; with `count` it is followed by -1, -2 and so on.
    pub(crate) new_session_id: String,
    /// Make so many, all of the same moment.
    #[schemars(range(min = 1, max = 256))]
    pub(crate) count: Option<u32>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Copy this checkpoint of it instead.
    pub(crate) checkpoint: Option<String>,
    /// What it is for.
    pub(crate) description: Option<String>,
    /// Although threads run, which it will not have.
    pub(crate) force: Option<bool>,
}

/// `delete_checkpoint`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct DeleteCheckpoint {
    /// Name of the checkpoint.
    pub(crate) name: String,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

/// A checkpoint, as it is listed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct CheckpointEntry {
    /// Its name within the session.
    pub(crate) name: String,
    /// Its number within the server: older ones have lower ones.
    pub(crate) id: u64,
    /// The session it is of.
    pub(crate) session_id: String,
    /// The last cell that had run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_cell: Option<u64>,
    /// When it was made (RFC 3339).
    pub(crate) created_at: String,
    /// Seconds since.
    pub(crate) age: f64,
    /// forkpy made it by itself (policy `last`).
    pub(crate) automatic: bool,
    /// Its process.
    pub(crate) pid: i32,
    /// Bytes that it holds alone: what the session has changed since, and a little of its own. Not of one that was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<u64>,
}

impl CheckpointEntry {
    /// Of a checkpoint that holds so much alone, if that is known.
    #[must_use]
    pub(crate) fn new(checkpoint: &Checkpoint, memory: Option<u64>) -> Self {
        Self {
            name: checkpoint.name.to_string(),
            id: checkpoint.number,
            session_id: checkpoint.of.session.to_string(),
            after_cell: (checkpoint.cell > 0).then_some(checkpoint.cell),
            created_at: checkpoint.made.to_string(),
            age: checkpoint.made_at.elapsed().as_secs_f64(),
            automatic: checkpoint.is_automatic(),
            pid: checkpoint.pid,
            memory,
        }
    }
}

/// `checkpoint_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct MadeCheckpoint {
    /// `created`.
    pub(crate) status: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// The checkpoint.
    pub(crate) checkpoint: CheckpointEntry,
    /// What it does not hold, a sentence each: open files and connections, tasks, child processes, locks, threads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    /// When (RFC 3339).
    pub(crate) timestamp: String,
}

/// `list_checkpoints`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct CheckpointList {
    /// Oldest first.
    pub(crate) checkpoints: Vec<CheckpointEntry>,
    /// Sessions that sleep on disk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) asleep: Vec<Asleep>,
    /// Images of sessions that are awake, as they were when they were at rest (`--image-after`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) at_rest: Vec<Asleep>,
    /// How many.
    pub(crate) total: u64,
    /// Bytes that they hold alone.
    pub(crate) memory: u64,
    /// Bytes that the checkpoints of all sessions may hold alone.
    pub(crate) memory_limit: u64,
}

/// `restore_checkpoint`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct RestoredCheckpoint {
    /// `restored`.
    pub(crate) status: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// Name of the checkpoint, which is still there.
    pub(crate) checkpoint: String,
    /// The last cell whose effects are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_cell: Option<u64>,
    /// The process that serves the session now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// What the checkpoint did not hold, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    /// When (RFC 3339).
    pub(crate) timestamp: String,
}

/// `fork_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ForkedSession {
    /// `created`.
    pub(crate) status: &'static str,
    /// The new session; with `count` the first.
    pub(crate) session_id: String,
    /// All of them, with `count`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sessions: Vec<String>,
    /// The session it is a copy of.
    pub(crate) forked_from: String,
    /// The checkpoint it is a copy of, if it is one of a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<String>,
    /// The last cell whose effects are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_cell: Option<u64>,
    /// What the two share, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    /// Limits of the new session: those of the other.
    pub(crate) limits: LimitsInForce,
    /// When (RFC 3339).
    pub(crate) timestamp: String,
}

/// `delete_checkpoint`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DeletedCheckpoint {
    /// `deleted`.
    pub(crate) status: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// Its name.
    pub(crate) name: String,
}

pub(crate) async fn checkpoint(
    server: &Server,
    call: &Call,
    asked: CheckpointSession,
) -> Result<Reply<MadeCheckpoint>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    if let Some(name) = asked.name.as_ref().filter(|name| !checkpoints::is_name(name)) {
        return Err(SessionError::from(StoreError::BadName(name.chars().take(80).collect())).into());
    }
    let wish = CheckpointWish { name: asked.name, force: asked.force.unwrap_or(false), kept: true };
    let made = in_turn(server, call, &session, |caller| session.checkpoint(wish, caller)).await?;
    // One that does not come that far is none, and is not listed.
    let mut warnings = warnings(&made, &call.caller()).await.inspect_err(|_| {
        drop(server.around.checkpoints.delete(&session.life, &made.name));
    })?;
    warnings.extend(call.news_of(&session).1);
    Ok(Reply::of(MadeCheckpoint {
        status: "created",
        session_id: session.id.to_string(),
        // What it holds alone is looked at behind: the kernel walks page tables for that, for about a millisecond.
        checkpoint: CheckpointEntry::new(&made, None),
        warnings,
        timestamp: now(),
    }))
}

pub(crate) async fn list(
    server: &Server,
    call: &Call,
    asked: ListCheckpoints,
) -> Result<Reply<CheckpointList>, ToolError> {
    let held = match asked.session_id.as_deref() {
        Some(id) => server.around.checkpoints.of(&server.registry.get(call.owner(), id)?.life),
        None => server.around.checkpoints.of_owner(call.owner()),
    };
    let sessions = match asked.session_id.as_deref() {
        Some(id) => vec![server.registry.get(call.owner(), id)?],
        None => server.registry.of(call.owner()),
    };
    let asleep = sessions.iter().filter_map(|session| Some(Asleep::new(session, session.shared.get().asleep?)));
    let asleep = asleep.collect();
    let at_rest = sessions.iter().filter_map(|session| Some(Asleep::new(session, session.shared.get().at_rest?)));
    let at_rest = at_rest.collect();
    let mut entries = Vec::with_capacity(held.len());
    for checkpoint in held {
        entries.push(measured(checkpoint).await);
    }
    Ok(Reply::of(CheckpointList {
        total: entries.len() as u64,
        memory: entries.iter().filter_map(|entry| entry.memory).sum(),
        memory_limit: server.around.checkpoints.bounds().memory,
        checkpoints: entries,
        asleep,
        at_rest,
    }))
}

pub(crate) async fn restore(
    server: &Server,
    call: &Call,
    asked: RestoreCheckpoint,
) -> Result<Reply<RestoredCheckpoint>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let from = server.around.checkpoints.get(&session.life, &asked.name).map_err(SessionError::from)?;
    let warnings = warnings(&from, &call.caller()).await?;
    let (to, keep_random) = (Arc::clone(&from), asked.keep_random.unwrap_or(false));
    in_turn(server, call, &session, |caller| session.restore(to, keep_random, caller)).await?;
    Ok(Reply::of(RestoredCheckpoint {
        status: "restored",
        session_id: session.id.to_string(),
        checkpoint: from.name.to_string(),
        after_cell: (from.cell > 0).then_some(from.cell),
        pid: session.shared.get().worker.map(|worker| worker.pid),
        warnings,
        timestamp: now(),
    }))
}

pub(crate) async fn fork(server: &Server, call: &Call, asked: ForkSession) -> Result<Reply<ForkedSession>, ToolError> {
    let source = server.session(call, asked.session_id.as_deref())?;
    let names = names(&asked)?;
    let description = checked_description(asked.description)?;
    for name in &names {
        server.registry.may_create(call.owner(), name)?;
    }
    let from = match &asked.checkpoint {
        Some(name) => server.around.checkpoints.get(&source.life, name).map_err(SessionError::from)?,
        None => {
            let wish = CheckpointWish { name: None, force: asked.force.unwrap_or(false), kept: false };
            in_turn(server, call, &source, |caller| source.checkpoint(wish, caller)).await?
        }
    };
    let caller = call.caller();
    let mut warnings = warnings(&from, &caller).await?;
    let made = forks(server, call, (&source, &from), &names, &description).await?;
    let limits = made.first().map_or_else(|| LimitsInForce::of(&source), LimitsInForce::of);
    if asked.checkpoint.is_none() {
        warnings.extend(call.news_of(&source).1);
    }
    Ok(Reply::of(ForkedSession {
        status: "created",
        session_id: names.first().cloned().unwrap_or_default(),
        sessions: asked.count.map_or_else(Vec::new, |_| names),
        forked_from: source.id.to_string(),
        checkpoint: asked.checkpoint,
        after_cell: (from.cell > 0).then_some(from.cell),
        warnings,
        limits,
        timestamp: now(),
    }))
}

/// Names of the sessions to be made.
fn names(asked: &ForkSession) -> Result<Vec<String>, ToolError> {
    let name = &asked.new_session_id;
    match asked.count {
        None => Ok(vec![name.clone()]),
        Some(count) if (1..=MAX_FORKS).contains(&count) => {
            Ok((1..=count).map(|number| format!("{name}-{number}")).collect())
        }
        Some(count) => refuse(format!("`count` must be between 1 and {MAX_FORKS}, not {count}")),
    }
}

/// All of them, or none: those that were made are ended when one cannot be.
async fn forks(
    server: &Server,
    call: &Call,
    (source, from): (&Session, &Arc<Checkpoint>),
    names: &[String],
    description: &str,
) -> Result<Vec<Session>, ToolError> {
    let mut waiting: Vec<BoxFuture<'_, Result<Session, RegistryError>>> = Vec::with_capacity(names.len());
    if let Some(away) = &server.away {
        for id in names {
            away.claim(call.owner(), id).await?;
        }
    }
    for id in names {
        let fork = Fork { id, description: description.to_owned(), by: &call.client, source, from };
        waiting.push(server.registry.fork(fork).boxed());
    }
    let mut all = stream::iter(waiting).buffer_unordered(SIDE_BY_SIDE);
    let (caller, mut made) = (call.caller(), Vec::with_capacity(names.len()));
    let failed: ToolError = loop {
        match unless_taken_back(&source.id, &caller, all.next()).await {
            Ok(Some(Ok(session))) => made.push(session),
            Ok(Some(Err(error))) => break error.into(),
            Err(error) => break error.into(),
            Ok(None) => {
                made.iter().for_each(|session| session.life.used_by(&call.client));
                return Ok(made);
            }
        }
    };
    drop(all);
    for session in made {
        let _ = server.registry.delete(call.owner(), &session.id).await;
    }
    if let Some(away) = &server.away {
        for id in names {
            away.ended(call.owner(), id).await;
        }
    }
    Err(failed)
}

pub(crate) async fn delete(
    server: &Server,
    call: &Call,
    asked: DeleteCheckpoint,
) -> Result<Reply<DeletedCheckpoint>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let deleted = server.around.checkpoints.delete(&session.life, &asked.name).map_err(SessionError::from)?;
    Ok(Reply::of(DeletedCheckpoint {
        status: "deleted",
        session_id: session.id.to_string(),
        name: deleted.name.to_string(),
    }))
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
        let threads = list_missed(&checkpoint.missing);
        warnings.insert(0, format!("threads do not survive a fork, and the copy has none of these: {threads}"));
        for missed in &checkpoint.missing {
            if let Missed::Library { library, .. } = missed {
                warnings.push(format!("calls into {library} will hang in the copy"));
            }
        }
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
    CheckpointEntry::new(&checkpoint, Some(memory.unwrap_or_else(|| checkpoint.memory())))
}
