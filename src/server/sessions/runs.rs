//! The cells that a session has been given by calls: which wait, which runs, and what came of those that have ended, kept for
//! a caller that asks later. Long work of other tools that goes on without its call has a number among them.
//!
//! Runs in: server. The session's task writes what happened; calls wait and look. A call is not a cell: it may be gone before
//! the cell has ended, and another may ask for what came of it. Bounded in number, age and size.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use super::ended::{Done, Ended};
use super::{
    active::Client,
    history::{History, Recorded},
    outcome::CellOutcome,
};

/// Most ended cells whose outcome is kept.
const MAX_KEPT: usize = 100;
/// Most bytes that these outcomes take.
const MAX_BYTES: usize = 32 << 20;
/// Cells of which it is remembered that their outcome was dropped.
const MAX_DROPPED: usize = 1000;

/// One cell, as calls see it.
pub(crate) struct Run {
    /// Its number in the session, given when it was asked for.
    pub(crate) cell: u64,
    /// Who sent it.
    pub(crate) client: Client,
    /// Cancelled when it is to end.
    pub(crate) cancel: CancellationToken,
    /// It is no cell but the work of another tool: that room knows what it is, and has its reply.
    pub(crate) work: Option<Work>,
    /// What it is doing.
    stage: watch::Receiver<Stage>,
    /// Bytes of each stream that have been shown.
    shown: Mutex<[u64; 2]>,
}

/// Work of another tool.
pub(crate) type Work = Arc<dyn Any + Send + Sync>;

impl fmt::Debug for Run {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cell, client, work, .. } = self;
        let work = work.is_some();
        formatter.debug_struct("Run").field("cell", cell).field("client", client).field("work", &work).finish()
    }
}

/// How far a cell is.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// It waits for its turn.
    Queued,
    /// It runs, since then.
    Running(Instant),
    /// It has ended.
    Ended(Arc<Ended>),
    /// Work of another tool has ended.
    Done(Arc<Done>),
}

/// Where a cell of some number is.
#[derive(Debug)]
pub(crate) enum Found {
    /// Here it is.
    Here(Arc<Run>),
    /// Its outcome was there, and is not kept any more.
    Dropped(Dropped),
    /// There is, or was, no such cell that a call has sent.
    Never,
}

/// An outcome that is not kept any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropped {
    /// The cell.
    pub(crate) cell: u64,
    /// When it ended.
    pub(crate) ended: Timestamp,
    /// When it was dropped.
    pub(crate) when: Timestamp,
    /// Why.
    pub(crate) why: WhyDropped,
}

/// Why an outcome is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WhyDropped {
    /// It was kept as long as such are.
    Old,
    /// There were too many.
    TooMany,
    /// They took too much memory.
    TooLarge,
}

/// All of them, oldest first.
#[derive(Debug)]
pub(crate) struct Runs {
    keep: Duration,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The number of the cell that was asked for last.
    pub(super) last: u64,
    pub(super) runs: VecDeque<Arc<Run>>,
    pub(super) bytes: usize,
    pub(super) dropped: VecDeque<Dropped>,
}

/// Where the outcome of a cell goes.
#[derive(Debug)]
pub(super) enum Reply {
    /// To one who waits for it.
    Once(oneshot::Sender<CellOutcome>),
    /// To all who wait, and it is kept.
    Kept(watch::Sender<Stage>, Arc<Runs>),
}

impl Run {
    /// One that has ended, in a program before this one.
    pub(super) fn over(cell: u64, client: Client, stage: Stage, work: Option<Work>) -> Self {
        let (_, stage) = watch::channel(stage);
        Self { cell, client, cancel: CancellationToken::new(), work, stage, shown: Mutex::default() }
    }

    /// How many bytes its reply takes, once it has ended.
    pub(super) fn size(&self) -> Option<usize> {
        self.stage.borrow().end().map(|end| end.size)
    }

    /// How far it is.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// To wait for the next stage.
    pub(crate) fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }

    /// What came of it, once it has ended. `None` when the session ended without a word on it. Cancel-safe.
    pub(crate) async fn ended(stage: &mut watch::Receiver<Stage>) -> Option<Arc<Ended>> {
        match &*stage.wait_for(|stage| matches!(stage, Stage::Ended(_))).await.ok()? {
            Stage::Ended(ended) => Some(Arc::clone(ended)),
            Stage::Queued | Stage::Running(_) | Stage::Done(_) => None,
        }
    }

    /// When it ended, if it has.
    pub(crate) fn ended_at(&self) -> Option<Timestamp> {
        self.stage.borrow().end().map(|end| end.when)
    }

    /// Up to where each stream has been shown.
    pub(crate) fn shown(&self) -> [u64; 2] {
        *self.shown.lock()
    }

    /// Notes up to where each stream has been shown.
    pub(crate) fn show(&self, up_to: [u64; 2]) {
        *self.shown.lock() = up_to;
    }

    /// Whether nothing more is to come of it.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ended(_) | Stage::Done(_)) || self.stage.has_changed().is_err()
    }
}

impl Stage {
    /// The end of work whose reply takes so many bytes.
    pub(crate) fn done(size: usize) -> Self {
        Self::Done(Arc::new(Done::now(size)))
    }

    fn end(&self) -> Option<&Done> {
        match self {
            Self::Ended(ended) => Some(&ended.done),
            Self::Done(done) => Some(done),
            Self::Queued | Self::Running(_) => None,
        }
    }
}

impl Runs {
    /// None yet. Outcomes are kept so long.
    pub(super) fn new(keep: Duration, last: u64) -> Self {
        Self { keep, state: Mutex::new(State { last, ..State::default() }) }
    }

    /// The number of a cell that is asked for now.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        state.last
    }

    /// A cell that is asked for now, of that number.
    pub(super) fn begin(self: &Arc<Self>, cell: u64, client: Client, cancel: CancellationToken) -> (Arc<Run>, Reply) {
        let (sender, stage) = watch::channel(Stage::Queued);
        let run = Arc::new(Run { cell, client, cancel, work: None, stage, shown: Mutex::default() });
        self.state.lock().runs.push_back(Arc::clone(&run));
        (run, Reply::Kept(sender, Arc::clone(self)))
    }

    /// Work of another tool, whose call waits for it: it has no number.
    pub(crate) fn attend(
        &self,
        client: Client,
        cancel: CancellationToken,
        work: Work,
        stage: watch::Receiver<Stage>,
    ) -> Arc<Run> {
        let run = Arc::new(Run { cell: 0, client, cancel, work: Some(work), stage, shown: Mutex::default() });
        self.state.lock().runs.push_back(Arc::clone(&run));
        run
    }

    /// It goes on without its call: it gets the next number.
    pub(crate) fn adopt(&self, run: &Arc<Run>) -> Arc<Run> {
        let cell = self.number();
        let (client, cancel, work) = (run.client.clone(), run.cancel.clone(), run.work.clone());
        let adopted = Arc::new(Run { cell, client, cancel, work, stage: run.watch(), shown: Mutex::default() });
        self.forget(run);
        self.state.lock().runs.push_back(Arc::clone(&adopted));
        adopted
    }

    /// Its call has the reply, and no other can ask for it.
    pub(crate) fn forget(&self, run: &Arc<Run>) {
        self.state.lock().runs.retain(|other| !Arc::ptr_eq(run, other));
    }

    /// Whether work of another tool goes on.
    pub(crate) fn has_work(&self) -> bool {
        self.state.lock().runs.iter().any(|run| run.work.is_some() && !run.is_over())
    }

    /// The newest one was not accepted.
    pub(super) fn withdraw(&self, cell: u64) {
        let mut state = self.state.lock();
        state.runs.retain(|run| run.cell != cell || run.is_over());
        if state.last == cell {
            state.last -= 1;
        }
    }

    /// Numbers go on behind this one; with `None` they begin anew.
    pub(super) fn go_on_from(&self, cell: Option<u64>) {
        let mut state = self.state.lock();
        state.last = cell.map_or(0, |cell| state.last.max(cell));
    }

    /// The newest cell of this number.
    pub(crate) fn find(&self, cell: u64) -> Found {
        let mut state = self.state.lock();
        state.tidy(self.keep);
        if let Some(run) = state.runs.iter().rev().find(|run| run.cell == cell && cell > 0) {
            return Found::Here(Arc::clone(run));
        }
        match state.dropped.iter().rev().find(|dropped| dropped.cell == cell) {
            Some(dropped) => Found::Dropped(*dropped),
            None => Found::Never,
        }
    }

    /// The newest cell of this client's, else the newest of all.
    pub(crate) fn newest(&self, client: &Client) -> Option<Arc<Run>> {
        let mut state = self.state.lock();
        state.tidy(self.keep);
        let own = state.runs.iter().rev().find(|run| run.client == *client);
        own.or(state.runs.back()).cloned()
    }

    /// The cell that runs, of those that calls have sent; else the newest work that goes on.
    pub(crate) fn running(&self) -> Option<Arc<Run>> {
        let state = self.state.lock();
        let mut running = state.runs.iter().rev().filter(|run| matches!(*run.stage.borrow(), Stage::Running(_)));
        let newest = running.clone().next();
        running.find(|run| run.work.is_none()).or(newest).cloned()
    }

    /// How many cells are to be run before this one, the one that runs included.
    pub(crate) fn before(&self, cell: u64) -> usize {
        let state = self.state.lock();
        let earlier = state.runs.iter().rev().filter(|run| run.work.is_none()).skip_while(|run| run.cell != cell);
        earlier.skip(1).take_while(|run| !run.is_over()).count()
    }

    /// The number of the cell that was asked for last.
    pub(crate) fn last(&self) -> u64 {
        self.state.lock().last
    }

    /// Something has ended whose reply takes so many bytes.
    pub(crate) fn keep(&self, size: usize) {
        let mut state = self.state.lock();
        state.bytes += size;
        state.tidy(self.keep);
    }
}

impl State {
    /// Drops what is too old, too much or too large; never what has not ended, and the newest only for its age.
    fn tidy(&mut self, keep: Duration) {
        loop {
            let ended = |run: &Arc<Run>| run.stage.borrow().end().map(|end| (end.at, end.when, end.size));
            let mut over = self.runs.iter().enumerate().filter_map(|(place, run)| Some((place, ended(run)?)));
            let Some((place, (at, when, size))) = over.next() else { return };
            // Cells end one after another, so that those that have not are the newest, and few; what is long stands before
            // all that have. Nothing else is looked at: this is done once a cell.
            let coming = self.runs.iter().rev().take_while(|run| ended(run).is_none()).count();
            let others = self.runs.len() - coming - place - 1;
            let why = match () {
                () if at.elapsed() >= keep => WhyDropped::Old,
                () if others >= MAX_KEPT => WhyDropped::TooMany,
                () if self.bytes > MAX_BYTES && others > 0 => WhyDropped::TooLarge,
                () => return,
            };
            let Some(run) = self.runs.remove(place) else { return };
            self.bytes = self.bytes.saturating_sub(size);
            self.dropped.push_back(Dropped { cell: run.cell, ended: when, when: Timestamp::now(), why });
            if self.dropped.len() > MAX_DROPPED {
                self.dropped.pop_front();
            }
        }
    }
}

impl Reply {
    /// The cell runs from now on.
    pub(super) fn started(&self, since: Instant) {
        if let Self::Kept(stage, _) = self {
            stage.send_replace(Stage::Running(since));
        }
    }

    /// The cell was not run.
    pub(super) fn refuse(self, outcome: CellOutcome) {
        self.send(outcome, 0, String::new(), &History::default());
    }

    /// The cell has ended, and goes into the history with its code. Whether a call was there to hear it.
    pub(super) fn send(self, outcome: CellOutcome, told: u64, code: String, history: &History) -> bool {
        match self {
            Self::Once(reply) => {
                if let Some(recorded) = Recorded::new(code, &outcome, Timestamp::now()) {
                    history.add(recorded);
                }
                reply.send(outcome).is_ok()
            }
            Self::Kept(stage, runs) => {
                let ended = Arc::new(Ended::now(outcome, told));
                let size = ended.done.size;
                history.owe(code, Arc::clone(&ended));
                // One receiver is the run's own.
                let heard = stage.receiver_count() > 1;
                stage.send_replace(Stage::Ended(ended));
                runs.keep(size);
                heard
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::sessions::outcome::refusal;

    fn runs(keep: Duration) -> Arc<Runs> {
        Arc::new(Runs::new(keep, 0))
    }

    fn begin(runs: &Arc<Runs>) -> (Arc<Run>, Reply) {
        let number = runs.number();
        runs.begin(number, Client::Process, CancellationToken::new())
    }

    fn end(reply: Reply, text: usize) {
        let mut outcome = refusal(String::new(), Duration::ZERO);
        outcome.stdout.text = "x".repeat(text);
        reply.send(outcome, 0, String::new(), &History::default());
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn cells_are_numbered_when_they_are_asked_for_and_know_how_many_come_before() {
        let runs = runs(HOUR);
        let (one, first) = begin(&runs);
        let (two, _second) = begin(&runs);
        let (three, _third) = begin(&runs);
        first.started(Instant::now());
        assert_eq!([one.cell, two.cell, three.cell], [1, 2, 3]);
        assert_eq!((runs.before(1), runs.before(3)), (0, 2));
        assert_eq!(runs.running().map(|run| run.cell), Some(1));
        end(first, 1);
        assert_eq!((runs.before(3), runs.running().is_none()), (1, true));
        runs.withdraw(3);
        assert_eq!(runs.number(), 3);
    }

    #[test]
    fn the_oldest_make_room_and_it_is_remembered_why() {
        let runs = runs(HOUR);
        let (waits, _kept) = begin(&runs);
        for _ in 0..MAX_KEPT + 5 {
            let (_, reply) = begin(&runs);
            end(reply, 1);
        }
        assert!(matches!(runs.find(waits.cell), Found::Here(_)), "what has not ended is never dropped");
        let Found::Dropped(dropped) = runs.find(3) else { panic!("it is dropped") };
        assert_eq!(dropped.why, WhyDropped::TooMany);
        assert!(matches!(runs.find(900), Found::Never));
        let (large, reply) = begin(&runs);
        end(reply, MAX_BYTES + 1);
        assert!(matches!(runs.find(large.cell), Found::Here(_)), "the newest stays");
        assert!(matches!(runs.find(large.cell - 1), Found::Dropped(Dropped { why: WhyDropped::TooLarge, .. })));
    }

    #[test]
    fn nothing_is_kept_longer_than_it_may_be() {
        let runs = runs(Duration::ZERO);
        let (run, reply) = begin(&runs);
        let watch = run.watch();
        end(reply, 1);
        assert!(matches!(*watch.borrow(), Stage::Ended(_)), "who waits hears of it");
        assert!(matches!(runs.find(run.cell), Found::Dropped(Dropped { why: WhyDropped::Old, .. })));
    }

    #[test]
    fn a_client_finds_its_own_newest_cell() {
        let runs = runs(HOUR);
        let (own, _reply) = begin(&runs);
        let number = runs.number();
        let (other, _other) = runs.begin(number, Client::Front(1), CancellationToken::new());
        assert_eq!(runs.newest(&Client::Process).map(|run| run.cell), Some(own.cell));
        assert_eq!(runs.newest(&Client::Front(2)).map(|run| run.cell), Some(other.cell));
    }
}
