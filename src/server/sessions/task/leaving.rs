//! The server ends: what a session has is left to the next one, in a file.
//!
//! Runs in: server, in the session's task, while the server has some seconds left. What is written is not proven: there is no time.

use std::{fs, future::pending, sync::Arc, time::Duration};

use super::{
    sleeping::{CONFINED, PASSING, keep_beside, written},
    state::Task,
};
use crate::{
    protocol::Confinement,
    server::{
        health::{errand::Errand, evidence::Phase},
        sessions::{
            images::{
                Image,
                about::{About, Lasting},
            },
            orders::{BrokenOff, Carry, SessionError},
        },
    },
    sys::fault,
};

/// How long a server that ends waits for a zygote that is just starting: images are made with its help.
const ZYGOTE: Duration = Duration::from_millis(1500);
/// How long the variables beside an image may take.
const BESIDE: Duration = Duration::from_secs(1);

impl Task {
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
        if Lasting::of(self.life.owner()).is_none() {
            return Err(self.not_left("its client cannot come again under its name"));
        }
        let image = match self.image_of_now().await {
            Ok(image) => image,
            // What cannot be written as a whole is written by value.
            Err(error) if self.worker.is_some() && self.owed.is_none() => {
                tracing::info!(session = %self.id, "is written to disk by value: {error}");
                self.values_of_now(pending()).await?.0
            }
            Err(error) => return Err(error),
        };
        if let Some(before) = self.at_rest.take() {
            before.discard();
        }
        let image = Arc::new(image);
        self.asleep = Some(Arc::clone(&image));
        // From here on it is safe, whatever time there is for the rest.
        self.leave_values_beside(&image).await;
        if let Some(worker) = self.worker.take() {
            worker.retire(self.around.zygote.endings());
        }
        self.shared.update(|status| status.phase = Phase::Asleep);
        Ok(())
    }

    fn not_left(&self, why: &str) -> SessionError {
        SessionError::Awake {
            session: self.id.to_string(),
            why: vec![why.to_owned()],
            has_worker: self.worker.is_some(),
        }
    }

    /// Its variables by value, for the case that the image does not wake one day.
    async fn leave_values_beside(&mut self, image: &Arc<Image>) {
        if image.base.is_none() || self.worker.is_none() || self.owed.is_some() {
            return;
        }
        let path = self.around.exchange.join(format!("{}.state", uuid::Uuid::new_v4().simple()));
        let saved = tokio::time::timeout(fault::limit(BESIDE), self.carry_alone(Carry::Save, &path, pending())).await;
        let file = fs::File::open(&path);
        let _ = fs::remove_file(&path);
        if let (Ok(Ok(report)), Ok(file)) = (saved, file) {
            let about = About { by_value: Some((report.names, report.skipped)), ..self.about(self.tip) };
            keep_beside(image, file, about).await;
        }
    }

    async fn image_of_now(&mut self) -> Result<Image, SessionError> {
        if self.limits.confinement != Confinement::Off {
            return Err(self.not_left(CONFINED));
        }
        let fresh = match self.worker.is_some() && self.owed.is_none() {
            true => self.freeze(Errand::Sleep, PASSING, false, pending()).await,
            false => Err(self.not_left("its worker was at work")),
        };
        // What is not to be had at this moment may have been kept before; what threads keep from being copied is there by value.
        let frozen = match fresh {
            Ok(fresh) => fresh,
            Err(error) if self.worker.is_some() => return Err(error),
            Err(error) => self.newest_copy().await.ok_or(error)?,
        };
        let about = self.about(frozen.cell);
        let image = written(&self.around, self.common.clone(), &frozen, about).await;
        image.map(|(image, _)| image).map_err(|why| self.not_left(&why.join("; ")))
    }

    /// What it has now, by value, in a file of its own.
    pub(super) async fn values_of_now(
        &mut self,
        gone: impl Future<Output = BrokenOff>,
    ) -> Result<(Image, About), SessionError> {
        let fail = |session: &str, reason: String| SessionError::Worker { session: session.to_owned(), reason };
        let path = self.around.exchange.join(format!("{}.state", uuid::Uuid::new_v4().simple()));
        let saved = self.carry_alone(Carry::Save, &path, gone).await;
        let file = fs::File::open(&path);
        let _ = fs::remove_file(&path);
        let (report, file) = (saved?, file.map_err(|error| fail(&self.id, error.to_string()))?);
        let about = About { by_value: Some((report.names, report.skipped)), ..self.about(self.tip) };
        let (images, head) = (self.around.images.clone(), about.clone());
        let kept = tokio::task::spawn_blocking(move || images.keep_values(file.into(), &head)).await;
        let kept = kept.map_err(|error| fail(&self.id, error.to_string()))?;
        kept.map(|image| (image, about)).map_err(|error| fail(&self.id, error.to_string()))
    }
}
