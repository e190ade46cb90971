//! A session falls asleep: its state lies in a file from then on, and it has no process.
//!
//! Runs in: server, in the session's task. A checkpoint writes itself (`workers/checkpoint`), the file is sealed
//! (`sessions/images`), and it is woken once for a proof; only then the worker is ended, without a word of farewell: nothing of the
//! session's own is run down. The worker of the proof leaves the variables by value beside the image, for the case that the image does
//! not wake one day. The way up is `waking.rs`, the way down at the server's end `leaving.rs`.

use std::{
    fs,
    future::pending,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    by_value::until_called,
    errands::{next_number, taken_back, unless_called},
    state::Task,
};
use crate::{
    protocol::{Confinement, FromWorker, StateReport, ToWorker},
    server::{
        health::{errand::Errand, evidence::Phase},
        sessions::{
            checkpoints::Checkpoint,
            context::Surroundings,
            happened::What,
            images::{
                Image, Images,
                about::{About, ByValue, Lasting, packages},
                base::Base,
            },
            orders::{BrokenOff, Caller, Order, SessionError, Slept},
            status::Sleeping,
        },
        workers::{
            checkpoint::{self, Birth},
            link::Worker,
            zygote::Stage,
        },
    },
    sys::{fault, image::BaseId},
};

/// Name of a checkpoint that is there to be written, or to prove that it can be woken.
pub(super) const PASSING: &str = "-";
pub(super) const CONFINED: &str = "a confined session (--sandbox) would not be confined in the same way after it";
/// How long the variables of a proof may take to be written by value.
const BY_VALUE: Duration = Duration::from_secs(3);
const PAGE: u64 = 4096;

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

    /// The same for a caller. Where it cannot sleep as it is, it does so with its variables alone, if that is wished.
    pub(super) async fn fall_asleep_for(&mut self, caller: &Caller, by_value: bool) -> Result<Slept, SessionError> {
        let began = Instant::now();
        let why = match self.fall_asleep(taken_back(caller), false).await {
            Ok(sleeping) => {
                let by_value = self.adopted.as_ref().and_then(About::kept_by_value).map(Arc::new);
                return Ok(Slept { sleeping, by_value, why: Vec::new() });
            }
            Err(SessionError::Awake { why, .. }) if by_value && self.worker.is_some() && self.owed.is_none() => why,
            Err(error) => return Err(error),
        };
        let (image, about) = self.values_of_now(taken_back(caller)).await?;
        let sleeping = self.let_go_for(Arc::new(image), began);
        let by_value = about.kept_by_value().map(Arc::new);
        self.adopted = Some(about);
        if let Some(by_value) = by_value.clone() {
            self.life.happened(What::SleptByValue { by_value }, None);
        }
        Ok(Slept { sleeping, by_value, why })
    }

    fn stays_awake(&self, why: Vec<String>) -> SessionError {
        SessionError::Awake { session: self.id.to_string(), why, has_worker: self.worker.is_some() }
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
        if self.limits.confinement != Confinement::Off {
            return Err(self.stays_awake(vec![CONFINED.to_owned()]));
        }
        if self.worker.is_none() {
            return Err(self.stays_awake(vec!["it has no worker".to_owned()]));
        }
        let began = Instant::now();
        let frozen = match self.freeze(Errand::Sleep, PASSING, false, gone).await {
            Err(SessionError::Threads { threads, .. }) => {
                return Err(self.stays_awake(vec![format!("threads cannot be written down, and it has {threads}")]));
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
        Ok(self.let_go_for(Arc::new(image), began))
    }

    /// The image, once it is known to wake.
    async fn write_and_prove(&mut self, frozen: &Arc<Checkpoint>) -> Result<Image, SessionError> {
        let about = self.about(frozen.cell);
        let (around, common) = (Arc::clone(&self.around), self.common.clone());
        let (id, queue, most) = (Arc::clone(&self.id), self.queue.clone(), self.most_copied());
        let work = async {
            let (image, pages) = written(&around, common, frozen, about.clone()).await?;
            let image = Arc::new(image);
            let opened = Arc::clone(&image);
            let opened = tokio::task::spawn_blocking(move || opened.open()).await;
            let files = opened.map_err(|error| vec![error.to_string()])?.map_err(|error| vec![error.to_string()])?;
            let birth = Birth { name: PASSING, of: &frozen.of, cell: frozen.cell, quiet: true, room: None };
            let proof = checkpoint::of_image(&around.zygote, &around.children, files, birth).await;
            let proof = proof.map_err(|error| vec![format!("its image does not wake: {error}")])?;
            let woken = proof.wake(&around.zygote, &id, true).await;
            let mut worker = woken.map_err(|error| vec![format!("its image does not wake: {}", error.why)])?;
            let proven = Self::prove(&mut worker).await;
            let values = match proven.is_ok() && pages * PAGE <= most {
                true => values_of(&mut worker, &around.exchange, queue).await,
                false => None,
            };
            worker.retire(around.zygote.endings());
            proven.map_err(|error| vec![format!("what its image wakes does not work: {error}")])?;
            if let Some((file, by_value)) = values {
                keep_beside(&image, file, About { by_value: Some(by_value), ..about }).await;
            }
            Arc::into_inner(image).ok_or_else(|| vec!["its image is in use".to_owned()])
        };
        match unless_called(&mut self.interventions, &mut self.later, work).await {
            Some(done) => done.map_err(|why| self.stays_awake(why)),
            None => {
                let (session, errand) = (self.id.to_string(), Errand::Sleep);
                Err(SessionError::BrokenOff { session, errand, why: BrokenOff::Called })
            }
        }
    }

    /// What the next server has to know of it.
    pub(super) fn about(&self, cell: u64) -> About {
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
                let shown = Sleeping { bytes: image.bytes(), since: Timestamp::now(), cell: self.tip };
                self.at_rest = Some(image);
                self.shared.update(|status| status.at_rest = Some(shown));
            }
            Err(error) => tracing::debug!(session = %self.id, %error, "no image is written"),
        }
    }

    /// The state is safe: the worker goes, and all it has.
    pub(super) fn let_go_for(&mut self, image: Arc<Image>, began: Instant) -> Sleeping {
        self.hear_last_words();
        let sleeping = Sleeping { bytes: image.bytes(), since: Timestamp::now(), cell: self.tip };
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
}

/// Has a checkpoint write itself, and keeps what it wrote, with the number of its own pages. Why not, otherwise.
pub(super) async fn written(
    around: &Surroundings,
    common: Option<Arc<Base>>,
    frozen: &Checkpoint,
    mut about: About,
) -> Result<(Image, u64), Vec<String>> {
    let draft = Images::draft().map_err(|error| vec![error.to_string()])?;
    frozen.hazards().await.map_err(|error| vec![error.to_string()])?;
    let base = match common {
        Some(common) => common,
        None => around.images.base(&around.zygote).await.map_err(|error| vec![error])?,
    };
    let opened = Arc::clone(&base);
    let opened = tokio::task::spawn_blocking(move || opened.open()).await.map_err(|error| vec![error.to_string()])?;
    let compared = opened.map_err(|error| vec![error.to_string()])?;
    let pages = match frozen.write_image(draft.as_fd(), compared.as_fd()).await {
        Ok(pages) => pages,
        Err(checkpoint::NotWritten::Lost(why)) => return Err(why),
        Err(error) => return Err(vec![error.to_string()]),
    };
    let images = around.images.clone();
    let kept = tokio::task::spawn_blocking(move || {
        about.packages = packages(&about.python);
        images.keep(draft, &base, &about)
    });
    let kept = kept.await.map_err(|error| vec![error.to_string()])?.map_err(|error| vec![error.to_string()])?;
    Ok((kept, pages))
}

/// What a worker that is of no further use has, by value; unless that takes long, or a call waits meanwhile.
async fn values_of(
    worker: &mut Worker,
    exchange: &Path,
    queue: mpsc::WeakSender<Order>,
) -> Option<(fs::File, ByValue)> {
    let path = exchange.join(format!("{}.state", uuid::Uuid::new_v4().simple()));
    let request = ToWorker::SaveState { errand: next_number(), path: path.to_string_lossy().into_owned() };
    let asked = async {
        worker.requests.write(&request).await?;
        worker.replies.read::<FromWorker>().await
    };
    let answer = tokio::select! {
        biased;
        answer = tokio::time::timeout(fault::limit(BY_VALUE), asked) => answer.ok().and_then(Result::ok),
        () = until_called(queue) => None,
    };
    let file = fs::File::open(&path);
    let _ = fs::remove_file(&path);
    match answer? {
        FromWorker::State(StateReport { names, skipped, .. }) => Some((file.ok()?, (names, skipped))),
        _ => None,
    }
}

/// Keeps variables beside an image. Where they cannot be, there is the image all the same.
pub(super) async fn keep_beside(image: &Arc<Image>, file: fs::File, about: About) {
    let (image, session) = (Arc::clone(image), about.session.clone());
    let kept = tokio::task::spawn_blocking(move || image.keep_beside(file.into(), &about)).await;
    match kept {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(session, %error, "its variables are not kept beside its image"),
        Err(error) => tracing::debug!(session, %error, "its variables are not kept beside its image"),
    }
}
