//! The store, as this server sees it: opened once, with one key.
//!
//! Runs in: server. Who has a session is `leases.rs`, and who lives `beats.rs`.

use std::sync::Arc;

use super::{
    error::StoreError,
    facts::{Beats, Holder, Numbers, instance},
    objects::Objects,
    seals::Seals,
};
use crate::settings::store::StoreSettings;

/// By which a key is tried.
pub(super) const SIGN: &str = "forkpy-store";

/// The store, as this server sees it. Cheap to copy.
#[derive(Debug, Clone)]
pub(crate) struct Store(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) objects: Objects,
    pub(super) seals: Seals,
    /// This server.
    pub(super) me: Holder,
    pub(super) beats: Beats,
    pub(super) numbers: Numbers,
}

impl Store {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be reached, has another key, or does not keep conditions.
    pub(crate) async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let objects = Objects::open(&settings.place)?;
        let seals = Seals::new(&settings.key);
        let me = Holder { name: settings.server.clone(), instance: instance() };
        let (beats, numbers) = (Beats::new(&me), Numbers::default());
        let store = Self(Arc::new(Inner { objects, seals, me, beats, numbers }));
        store.try_key().await?;
        Ok(store)
    }

    async fn try_key(&self) -> Result<(), StoreError> {
        let Inner { objects, seals, .. } = &*self.0;
        let sealed = seals.seal(SIGN, b"forkpy store 1")?;
        let _ = objects.create(SIGN, sealed.clone()).await?;
        // Made by this server or by another one: it is there now.
        if objects.create(SIGN, sealed).await? {
            return Err(StoreError::NoConditions);
        }
        let there = objects.get(SIGN).await?.ok_or(StoreError::NoConditions)?;
        seals.open(SIGN, &there).map(drop).map_err(|_| StoreError::OtherKey)
    }

    /// Whether it is this store that answers, and not an empty place where it should be: a folder that is not mounted.
    pub(super) async fn is_there(&self) -> Result<(), StoreError> {
        self.0.objects.get(SIGN).await?.map(drop).ok_or(StoreError::Empty)
    }

    /// This server.
    #[must_use]
    pub(crate) fn me(&self) -> &Holder {
        &self.0.me
    }

    /// What files are sealed with: the passphrase of a file of `age`.
    #[must_use]
    pub(crate) fn passphrase(&self) -> &str {
        self.0.seals.passphrase()
    }

    /// Puts a file there, under a name of its own.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is there.
    pub(crate) async fn upload(&self, file: std::fs::File) -> Result<String, StoreError> {
        let object = format!("images/{}", uuid::Uuid::new_v4().simple());
        self.0.objects.upload(&object, file).await.map(|()| object)
    }

    /// Writes what an object holds into a file.
    ///
    /// # Errors
    /// [`StoreError`], also when there is none of that name.
    pub(crate) async fn download(&self, object: &str, to: std::fs::File) -> Result<(), StoreError> {
        self.0.objects.download(object, to).await
    }

    /// It is of no use any more. What cannot be removed now stays, and says so in the log.
    pub(crate) async fn discard(&self, object: &str) {
        if let Err(error) = self.0.objects.remove(object).await {
            tracing::warn!(object, "is of no use any more, and could not be removed from the store: {error}");
        }
    }
}
