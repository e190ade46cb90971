//! Long work of other tools than run_python_code: it goes on when its call has waited as long as it can, has a number among
//! the cells of its session from then on, and its whole reply is kept for wait_for_cell.
//!
//! Runs in: server, one task a job. What the work is, its tool knows; what is to be seen of it is `call/sight.rs`.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use rmcp::model::CallToolResponse;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    begun,
    following::kept_for,
    reply::{self, Unfinished},
};
use crate::server::{
    sessions::{
        active::Client,
        handle::Session,
        names::DEFAULT,
        orders::SessionError,
        runs::{Run, Runs, Stage, Work},
    },
    tools::call::{
        arguments::{self, wait},
        error::ToolError,
        patience::Patience,
        progress,
        reply::{Reply, Respond},
        request::{Again, Call},
        server::Server,
        sight::Sight,
    },
};

/// How long an answer waits for the tool to have looked at its arguments, whatever the call says.
const CHECK: Duration = Duration::from_secs(5);
/// How long that may take.
const MOMENT: Duration = Duration::from_millis(200);
/// How long a look at what was written may take.
const LOOK: Duration = Duration::from_secs(1);

/// What the function of a long tool gives, whatever the tool.
pub(crate) type Outcome = Result<Reply<Value>, ToolError>;

/// Arguments that every long tool has.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct Waits {
    /// As in run_python_code.
    pub(crate) wait: Option<f64>,
    /// As in run_python_code.
    pub(crate) background: Option<bool>,
}

/// One job.
#[derive(Debug)]
pub(crate) struct Job {
    tool: String,
    client: Client,
    cancel: CancellationToken,
    sight: Arc<Sight>,
    began: Instant,
    stage: watch::Sender<Stage>,
    reply: OnceLock<Outcome>,
    /// The session among whose cells it is: that in which it works, from the beginning.
    seat: OnceLock<Seat>,
    /// What it is there since it goes on without its call.
    filed: OnceLock<Weak<Run>>,
}

/// A place among the cells of a session, which holds the job: nothing here keeps the session.
#[derive(Debug)]
struct Seat {
    session: Arc<str>,
    runs: Weak<Runs>,
    run: Weak<Run>,
}

/// Does the work of a call as a job, and follows it.
pub(crate) async fn answer<F>(
    server: &Arc<Server>,
    mut call: Call,
    says_wait: bool,
    work: impl FnOnce(Arc<Server>, Call) -> F,
) -> Result<CallToolResponse, ToolError>
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let Waits { wait: asked, background } = if says_wait { waits(server, &mut call)? } else { Waits::default() };
    // None is not to wait at all.
    let asked = wait("wait", asked)?;
    let patience = (background != Some(true)).then(|| Patience::or_task(server, &call, asked));
    let sight = Arc::new(Sight::new(progress::live(&call.context)));
    let job = Arc::new(Job {
        tool: call.tool.to_owned(),
        client: call.client.clone(),
        cancel: CancellationToken::new(),
        sight,
        began: Instant::now(),
        stage: watch::Sender::new(Stage::Running(Instant::now())),
        reply: OnceLock::new(),
        seat: OnceLock::new(),
        filed: OnceLock::new(),
    });
    // Not the call's own token: the work may outlive the call.
    let mut context = call.context.clone();
    context.ct = job.cancel.clone();
    let own = Call {
        tool: call.tool,
        takes: call.takes,
        client: call.client.clone(),
        visitor: call.visitor.clone(),
        arguments: call.arguments.take(),
        context,
        gone: call.gone.clone(),
        again: Again::default(),
        sight: Some(Arc::clone(&job.sight)),
        // It answers no call.
        lane: None,
        trace: call.trace.clone(),
    };
    let task = tokio::spawn(work(Arc::clone(server), own));
    let ending = Arc::clone(&job);
    tokio::spawn(async move {
        let outcome = task.await.unwrap_or_else(|error| Err(ToolError::Broken(error.to_string())));
        ending.end(outcome);
    });
    let outcome = follow(server, &call, &job, patience.clone(), true).await;
    if job.reply.get().is_none() && patience.is_some_and(|patience| patience.makes_task()) {
        let (_, run) = job.file(server, &call)?;
        if let Some(session) = job.session(server, &call) {
            return Ok(begun::begin(server, &session, &run));
        }
    }
    outcome?.respond(server, &call)
}

fn waits(server: &Server, call: &mut Call) -> Result<Waits, ToolError> {
    let Some(all) = &mut call.arguments else { return Ok(Waits::default()) };
    let mine = ["wait", "background"].iter().filter_map(|name| all.remove_entry(*name)).collect();
    let place = server.place(call.visitor.peek())?;
    arguments::read(call.tool, call.takes, Some(mine), place.root())
}

/// The job that a session's number stands for, if it stands for none of its cells.
pub(crate) fn of(run: &Run) -> Option<Arc<Job>> {
    Arc::clone(run.work.as_ref()?).downcast().ok()
}

/// A job that has ended, for the program that this server becomes.
#[derive(Serialize, Deserialize)]
struct Packed {
    tool: String,
    client: Client,
    /// The reply, or why there is none.
    reply: Result<Reply<Value>, String>,
}

/// Packs the job that a session's number stands for.
pub(crate) fn pack(run: &Run) -> Option<String> {
    let job = of(run)?;
    let reply = match job.reply.get()? {
        Ok(reply) => Ok(reply.clone()),
        Err(error) => Err(error.to_string()),
    };
    serde_json::to_string(&Packed { tool: job.tool.clone(), client: job.client.clone(), reply }).ok()
}

/// Goes on keeping it.
pub(crate) fn unpack(text: &str) -> Option<Work> {
    let Packed { tool, client, reply } = serde_json::from_str(text).ok()?;
    let size = reply.as_ref().map_or(0, Reply::size);
    Some(Arc::new(Job {
        tool,
        client,
        cancel: CancellationToken::new(),
        sight: Arc::default(),
        began: Instant::now(),
        stage: watch::Sender::new(Stage::done(size)),
        reply: OnceLock::from(reply.map_err(ToolError::Kept)),
        seat: OnceLock::new(),
        filed: OnceLock::new(),
    }))
}

/// Follows a job for a call, which may be its own.
pub(crate) async fn follow(
    server: &Server,
    call: &Call,
    job: &Arc<Job>,
    patience: Option<Patience>,
    is_own: bool,
) -> Outcome {
    // A call that is dropped takes its work along.
    let guard = is_own.then(|| job.cancel.clone().drop_guard());
    let ended = progress::told(
        &call.context,
        || job.sight.doing().words,
        job.sight.live().filter(|_| is_own),
        steps(call, job, patience, is_own),
    )
    .await;
    if let Some(guard) = guard {
        guard.disarm();
    }
    match job.reply.get() {
        Some(Ok(reply)) if ended => Ok(reply.clone()),
        Some(Err(error)) if ended => Err(ToolError::Kept(error.to_string())),
        Some(_) | None => so_far(server, call, job).await,
    }
}

/// Whether it has ended; else the call leaves it.
async fn steps(call: &Call, job: &Arc<Job>, patience: Option<Patience>, is_own: bool) -> bool {
    let mut stage = job.stage.subscribe();
    let mut taken_back = false;
    let mut over = std::pin::pin!(async {
        let _ = tokio::time::timeout(CHECK, job.sight.is_accepted()).await;
        if let Some(session) = job.sight.session() {
            job.sit(&session);
        }
        if let Some(patience) = &patience {
            patience.is_over().await;
            if job.sight.doing().waits {
                // What is taken back because its turn has not come says so itself.
                tokio::time::sleep(MOMENT).await;
            }
        }
    });
    loop {
        tokio::select! {
            biased;
            // Whether it has ended meanwhile or not.
            () = job.sight.is_accepted(), if patience.is_none() => return false,
            _ = stage.wait_for(|stage| matches!(stage, Stage::Done(_))) => return true,
            () = call.context.ct.cancelled(), if !taken_back => {
                // A client that goes away does not take back what it asked for.
                if !is_own || call.gone.is_cancelled() {
                    return false;
                }
                job.cancel.cancel();
                taken_back = true;
            }
            () = &mut over, if !taken_back => return false,
        }
    }
}

/// The reply to a job that has not ended.
async fn so_far(server: &Server, call: &Call, job: &Arc<Job>) -> Outcome {
    let (id, run) = job.file(server, call)?;
    let doing = job.sight.doing();
    let look =
        if doing.waits { None } else { tokio::time::timeout(LOOK, job.sight.look(run.shown())).await.ok().flatten() };
    let look = look.inspect(|look| run.show(look.up_to)).unwrap_or_default();
    let (cell, tool) = (run.cell, &job.tool);
    let state = if doing.waits { "waits for its turn" } else { "goes on" };
    let now = if doing.words.is_empty() { String::new() } else { format!(" ({})", doing.words) };
    let kept = kept_for(server.around.settings.keep_replies);
    let notice = format!(
        "{tool} {state}{now}. It is number {cell} of session {id:?}, as a cell would be: wait_for_cell(cell: {cell}) waits for \
         it, interrupt_cell(cell: {cell}) ends it; do not call {tool} again. {kept}"
    );
    let unfinished = reply::unfinished(Unfinished {
        status: if doing.waits { "queued" } else { "running" },
        session: &id,
        cell,
        stdout: look.stdout,
        stderr: look.stderr,
        ran: job.began.elapsed(),
        notice,
    });
    let text = reply::text(&unfinished);
    Reply::of(unfinished).text(text).kept()
}

impl Job {
    /// How its reply says that it ended.
    pub(crate) fn status(&self) -> String {
        match self.reply.get() {
            Some(Ok(reply)) => reply.status().unwrap_or("ok").to_owned(),
            Some(Err(_)) => "refused".to_owned(),
            None => "running".to_owned(),
        }
    }

    /// It goes on without its call: gives it a number in the session it is in, else in the client's active one.
    fn file(self: &Arc<Self>, server: &Server, call: &Call) -> Result<(Arc<str>, Arc<Run>), ToolError> {
        if self.filed.get().is_none() {
            let session = match (self.sight.session(), self.seat.get()) {
                (Some(session), _) => Some(session),
                (None, Some(_)) => None,
                (None, None) => Some(match server.session(call, None) {
                    Ok(session) => session,
                    Err(_) => server.registry.get(call.owner(), DEFAULT)?,
                }),
            };
            if let Some(session) = &session {
                self.sit(session);
                self.end_with(session);
            }
            self.take_number();
        }
        let id = self.seat.get().map_or_else(|| DEFAULT.into(), |seat| Arc::clone(&seat.session));
        match self.filed.get().and_then(Weak::upgrade) {
            Some(run) => Ok((id, run)),
            None => Err(SessionError::Deleted(id.to_string()).into()),
        }
    }

    /// The session among whose cells it is.
    fn session(&self, server: &Server, call: &Call) -> Option<Session> {
        server.registry.get(call.owner(), &self.seat.get()?.session).ok()
    }

    fn take_number(self: &Arc<Self>) {
        let Some(seat) = self.seat.get() else { return };
        let Some(runs) = seat.runs.upgrade() else { return };
        let run = seat.run.upgrade().unwrap_or_else(|| self.attend(&runs));
        let _ = self.filed.set(Arc::downgrade(&runs.adopt(&run)));
        // It may have ended before it was left.
        if let Some(outcome) = self.reply.get() {
            runs.keep(outcome.as_ref().map_or(0, Reply::size));
        }
    }

    fn attend(self: &Arc<Self>, runs: &Runs) -> Arc<Run> {
        runs.attend(self.client.clone(), self.cancel.clone(), Arc::<Self>::clone(self), self.stage.subscribe())
    }

    /// It is among the cells of this session.
    fn sit(self: &Arc<Self>, session: &Session) -> &Seat {
        self.seat.get_or_init(|| {
            let run = self.attend(&session.runs);
            Seat { session: Arc::clone(&session.id), runs: Arc::downgrade(&session.runs), run: Arc::downgrade(&run) }
        })
    }

    /// When the session is over its number leads nowhere: it does not go on unseen.
    fn end_with(&self, session: &Session) {
        let (over, cancel) = (session.life.incarnation().clone(), self.cancel.clone());
        let mut stage = self.stage.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = over.ended() => cancel.cancel(),
                _ = stage.wait_for(|stage| matches!(stage, Stage::Done(_))) => {}
            }
        });
    }

    fn end(self: &Arc<Self>, outcome: Outcome) {
        if let Some(session) = self.sight.session() {
            self.sit(&session);
        }
        let size = outcome.as_ref().map_or(0, Reply::size);
        let _ = self.reply.set(outcome);
        self.stage.send_replace(Stage::done(size));
        self.sight.close();
        let Some(seat) = self.seat.get() else { return };
        match (seat.runs.upgrade(), seat.run.upgrade()) {
            (Some(runs), _) if self.filed.get().is_some() => runs.keep(size),
            (Some(runs), Some(run)) => runs.forget(&run),
            _ => {}
        }
    }
}
