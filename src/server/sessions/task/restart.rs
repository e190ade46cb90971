//! `restart_kernel`: a new worker, with the variables carried over if that is wished.
//!
//! Runs in: server, in the session's task. With `preserve_state` nothing is thrown away that could not be saved: the
//! session is then left as it is, and the caller is told.

use std::{path::Path, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    errands::{next_number, taken_back},
    state::{Task, Values},
};
use crate::{
    protocol::{FromWorker, StateReport, ToWorker},
    server::{
        health::errand::Errand,
        sessions::{
            checkpoints::{Checkpoint, newest},
            death::{DeathReason, Fate},
            happened::What,
            orders::{Caller, Carry, NoWorker, Restarted, SessionError},
        },
    },
};

impl Task {
    pub(super) async fn restart(&mut self, preserve: bool, caller: &Caller) -> Result<Restarted, SessionError> {
        if !preserve {
            return self.restart_empty(caller).await;
        }
        if self.asleep.is_some()
            && let Err(error) = self.wake_up().await
        {
            if let NoWorker::Asleep { why, instead: Some(kept) } = &error {
                return self.restart_instead((kept, why), caller).await;
            }
            let (session, reason) = (self.id.to_string(), error.to_string());
            return Err(SessionError::NotPreserved { session, reason });
        }
        if self.worker.is_none() {
            return self.restart_without_worker(caller).await;
        }
        let path = self.around.exchange.join(format!("{}.state", uuid::Uuid::new_v4().simple()));
        let saved = self.carry(Carry::Save, path.to_string_lossy().into_owned(), caller).await;
        let restarted = match saved {
            Ok(report) => self.restart_with(report, &path, caller).await,
            // It died of it. What there was is lost, or is there again from a checkpoint; a restart throws nothing away.
            Err(SessionError::Lost { reason, .. }) => {
                let mut restarted = self.restart_empty(caller).await?;
                restarted.notice = Some(format!("no variable could be carried over: {reason}"));
                Ok(restarted)
            }
            Err(SessionError::Recovered { reason, recovered, .. }) => {
                let mut restarted = self.tell_restored(recovered.from, caller).await;
                restarted.notice = Some(format!("{reason}, while its variables were saved; {}", recovered.describe()));
                Ok(restarted)
            }
            Err(error) if self.worker.is_some() => Err(self.not_preserved(&error)),
            Err(error) => Err(error),
        };
        let _ = std::fs::remove_file(&path);
        restarted
    }

    fn not_preserved(&self, error: &SessionError) -> SessionError {
        SessionError::NotPreserved { session: self.id.to_string(), reason: error.to_string() }
    }

    /// All variables go, as asked for.
    async fn restart_empty(&mut self, caller: &Caller) -> Result<Restarted, SessionError> {
        self.drop_copies();
        self.end(DeathReason::Restart, Fate::Lost).await;
        self.begin_anew().await?;
        self.note_restart(None, Some(caller));
        self.settle();
        Ok(Restarted::default())
    }

    /// There is nothing to save from; but policy `last` may have a checkpoint of what there was.
    async fn restart_without_worker(&mut self, caller: &Caller) -> Result<Restarted, SessionError> {
        let kept = self.leave_behind().await;
        let values = self.keeping.values.take();
        self.refuse_waiting(DeathReason::Restart, Fate::Lost);
        if let Some(kept) = kept
            && let Ok(result) = self.restart_from(&kept, caller).await
        {
            return Ok(result);
        }
        if let Some(values) = values.filter(Values::are_kept) {
            return self.restart_by_value(values, caller).await;
        }
        self.begin_anew().await?;
        self.note_restart(None, Some(caller));
        self.settle();
        let notice = "no variable could be carried over: the session had no living worker".to_owned();
        Ok(Restarted { notice: Some(notice), ..Restarted::default() })
    }

    async fn restart_from(&mut self, kept: &Arc<Checkpoint>, caller: &Caller) -> Result<Restarted, SessionError> {
        let recovered = self.go_on_from(kept, false, std::future::pending()).await?;
        let what = What::WentBack { checkpoint: Arc::clone(&kept.name), recovered, copy: kept.number };
        self.life.happened(what, Some(&caller.client));
        self.shared.record(|record| record.ledger.succeed());
        let result = self.tell_restored(kept.cell, caller).await;
        self.keep_state().await;
        Ok(result)
    }

    /// A new worker, and into it what the old one has saved.
    async fn restart_with(
        &mut self,
        report: StateReport,
        path: &Path,
        caller: &Caller,
    ) -> Result<Restarted, SessionError> {
        let mut result =
            Restarted { preserved: report.names, lost: report.skipped.into_iter().collect(), ..Restarted::default() };
        self.drop_copies();
        self.end(DeathReason::Restart, Fate::Restored).await;
        self.begin_anew().await?;
        // Not broken off: the old worker is gone, and this is all there is.
        let loads = Caller { client: caller.client.clone(), cancel: CancellationToken::new() };
        match self.carry(Carry::Load, path.to_string_lossy().into_owned(), &loads).await {
            Ok(StateReport { names, skipped, .. }) => {
                result.restored = names;
                result.lost.extend(skipped);
                self.note_restart(Some(result.lost.len()), Some(caller));
            }
            Err(error) => {
                self.holds = false;
                self.note_restart(None, None);
                result.notice = Some(error.to_string());
            }
        }
        self.settle();
        self.keep_state().await;
        Ok(result)
    }

    /// The old worker has ended: a new one. When none comes, all are told, also the client that ordered it.
    pub(super) async fn begin_anew(&mut self) -> Result<(), SessionError> {
        self.shared.record(|record| record.ledger.succeed());
        self.holds = false;
        let started = self.start_verified().await;
        started.map_err(|source| {
            self.note_restart(None, None);
            SessionError::NoWorker { session: self.id.to_string(), source }
        })
    }

    /// The news of a restart, once it is known what was carried over. The client that ordered it knows, unless it failed.
    pub(super) fn note_restart(&self, carried: Option<usize>, by: Option<&Caller>) {
        let what = What::Restarted { carried, newest: newest() };
        self.life.happened(what, by.map(|caller| &caller.client));
    }

    /// Writes variables to a file of ours, or reads them from one.
    pub(super) async fn carry(
        &mut self,
        carry: Carry,
        path: String,
        caller: &Caller,
    ) -> Result<StateReport, SessionError> {
        let number = next_number();
        let (errand, request) = match carry {
            Carry::Save => (Errand::Save, ToWorker::SaveState { errand: number, path }),
            Carry::Load => (Errand::Load, ToWorker::LoadState { errand: number, path }),
        };
        match self.ask(errand, (number, request), &[], taken_back(caller)).await? {
            FromWorker::State(report) => {
                if carry == Carry::Load {
                    (self.holds, self.loaded) = (true, Some(newest()));
                }
                Ok(report)
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Names what a checkpoint has brought back.
    async fn tell_restored(&mut self, cell: u64, caller: &Caller) -> Restarted {
        let mut result = Restarted::default();
        if let Ok(variables) = self.list(caller).await {
            result.restored = variables.into_iter().map(|variable| variable.name).collect();
            result.preserved.clone_from(&result.restored);
        }
        let after = if cell == 0 { "at its beginning".to_owned() } else { format!("after cell {cell}") };
        result.notice = Some(format!(
            "The worker could not save its variables; the session is as it was {after}, from the checkpoint of policy \
             \"last\"."
        ));
        self.settle();
        result
    }
}
