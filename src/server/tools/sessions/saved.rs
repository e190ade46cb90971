//! Tools that write a session's variables to a file of the workspace, and read them back, on another day or elsewhere.
//!
//! Runs in: server. The worker sees a file of forkpy's own, in the scratch directory; the workspace's is opened and written
//! here, through the one handle on it (`server/workspace/handle.rs`). What is in the file is
//! `python/forkpy_worker/variables/statefile.py`'s.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::{
    sessions::orders::SessionError,
    tools::call::{
        error::ToolError,
        patience::in_turn,
        reply::Reply,
        request::Call,
        server::{Server, blocking},
    },
    workspace::handle::FileError,
};

/// `save_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct SaveSession {
    /// File to write, relative to the workspace; replaced when it exists.
    pub(crate) path: String,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

/// `load_session`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct LoadSession {
    /// File that save_session wrote, relative to the workspace. Loading it runs code that is in it.
    pub(crate) path: String,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
}

/// `save_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SavedSession {
    /// `saved`.
    pub(crate) status: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// The file, relative to the workspace.
    pub(crate) path: String,
    /// Its size, bytes.
    pub(crate) size: u64,
    /// Names of the variables that are in it.
    pub(crate) saved: Vec<String>,
    /// Names of those that are not, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) skipped: BTreeMap<String, String>,
}

/// `load_session`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct LoadedSession {
    /// `loaded`.
    pub(crate) status: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// The file, relative to the workspace.
    pub(crate) path: String,
    /// Names of the variables that the session has from it.
    pub(crate) loaded: Vec<String>,
    /// Those of them that stood for something else before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) replaced: Vec<String>,
    /// Names of variables in the file that could not be brought back, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) skipped: BTreeMap<String, String>,
}

/// A file of ours for one call; removed with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(server: &Server) -> Self {
        Self(server.around.exchange.join(format!("{}.saved", uuid::Uuid::new_v4().simple())))
    }

    fn name(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes it for its user alone: it holds variables.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

pub(crate) async fn save(server: &Server, call: &Call, asked: SaveSession) -> Result<Reply<SavedSession>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let scratch = Scratch::new(server);
    let report = in_turn(server, call, &session, |caller| session.save_to(scratch.name(), caller)).await;
    let report = report.map_err(|error| match (error, call.news_of(&session)) {
        (ToolError::Session(error @ SessionError::NothingToSave(_)), (_, Some(news))) => {
            ToolError::Told { error, news }
        }
        (error, _) => error,
    })?;
    let (files, source, path) = (server.files(call)?, scratch.0.clone(), asked.path);
    let written = blocking(move || {
        let mut source = File::open(source).map_err(|error| FileError::reading(&path, error))?;
        files.write_from(&path, &mut source)
    })
    .await?;
    Ok(Reply::of(SavedSession {
        status: "saved",
        session_id: session.id.to_string(),
        path: written.path,
        size: written.size,
        saved: report.names,
        skipped: report.skipped.into_iter().collect(),
    }))
}

pub(crate) async fn load(server: &Server, call: &Call, asked: LoadSession) -> Result<Reply<LoadedSession>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let scratch = Scratch::new(server);
    let (files, target, path) = (server.files(call)?, scratch.0.clone(), asked.path.clone());
    blocking(move || {
        let mut source = files.open_regular(&path)?;
        let copied = private(&target).and_then(|mut target| std::io::copy(&mut source, &mut target));
        copied.map(drop).map_err(|error| FileError::reading(&path, error))
    })
    .await?;
    let loaded = in_turn(server, call, &session, |caller| session.load_from(scratch.name(), caller)).await;
    let report = loaded.map_err(|error| match error {
        ToolError::Session(SessionError::Worker { session, reason }) => {
            SessionError::Worker { session, reason: format!("{:?} was not loaded: {reason}", asked.path) }.into()
        }
        other => other,
    })?;
    Ok(Reply::of(LoadedSession {
        status: "loaded",
        session_id: session.id.to_string(),
        path: asked.path,
        loaded: report.names,
        replaced: report.replaced,
        skipped: report.skipped.into_iter().collect(),
    }))
}
