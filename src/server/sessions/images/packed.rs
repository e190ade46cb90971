//! The folder of images on its way to the program that this server becomes (`forkpy restart`).
//!
//! Runs in: server, before the exec and after it. Files stay where they are: an exec removes none, and the lock in the folder goes
//! along, so that no other server takes them for left. Bases that lie in memory go along as descriptors.

use std::{
    fs::File,
    io,
    os::fd::RawFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    About, Image, Images, Inner,
    base::{Base, Bases, PackedBase},
    sealed::{Key, Name},
    shelf::{self, Shelf},
};
use crate::{
    server::sessions::status::Sleeping,
    settings::policy::SleepBounds,
    sys::{
        image::BaseId,
        parcel::{self, Parcel},
    },
};

/// The folder, on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedImages {
    folder: PathBuf,
    lock: Option<RawFd>,
    key: Key,
    bases: Vec<PackedBase>,
}

/// An image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedImage {
    name: Name,
    base: Option<BaseId>,
    /// What is shown of it: since when (RFC 3339), and of which cell.
    since: String,
    cell: u64,
}

/// An image that came along.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) image: Image,
    pub(crate) shown: Sleeping,
    /// As it is for the next server: the other program may run sessions in another environment. None where its file is damaged.
    pub(crate) about: Option<About>,
}

impl Images {
    /// Takes the folder along.
    pub(crate) fn pack(&self, parcel: &mut Parcel) -> io::Result<PackedImages> {
        let (folder, lock, key) = self.0.shelf.pack(parcel)?;
        Ok(PackedImages { folder, lock, key, bases: self.0.bases.pack(parcel)? })
    }

    /// Goes on with it. Bases are held until [`Images::all_are_back`].
    ///
    /// # Safety
    /// The numbers of descriptors must come from a parcel, and be used once.
    pub(crate) unsafe fn unpack(packed: PackedImages, bounds: &SleepBounds, workspace: &Path) -> io::Result<Self> {
        let PackedImages { folder, lock, key, bases: packed } = packed;
        // SAFETY: as the caller says.
        let lock = lock.map(|number| unsafe { parcel::take(number) }).transpose()?.map(File::from);
        let shelf = Arc::new(Shelf::going_on(folder, lock, key, bounds));
        let bases = Bases::new(Arc::clone(&shelf));
        // SAFETY: as the caller says.
        unsafe { bases.unpack(packed) };
        Ok(Self(Arc::new(Inner { shelf, workspace: workspace.to_owned(), bases })))
    }

    /// All sessions have what is theirs: a base that none of them needs goes.
    pub(crate) fn all_are_back(&self) {
        self.0.bases.all_are_back();
    }

    /// An image that was kept before. Blocking, for what lies in its head.
    pub(in crate::server::sessions) fn kept(&self, packed: &PackedImage) -> Kept {
        let PackedImage { name, base, since, cell } = packed;
        let path = self.0.shelf.path_of(name, "image");
        let bytes = shelf::bytes_of(&path);
        self.0.shelf.held.fetch_add(bytes, Ordering::Relaxed);
        let about = self.head(&path);
        let base = base.and_then(|id| self.base_of(id));
        let image = Image::of(path, *name, base, (bytes, &self.0.shelf));
        let since = since.parse().unwrap_or_else(|_| Timestamp::now());
        Kept { image, shown: Sleeping { bytes, since, cell: *cell }, about }
    }

    /// A base that came along.
    pub(in crate::server::sessions) fn base_of(&self, id: BaseId) -> Option<Arc<Base>> {
        self.0.bases.find(id)
    }
}

impl Image {
    /// Takes it along, with what is shown of it.
    pub(in crate::server::sessions) fn pack(&self, shown: Option<Sleeping>) -> PackedImage {
        let base = self.base.as_ref().map(|base| base.id);
        let (since, cell) = shown.map_or((Timestamp::now(), 0), |shown| (shown.since, shown.cell));
        PackedImage { name: self.name, base, since: since.to_string(), cell }
    }
}
