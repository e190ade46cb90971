//! Objects in a folder or in a bucket: made, read, listed and removed, each request with a limit.
//!
//! Runs in: server. Knows bytes and names. An object is made whole or not at all, and only if there is none of its name: that is
//! what leases rest on. Both kinds of store keep it: a folder by a hard link, a bucket by `If-None-Match`.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    local::LocalFileSystem,
    path::Path as Name,
};

use super::{error::StoreError, web::Web};
use crate::{settings::store::StorePlace, sys::fault};

/// How long a request may take. A call waits for several of them.
const LIMIT: Duration = Duration::from_secs(10);
/// The same for a piece of a large object.
const PIECE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a piece.
const PIECE: usize = 8 << 20;

/// Where objects lie.
#[derive(Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Name,
}

/// One of a list, and what changes when it is written anew.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) tag: String,
}

impl Objects {
    pub(super) fn open(place: &StorePlace) -> Result<Self, StoreError> {
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed(error.to_string());
        let (store, prefix): (Arc<dyn ObjectStore>, _) = match place {
            StorePlace::Folder(folder) => {
                check_folder(folder).map_err(|error| failed(&format!("{}: {error}", folder.display())))?;
                let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(&error))?;
                (Arc::new(store.with_fsync(true)), Name::default())
            }
            StorePlace::Bucket { bucket, prefix } => {
                let limit = fault::limit(LIMIT);
                let retry = RetryConfig { max_retries: 3, retry_timeout: limit, ..RetryConfig::default() };
                let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
                let builder = builder.with_conditional_put(S3ConditionalPut::ETagMatch).with_http_connector(Web);
                (Arc::new(builder.build().map_err(|error| failed(&error))?), Name::from(prefix.as_str()))
            }
        };
        Ok(Self { store, prefix })
    }

    fn name(&self, name: &str) -> Name {
        self.prefix.parts().chain(Name::from(name).parts()).collect()
    }

    /// Makes an object. False when there is one of that name.
    pub(super) async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool, StoreError> {
        let options = PutOptions::from(PutMode::Create);
        let made = async {
            match self.store.put_opts(&self.name(name), Bytes::from(bytes).into(), options).await {
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
                made => made.map(|_| true),
            }
        };
        within(LIMIT, made).await
    }

    /// Writes an object, whatever was there.
    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let name = self.name(name);
        within(LIMIT, self.store.put(&name, Bytes::from(bytes).into())).await.map(drop)
    }

    /// What an object holds, if there is one.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let name = self.name(name);
        let got = async {
            match self.store.get(&name).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                got => got?.bytes().await.map(Some),
            }
        };
        within(LIMIT, got).await
    }

    /// Removes one, if it is there.
    pub(super) async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let name = self.name(name);
        let removed = async {
            match self.store.delete(&name).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                removed => removed,
            }
        };
        within(LIMIT, removed).await
    }

    /// All below a name, by the rest of their names.
    pub(super) async fn list(&self, below: &str) -> Result<Vec<Listed>, StoreError> {
        let from = self.name(below);
        let all = within(LIMIT, self.store.list(Some(&from)).try_collect::<Vec<_>>()).await?;
        let listed = all.into_iter().filter_map(|found| {
            let parts: Vec<_> = found.location.prefix_match(&from)?.map(|part| part.as_ref().to_owned()).collect();
            let tag = found.e_tag.unwrap_or_else(|| found.last_modified.to_string());
            Some(Listed { name: parts.join("/"), tag })
        });
        Ok(listed.collect())
    }

    /// Makes an object of a file, of any size.
    pub(super) async fn upload(&self, name: &str, file: File) -> Result<(), StoreError> {
        let name = self.name(name);
        let (file, first) = piece_of(file).await?;
        if first.len() < PIECE {
            return within(PIECE_LIMIT, self.store.put(&name, first.into())).await.map(drop);
        }
        let mut upload = within(LIMIT, self.store.put_multipart_opts(&name, PutMultipartOptions::default())).await?;
        let sent = async {
            let (mut file, mut piece) = (file, first);
            while !piece.is_empty() {
                within(PIECE_LIMIT, upload.put_part(piece.into())).await?;
                (file, piece) = piece_of(file).await?;
            }
            within(PIECE_LIMIT, upload.complete()).await.map(drop)
        };
        let sent = sent.await;
        if sent.is_err() {
            let _ = within(LIMIT, upload.abort()).await;
        }
        sent
    }

    /// Writes what an object holds to a file.
    pub(super) async fn download(&self, name: &str, mut to: File) -> Result<(), StoreError> {
        let got = within(LIMIT, async {
            match self.store.get(&self.name(name)).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                got => got.map(Some),
            }
        });
        let mut pieces = got.await?.ok_or_else(|| StoreError::Missing(name.to_owned()))?.into_stream();
        while let Some(piece) = within(PIECE_LIMIT, pieces.try_next()).await? {
            let written = tokio::task::spawn_blocking(move || to.write_all(&piece).map(|()| to)).await;
            to = written.map_err(io::Error::other).flatten().map_err(|error| StoreError::Failed(error.to_string()))?;
        }
        Ok(())
    }
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, StoreError> {
    let limit = fault::limit(limit);
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|error| StoreError::Failed(whole(&error))),
        Err(_) => Err(StoreError::Slow(limit)),
    }
}

/// An error with its causes, each once.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = next.source();
    }
    text
}

/// The next bytes of a file.
async fn piece_of(mut file: File) -> Result<(File, Bytes), StoreError> {
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = Vec::new();
        (&mut file).take(PIECE as u64).read_to_end(&mut piece).map(|_| (file, Bytes::from(piece)))
    });
    let read = read.await.map_err(io::Error::other).flatten();
    read.map_err(|error| StoreError::Failed(error.to_string()))
}

/// A folder that only its user can write to; made where it is not there.
fn check_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let status = fs::metadata(folder)?;
    let denied = |words| Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    match status.uid() == nix::unistd::geteuid().as_raw() {
        false => denied("it belongs to another user"),
        true if status.mode() & 0o022 != 0 => denied("other users may write there (chmod 700 it)"),
        true => Ok(()),
    }
}
