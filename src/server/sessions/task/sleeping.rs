//! A session falls asleep and wakes up: its state lies in a file meanwhile, and it has no process.
//!
//! Runs in: server, in the session's task. The way down: a checkpoint writes itself (`workers/checkpoint`), the file is
//! sealed (`sessions/images.rs`), and it is woken once for a proof; only then the worker is ended, without a word of farewell:
//! nothing of the session's own is run down. The way up: the checkpoint is woken, forks a worker, and that worker counts when a
//! ping and an evaluation have come back from it. Until then the image stays, and nothing has changed.

use std::{
    fs,
    future::pending,
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    errands::{next_number, unless_called},
    state::Task,
};
use crate::{
    protocol::{Confinement, FromWorker, StateReport, ToWorker, WorkerExit},
    server::{
        health::{errand::Errand, evidence::Phase},
        sessions::{
            checkpoints::Checkpoint,
            context::Surroundings,
            death::{Death, DeathReason},
            happened::What,
            images::{
                Image, Images,
                about::{About, Lasting, packages},
                base::Base,
            },
            orders::{BrokenOff, Carry, NoWorker, SessionError},
            status::Sleeping,
        },
        workers::{
            checkpoint::{self, Birth, LAST},
            zygote::Stage,
        },
    },
    settings::policy::Automatic,
    sys::{fault, image::BaseId},
};

/// Name of a checkpoint that is there to be written, or to prove that it can be woken.
const PASSING: &str = "-";
/// How long a server that ends waits for a zygote that is just starting: images are made with its help.
const ZYGOTE: Duration = Duration::from_millis(1500);
const CONFINED: &str = "a confined session (--sandbox) would not be confined in the same way after it";

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
            return Err(awake(&self.id, CONFINED.to_owned()));
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
    async fn write_and_prove(&mut self, frozen: &Arc<Checkpoint>) -> Result<Arc<Image>, SessionError> {
        let session = self.id.to_string();
        let about = self.about(frozen.cell);
        let (around, common) = (Arc::clone(&self.around), self.common.clone());
        let id = Arc::clone(&self.id);
        let work = async {
            let image = written(&around, common, frozen, about).await?;
            let opened = Arc::clone(&image);
            let opened = tokio::task::spawn_blocking(move || opened.open()).await;
            let files = opened.map_err(|error| vec![error.to_string()])?.map_err(|error| vec![error.to_string()])?;
            let birth = Birth { name: PASSING, of: &frozen.of, cell: frozen.cell, quiet: true, room: None };
            let proof = checkpoint::of_image(&around.zygote, &around.children, files, birth).await;
            let proof = proof.map_err(|error| vec![format!("its image does not wake: {error}")])?;
            let woken = proof.wake(&around.zygote, &id, true).await;
            let mut worker = woken.map_err(|error| vec![format!("its image does not wake: {}", error.why)])?;
            let proven = Self::prove(&mut worker).await;
            worker.retire(around.zygote.endings());
            proven.map_err(|error| vec![format!("what its image wakes does not work: {error}")])?;
            Ok(image)
        };
        match unless_called(&mut self.interventions, &mut self.later, work).await {
            Some(done) => done.map_err(|why| SessionError::Awake { session, why }),
            None => Err(SessionError::BrokenOff { session, errand: Errand::Sleep, why: BrokenOff::Called }),
        }
    }

    /// What the next server has to know of it.
    fn about(&self, cell: u64) -> About {
        let status = self.shared.get();
        let python = match self.around.zygote.stage() {
            Stage::Warm { executable, .. } => executable,
            _ => String::new(),
        };
        let checkpoints = self.around.checkpoints.of(&self.life);
        About {
            base: BaseId::default(),
            owner: Lasting::of(self.life.owner()),
            session: self.id.to_string(),
            description: status.description,
            policy: self.shared.record(|record| record.policy),
            limits: self.limits,
            workspace: self.around.images.workspace(),
            python,
            packages: Vec::new(),
            cell,
            last_cell: self.last_cell,
            executed: status.executed,
            created: status.created.as_millisecond(),
            written: Timestamp::now().as_millisecond(),
            checkpoints: checkpoints
                .iter()
                .filter(|kept| !kept.is_automatic())
                .map(|kept| kept.name.to_string())
                .collect(),
            by_value: None,
        }
    }

    /// The server ends: what the session has is written for the next one, without a proof, for there is no time.
    pub(super) async fn leave(&mut self) {
        if self.asleep.is_some() || !self.holds && self.newest_copy().await.is_none() {
            return;
        }
        let _ = tokio::time::timeout(fault::limit(ZYGOTE), self.around.zygote.settled()).await;
        if let Err(error) = self.leave_image().await {
            tracing::warn!(session = %self.id, "could not be written to disk, and ends with its server: {error}");
        }
    }

    async fn leave_image(&mut self) -> Result<(), SessionError> {
        let awake = |session: &str, why: Vec<String>| SessionError::Awake { session: session.to_owned(), why };
        if Lasting::of(self.life.owner()).is_none() {
            return Err(awake(&self.id, vec!["its client cannot come again under its name".to_owned()]));
        }
        let image = match self.image_of_now().await {
            Ok(image) => image,
            // What cannot be written as a whole is written by value.
            Err(error) if self.worker.is_some() && self.owed.is_none() => {
                tracing::info!(session = %self.id, "is written to disk by value: {error}");
                self.values_of_now().await?
            }
            Err(error) => return Err(error),
        };
        if let Some(before) = self.at_rest.take() {
            before.discard();
        }
        self.asleep = Some(image);
        if let Some(worker) = self.worker.take() {
            worker.retire(self.around.zygote.endings());
        }
        self.shared.update(|status| status.phase = Phase::Asleep);
        Ok(())
    }

    async fn image_of_now(&mut self) -> Result<Arc<Image>, SessionError> {
        let awake = |session: &str, why: Vec<String>| SessionError::Awake { session: session.to_owned(), why };
        if self.limits.confinement != Confinement::Off {
            return Err(awake(&self.id, vec![CONFINED.to_owned()]));
        }
        let fresh = match self.worker.is_some() && self.owed.is_none() {
            true => self.freeze(Errand::Sleep, PASSING, false, pending()).await,
            false => Err(awake(&self.id, vec!["its worker was at work".to_owned()])),
        };
        // What is not to be had at this moment may have been kept before; what threads keep from being copied is there by value.
        let frozen = match fresh {
            Ok(fresh) => fresh,
            Err(error) if self.worker.is_some() => return Err(error),
            Err(error) => self.newest_copy().await.ok_or(error)?,
        };
        let about = self.about(frozen.cell);
        let image = written(&self.around, self.common.clone(), &frozen, about).await;
        image.map_err(|why| awake(&self.id, why))
    }

    async fn values_of_now(&mut self) -> Result<Arc<Image>, SessionError> {
        let fail = |session: &str, reason: String| SessionError::Worker { session: session.to_owned(), reason };
        let path = self.around.exchange.join(format!("{}.state", uuid::Uuid::new_v4().simple()));
        let saved = self.carry_alone(Carry::Save, &path).await;
        let file = fs::File::open(&path);
        let _ = fs::remove_file(&path);
        let (report, file) = (saved?, file.map_err(|error| fail(&self.id, error.to_string()))?);
        let about = About { by_value: Some((report.names, report.skipped)), ..self.about(self.tip) };
        let images = self.around.images.clone();
        let kept = tokio::task::spawn_blocking(move || images.keep_values(file.into(), &about)).await;
        let kept = kept.map_err(|error| fail(&self.id, error.to_string()))?;
        kept.map(Arc::new).map_err(|error| fail(&self.id, error.to_string()))
    }

    /// The session has been at rest: an image of it is written for the case that this server is killed.
    pub(super) async fn write_image_at_rest(&mut self) {
        let taken = self.shared.get().taken;
        self.shared.update(|status| status.imaged = Some(taken));
        let refused = self.limits.confinement != Confinement::Off || Lasting::of(self.life.owner()).is_none();
        if refused || !self.orders.is_empty() || self.worker.is_none() || self.owed.is_some() || !self.holds {
            return;
        }
        let done = match self.freeze(Errand::Sleep, PASSING, false, pending()).await {
            Ok(frozen) => self.write_and_prove(&frozen).await,
            Err(error) => Err(error),
        };
        self.settle();
        match done {
            Ok(image) => {
                let image = Arc::into_inner(image);
                let since = Timestamp::now();
                let shown = image.as_ref().map(|image| Sleeping { bytes: image.bytes, since, cell: self.tip });
                self.at_rest = image;
                self.shared.update(|status| status.at_rest = shown);
            }
            Err(error) => tracing::debug!(session = %self.id, %error, "no image is written"),
        }
    }

    /// The state is safe: the worker goes, and all it has.
    fn let_go_for(&mut self, image: Arc<Image>, began: Instant) -> Sleeping {
        self.hear_last_words();
        let sleeping = Sleeping { bytes: image.bytes, since: Timestamp::now(), cell: self.tip };
        let born = self.worker.as_ref().map(|worker| worker.born);
        if let Some(worker) = self.worker.take() {
            worker.retire(self.around.zygote.endings());
        }
        (self.asleep, self.at_rest) = (Some(image), None);
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
                if let Some(checkpoint) = checkpoint
                    && policy != Automatic::Off
                    && self.around.checkpoints.admit_automatic(&self.life)
                {
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
            return Box::pin(self.woken_by_value(image)).await.map(|()| None);
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

    /// A new worker, with the variables that a server before this one has kept by value.
    async fn woken_by_value(&mut self, image: Arc<Image>) -> Result<(), String> {
        let (cell, last) = (self.tip, self.last_cell);
        let path = self.around.exchange.join(format!("{}.state", uuid::Uuid::new_v4().simple()));
        let (kept, to) = (Arc::clone(&image), path.clone());
        let unpacked = tokio::task::spawn_blocking(move || {
            let values = kept.values().map_err(|error| error.to_string())?;
            let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(to);
            let copied = file
                .as_mut()
                .map_err(|error| error.to_string())
                .and_then(|file| io::copy(&mut fs::File::from(values), file).map_err(|error| error.to_string()));
            copied.map(drop)
        });
        unpacked.await.map_err(|error| error.to_string())??;
        // Until it has them, it sleeps on.
        let (asleep, adopted) = (self.asleep.clone(), self.adopted.clone());
        let sleeping = self.shared.get().asleep;
        let done = match self.start_verified().await {
            Ok(()) => self.carry_alone(Carry::Load, &path).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let _ = fs::remove_file(&path);
        (self.holds, self.tip, self.last_cell) = (true, cell, last);
        if let Err(error) = done {
            (self.asleep, self.adopted) = (asleep, adopted);
            self.shared.update(|status| (status.asleep, status.worker) = (sleeping, None));
            if let Some(worker) = self.worker.take() {
                worker.retire(self.around.zygote.endings());
            }
            return Err(error);
        }
        Ok(())
    }

    /// Carries variables without a caller.
    async fn carry_alone(&mut self, carry: Carry, path: &Path) -> Result<StateReport, SessionError> {
        let (errand, path) = (next_number(), path.to_string_lossy().into_owned());
        let (why, wish) = match carry {
            Carry::Save => (Errand::Save, ToWorker::SaveState { errand, path }),
            Carry::Load => (Errand::Load, ToWorker::LoadState { errand, path }),
        };
        match self.ask(why, (errand, wish), &[], pending()).await? {
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

/// Has a checkpoint write itself, and keeps what it wrote. Why not, otherwise.
async fn written(
    around: &Surroundings,
    common: Option<Arc<Base>>,
    frozen: &Checkpoint,
    mut about: About,
) -> Result<Arc<Image>, Vec<String>> {
    let draft = Images::draft().map_err(|error| vec![error.to_string()])?;
    frozen.hazards().await.map_err(|error| vec![error.to_string()])?;
    let base = match common {
        Some(common) => common,
        None => around.images.base(&around.zygote).await.map_err(|error| vec![error])?,
    };
    let opened = Arc::clone(&base);
    let opened = tokio::task::spawn_blocking(move || opened.open()).await.map_err(|error| vec![error.to_string()])?;
    let compared = opened.map_err(|error| vec![error.to_string()])?;
    match frozen.write_image(draft.as_fd(), compared.as_fd()).await {
        Ok(_) => {}
        Err(checkpoint::NotWritten::Lost(why)) => return Err(why),
        Err(error) => return Err(vec![error.to_string()]),
    }
    let images = around.images.clone();
    let kept = tokio::task::spawn_blocking(move || {
        about.packages = packages(&about.python);
        images.keep(draft, &base, &about)
    });
    let kept = kept.await.map_err(|error| vec![error.to_string()])?.map_err(|error| vec![error.to_string()])?;
    Ok(Arc::new(kept))
}
