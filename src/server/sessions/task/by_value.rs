//! A session that cannot be copied is kept by value: variables that pickle, in a folder, for the case that its worker dies.
//!
//! Runs in: server, in the session's task. The worker writes, between cells, and gives way to a call as soon as one waits;
//! what was kept before stays until something newer is whole. What is written is
//! `python/forkpy_worker/variables/keptfile.py`'s.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    errands::next_number,
    keeping::cannot_be_kept,
    rollback::CameBack,
    state::{Task, Values},
};
use crate::{
    protocol::{FromWorker, StateReport, ToWorker},
    server::{
        health::{errand::Errand, recovery::Step},
        sessions::{
            checkpoints::newest,
            death::Recovered,
            happened::{KeptByValue, Uncopied, What},
            orders::{BrokenOff, Caller, Order, Restarted, SessionError},
        },
    },
    sys::fault,
};

/// It may take so long.
const LIMIT: Duration = Duration::from_secs(10);
/// How soon a call that waits is seen.
const LOOK: Duration = Duration::from_millis(2);
/// A session rests so many times longer than the last time took.
const RESTS: u32 = 4;

/// Holds the other end of the worker's descriptor until a call waits.
async fn hold_until_called(end: OwnedFd, queue: mpsc::WeakSender<Order>) {
    until_called(queue).await;
    drop(end);
}

/// Until a call waits, or the session is over.
pub(super) async fn until_called(queue: mpsc::WeakSender<Order>) {
    while queue.upgrade().is_some_and(|queue| queue.capacity() == queue.max_capacity()) {
        tokio::time::sleep(LOOK).await;
    }
}

impl Task {
    /// There can be no copy: keeps what can be kept by value.
    pub(super) async fn keep_by_value(&mut self, why: Uncopied) {
        if self.keeping.too_slow || self.worker.is_none() {
            return self.has_by_value(why);
        }
        let began = Instant::now();
        match self.kept_by_value().await {
            Ok(Some(StateReport { names, skipped, .. })) => {
                let kept = Arc::new(KeptByValue { cell: self.tip, names, left_out: skipped });
                let loaded = self.loaded;
                if let Some(values) = &mut self.keeping.values {
                    (values.kept, values.number, values.loaded) = (Some(kept), newest(), loaded);
                }
                self.keeping.misses = self.rests(began.elapsed());
                self.has_by_value(why);
            }
            // Once more when the session is at rest again.
            Ok(None) => {
                self.keeping.due = Some(Instant::now() + self.around.checkpoints.bounds().after);
                self.shared.update(|status| status.unkept = Some(why.to_string()));
            }
            Err(error) => {
                tracing::debug!(session = %self.id, %error, "nothing is kept by value");
                self.keeping.misses += 1;
                self.keeping.too_slow |=
                    matches!(&error, SessionError::BrokenOff { why: BrokenOff::Limit(_) | BrokenOff::StillAt(_), .. });
                self.has_by_value(why);
            }
        }
    }

    fn has_by_value(&self, why: Uncopied) {
        let kept = self.keeping.values.as_ref().and_then(|values| values.kept.clone());
        cannot_be_kept(&self.shared, &self.life, &self.keeping.told, why, kept);
    }

    /// What was left out and what not; none when a call had precedence.
    async fn kept_by_value(&mut self) -> Result<Option<StateReport>, SessionError> {
        let fail = |session: &str, error: io::Error| SessionError::Worker {
            session: session.to_owned(),
            reason: format!("nothing can be kept by value: {error}"),
        };
        if self.keeping.values.is_none() {
            let folder = tempfile::Builder::new().prefix("kept-").tempdir_in(&self.around.exchange);
            let folder = Some(folder.map_err(|error| fail(&self.id, error))?);
            self.keeping.values = Some(Values { folder, kept: None, number: 0, loaded: None });
        }
        let folder = self.keeping.values.as_ref().map_or_else(String::new, Values::path);
        let (theirs, ours) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| fail(&self.id, error.into()))?;
        let holding = tokio::spawn(hold_until_called(ours, self.queue.clone()));
        let errand = next_number();
        let asked = (errand, ToWorker::KeepValues { errand, folder, limit: self.most_copied() });
        let limit = fault::limit(LIMIT);
        let gone = async {
            tokio::time::sleep(limit).await;
            BrokenOff::Limit(limit)
        };
        let answer = self.ask(Errand::Keep, asked, &[theirs.as_fd()], gone).await;
        holding.abort();
        match answer? {
            FromWorker::State(report) => Ok(Some(report)),
            FromWorker::GaveWay => Ok(None),
            other => Err(self.unexpected(other)),
        }
    }

    /// Doublings of the pause after which the next attempt is made.
    fn rests(&self, took: Duration) -> u32 {
        let after = self.around.checkpoints.bounds().after;
        (0..8).find(|doublings| after * 2_u32.pow(*doublings) >= took * RESTS).unwrap_or(8)
    }

    /// The worker has died, and there is no copy: a new one, with what was kept.
    pub(super) async fn bring_back(&mut self, began: Instant) -> Option<CameBack> {
        let values = self.keeping.values.take()?;
        let kept = values.kept.clone()?;
        let held = self.holds;
        let done = match self.start_verified().await {
            Ok(()) => self.load_kept(&values).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let detail = match &done {
            Ok(_) => format!("a new worker has the variables that were kept by value after cell {}", kept.cell),
            Err(error) => format!("what was kept by value after cell {} could not be brought back: {error}", kept.cell),
        };
        self.enter(Step::Restart, done.is_ok(), detail, began);
        let Ok(back) = done else {
            self.holds = held;
            return None;
        };
        self.shared.record(|record| record.ledger.proven(&record.policy));
        let lost = (kept.cell < self.last_cell).then_some((kept.cell + 1, self.last_cell));
        let recovered = Recovered { from: kept.cell, lost };
        self.runs.go_on_from(Some(kept.cell));
        (self.holds, self.tip, self.base) = (true, kept.cell, Some((kept.cell, self.last_cell + 1)));
        let mut then = vec![What::BroughtBack { by_value: Arc::new(back) }];
        if self.loaded != values.loaded {
            let lacks = "the variables that load_session brought in after they were kept are not there".to_owned();
            then.push(What::CopyLacks { lacks: vec![lacks] });
        }
        self.loaded = None;
        self.keeping.due = Some(Instant::now() + self.around.checkpoints.bounds().after);
        let copy = values.number;
        self.keeping.values = Some(values);
        Some(CameBack { recovered, copy, then })
    }

    /// Into a worker that has nothing yet: what came back, and what did not, also of what could not be kept.
    async fn load_kept(&mut self, values: &Values) -> Result<KeptByValue, SessionError> {
        let errand = next_number();
        let asked = (errand, ToWorker::LoadKept { errand, folder: values.path() });
        match self.ask(Errand::Load, asked, &[], std::future::pending()).await? {
            FromWorker::State(StateReport { names, mut skipped, .. }) => {
                let kept = values.kept.clone().unwrap_or_default();
                skipped.extend(kept.left_out.iter().cloned());
                Ok(KeptByValue { cell: kept.cell, names, left_out: skipped })
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// `restart_kernel` with `preserve_state` of a session whose worker is dead.
    pub(super) async fn restart_by_value(
        &mut self,
        values: Values,
        caller: &Caller,
    ) -> Result<Restarted, SessionError> {
        self.begin_anew().await?;
        let mut result = Restarted::default();
        match self.load_kept(&values).await {
            Ok(KeptByValue { cell, names, left_out }) => {
                (self.holds, self.tip) = (true, cell);
                self.note_restart(Some(left_out.len()), Some(caller));
                result.restored.clone_from(&names);
                result.preserved = names;
                result.lost.extend(left_out);
                result.notice =
                    Some(format!("The worker was dead; the variables are as they were kept after cell {cell}."));
            }
            Err(error) => {
                self.note_restart(None, Some(caller));
                result.notice = Some(error.to_string());
            }
        }
        self.settle();
        self.keep_state().await;
        Ok(result)
    }

    /// Whether what is kept by value has what cells after this one have left.
    pub(super) fn has_newer_values(&self, cell: u64) -> bool {
        let kept = self.keeping.values.as_ref().and_then(|values| values.kept.as_ref());
        kept.is_some_and(|kept| kept.cell > cell)
    }

    /// They are of another state than that which there is now.
    pub(super) fn drop_values(&mut self) {
        self.keeping.values = None;
        self.shared.update(|status| status.by_value = None);
    }
}
