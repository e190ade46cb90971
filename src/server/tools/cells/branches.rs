//! `run_branches`: one session copied once for each candidate, all run from the same state, one kept or none.
//!
//! Runs in: server. The session stands still meanwhile (`sessions/task/rollback.rs`, `Hold`); each branch is a session of its own
//! that only `Registry::branches` knows, so that guard and shutdown see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    reply,
    result::{Cell, CellException},
};
use crate::server::{
    sessions::{
        checkpoints::Checkpoint,
        handle::Session,
        history::Recorded,
        orders::{Caller, CellOrder, CheckpointWish, Chosen, Hold, SessionError},
        outcome::{CellOutcome, DeathReason, Ending, OnError},
        registry::making::Fork,
    },
    tools::{
        call::{
            arguments,
            error::{ToolError, refuse},
            patience::ahead,
            reply::Reply,
            request::Call,
            server::Server,
            sight::Doing,
        },
        sessions::checkpoints::{unless_taken_back, warnings},
    },
    traces::Parent,
};

/// Bytes of what a branch came to, in its line.
const MOST_IN_SHORT: usize = 500;
/// Most branches of one call.
const MAX_BRANCHES: usize = 256;

/// `run_branches`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunBranches {
    /// Code of each branch.
    pub(crate) codes: Vec<String>,
    /// Which one the session goes on from: `none` (default), `first` that ended well, `max` or `min` (number of its last
    /// expression), or its index from 0.
    pub(crate) keep: Option<Keep>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Seconds each may run.
    pub(crate) timeout: Option<f64>,
    /// Branches at a time. Default: processors.
    pub(crate) max_parallel: Option<u32>,
}

/// Which branch the session goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected none, first, max, min, or the number of a branch from 0")]
pub(crate) enum Keep {
    /// This one.
    Number(u32),
    /// By a rule.
    Rule(KeepRule),
}

/// A rule by which a branch is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeepRule {
    /// The session stays as it is.
    None,
    /// The first that ended well.
    First,
    /// The largest number as value of the last expression.
    Max,
    /// The smallest.
    Min,
}

/// `run_branches`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Branches {
    /// The session.
    pub(crate) session_id: String,
    /// What each came to, in the order of `codes`.
    pub(crate) branches: Vec<Branch>,
    /// The one that the session goes on from, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<u64>,
    /// Why none was kept although one was to be, and what the branches shared; a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notices: Vec<String>,
}

/// One branch.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Branch {
    /// Counted from 0.
    pub(crate) index: u64,
    /// What its code came to; left out when it could not be run, see `refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Tried>,
    /// Why it could not be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

/// What the code of a branch came to: as run_python_code has it, what says nothing left out.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Tried {
    /// As run_python_code has it.
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    stdout: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    stderr: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    new_files: Vec<String>,
    execution_time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<CellException>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<String>,
}

impl Tried {
    fn of(cell: Cell) -> Self {
        let Cell {
            status, stdout, stderr, results, outputs, new_files, execution_time, error, exit_code, notice, ..
        } = cell;
        Self { status, stdout, stderr, results, outputs, new_files, execution_time, error, exit_code, notice }
    }

    /// Its last value or line in short; what went wrong, if something did.
    fn in_short(&self) -> String {
        let last = self.results.last().map(String::as_str).or_else(|| self.stdout.trim_end().lines().last());
        let words = match (&self.error, &self.notice) {
            (Some(error), _) => format!("{}: {}", error.kind, error.message),
            (None, Some(notice)) if self.status != "ok" => format!("{}: {notice}", self.status),
            _ => last.map_or_else(|| self.status.to_owned(), str::to_owned),
        };
        let end = words.floor_char_boundary(MOST_IN_SHORT);
        if end < words.len() { format!("{} ...", &words[..end]) } else { words }
    }
}

/// A branch that has run.
struct Run {
    session: Session,
    code: String,
    outcome: CellOutcome,
}

/// Which branch is to be kept; refuses what cannot be run.
fn checked(asked: &RunBranches) -> Result<Keep, ToolError> {
    if asked.codes.is_empty() || asked.codes.len() > MAX_BRANCHES {
        return refuse(format!("`codes` must have between 1 and {MAX_BRANCHES} branches"));
    }
    for code in &asked.codes {
        arguments::checked_code(code)?;
    }
    let keep = asked.keep.unwrap_or(Keep::Rule(KeepRule::None));
    if let Keep::Number(number) = keep
        && number as usize >= asked.codes.len()
    {
        let last = asked.codes.len() - 1;
        return refuse(format!("`keep` is {number}, and the branches are 0 to {last}"));
    }
    Ok(keep)
}

pub(crate) async fn run(server: &Server, call: &Call, asked: RunBranches) -> Result<Reply<Branches>, ToolError> {
    let keep = checked(&asked)?;
    let session = server.session(call, asked.session_id.as_deref())?;
    let limit = arguments::cell_limit(asked.timeout)?.or(server.around.settings.timeout);
    let timeout = session.limits.cell_limit(limit);
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let at_once = asked.max_parallel.map_or(processors, |count| count.max(1) as usize);
    let deleted = || SessionError::Deleted(session.id.to_string());

    let (held, holding) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let caller = call.caller();
    session.hold(Hold { held, caller: caller.clone(), release: released })?;
    let ended = Arc::<AtomicUsize>::default();
    be_seen(call, &session, asked.codes.len(), &ended);
    let from = unless_taken_back(&session.id, &caller, holding).await?.map_err(|_| deleted())??;
    let mut notices = warnings(&from, &caller).await?;
    notices.extend(call.news_of(&session).1);
    // Copies of a session do not go on when it is over.
    let caller = Caller { cancel: caller.cancel.child_token(), ..caller };
    let (over, cancel) = (session.life.incarnation().clone(), caller.cancel.clone());
    let ending = tokio::spawn(async move {
        over.ended().await;
        cancel.cancel();
    });
    let runs =
        branch_all(server, &session, &from, asked.codes, (timeout, at_once, &ended), (&caller, call.trace.as_ref()))
            .await;
    ending.abort();
    if session.life.is_over() {
        end_all(server, runs).await;
        return Err(deleted().into());
    }

    let kept = match choose(keep, &runs) {
        Ok(None) => None,
        Ok(Some(index)) => match keep_branch(&runs[index], release, call.caller()).await {
            Ok(()) => {
                record(&session, &runs[index]);
                Some(index as u64)
            }
            Err(reason) => {
                notices.push(format!("branch {index} could not be kept, and the session is as before: {reason}"));
                None
            }
        },
        Err(why) => {
            notices.push(why.to_string());
            None
        }
    };
    let branches = end_all(server, runs).await;
    let text = text(&branches, kept, &notices);
    Ok(Reply::of(Branches { session_id: session.id.to_string(), branches, kept, notices }).text(text))
}

fn be_seen(call: &Call, session: &Session, all: usize, ended: &Arc<AtomicUsize>) {
    let (sight, place, ended, session) = (call.sight(), session.place(), Arc::clone(ended), session.clone());
    sight.is_in(&session);
    sight.accepted(move || match place.number() {
        Some(number) => {
            Doing::waits(format!("session {:?}: {}, and it waits as number {number}", session.id, ahead(&session)))
        }
        None => Doing::works(format!(
            "session {:?}: {} of {all} branches have ended",
            session.id,
            ended.load(Ordering::Relaxed)
        )),
    });
}

/// What the session has become by this branch is part of its history.
fn record(session: &Session, run: &Result<Run, ToolError>) {
    if let Ok(run) = run
        && let Some(recorded) = Recorded::new(run.code.clone(), &run.outcome, Timestamp::now())
    {
        session.history.add(recorded);
    }
}

async fn branch_all(
    server: &Server,
    session: &Session,
    from: &Arc<Checkpoint>,
    codes: Vec<String>,
    (timeout, at_once, ended): (Option<Duration>, usize, &AtomicUsize),
    (caller, trace): (&Caller, Option<&Parent>),
) -> Vec<Result<Run, ToolError>> {
    let runs = codes.into_iter().enumerate().map(|(index, code)| async move {
        let id = format!("{}.branch-{index}", session.id);
        let fork = Fork { id: &id, description: String::new(), by: &caller.client, source: session, from };
        let branch = unless_taken_back(&session.id, caller, server.registry.branch(fork)).await;
        let branch = branch??;
        let order = CellOrder {
            code: code.clone(),
            client: caller.client.clone(),
            timeout,
            cancel: caller.cancel.clone(),
            asked: Instant::now(),
            live: None,
            on_error: OnError::Keep,
            questions: None,
            notebook: None,
            max_output: None,
            trace: trace.cloned(),
        };
        let outcome = branch.run(order)?.await;
        ended.fetch_add(1, Ordering::Relaxed);
        let outcome = outcome.map_err(|_| SessionError::NotRun { words: "the server is ending".to_owned() })?;
        Ok(Run { session: branch, code, outcome })
    });
    stream::iter(runs).buffered(at_once).collect().await
}

/// Why no branch is kept.
#[derive(Debug, thiserror::Error)]
enum Unkept<'a> {
    #[error("no branch ended well, so none is kept")]
    NoneWell,
    #[error("branch {0} did not end well, so the session is as before")]
    NotWell(u32),
    #[error("no branch ended well with a number as the value of its last expression, so none is kept")]
    NoNumber,
    #[error("{0}")]
    NotRun(&'a ToolError),
    #[error("the session was restarted or deleted meanwhile")]
    Gone,
    #[error("{0}")]
    Session(#[from] SessionError),
}

/// The branch to keep, by the rule.
fn choose(keep: Keep, runs: &[Result<Run, ToolError>]) -> Result<Option<usize>, Unkept<'static>> {
    let well =
        |run: &Result<Run, ToolError>| run.as_ref().is_ok_and(|run| matches!(run.outcome.ending, Ending::Finished));
    match keep {
        Keep::Rule(KeepRule::None) => Ok(None),
        Keep::Rule(KeepRule::First) => runs.iter().position(well).map(Some).ok_or(Unkept::NoneWell),
        Keep::Number(number) => match runs.get(number as usize) {
            Some(run) if well(run) => Ok(Some(number as usize)),
            _ => Err(Unkept::NotWell(number)),
        },
        Keep::Rule(rule @ (KeepRule::Max | KeepRule::Min)) => {
            let sign = if rule == KeepRule::Max { 1.0 } else { -1.0 };
            let values = runs.iter().enumerate().filter(|(_, run)| well(run));
            let scored = values.filter_map(|(index, run)| Some((index, sign * number_of(run.as_ref().ok()?)?)));
            // The first of equals.
            let best = scored.fold(None, |best: Option<(usize, f64)>, next| match best {
                Some(best) if best.1 >= next.1 => Some(best),
                _ => Some(next),
            });
            best.map(|(index, _)| Some(index)).ok_or(Unkept::NoNumber)
        }
    }
}

/// The value of the last expression as a number: `0.93`, `np.float64(0.93)`.
fn number_of(run: &Run) -> Option<f64> {
    let text = run.outcome.results.last()?.text.trim();
    let inner = text.rsplit_once('(').map_or(text, |(_, rest)| rest.trim_end_matches(')'));
    inner.parse().ok().filter(|number: &f64| !number.is_nan())
}

/// The session goes on from what the branch has become.
async fn keep_branch(
    run: &Result<Run, ToolError>,
    release: oneshot::Sender<Option<Chosen>>,
    caller: Caller,
) -> Result<(), Unkept<'_>> {
    let run = run.as_ref().map_err(Unkept::NotRun)?;
    let wish = CheckpointWish { name: None, force: false, kept: false };
    let chosen = run.session.checkpoint(wish, caller).await?;
    let (answer, answered) = oneshot::channel();
    release.send(Some((chosen, answer))).map_err(|_| Unkept::Gone)?;
    Ok(answered.await.map_err(|_| Unkept::Gone)??)
}

async fn end_all(server: &Server, runs: Vec<Result<Run, ToolError>>) -> Vec<Branch> {
    let ended = runs.into_iter().enumerate().map(|(index, run)| async move {
        let index = index as u64;
        match run {
            Ok(Run { session, outcome, .. }) => {
                session.end(DeathReason::Delete).await;
                server.registry.end_branch(&session);
                let cell = reply::cell(&session.id, outcome, 0);
                Branch { index, outcome: Some(Tried::of(cell)), refused: None }
            }
            Err(reason) => Branch { index, outcome: None, refused: Some(reason.to_string()) },
        }
    });
    futures::future::join_all(ended).await
}

/// One line a branch: its number, what it came to, and whether it was kept.
fn text(branches: &[Branch], kept: Option<u64>, notices: &[String]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for branch in branches {
        let result = match (&branch.outcome, &branch.refused) {
            (Some(tried), _) => tried.in_short(),
            (None, Some(reason)) => format!("not run: {reason}"),
            (None, None) => "not run".to_owned(),
        };
        let fate = if kept == Some(branch.index) { ", kept" } else { "" };
        lines.push(format!("{}: {result}{fate}", branch.index));
    }
    lines.extend(notices.iter().cloned());
    lines.join("\n")
}
