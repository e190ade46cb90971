//! Running one cell on the session's worker: what comes before it, and what comes out of it.
//!
//! Runs in: server, in the session's task. The cell itself is `follow.rs`, its end `ending.rs`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ending::{Concluded, Told},
    errands::taken_back,
    follow::{Followed, Running, Wish},
    state::Task,
    underway::Underway,
};
use crate::{
    protocol::{CellError, CellReport, Confinement, Display, PlainResult},
    server::{
        health::{Record, errand::Errand, evidence::Phase},
        output::{captured::Method, marks, screen},
        sessions::{
            checkpoints::Checkpoint,
            crashes,
            death::Fate,
            notice::Notice,
            orders::{BrokenOff, Caller, CellOrder, CheckpointWish, SessionError, Urgent},
            outcome::{CellOutcome, Ending, OnError, refusal},
            runs::Reply,
        },
        traces::{NotRun, Ran},
        workspace::watch::NewFiles,
    },
};

/// A cell that has come to its end.
pub(super) struct Done {
    pub(super) outcome: CellOutcome,
    /// Its client has been told of all up to this event, once it has the outcome.
    pub(super) told: u64,
}

/// Of a report: results, displays, a notice, the exception.
type Said = (Vec<PlainResult>, Vec<Display>, Option<String>, Option<CellError>);

impl Task {
    pub(super) async fn run_cell(
        &mut self,
        order: CellOrder,
        (number, reply): (u64, &Reply),
        queued: Duration,
    ) -> Done {
        let anchor = match self.make_ready(&order, queued).await {
            Ok(anchor) => anchor,
            Err(outcome) => return self.not_run(&order, outcome),
        };
        let before = self.life.newest();
        let since = Instant::now();
        let cell = self.begin_cell(number, since);
        reply.started(since);
        let under = Underway {
            cell,
            order,
            since,
            queued,
            before,
            background: std::mem::take(&mut self.background),
            mark: self.place.watcher.mark(),
            found: NewFiles::default(),
            anchor,
            is_kept: matches!(reply, Reply::Kept(..)),
        };
        let mut running = self.captures(cell, &under.order);
        let followed = self.follow(&under, &mut running).await;
        self.finish(under, running, followed).await
    }

    /// Makes the outcome of a cell that has come to its end.
    pub(super) async fn finish(&mut self, under: Underway, running: Running, followed: Followed) -> Done {
        let Underway { cell, order, since, queued, before, background, mark, found, anchor, .. } = under;
        let (ran, wish) = (since.elapsed(), followed.wish);
        let Concluded { mut ending, report, death } = self.conclude(cell, followed, order.timeout).await;
        let Running { stdout, stderr, .. } = running;
        let (stdout, stderr) = (stdout.finish().await, stderr.finish().await);
        let crash = self.file_report(Some((&order.code, ran, &stdout, &stderr))).await;
        if let Ending::Died(death) = &mut ending {
            death.report.clone_from(&crash);
        }
        let lived = death.is_none();
        let going_back = anchor.filter(|_| !matches!(ending, Ending::Finished));
        let rollback = self.settle_state(cell, going_back, death).await;
        let Told { fate, recovered, mut notices, up_to } = self.tell(&order.client, before, rollback);
        if lived {
            notices.extend(self.told_of_wish(cell, wish, since).await);
        }
        if self.worker.is_some() {
            self.shared.record(|record| record.ledger.succeed());
        }
        let alerts = self.shared.record(Record::take_unsaid);
        let (results, displays, told, error) = self.said_in(report);
        notices.extend(told.map(Notice::OfTheCell));
        let shown = displays.iter().flat_map(|display| &display.data).map(|data| data.file.as_deref());
        let own: Vec<_> =
            [stdout.file.as_deref(), stderr.file.as_deref(), crash.as_deref()].into_iter().chain(shown).collect();
        // A report has another name for the moment in which it is written.
        let is_own = |path: &str| own.contains(&Some(path)) || crashes::is_in(path);
        let mut new_files = self.place.watcher.since(&mark, is_own);
        if found != NewFiles::default() {
            new_files.add(found);
            new_files.paths.retain(|path| !is_own(path));
        }
        let background = String::from_utf8_lossy(&screen::settled(&marks::stripped(&background))).into_owned();
        let outcome = CellOutcome {
            cell,
            ending,
            stdout,
            stderr,
            background,
            results,
            displays,
            error,
            new_files,
            queued,
            ran,
            fate,
            recovered,
            notices,
            alerts,
        };
        if let Some(parent) = &order.trace {
            let (session, asked, status) = (&*self.id, order.asked, outcome.ending.status());
            parent.ran(&Ran { session, cell, asked, queued, began: since, took: ran, status });
        }
        Done { outcome, told: up_to }
    }

    /// What a report says to its client; the rest of it is noted.
    fn said_in(&self, report: Option<CellReport>) -> Said {
        let Some(CellReport { results, displays, notice, error, imported, .. }) = report else {
            return Default::default();
        };
        if !imported.is_empty() && self.limits.confinement == Confinement::Off {
            self.around.imports.note(imported);
        }
        (results, displays, notice, error)
    }

    /// Brings it about that the cell can be run: a worker that is free, and a checkpoint to go back to if one is wanted.
    async fn make_ready(
        &mut self,
        order: &CellOrder,
        queued: Duration,
    ) -> Result<Option<Arc<Checkpoint>>, CellOutcome> {
        let caller = Caller { client: order.client.clone(), cancel: order.cancel.clone() };
        if order.cancel.is_cancelled() {
            return Err(not_started(queued));
        }
        if self.owed.is_some() {
            let mut gone = std::pin::pin!(taken_back(&caller));
            let settled = self.settle_owed(Errand::List, &mut gone).await;
            if order.cancel.is_cancelled() {
                return Err(not_started(queued));
            }
            if let Err(SessionError::BrokenOff { why, .. }) = settled {
                return Err(refusal(format!("session {:?} was held: {why}", self.id), queued));
            }
            // What held it was ended by a restart or a deletion, which came after this cell and is carried out next.
            if let Some(reason) = self.later.front().filter(|_| self.worker.is_none()).map(Urgent::reason) {
                return Err(refusal(self.ended_meanwhile(reason), queued));
            }
        }
        if let Err(error) = self.ensure_worker().await {
            let reason = format!("session {:?} has no worker: {error}", self.id);
            self.plan_revival();
            return Err(refusal(reason, queued));
        }
        if order.cancel.is_cancelled() {
            return Err(not_started(queued));
        }
        if order.on_error == OnError::Keep {
            return Ok(None);
        }
        match self.make_checkpoint(CheckpointWish { name: None, force: false, kept: false }, &caller).await {
            Ok(anchor) => Ok(Some(anchor)),
            Err(SessionError::BrokenOff { why: BrokenOff::Cancelled, .. }) => Err(not_started(queued)),
            Err(error) => {
                Err(refusal(format!("{error}. on_error: \"rollback\" needs a checkpoint; it was not run"), queued))
            }
        }
    }

    fn begin_cell(&mut self, number: u64, since: Instant) -> u64 {
        // It was given when the cell was asked for; since then the session may have gone on from elsewhere.
        self.last_cell = number.max(self.last_cell + 1);
        let cell = self.last_cell;
        self.tip = cell;
        self.holds = true;
        if let Some(Err(error)) = self.at_rest.as_ref().map(|image| image.note_cell(cell)) {
            tracing::warn!(session = %self.id, %error, "it cannot be noted that the session goes on from its image");
        }
        self.shared.update(|status| {
            status.phase = Phase::Busy { cell, since };
            status.executed += 1;
            status.stays_awake = None;
            status.stays = None;
        });
        cell
    }

    /// A cell that was not run says how things stand too; it counts as nothing told.
    fn not_run(&self, order: &CellOrder, outcome: CellOutcome) -> Done {
        if let Some(parent) = &order.trace {
            let (session, status) = (&*self.id, outcome.ending.status());
            parent.not_run(&NotRun { session, asked: order.asked, queued: outcome.queued, status });
        }
        let Told { fate, recovered, notices, .. } = self.tell(&order.client, u64::MAX, None);
        let fate = if self.later.iter().any(Urgent::throws_away) { Fate::Lost } else { fate };
        Done { outcome: CellOutcome { fate, recovered, notices, ..outcome }, told: 0 }
    }

    /// What a cell is told of the interrupt that another caller had sent it.
    async fn told_of_wish(&mut self, cell: u64, wish: Wish, since: Instant) -> Option<Notice> {
        match wish {
            Wish::Yield => Some(Notice::MadeWay),
            Wish::Heal => Some(Notice::Healed { detail: self.healed(cell, since).await }),
            Wish::None | Wish::TimeOut | Wish::Cancel | Wish::CpuUsedUp => None,
        }
    }
}

fn not_started(queued: Duration) -> CellOutcome {
    let mut outcome = refusal(String::new(), queued);
    outcome.ending = Ending::Cancelled { method: Method::NotStarted };
    outcome
}
