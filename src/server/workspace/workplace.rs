//! Where sessions work: one workspace for all of them, or with `--workspaces` a directory for each owner that has a token.
//!
//! Runs in: server. Owns which directory is whose. An owner's is made when it comes in first, and stays when it goes; its name
//! is the owner's mark, which cannot lead elsewhere.

use std::{
    collections::HashMap,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    announce,
    handle::{FileError, Files},
    watch::Watcher,
};
use crate::{
    protocol::Ground,
    server::{events::Changes, owner::Owner},
    settings::resolve::Workspace,
};

/// Hidden, so that what is installed is neither listed nor watched.
const ENVIRONMENT: &str = ".forkpy-venv";

/// A workspace, opened and watched.
#[derive(Debug)]
pub(crate) struct Workplace {
    pub workspace: Workspace,
    /// Where whole outputs go.
    pub outputs: PathBuf,
    pub files: Files,
    pub watcher: Arc<Watcher>,
    /// Whose alone it is.
    whose: Option<Owner>,
}

impl Workplace {
    fn open(workspace: Workspace, changes: &Changes, whose: Option<Owner>) -> io::Result<Arc<Self>> {
        let announcer = announce::announcer(changes.clone(), whose.clone());
        let watcher = Arc::new(Watcher::start_observed(&workspace.root, announcer)?);
        let (files, outputs) = (Files::open(&workspace)?, workspace.outputs());
        Ok(Arc::new(Self { workspace, outputs, files, watcher, whose }))
    }

    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.workspace.root
    }

    /// Whose alone it is; none where it is of all.
    #[must_use]
    pub(crate) fn whose(&self) -> Option<&Owner> {
        self.whose.as_ref()
    }

    /// The virtual environment of the owner whose alone it is. The first process that works here makes it.
    #[must_use]
    pub(crate) fn environment(&self) -> Option<PathBuf> {
        self.whose.as_ref().map(|_| self.root().join(ENVIRONMENT))
    }

    /// What a process that works here has to be told, where it is not the one that all zygotes know.
    #[must_use]
    pub(crate) fn ground(&self) -> Option<Ground> {
        let words = |path: &Path| path.to_string_lossy().into_owned();
        let environment = words(&self.environment()?);
        Some(Ground { workspace: words(self.root()), outputs: words(&self.outputs), environment })
    }
}

/// All of them.
#[derive(Debug, Clone)]
pub(crate) struct Workplaces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    common: Arc<Workplace>,
    below: Option<PathBuf>,
    changes: Changes,
    own: Mutex<HashMap<Owner, Arc<Workplace>>>,
}

impl Workplaces {
    /// One for all, and where those of owners are to be, if they are to have any.
    ///
    /// # Errors
    /// When the first cannot be opened.
    pub(crate) fn new(common: Workspace, below: Option<PathBuf>, changes: Changes) -> io::Result<Self> {
        let common = Workplace::open(common, &changes, None)?;
        Ok(Self(Arc::new(Inner { common, below, changes, own: Mutex::default() })))
    }

    /// The one of those who have none of their own.
    #[must_use]
    pub(crate) fn common(&self) -> &Arc<Workplace> {
        &self.0.common
    }

    /// Those who have one of their own.
    #[must_use]
    pub(crate) fn owners(&self) -> Vec<Owner> {
        self.0.own.lock().keys().cloned().collect()
    }

    /// An owner's; made when it is missing.
    ///
    /// # Errors
    /// [`FileError::NoPlace`] when it cannot be.
    pub(crate) fn of(&self, owner: &Owner) -> Result<Arc<Workplace>, FileError> {
        let Inner { common, below, changes, own } = &*self.0;
        let (Some(below), true, Some(name)) = (below, owner.has_token(), owner.mark()) else {
            return Ok(Arc::clone(common));
        };
        let mut own = own.lock();
        if let Some(place) = own.get(owner) {
            return Ok(Arc::clone(place));
        }
        let path = below.join(name);
        let fail = |reason: String| FileError::NoPlace { path: path.clone(), reason };
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
            .map_err(|error| fail(error.to_string()))?;
        let workspace = Workspace::make(&path).map_err(|error| fail(error.to_string()))?;
        let place =
            Workplace::open(workspace, changes, Some(owner.clone())).map_err(|error| fail(error.to_string()))?;
        own.insert(owner.clone(), Arc::clone(&place));
        Ok(place)
    }
}
