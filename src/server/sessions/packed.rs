//! A session on its way to the program that this server process becomes (`forkpy restart`).
//!
//! Runs in: server, before the exec and after it. Pure data, but for the worker's descriptors. What clients have not been told of a session is taken along as what it came to.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    beginning::{Beginning, Origin},
    checkpoints::Checkpoints,
    context::Surroundings,
    death::{Fate, Recovered},
    handle::Session,
    history::Recorded,
    kept::{Came, PackedRuns},
    life::{Life, PackedLog},
    notice::Notice,
    outcome::{CellOutcome, Ending},
    outputs::{Output, Part},
    returned::{PackedTask, Returned, before, time},
    runs::{Ended, Run, Work},
};
use crate::{
    protocol::{CellError, Display, PlainResult},
    server::{
        health::Record,
        output::captured::CapturedText,
        owner::Owner,
        workers::{
            checkpoint::{Checkpoint, PackedCheckpoint},
            link::Worker,
        },
        workspace::watch::NewFiles,
    },
    settings::limits::Limits,
    sys::{
        groups::{Group, PackedGroup},
        parcel::Parcel,
    },
};

/// A session that goes on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedSession {
    owner: (u8, String),
    pub(in crate::server) id: String,
    /// The number of its life.
    pub(in crate::server) life: u64,
    description: String,
    /// RFC 3339, and how long ago.
    created: (String, Duration),
    used: (String, Duration),
    executed: u64,
    restarts: u64,
    /// Orders that it had taken, and how many of them an image has.
    taken: (u64, Option<u64>),
    /// For how long it has been served without a loss, where it has slept.
    up: Option<Duration>,
    /// What is remembered of its health.
    health: Record,
    limits: Limits,
    log: PackedLog,
    history: (Vec<PackedCell>, u64),
    runs: PackedRuns<PackedCame>,
    checkpoints: Vec<PackedCheckpoint>,
    /// Where the kernel counts its memory.
    group: Option<PackedGroup>,
    task: PackedTask,
}

/// A cell of the history.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedCell {
    number: u64,
    code: String,
    outputs: Vec<PackedOutput>,
    ended: String,
    ran: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
enum PackedOutput {
    Stream { is_error: bool, text: String, whole: Option<Part> },
    Shown { display: Display, result: Option<u64> },
    Error { name: String, words: String, traceback: String },
}

/// What a cell came to; what its reply has to say besides is words already.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedOutcome {
    cell: u64,
    ending: Ending,
    streams: (CapturedText, CapturedText, String),
    results: Vec<PlainResult>,
    displays: Vec<Display>,
    error: Option<CellError>,
    new_files: NewFiles,
    times: (Duration, Duration),
    fate: Fate,
    recovered: Option<Recovered>,
    notice: Option<String>,
    alerts: Vec<String>,
}

/// What is kept of something that has ended.
#[derive(Debug, Serialize, Deserialize)]
enum PackedCame {
    Cell(Box<PackedOutcome>),
    /// In a form that only the room of tools knows.
    Work(String),
}

/// What is done at the edge.
#[derive(Clone, Copy)]
pub(crate) struct Edge {
    /// Puts what a reply has to say into words.
    pub(crate) words: fn(&str, &[Notice], bool) -> Option<String>,
    /// Packs the work of a tool that has ended, and unpacks it.
    pub(crate) pack: fn(&Run) -> Option<String>,
    pub(crate) unpack: fn(&str) -> Option<Work>,
}

fn age(since: Instant) -> Duration {
    since.elapsed()
}

impl PackedSession {
    /// Takes a session along.
    ///
    /// # Errors
    /// When it is not at rest.
    pub(crate) async fn of(
        session: &Session,
        table: &Checkpoints,
        (parcel, thaw): (&mut Parcel, &CancellationToken),
        edge: Edge,
    ) -> io::Result<Self> {
        let (task, status) = (session.pack(parcel, thaw).await?, session.shared.get());
        let mut taken = Vec::new();
        for checkpoint in table.of(&session.life) {
            match checkpoint.pack(parcel).await {
                Some(packed) => taken.push(packed),
                None => table.leave_behind(&session.life, &checkpoint),
            }
        }
        let (cells, left_out) = session.history.cells();
        let pack = |run: &Run, ended: Option<&Ended>| match ended {
            Some(ended) => Some(PackedCame::Cell(Box::new(PackedOutcome::of(&session.id, &ended.outcome, edge)))),
            None => (edge.pack)(run).map(PackedCame::Work),
        };
        Ok(Self {
            owner: session.life.owner().pack(),
            id: session.id.to_string(),
            life: session.life.number(),
            description: status.description,
            created: (status.created.to_string(), age(status.created_at)),
            used: (status.last_activity.to_string(), age(status.used_at)),
            executed: status.executed,
            restarts: status.restarts,
            taken: (status.taken, status.imaged),
            up: status.up_since.map(age),
            health: session.shared.record(|record| record.clone()),
            limits: session.limits,
            log: session.life.pack(),
            history: (cells.into_iter().map(PackedCell::of).collect(), left_out),
            runs: session.runs.pack(pack),
            checkpoints: taken,
            group: status.group.and_then(|group| group.pack()),
            task,
        })
    }

    pub(in crate::server) fn owner(&self) -> Owner {
        Owner::unpack(self.owner.clone())
    }

    /// Goes on with it.
    ///
    /// # Safety
    /// The numbers of descriptors must come from a parcel, and be used once.
    pub(crate) unsafe fn unpack(self, around: &Arc<Surroundings>, edge: Edge) -> io::Result<Session> {
        let Self { mut task, checkpoints, health, limits, description, .. } = self;
        let policy = health.policy;
        let owner = Owner::unpack(self.owner);
        let place = around.places.of(&owner).map_err(io::Error::other)?;
        let life = Life::going_on(owner, Arc::from(self.id), self.life, self.log);
        let children = &around.children;
        for packed in checkpoints {
            // SAFETY: as the caller says.
            match unsafe { Checkpoint::unpack(packed, life.incarnation(), children) } {
                Ok(checkpoint) => around.checkpoints.keep(&life, checkpoint),
                Err(error) => tracing::warn!(%error, "a checkpoint is lost"),
            }
        }
        let worker = match task.worker.take() {
            // SAFETY: as the caller says.
            Some(packed) => Some(unsafe { Worker::unpack(&packed, children) }?),
            None => None,
        };
        let images = &around.images;
        let (asleep, at_rest) = (task.asleep.take(), task.at_rest.take());
        let (asleep, at_rest) = (asleep.map(|image| images.kept(&image)), at_rest.map(|image| images.kept(&image)));
        let common = task.common.and_then(|id| images.base_of(id));
        let group = self.group.and_then(Group::going_on);
        let returned = Returned { worker, asleep, at_rest, common, group, task };
        let origin = Origin::Returned(Box::new(returned));
        let beginning = Beginning { life, description, policy, limits, origin };
        let session = Session::start(beginning, Arc::clone(around), place);
        session.shared.record(|record| *record = health);
        session.shared.update(|status| {
            (status.created, status.created_at) = (time(&self.created.0), before(self.created.1));
            (status.last_activity, status.used_at) = (time(&self.used.0), before(self.used.1));
            (status.executed, status.restarts) = (self.executed, self.restarts);
            (status.taken, status.imaged) = self.taken;
            status.up_since = self.up.map(before);
        });
        let (cells, left_out) = self.history;
        session.history.go_on(cells.into_iter().map(PackedCell::unpack), left_out);
        session.runs.go_on(self.runs, |came| match came {
            PackedCame::Cell(outcome) => Some(Came::Cell(Box::new(outcome.unpack()))),
            PackedCame::Work(text) => (edge.unpack)(&text).map(Came::Work),
        });
        Ok(session)
    }
}

impl PackedCell {
    fn of(cell: Recorded) -> Self {
        let Recorded { number, code, outputs, ended, ran } = cell;
        let outputs = outputs.into_iter().map(PackedOutput::of).collect();
        Self { number, code, outputs, ended: ended.to_string(), ran }
    }

    fn unpack(self) -> Recorded {
        let Self { number, code, outputs, ended, ran } = self;
        let outputs = outputs.into_iter().map(PackedOutput::unpack).collect();
        Recorded { number, code, outputs, ended: time(&ended), ran }
    }
}

impl PackedOutput {
    fn of(output: Output) -> Self {
        match output {
            Output::Stream { name, text, whole } => Self::Stream { is_error: name == "stderr", text, whole },
            Output::Shown { display, result } => Self::Shown { display, result },
            Output::Error { name, words, traceback } => Self::Error { name, words, traceback },
        }
    }

    fn unpack(self) -> Output {
        match self {
            Self::Stream { is_error, text, whole } => {
                Output::Stream { name: if is_error { "stderr" } else { "stdout" }, text, whole }
            }
            Self::Shown { display, result } => Output::Shown { display, result },
            Self::Error { name, words, traceback } => Output::Error { name, words, traceback },
        }
    }
}

impl PackedOutcome {
    fn of(session: &str, outcome: &CellOutcome, edge: Edge) -> Self {
        let outcome = outcome.clone();
        Self {
            cell: outcome.cell,
            ending: outcome.ending,
            streams: (outcome.stdout, outcome.stderr, outcome.background),
            results: outcome.results,
            displays: outcome.displays,
            error: outcome.error,
            new_files: outcome.new_files,
            times: (outcome.queued, outcome.ran),
            fate: outcome.fate,
            recovered: outcome.recovered,
            notice: (edge.words)(session, &outcome.notices, outcome.cell > 0),
            alerts: outcome.alerts,
        }
    }

    fn unpack(self) -> CellOutcome {
        let ((stdout, stderr, background), (queued, ran)) = (self.streams, self.times);
        CellOutcome {
            cell: self.cell,
            ending: self.ending,
            stdout,
            stderr,
            background,
            results: self.results,
            displays: self.displays,
            error: self.error,
            new_files: self.new_files,
            queued,
            ran,
            fate: self.fate,
            recovered: self.recovered,
            notices: self.notice.map(Notice::OfTheCell).into_iter().collect(),
            alerts: self.alerts,
        }
    }
}
