//! What the images of a zygote's sessions have in common, kept once (`sys/image/base.rs`).
//!
//! Runs in: server. In memory for those who sleep and wake; and in the folder of images where the next server may need it.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd, RawFd},
    path::PathBuf,
    sync::{Arc, Weak, atomic::Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

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
        parcel::{self, Parcel},
    },
};

/// A base. Dropped, its file is removed.
#[derive(Debug)]
pub(crate) struct Base {
    pub(in crate::server::sessions) id: BaseId,
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
    /// Came along when the server became this program, until all sessions have theirs.
    returned: Mutex<Vec<Arc<Base>>>,
}

/// A base, on its way to the program that this server becomes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedBase {
    id: BaseId,
    memory: Option<RawFd>,
    is_filed: bool,
}

impl Bases {
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        Self { shelf, newest: tokio::sync::Mutex::default(), known: Mutex::default(), returned: Mutex::default() }
    }

    /// Takes along those in use.
    pub(super) fn pack(&self, parcel: &mut Parcel) -> io::Result<Vec<PackedBase>> {
        let known: Vec<_> = self.known.lock().iter().filter_map(Weak::upgrade).collect();
        let pack = |base: &Arc<Base>| {
            let memory = base.memory.lock().as_ref().map(|memory| parcel.add(memory.as_fd())).transpose()?;
            Ok(PackedBase { id: base.id, memory, is_filed: base.file.is_some() })
        };
        known.iter().map(pack).collect()
    }

    /// Holds those that came along.
    ///
    /// # Safety
    /// The numbers of descriptors must come from a parcel, and be used once.
    pub(super) unsafe fn unpack(&self, packed: Vec<PackedBase>) {
        for PackedBase { id, memory, is_filed } in packed {
            // SAFETY: as the caller says. Without it the file is read.
            let memory = memory.and_then(|number| unsafe { parcel::take(number) }.ok()).map(Arc::new);
            let file = is_filed.then(|| self.shelf.path_of(&id, "base"));
            let base = self.take_in(id, memory, file);
            self.known.lock().push(Arc::downgrade(&base));
            self.returned.lock().push(base);
        }
    }

    pub(super) fn all_are_back(&self) {
        self.returned.lock().clear();
    }

    pub(super) fn find(&self, id: BaseId) -> Option<Arc<Base>> {
        self.known.lock().iter().filter_map(Weak::upgrade).find(|base| base.id == id)
    }

    fn take_in(&self, id: BaseId, memory: Option<Arc<OwnedFd>>, file: Option<PathBuf>) -> Arc<Base> {
        let bytes = file.as_ref().and_then(|file| fs::metadata(file).ok()).map_or(0, |status| status.len());
        self.shelf.held.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Base { id, memory: Mutex::new(memory), file, bytes, shelf: Arc::clone(&self.shelf) })
    }

    /// One of the server before, in the folder.
    pub(super) fn known(&self, id: BaseId, file: PathBuf) -> Arc<Base> {
        let mut known = self.known.lock();
        known.retain(|base| base.strong_count() > 0);
        let found = known.iter().filter_map(Weak::upgrade).find(|base| base.id == id);
        found.unwrap_or_else(|| {
            let base = self.take_in(id, None, Some(file));
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
                    Broken::Changed | Broken::OtherVersion => ImageError::NoBase,
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
