//! What came of cells, on its way to the program that this server becomes.
//!
//! Runs in: server, before the exec and after it. What goes on is not here: it is taken along by the session's task (`task/along.rs`).

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use super::{
    active::Client,
    ended::{Done, Ended},
    outcome::CellOutcome,
    returned::time,
    runs::{Dropped, Run, Runs, Stage, WhyDropped, Work},
};
use crate::sys::age;

/// What is kept of the cells of one session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedRuns<T> {
    /// The number of the newest cell.
    last: u64,
    runs: Vec<PackedRun<T>>,
    /// Cells whose reply is not kept any more: when they ended, when it was dropped (RFC 3339), and why.
    dropped: Vec<(u64, String, String, WhyDropped)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PackedRun<T> {
    cell: u64,
    client: Client,
    came: T,
    told: u64,
    #[serde(with = "age")]
    at: Instant,
    /// RFC 3339.
    ended: String,
    size: usize,
}

/// What came of a cell, or the work of another tool that has ended.
pub(super) enum Came {
    Cell(Box<CellOutcome>),
    Work(Work),
}

impl Runs {
    /// What is kept.
    pub(super) fn pack<T>(&self, pack: impl Fn(&Run, Option<&Ended>) -> Option<T>) -> PackedRuns<T> {
        let state = self.state.lock();
        let runs = state.runs.iter().filter_map(|run| {
            let (ended, done) = match run.stage() {
                Stage::Ended(ended) => (Some(Arc::clone(&ended)), ended.done),
                Stage::Done(done) => (None, *done),
                Stage::Queued | Stage::Running(_) => return None,
            };
            Some(PackedRun {
                cell: run.cell,
                client: run.client.clone(),
                came: pack(run, ended.as_deref())?,
                told: ended.map_or(0, |ended| ended.told),
                at: done.at,
                ended: done.when.to_string(),
                size: done.size,
            })
        });
        let dropped = state.dropped.iter();
        let dropped = dropped.map(|one| (one.cell, one.ended.to_string(), one.when.to_string(), one.why));
        PackedRuns { last: state.last, runs: runs.collect(), dropped: dropped.collect() }
    }

    /// Goes on with it.
    pub(super) fn go_on<T>(&self, packed: PackedRuns<T>, unpack: impl Fn(T) -> Option<Came>) {
        let mut state = self.state.lock();
        state.last = packed.last;
        for PackedRun { cell, client, came, told, at, ended, size } in packed.runs {
            let Some(came) = unpack(came) else { continue };
            let done = Done { at, when: time(&ended), size };
            let (stage, work) = match came {
                Came::Cell(outcome) => (Stage::Ended(Arc::new(Ended { outcome: *outcome, told, done })), None),
                Came::Work(work) => (Stage::Done(Arc::new(done)), Some(work)),
            };
            state.runs.push_back(Arc::new(Run::over(cell, client, stage, work)));
        }
        state.bytes = state.runs.iter().filter_map(|run| run.size()).sum();
        let dropped = packed.dropped.into_iter();
        state.dropped = dropped
            .map(|(cell, ended, when, why)| Dropped { cell, ended: time(&ended), when: time(&when), why })
            .collect();
    }
}
