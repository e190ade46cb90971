//! `ping` and `get_workspace_info`: whether the server is there, and where it works.
//!
//! Runs in: server.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::server::{
    tools::call::{
        arguments::Nothing,
        error::ToolError,
        reply::{Reply, now},
        request::Call,
        server::Server,
    },
    workers::zygote::Stage,
};

/// `ping`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Pong {
    /// `pong`.
    pub(crate) status: &'static str,
    /// True.
    pub(crate) ok: bool,
    /// When (RFC 3339).
    pub(crate) timestamp: String,
}

/// `get_workspace_info`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct WorkspaceInfo {
    /// Directory that sessions work in.
    pub(crate) workspace: String,
    /// Saved scripts.
    pub(crate) scripts: String,
    /// Files made on behalf of sessions.
    pub(crate) outputs: String,
    /// Files that clients sent.
    pub(crate) uploads: String,
    /// The same as `workspace`.
    pub(crate) workspace_dir: String,
    /// The same as `scripts`.
    pub(crate) scripts_dir: String,
    /// The same as `outputs`.
    pub(crate) outputs_dir: String,
    /// The same as `uploads`.
    pub(crate) uploads_dir: String,
    /// `sys.executable` of sessions; null until Python has started.
    pub(crate) python: Option<String>,
    /// Python's version; null until Python has started.
    pub(crate) python_version: Option<String>,
    /// forkpy's version.
    pub(crate) server_version: &'static str,
}

pub(crate) async fn ping(_: &Server, _: &Call, _: Nothing) -> Result<Reply<Pong>, ToolError> {
    Ok(Reply::of(Pong { status: "pong", ok: true, timestamp: now() }))
}

pub(crate) async fn info(server: &Server, _: &Call, _: Nothing) -> Result<Reply<WorkspaceInfo>, ToolError> {
    let words = |path: &Path| path.to_string_lossy().into_owned();
    let place = &server.workspace;
    let (workspace, scripts) = (words(&place.root), words(&place.scripts()));
    let (outputs, uploads) = (words(&place.outputs()), words(&place.uploads()));
    let (python, python_version) = match server.around.zygote.stage() {
        Stage::Warm { python, executable, .. } => (Some(executable), Some(python)),
        Stage::Starting | Stage::Failed(_) => (None, None),
    };
    Ok(Reply::of(WorkspaceInfo {
        workspace_dir: workspace.clone(),
        scripts_dir: scripts.clone(),
        outputs_dir: outputs.clone(),
        uploads_dir: uploads.clone(),
        workspace,
        scripts,
        outputs,
        uploads,
        python,
        python_version,
        server_version: env!("CARGO_PKG_VERSION"),
    }))
}
