//! A session that sleeps wakes up, or what can be had of it by value does.
//!
//! Runs in: server, in the session's task. The checkpoint of an image is woken and forks a worker, which counts when a ping and
//! an evaluation have come back from it. Until then the image stays, and nothing has changed.

use std::{
    collections::BTreeMap,
    fs,
    future::pending,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;

use super::{errands::next_number, state::Task};
use crate::{
    protocol::{FromWorker, StateReport, ToWorker, WorkerExit},
    server::{
        health::{errand::Errand, evidence::Phase},
        sessions::{
            checkpoints::Checkpoint,
            death::{Death, DeathReason},
            happened::{KeptByValue, What},
            images::{ImageError, about::packages},
            orders::{BrokenOff, Caller, Carry, NoWorker, Restarted, SessionError},
        },
        workers::{
            checkpoint::{self, Birth, LAST},
            zygote::Stage,
        },
    },
    settings::policy::Automatic,
};

impl Task {
    /// Brings the session back. When that fails it sleeps on.
    pub(super) async fn wake_up(&mut self) -> Result<(), NoWorker> {
        let began = Instant::now();
        let woken = self.woken().await;
        self.settle();
        match woken {
            Ok(checkpoint) => {
                tracing::info!(session = %self.id, took = began.elapsed().as_secs_f64(), "woke up");
                // It has all that there is now, and so is the copy that would be made next.
                let policy = self.shared.record(|record| record.policy.checkpoints);
                if let Some(checkpoint) = checkpoint
                    && policy != Automatic::Off
                    && self.around.checkpoints.admit_automatic(&self.life)
                {
                    self.around.checkpoints.keep(&self.life, checkpoint);
                }
                Ok(())
            }
            Err(why) => {
                tracing::warn!(session = %self.id, why, "could not be woken");
                Err(NoWorker::Asleep { why, instead: self.instead().await })
            }
        }
    }

    async fn woken(&mut self) -> Result<Option<Arc<Checkpoint>>, String> {
        let errand = Errand::Wake;
        self.shared.update(|status| status.phase = Phase::Serving { errand, since: Instant::now() });
        let Some(image) = self.asleep.clone() else { return Err("it does not sleep".to_owned()) };
        self.around.zygote.settled().await;
        if let (Some(about), Stage::Warm { executable, .. }) = (&self.adopted, self.around.zygote.stage())
            && !about.python.is_empty()
            && about.python != executable
        {
            return Err(format!(
                "it ran with the Python environment of {}, and this server has that of {executable} (--venv)",
                about.python
            ));
        }
        if self.adopted.as_ref().is_some_and(|about| about.by_value.is_some()) {
            let StateReport { names, skipped, .. } = Box::pin(self.woken_by_value(move || image.values())).await?;
            if !skipped.is_empty() {
                let by_value = Arc::new(KeptByValue { cell: self.tip, names, left_out: skipped });
                self.life.happened(What::BroughtBack { by_value }, None);
            }
            return Ok(None);
        }
        let common = image.base.clone();
        let opened = tokio::task::spawn_blocking(move || image.open());
        let files = opened.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let quiet = self.shared.record(|record| record.policy.checkpoints) == Automatic::Auto;
        let birth = Birth { name: LAST, of: self.life.incarnation(), cell: self.tip, quiet, room: None };
        let checkpoint = checkpoint::of_image(&self.around.zygote, &self.around.children, files, birth).await;
        let checkpoint = checkpoint.map_err(|error| error.to_string())?;
        let restarts = self.shared.get().restarts;
        let adopted = self.adopted.clone();
        let gone_on = self.go_on(errand, &checkpoint, true, pending()).await;
        gone_on.map_err(|error| error.to_string())?;
        self.shared.update(|status| status.restarts = restarts);
        self.common = common;
        if let Some(about) = adopted.filter(|about| !about.python.is_empty()) {
            let looked = tokio::task::spawn_blocking(move || about.changed_packages(&packages(&about.python))).await;
            let names = looked.unwrap_or_default();
            if !names.is_empty() {
                self.life.happened(What::OtherPackages { names }, None);
            }
        }
        Ok(Some(checkpoint))
    }

    /// A new worker, with the variables of a file.
    async fn woken_by_value(
        &mut self,
        values: impl FnOnce() -> Result<OwnedFd, ImageError> + Send + 'static,
    ) -> Result<StateReport, String> {
        let (cell, last) = (self.tip, self.last_cell);
        let path = self.around.exchange.join(format!("{}.state", uuid::Uuid::new_v4().simple()));
        let to = path.clone();
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut values = fs::File::from(values().map_err(|error| error.to_string())?);
            let file = fs::File::options().write(true).create_new(true).mode(0o600).open(to);
            let copied = file.and_then(|mut file| io::copy(&mut values, &mut file));
            copied.map(drop).map_err(|error| error.to_string())
        });
        unpacked.await.map_err(|error| error.to_string())??;
        // Until it has them, it sleeps on.
        let (asleep, adopted) = (self.asleep.clone(), self.adopted.clone());
        let sleeping = self.shared.get().asleep;
        let done = match self.start_verified().await {
            Ok(()) => self.carry_alone(Carry::Load, &path, pending()).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let _ = fs::remove_file(&path);
        (self.holds, self.tip, self.last_cell) = (true, cell, last);
        if done.is_err() {
            (self.asleep, self.adopted) = (asleep, adopted);
            self.shared.update(|status| (status.asleep, status.worker) = (sleeping, None));
            if let Some(worker) = self.worker.take() {
                worker.retire(self.around.zygote.endings());
            }
        } else {
            self.common = None;
        }
        done
    }

    /// What can be had by value of a session whose image does not wake.
    async fn instead(&self) -> Option<Arc<KeptByValue>> {
        let (image, cell) = (self.asleep.clone()?, self.tip);
        let found = tokio::task::spawn_blocking(move || image.instead()).await.ok().flatten();
        found.map(|(names, left_out)| Arc::new(KeptByValue { cell, names, left_out }))
    }

    /// `restart_kernel` with `preserve_state` of a session whose image does not wake: a new worker, with the variables that were
    /// kept by value beside it.
    pub(super) async fn restart_instead(
        &mut self,
        (kept, why): (&KeptByValue, &str),
        caller: &Caller,
    ) -> Result<Restarted, SessionError> {
        let not_preserved =
            |session: &str, reason: String| SessionError::NotPreserved { session: session.to_owned(), reason };
        let Some(image) = self.asleep.clone() else { return Err(not_preserved(&self.id, why.to_owned())) };
        let loaded = self.woken_by_value(move || image.values_instead()).await;
        self.settle();
        let report = loaded.map_err(|error| {
            not_preserved(&self.id, format!("{why}, and what was kept by value could not be loaded: {error}"))
        })?;
        self.shared.record(|record| record.ledger.succeed());
        let lost: BTreeMap<String, String> = kept.left_out.iter().cloned().chain(report.skipped).collect();
        self.note_restart(Some(lost.len()), Some(caller));
        self.keep_state().await;
        let notice = format!(
            "Its image could not be woken ({why}). The session began anew with the variables that were kept by value after cell {}.",
            kept.cell
        );
        Ok(Restarted { preserved: kept.names.clone(), restored: report.names, lost, notice: Some(notice) })
    }

    /// Carries variables without a caller.
    pub(super) async fn carry_alone(
        &mut self,
        carry: Carry,
        path: &Path,
        gone: impl Future<Output = BrokenOff>,
    ) -> Result<StateReport, SessionError> {
        let (errand, path) = (next_number(), path.to_string_lossy().into_owned());
        let (why, wish) = match carry {
            Carry::Save => (Errand::Save, ToWorker::SaveState { errand, path }),
            Carry::Load => (Errand::Load, ToWorker::LoadState { errand, path }),
        };
        match self.ask(why, (errand, wish), &[], gone).await? {
            FromWorker::State(report) => Ok(report),
            other => Err(self.unexpected(other)),
        }
    }

    /// The session is not wanted any more as it was: it begins anew when it is used next.
    pub(super) fn forget_image(&mut self, why: DeathReason) {
        self.asleep = None;
        self.begun = false;
        let death = Death { reason: why, exit: WorkerExit::Unknown, cell: None, during: None, report: None };
        self.shared.update(|status| {
            (status.asleep, status.up_since) = (None, None);
            status.last_exit = Some((death.clone(), Timestamp::now()));
        });
        self.note_loss(death);
        self.settle();
    }
}
