//! `ping` and `get_workspace_info`: whether the server is there, and where it works.
//!
//! Runs in: server.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    protocol::Confinement,
    server::{
        tools::call::{
            arguments::Nothing,
            error::ToolError,
            reply::{Reply, now},
            request::Call,
            server::Server,
        },
        workers::zygote::Stage,
    },
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
    /// What sessions and scripts are kept from.
    pub(crate) sandbox: SandboxInfo,
    /// forkpy's version.
    pub(crate) server_version: &'static str,
}

/// The server's sandbox.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SandboxInfo {
    /// `off`, `workspace` or `strict`; a session may have a narrower one.
    pub(crate) mode: &'static str,
    /// Paths beside those of Python that may be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) read: Vec<String>,
    /// Paths that may be changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) write: Vec<String>,
    /// `all`, `none`, or `proxy`: `hosts` by the server's proxy, which HTTP_PROXY and HTTPS_PROXY name. `strict` has none.
    pub(crate) network: &'static str,
    /// Hosts that the proxy reaches; `all` is every one with a public address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<String>,
    /// What this machine cannot keep.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
}

impl SandboxInfo {
    fn of(server: &Server) -> Self {
        let settings = &server.around.settings;
        let (mode, sandbox) = (settings.limits.confinement, &settings.sandbox);
        let is_off = mode == Confinement::Off;
        let words = |path: &PathBuf| path.to_string_lossy().into_owned();
        let workspace = server.workspace.root.to_string_lossy().into_owned();
        let write = std::iter::once(workspace).chain(sandbox.write.iter().map(words));
        let hosts = if mode == Confinement::Workspace { sandbox.network.words() } else { Vec::new() };
        Self {
            mode: mode.word(),
            read: sandbox.read.iter().filter(|_| !is_off).map(words).collect(),
            write: write.filter(|_| !is_off).collect(),
            network: match mode {
                Confinement::Off => "all",
                Confinement::Workspace if !hosts.is_empty() => "proxy",
                Confinement::Workspace | Confinement::Strict => "none",
            },
            hosts,
            missing: sandbox.gaps.iter().filter(|_| !is_off).map(ToString::to_string).collect(),
        }
    }
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
        sandbox: SandboxInfo::of(server),
        server_version: env!("CARGO_PKG_VERSION"),
    }))
}
