//! A session falls asleep and wakes up: its state lies in a file meanwhile, and it has no process.
//!
//! Runs in: server, in the session's task. The way down: a checkpoint writes itself (`workers/checkpoint.rs`), the file is
//! sealed (`sessions/images.rs`), and it is woken once for a proof; only then the worker is ended, without a word of farewell:
//! nothing of the session's own is run down. The way up: the checkpoint is woken, forks a worker, and that worker counts when a
//! ping and an evaluation have come back from it. Until then the image stays, and nothing has changed.

use std::{future::pending, sync::Arc, time::Instant};

use jiff::Timestamp;

use super::{errands::unless_called, state::Task};
use crate::{
    protocol::{Confinement, WorkerExit},
    server::{
        health::{errand::Errand, evidence::Phase},
        sessions::{
            checkpoints::Checkpoint,
            death::{Death, DeathReason},
            images::{Image, ImageError, Images},
            orders::{BrokenOff, NoWorker, SessionError},
            status::Sleeping,
        },
        workers::checkpoint::{self, Birth, LAST},
    },
    settings::policy::Automatic,
};

/// Name of a checkpoint that is there to be written, or to prove that it can be woken.
const PASSING: &str = "-";

impl Task {
    /// The session has been at rest for long. Why it stays awake, if it does, is for health.
    pub(super) async fn fall_asleep_at_rest(&mut self) {
        if !self.orders.is_empty() || self.worker.is_none() || self.owed.is_some() {
            return;
        }
        if let Err(error) = self.fall_asleep(pending(), true).await {
            tracing::debug!(session = %self.id, %error, "stays awake");
            let why = match error {
                SessionError::Awake { why, .. } => why.join("; "),
                error => error.to_string(),
            };
            self.shared.update(|status| status.stays_awake = Some(why));
        }
    }

    /// Writes the session to disk and ends its worker. `gives_way` to a call that comes meanwhile.
    pub(super) async fn fall_asleep(
        &mut self,
        gone: impl Future<Output = BrokenOff>,
        gives_way: bool,
    ) -> Result<Sleeping, SessionError> {
        if let Some(sleeping) = self.shared.get().asleep {
            return Ok(sleeping);
        }
        let awake = |session: &str, why: String| SessionError::Awake { session: session.to_owned(), why: vec![why] };
        if self.limits.confinement != Confinement::Off {
            let why = "a confined session (--sandbox) would not be confined in the same way after it".to_owned();
            return Err(awake(&self.id, why));
        }
        if self.worker.is_none() {
            return Err(awake(&self.id, "it has no worker".to_owned()));
        }
        let began = Instant::now();
        let frozen = match self.freeze(Errand::Sleep, PASSING, false, gone).await {
            Err(SessionError::Threads { threads, .. }) => {
                return Err(awake(&self.id, format!("threads cannot be written down, and it has {threads}")));
            }
            frozen => frozen?,
        };
        self.shared.update(|status| status.phase = Phase::Serving { errand: Errand::Sleep, since: began });
        let written = self.write_and_prove(&frozen).await;
        drop(frozen);
        let called = gives_way && !self.orders.is_empty();
        let image = match written {
            Ok(image) if !called => image,
            Ok(_) => {
                self.settle();
                let (session, errand) = (self.id.to_string(), Errand::Sleep);
                return Err(SessionError::BrokenOff { session, errand, why: BrokenOff::GivesWay });
            }
            Err(error) => {
                self.settle();
                return Err(error);
            }
        };
        Ok(self.let_go_for(image, began))
    }

    /// The image, once it is known to wake.
    async fn write_and_prove(&mut self, frozen: &Arc<Checkpoint>) -> Result<Image, SessionError> {
        let session = self.id.to_string();
        let images = self.around.images.clone();
        let work = async {
            let draft = Images::draft().map_err(|error| vec![error.to_string()])?;
            frozen.hazards().await.map_err(|error| vec![error.to_string()])?;
            match frozen.write_image(std::os::fd::AsFd::as_fd(&draft)).await {
                Ok(_) => {}
                Err(checkpoint::NotWritten::Lost(why)) => return Err(why),
                Err(error) => return Err(vec![error.to_string()]),
            }
            let kept = tokio::task::spawn_blocking(move || {
                let image = images.keep(draft)?;
                let copy = image.open()?;
                Ok::<_, ImageError>((image, copy))
            });
            let (image, copy) =
                kept.await.map_err(|error| vec![error.to_string()])?.map_err(|error| vec![error.to_string()])?;
            let birth = Birth { name: PASSING, of: &frozen.of, cell: frozen.cell, quiet: true, room: None };
            let proof = checkpoint::of_image(&self.around.zygote, &self.around.children, copy, birth).await;
            let proof = proof.map_err(|error| vec![format!("its image does not wake: {error}")])?;
            let woken = proof.wake(&self.around.zygote, &self.id, true).await;
            let mut worker = woken.map_err(|error| vec![format!("its image does not wake: {}", error.why)])?;
            let proven = Self::prove(&mut worker).await;
            worker.retire(self.around.zygote.endings());
            proven.map_err(|error| vec![format!("what its image wakes does not work: {error}")])?;
            Ok(image)
        };
        match unless_called(&mut self.interventions, &mut self.later, work).await {
            Some(done) => done.map_err(|why| SessionError::Awake { session, why }),
            None => Err(SessionError::BrokenOff { session, errand: Errand::Sleep, why: BrokenOff::Called }),
        }
    }

    /// The state is safe: the worker goes, and all it has.
    fn let_go_for(&mut self, image: Image, began: Instant) -> Sleeping {
        self.hear_last_words();
        let sleeping = Sleeping { bytes: image.bytes, since: Timestamp::now(), cell: self.tip };
        let born = self.worker.as_ref().map(|worker| worker.born);
        if let Some(worker) = self.worker.take() {
            worker.retire(self.around.zygote.endings());
        }
        self.asleep = Some(Arc::new(image));
        self.drop_copies();
        self.keeping.due = None;
        self.shared.update(|status| {
            status.worker = None;
            status.asleep = Some(sleeping);
            status.up_since = status.up_since.or(born);
            status.phase = Phase::Asleep;
        });
        self.announce();
        tracing::info!(session = %self.id, bytes = sleeping.bytes, took = began.elapsed().as_secs_f64(), "fell asleep");
        sleeping
    }

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
                if policy != Automatic::Off && self.around.checkpoints.admit_automatic(&self.life) {
                    self.around.checkpoints.keep(&self.life, checkpoint);
                }
                Ok(())
            }
            Err(reason) => {
                tracing::warn!(session = %self.id, reason, "could not be woken");
                Err(NoWorker::Asleep(reason))
            }
        }
    }

    async fn woken(&mut self) -> Result<Arc<Checkpoint>, String> {
        let errand = Errand::Wake;
        self.shared.update(|status| status.phase = Phase::Serving { errand, since: Instant::now() });
        let Some(image) = self.asleep.clone() else { return Err("it does not sleep".to_owned()) };
        let opened = tokio::task::spawn_blocking(move || image.open());
        let copy = opened.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let quiet = self.shared.record(|record| record.policy.checkpoints) == Automatic::Auto;
        let birth = Birth { name: LAST, of: self.life.incarnation(), cell: self.tip, quiet, room: None };
        let checkpoint = checkpoint::of_image(&self.around.zygote, &self.around.children, copy, birth).await;
        let checkpoint = checkpoint.map_err(|error| error.to_string())?;
        let restarts = self.shared.get().restarts;
        let gone_on = self.go_on(errand, &checkpoint, true, pending()).await;
        gone_on.map_err(|error| error.to_string())?;
        self.shared.update(|status| status.restarts = restarts);
        Ok(checkpoint)
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
