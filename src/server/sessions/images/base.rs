//! What the images of a zygote's sessions have in common, kept once (`sys/image/base.rs`).
//!
//! Runs in: server. In memory for those who sleep and wake; and in the folder of images where the next server may need it.

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Weak, atomic::Ordering},
};

use parking_lot::Mutex;

use super::{
    sealed::{self, Broken},
    shelf::{ImageError, Shelf},
};
use crate::{
    server::workers::{
        checkpoint,
        zygote::{Stage, Zygote},
    },
    sys::{
        descriptors,
        image::{self, BaseId},
    },
};

/// A base. Dropped, its file is removed.
#[derive(Debug)]
pub(crate) struct Base {
    pub(super) id: BaseId,
    /// In memory, once it was of use.
    memory: Mutex<Option<Arc<OwnedFd>>>,
    /// Where the next server finds it.
    file: Option<PathBuf>,
    /// Bytes of the file.
    bytes: u64,
    shelf: Arc<Shelf>,
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|_| !self.shelf.stays()) {
            let _ = fs::remove_file(file);
            self.shelf.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Those in use.
#[derive(Debug)]
pub(super) struct Bases {
    shelf: Arc<Shelf>,
    /// That of the zygote with this process id.
    newest: tokio::sync::Mutex<Option<(i32, Arc<Base>)>>,
    known: Mutex<Vec<Weak<Base>>>,
}

impl Bases {
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        Self { shelf, newest: tokio::sync::Mutex::default(), known: Mutex::default() }
    }

    /// One of the server before, in the folder.
    pub(super) fn known(&self, id: BaseId, file: PathBuf) -> Arc<Base> {
        let mut known = self.known.lock();
        known.retain(|base| base.strong_count() > 0);
        let found = known.iter().filter_map(Weak::upgrade).find(|base| base.id == id);
        found.unwrap_or_else(|| {
            let bytes = fs::metadata(&file).map_or(0, |status| status.len());
            self.shelf.held.fetch_add(bytes, Ordering::Relaxed);
            let (memory, shelf) = (Mutex::default(), Arc::clone(&self.shelf));
            let base = Arc::new(Base { id, memory, file: Some(file), bytes, shelf });
            known.push(Arc::downgrade(&base));
            base
        })
    }

    /// That of the zygote that serves now, written when it is first asked for.
    pub(super) async fn of(&self, zygote: &Zygote) -> Result<Arc<Base>, String> {
        let mut newest = self.newest.lock().await;
        let pid = match zygote.stage() {
            Stage::Warm { pid, .. } => pid,
            _ => return Err("the zygote is not there".to_owned()),
        };
        if let Some((_, base)) = newest.as_ref().filter(|(of, _)| *of == pid) {
            return Ok(Arc::clone(base));
        }
        let words = |error: std::io::Error| error.to_string();
        let draft = descriptors::sealable_memory_file(c"forkpy-base").map_err(words)?;
        let passed = draft.as_fd().try_clone_to_owned().map_err(words)?;
        checkpoint::write_base(zygote, passed).await.map_err(|error| error.to_string())?;
        let shelf = Arc::clone(&self.shelf);
        let kept = tokio::task::spawn_blocking(move || Base::keep(shelf, draft)).await;
        let base = Arc::new(kept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
        self.known.lock().push(Arc::downgrade(&base));
        *newest = Some((pid, Arc::clone(&base)));
        Ok(base)
    }
}

impl Base {
    fn keep(shelf: Arc<Shelf>, draft: OwnedFd) -> Result<Self, ImageError> {
        let draft = File::from(draft);
        sealed::make_final(&draft).map_err(ImageError::Read)?;
        let id = image::base_id(draft.as_fd()).map_err(|refusal| ImageError::Read(std::io::Error::other(refusal)))?;
        let memory = Mutex::new(Some(Arc::new(OwnedFd::from(draft.try_clone().map_err(ImageError::Read)?))));
        let mut base = Self { id, memory, file: None, bytes: 0, shelf: Arc::clone(&shelf) };
        if shelf.is_for_the_next() {
            let path = shelf.path_of(&id, "base");
            let mut draft = draft;
            base.bytes = shelf.write(&path, &id, &[], &mut draft)?;
            base.file = Some(path);
        }
        Ok(base)
    }

    /// The file in memory. Blocking.
    pub(crate) fn open(&self) -> Result<OwnedFd, ImageError> {
        let mut memory = self.memory.lock();
        let there = match &*memory {
            Some(there) => Arc::clone(there),
            None => {
                let missing = || ImageError::NoBase;
                let file = self.file.as_ref().ok_or_else(missing)?;
                let key = &self.shelf.key;
                let unpacked = sealed::open(file, key, &self.id).and_then(|opened| opened.unpack(key, &self.id));
                let there = Arc::new(unpacked.map_err(|broken| match broken {
                    Broken::Changed => ImageError::NoBase,
                    Broken::Read(error) if error.kind() == std::io::ErrorKind::NotFound => ImageError::NoBase,
                    Broken::Read(error) => ImageError::Read(error),
                })?);
                *memory = Some(Arc::clone(&there));
                there
            }
        };
        there.try_clone().map_err(ImageError::Read)
    }
}
