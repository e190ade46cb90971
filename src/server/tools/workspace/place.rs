//! `ping` and `get_workspace_info`: whether the server is there, and where it works.
//!
//! Runs in: server.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    protocol::Confinement,
    server::{
        egress::callers::Kind,
        environment::own,
        tools::call::{
            arguments::Nothing,
            error::ToolError,
            reply::{Reply, now},
            request::Call,
            server::Server,
        },
        watch::in_force::name_layers,
        workers::{
            imports::Auto,
            zygote::{Begun, Stage},
        },
    },
    settings::secrets::Secret,
    sys::groups::{self, Controller},
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
    /// `sys.executable` of sessions, once Python has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) python: Option<String>,
    /// Python's version, once Python has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) python_version: Option<String>,
    /// How Python has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) python_start: Option<StartInfo>,
    /// What sessions find imported.
    pub(crate) preload: PreloadInfo,
    /// What sessions and scripts are kept from.
    pub(crate) sandbox: SandboxInfo,
    /// Who keeps limits of sessions on this machine.
    pub(crate) bounds: BoundsInfo,
    /// forkpy's version.
    pub(crate) server_version: &'static str,
}

/// How Python has started (`--zygote-image`).
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct StartInfo {
    /// `image`: from what an earlier server has written. `start`.
    pub(crate) from: &'static str,
    pub(crate) milliseconds: f64,
    /// Why not from an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

impl StartInfo {
    fn of(begun: Begun) -> Self {
        let milliseconds = (begun.took.as_secs_f64() * 1e4).round() / 10.0;
        Self { from: if begun.from_image { "image" } else { "start" }, milliseconds, why: begun.why }
    }
}

/// What sessions find imported, without having waited for it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PreloadInfo {
    /// `auto`: also what sessions import often, from when no session was at work. `list`: what --preload names. `none`. `confined`:
    /// as list or none, for sessions are confined.
    pub(crate) mode: &'static str,
    /// What --preload names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) named: Vec<String>,
    /// What was added of its own accord.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) added: Vec<AddedModule>,
    /// What could not be added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<LeftOutModule>,
}

/// A module that new sessions have.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct AddedModule {
    pub(crate) module: String,
    /// Seconds that sessions have waited for it before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
}

/// A module that sessions import themselves.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct LeftOutModule {
    pub(crate) module: String,
    pub(crate) reason: String,
}

impl PreloadInfo {
    fn of(server: &Server, modules: &[String]) -> Self {
        let imports = &server.around.imports;
        let named = server.around.settings.preload.clone();
        let mode = match (imports.auto(), named.is_empty()) {
            (Auto::On, _) => "auto",
            (Auto::Confined, _) => "confined",
            (Auto::NotAsked, true) => "none",
            (Auto::NotAsked, false) => "list",
        };
        let rounded = |seconds: f64| (seconds * 1e3).round() / 1e3;
        let added = imports.added(modules).into_iter().map(|module| {
            let seconds = imports.seconds(&module).map(rounded);
            AddedModule { module, seconds }
        });
        let left_out = imports.left_out().into_iter().map(|(module, reason)| LeftOutModule { module, reason });
        Self { mode, named, added: added.collect(), left_out: left_out.collect() }
    }
}

/// Who keeps limits of sessions on this machine: `cgroup` is the kernel, where forkpy may make cgroups; a session's own health says
/// what was had for it.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub(crate) struct BoundsInfo {
    /// `cgroup`, or `processes`: forkpy counts what they have.
    pub(crate) memory: &'static str,
    /// `cgroup` with forkpy, or `processes`: forkpy alone.
    pub(crate) processes: &'static str,
    /// `cgroup`, or `none`.
    pub(crate) cpus: &'static str,
}

impl BoundsInfo {
    fn of() -> Self {
        let by = |controller, other| if groups::can_be_had(controller) { "cgroup" } else { other };
        Self {
            memory: by(Controller::Memory, "processes"),
            processes: by(Controller::Processes, "processes"),
            cpus: by(Controller::Cpus, "none"),
        }
    }
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
    /// Hosts with a secret that the proxy adds: plain requests go below `url`, and on by TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<SecretInfo>,
    /// What confines the processes of sessions on this machine; known once one has run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<String>,
    /// What this machine cannot keep.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
}

/// A secret that code does not see.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SecretInfo {
    /// Variable with a placeholder, which may be sent as if it were the secret.
    pub(crate) name: String,
    /// The one host that gets it, with its port.
    pub(crate) host: String,
    /// What stands in place of the host's own `https://HOST`.
    pub(crate) url: String,
}

impl SandboxInfo {
    fn of(server: &Server, workspace: String) -> Self {
        let settings = &server.around.settings;
        let (mode, sandbox) = (settings.limits.confinement, &settings.sandbox);
        let is_off = mode == Confinement::Off;
        let words = |path: &PathBuf| path.to_string_lossy().into_owned();
        let write = std::iter::once(workspace).chain(sandbox.write.iter().map(words));
        let hosts = if mode == Confinement::Workspace { sandbox.network.words() } else { Vec::new() };
        let proxy = server.around.egress.as_ref().and_then(|egress| egress.callers().proxy(Kind::Session));
        let told = |secret: &Secret| {
            let Secret { name, host, port, .. } = secret;
            let url = proxy.map_or_else(String::new, |proxy| format!("http://{proxy}/{name}"));
            SecretInfo { name: name.clone(), host: format!("{host}:{port}"), url }
        };
        let has_network = mode == Confinement::Workspace;
        let secrets = sandbox.secrets.iter().filter(|_| has_network).map(told).collect();
        Self {
            mode: mode.word(),
            read: sandbox.read.iter().filter(|_| !is_off).map(words).collect(),
            write: write.filter(|_| !is_off).collect(),
            network: match mode {
                Confinement::Off => "all",
                Confinement::Workspace if proxy.is_some() => "proxy",
                Confinement::Workspace | Confinement::Strict => "none",
            },
            hosts,
            secrets,
            layers: layers(server, mode),
            missing: sandbox.gaps.iter().filter(|_| !is_off).map(ToString::to_string).collect(),
        }
    }
}

/// What confines sessions of this mode, as one of them has told.
fn layers(server: &Server, mode: Confinement) -> Vec<String> {
    let sessions = server.registry.all_and_branches().into_iter();
    let mut alike = sessions.filter(|session| session.limits.confinement == mode);
    alike.find_map(|session| session.shared.get().worker?.layers()).map_or_else(Vec::new, name_layers)
}

pub(crate) async fn ping(_: &Server, _: &Call, _: Nothing) -> Result<Reply<Pong>, ToolError> {
    Ok(Reply::of(Pong { status: "pong", ok: true, timestamp: now() }))
}

pub(crate) async fn info(server: &Server, call: &Call, _: Nothing) -> Result<Reply<WorkspaceInfo>, ToolError> {
    let words = |path: &Path| path.to_string_lossy().into_owned();
    let place = server.place(call.visitor.peek())?;
    let (own, place) = (place.environment(), &place.workspace);
    let (workspace, scripts) = (words(&place.root), words(&place.scripts()));
    let (outputs, uploads) = (words(&place.outputs()), words(&place.uploads()));
    let (python, python_version, python_start, modules) = match server.around.zygote.stage() {
        Stage::Warm { python, executable, modules, begun, .. } => {
            let executable = own.as_deref().map_or(executable, own::python);
            (Some(executable), Some(python), Some(StartInfo::of(begun)), modules)
        }
        Stage::Starting | Stage::Failed(_) => (None, None, None, Vec::new()),
    };
    Ok(Reply::of(WorkspaceInfo {
        workspace_dir: workspace.clone(),
        scripts_dir: scripts.clone(),
        outputs_dir: outputs.clone(),
        uploads_dir: uploads.clone(),
        sandbox: SandboxInfo::of(server, workspace.clone()),
        workspace,
        scripts,
        outputs,
        uploads,
        python,
        python_version,
        python_start,
        preload: PreloadInfo::of(server, &modules),
        bounds: BoundsInfo::of(),
        server_version: env!("CARGO_PKG_VERSION"),
    }))
}
