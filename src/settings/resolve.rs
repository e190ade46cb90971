//! Settings as the server uses them: the command line, resolved and checked.
//!
//! Runs in: server. Reads files and the environment once, at start.

use std::{
    ffi::{OsStr, OsString},
    io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::RawFd,
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    protocol::Confinement,
    settings::{
        http_bounds::Bounds as HttpBounds,
        limits::Limits,
        logging,
        oauth::{Oauth, OauthError},
        options::{CheckpointOptions, HealthOptions, ServeOptions, Transport, Wait, ZygoteImage},
        paths,
        policy::{Bounds, HealthPolicy, SleepBounds},
        replies::ReplyOptions,
        sandbox::{Sandbox, SandboxError},
        store::{StoreConfigError, StoreSettings},
        tokens::{Tokens, TokensError, Workspaces},
    },
    sys::guarded,
};

/// Variable that holds the key to the HTTP door.
const TOKEN: &str = "FORKPY_TOKEN";
/// How all our own variables begin.
const OURS: &str = "FORKPY_";
/// What lets a process speak to the service manager in the server's name.
const SERVICE_MANAGER: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The token, from the moment on at which it left the environment.
static TAKEN: OnceLock<Option<OsString>> = OnceLock::new();

/// Takes the token out of the environment: first of all, before any other process can be looked at by a session.
///
/// # Safety
/// No other thread may exist.
pub(crate) unsafe fn take_token() {
    // SAFETY: passed on to the caller.
    let _ = TAKEN.set(unsafe { guarded::take_variable(TOKEN) });
}

/// Gives the token to the program that this one becomes.
pub(crate) fn hand_on_token(command: &mut Command) {
    if let Some(Some(token)) = TAKEN.get() {
        command.env(TOKEN, token);
    }
}

/// Takes away from a child of ours what sessions, and what is run for them, do not see.
pub(crate) fn hide_variables(command: &mut Command) {
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_hidden(name)) {
        command.env_remove(name);
    }
}

/// Whether a variable is one of our own, or of the service manager.
#[must_use]
pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(OURS.as_bytes()) || SERVICE_MANAGER.iter().any(|hidden| name == *hidden)
}

/// What checkpoints may hold on a machine that does not say how much memory it has.
const DEFAULT_MEMORY: u64 = 1 << 30;

/// Why the command line cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The workspace cannot be made or used.
    #[error("failed to prepare the workspace {path}: {reason}. Name a directory that you may write with --workspace")]
    Workspace { path: PathBuf, reason: String },
    /// A path that Python cannot take.
    #[error("path {0:?} is not valid UTF-8")]
    NotUtf8(PathBuf),
    /// The token file cannot be used.
    #[error("failed to read the token from {path}: {reason}")]
    Token { path: PathBuf, reason: String },
    /// Open to the network without a token.
    #[error(
        "refusing to listen on {0} without a token: anyone who reaches it could run code here. \
         Set FORKPY_TOKEN, --token-file, --tokens or --oauth-issuer, or listen on 127.0.0.1"
    )]
    OpenToTheWorld(IpAddr),
    /// The file of tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The issuer of tokens.
    #[error(transparent)]
    Oauth(#[from] OauthError),
    #[error("--workspaces is for owners with tokens of their own: add --tokens or --oauth-issuer")]
    NoOwners,
    #[error("--tokens: sessions may change {0}: put it elsewhere than below the workspace and --allow-write")]
    TokensWithin(PathBuf),
    #[error("--tokens gives each owner its own sessions, and --share-sessions gives all the same: take one of them")]
    SharedTokens,
    /// Open to the network without a sandbox, and nothing says that this is meant.
    #[error(
        "refusing to listen on {0} without a sandbox: a client with the token could use this machine as its user can. \
         Add --sandbox workspace; or --sandbox off where something else confines the server, a container for example"
    )]
    Unconfined(IpAddr),
    /// There can be no such store.
    #[error(transparent)]
    Store(#[from] StoreConfigError),
    /// There can be no such sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// The workspace and its three folders.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    pub root: PathBuf,
}

/// Limits and times of sessions.
#[derive(Debug, Clone)]
pub(crate) struct SessionSettings {
    /// Most sessions at a time.
    pub max_sessions: usize,
    /// Time for a cell that names none; `None` is for ever.
    pub timeout: Option<Duration>,
    /// From interrupt to kill.
    pub grace: Duration,
    /// How long a cell waits for the answer to a question; `None` is for ever.
    pub input_timeout: Option<Duration>,
    /// Cells that may wait in one session.
    pub queue: usize,
    /// Bytes of each stream in a reply.
    pub max_output: usize,
    /// Bytes of each stream of a cell in a notebook that is written.
    pub max_notebook_output: usize,
    /// How long a call waits for its cell.
    pub(crate) wait: Wait,
    /// How long the replies to cells are kept.
    pub(crate) keep_replies: Duration,
    /// Limits of every session that has no tighter ones.
    pub limits: Limits,
    /// What confined sessions may reach, and what this machine can keep.
    pub sandbox: Sandbox,
    pub checkpoints: Bounds,
    /// When sessions sleep, and where.
    pub sleep: SleepBounds,
    /// Most workers that wait for a session.
    pub max_spares: usize,
    /// What `--preload` names.
    pub preload: Vec<String>,
    /// What the server is called among several.
    pub server_name: Option<String>,
    /// How long a server that drains stays; `None` is until it is ended.
    pub drain_limit: Option<Duration>,
}

/// How HTTP is served.
#[derive(Debug, Clone)]
pub(crate) struct HttpSettings {
    pub address: SocketAddr,
    /// What clients must show.
    pub token: Option<String>,
    /// Or one of these.
    pub tokens: Option<Arc<Tokens>>,
    /// Or one of an issuer.
    pub oauth: Option<Oauth>,
    pub allow_hosts: Vec<String>,
    pub allow_origins: Vec<String>,
    /// Most bytes of an uploaded file.
    pub max_upload: u64,
    /// All clients have the same sessions.
    pub share_sessions: bool,
    /// What clients may take.
    pub bounds: HttpBounds,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub workspace: Workspace,
    /// Where owners with tokens have workspaces of their own.
    pub workspaces: Option<PathBuf>,
    /// It is in the place of another program, which has left its state under this number.
    pub adopt: Option<RawFd>,
    pub transport: Transport,
    /// HTTP, when that is how.
    pub http: HttpSettings,
    pub sessions: SessionSettings,
    pub python: Option<PathBuf>,
    pub venv: Option<PathBuf>,
    pub virtual_env: Option<PathBuf>,
    /// Where managed environments may be, the best place first.
    pub env_dirs: Vec<PathBuf>,
    /// Where images of Python's start are, when they are wanted.
    pub zygote_images: Option<PathBuf>,
    pub python_path: Vec<PathBuf>,
    pub preload: Vec<String>,
    /// What sessions import is preloaded when it is worth it.
    pub preloads_more: bool,
    /// Scripts that may run at a time.
    pub max_scripts: usize,
    /// Thresholds and recovery of sessions that name none.
    pub health: HealthPolicy,
    /// Clients may name indexes, URLs and source trees to install from.
    pub allow_install_options: bool,
    /// What clients are shown.
    pub replies: ReplyOptions,
    /// The file in which calls are written down, and whether their code is.
    pub audit: Option<(PathBuf, bool)>,
    /// Where sessions are put away for any server.
    pub store: Option<StoreSettings>,
}

impl Settings {
    /// Checks and completes the command line; makes the workspace.
    ///
    /// # Errors
    /// [`ConfigError`], in words for the person who typed the command.
    #[expect(
        clippy::too_many_lines,
        reason = "what is checked, then one field after another, which reads best in one piece"
    )]
    pub(crate) fn resolve(cli: ServeOptions) -> Result<Self, ConfigError> {
        let workspace = Workspace::make(&cli.workspace)?;
        let token = read_token(cli.token_file.as_deref())?;
        token.iter().for_each(|token| logging::hide(token));
        let kind = if cli.hosting.workspaces.is_some() { Workspaces::Each } else { Workspaces::Common };
        let tokens = cli.tokens.as_deref().map(|path| Tokens::read(path, kind)).transpose()?;
        let oauth = cli.oauth.clone().resolve(cli.share_sessions)?;
        let is_closed = token.is_some() || tokens.is_some() || oauth.is_some();
        if cli.transport == Transport::Http && !cli.host.is_loopback() && !is_closed {
            return Err(ConfigError::OpenToTheWorld(cli.host));
        }
        let (is_said, preload, preloads_more) = (cli.sandbox.sandbox.is_some(), cli.preloaded(), cli.preloads_more());
        let workspaces = cli.hosting.workspaces.as_deref().map(|path| directory(path, is_owned(&tokens, &oauth)));
        let workspaces = workspaces.transpose()?;
        let changeable = [Some(&workspace.root), workspaces.as_ref()];
        let sandbox = cli.sandbox.resolve(&changeable)?;
        check_tokens(tokens.as_deref().zip(cli.tokens.as_deref()), (&sandbox, &changeable), cli.share_sessions)?;
        if cli.transport == Transport::Http && !cli.host.is_loopback() && !is_said {
            return Err(ConfigError::Unconfined(cli.host));
        }
        let zygote_images = (cli.zygote_image == ZygoteImage::On)
            .then(|| zygote_images(cli.checkpoints.state_dir.as_deref(), &changeable, &sandbox))
            .flatten();
        let writable: Vec<&Path> =
            sandbox.write.iter().chain(changeable.iter().copied().flatten()).map(PathBuf::as_path).collect();
        let (server, state_dir) = (cli.hosting.server_name.as_deref(), cli.checkpoints.state_dir.as_deref());
        let store = cli.store.resolve(server, state_dir, &writable)?;
        let env_dirs = cli.env_dir.map_or_else(default_env_dirs, |named| vec![named]);
        Ok(Self {
            workspace,
            workspaces,
            adopt: cli.adopt,
            transport: cli.transport,
            http: HttpSettings {
                address: SocketAddr::new(cli.host, cli.port),
                token,
                tokens,
                oauth,
                allow_hosts: cli.allow_hosts,
                allow_origins: cli.allow_origins,
                max_upload: cli.max_upload,
                share_sessions: cli.share_sessions,
                bounds: cli.http_bounds.into(),
            },
            sessions: SessionSettings {
                max_sessions: cli.max_sessions as usize,
                timeout: (cli.timeout > 0.0).then(|| Duration::from_secs_f64(cli.timeout)),
                grace: Duration::from_secs_f64(cli.grace),
                input_timeout: (cli.input_timeout > 0.0).then(|| Duration::from_secs_f64(cli.input_timeout)),
                queue: cli.queue as usize,
                max_output: cli.max_output as usize,
                max_notebook_output: cli.max_notebook_output as usize,
                limits: Limits { confinement: sandbox.mode, ..cli.limits.into() },
                sandbox,
                checkpoints: bounds(&cli.checkpoints),
                sleep: sleep_bounds(&cli.checkpoints),
                wait: cli.wait,
                keep_replies: Duration::from_secs_f64(cli.keep_replies),
                max_spares: cli.max_spares as usize,
                preload: preload.clone(),
                server_name: cli.hosting.server_name.filter(|name| !name.is_empty()),
                drain_limit: (cli.hosting.drain_limit > 0.0).then(|| Duration::from_secs_f64(cli.hosting.drain_limit)),
            },
            health: health_policy(&cli.health, &cli.checkpoints),
            python: cli.python,
            venv: cli.venv,
            virtual_env: std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()).map(PathBuf::from),
            env_dirs,
            zygote_images,
            python_path: cli.pythonpath.into_iter().filter(|path| !path.as_os_str().is_empty()).collect(),
            preload,
            preloads_more,
            max_scripts: cli.max_scripts as usize,
            allow_install_options: cli.allow_install_options,
            replies: cli.replies,
            audit: cli.audit.map(|path| (path, cli.audit_code)),
            store,
        })
    }
}

impl Workspace {
    /// Makes it, with its folders.
    ///
    /// # Errors
    /// [`ConfigError::Workspace`] when it cannot be made or used.
    pub(crate) fn make(path: &Path) -> Result<Self, ConfigError> {
        let refuse = |reason: String| ConfigError::Workspace { path: path.to_owned(), reason };
        if let Some(file) = path.ancestors().find(|part| part.exists()).filter(|part| !part.is_dir()) {
            return Err(refuse(format!("{} is a file", file.display())));
        }
        std::fs::create_dir_all(path).map_err(|error| refuse(plain(&error)))?;
        let root = path.canonicalize().map_err(|error| refuse(plain(&error)))?;
        let workspace = Self { root };
        for folder in [workspace.outputs(), workspace.scripts(), workspace.uploads()] {
            std::fs::create_dir_all(&folder)
                .map_err(|error| refuse(format!("{}: {}", folder.display(), plain(&error))))?;
        }
        nix::unistd::access(&workspace.root, nix::unistd::AccessFlags::W_OK)
            .map_err(|errno| refuse(errno.desc().to_owned()))?;
        if workspace.root.to_str().is_none() {
            return Err(ConfigError::NotUtf8(workspace.root));
        }
        Ok(workspace)
    }

    /// Files made on behalf of sessions.
    #[must_use]
    pub(crate) fn outputs(&self) -> PathBuf {
        self.root.join("outputs")
    }

    #[must_use]
    pub(crate) fn scripts(&self) -> PathBuf {
        self.root.join("scripts")
    }

    /// Files that clients sent.
    #[must_use]
    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }
}

/// Whether clients are told apart by tokens.
fn is_owned(tokens: &Option<Arc<Tokens>>, oauth: &Option<Oauth>) -> bool {
    tokens.is_some() || oauth.is_some()
}

/// The directory of owners' workspaces, made for the server's user alone.
fn directory(path: &Path, there_are_owners: bool) -> Result<PathBuf, ConfigError> {
    if !there_are_owners {
        return Err(ConfigError::NoOwners);
    }
    let refuse = |error: &io::Error| ConfigError::Workspace { path: path.to_owned(), reason: plain(error) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| refuse(&error))?;
    let path = path.canonicalize().map_err(|error| refuse(&error))?;
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(ConfigError::NotUtf8(path)),
    }
}

/// Whether there can be owners with tokens here.
fn check_tokens(
    owners: Option<(&Tokens, &Path)>,
    (sandbox, changeable): (&Sandbox, &[Option<&PathBuf>]),
    are_shared: bool,
) -> Result<(), ConfigError> {
    let Some((tokens, path)) = owners else { return Ok(()) };
    if are_shared {
        return Err(ConfigError::SharedTokens);
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if sandbox.write.iter().chain(changeable.iter().copied().flatten()).any(|above| path.starts_with(above)) {
        return Err(ConfigError::TokensWithin(path));
    }
    Ok(sandbox.check(tokens.narrowest())?)
}

/// What the system says, without its number.
fn plain(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |number| nix::errno::Errno::from_raw(number).desc().to_owned())
}

fn bounds(cli: &CheckpointOptions) -> Bounds {
    let ram = sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram());
    let quarter =
        || sysinfo::System::new_with_specifics(ram).map_or(DEFAULT_MEMORY, |system| system.total_memory() / 4);
    Bounds {
        per_session: cli.max_checkpoints as usize,
        all: cli.max_checkpoints_total as usize,
        after: Duration::from_millis(cli.checkpoint_after),
        of_auto: cli.checkpoint_auto_memory << 20,
        memory: cli.checkpoint_memory.map_or_else(quarter, |megabytes| megabytes << 20),
    }
}

fn sleep_bounds(cli: &CheckpointOptions) -> SleepBounds {
    SleepBounds {
        after: (cli.sleep_after > 0.0).then(|| Duration::from_secs_f64(cli.sleep_after)),
        image_after: (cli.image_after > 0.0 && cli.state_dir.is_some())
            .then(|| Duration::from_secs_f64(cli.image_after)),
        folder: cli.state_dir.clone(),
        disk: cli.state_disk << 20,
    }
}

/// The folder of images of Python's start; none that confined sessions could write to.
fn zygote_images(state: Option<&Path>, changeable: &[Option<&PathBuf>], sandbox: &Sandbox) -> Option<PathBuf> {
    let folder = match state {
        Some(state) => state.join("zygotes"),
        None => cache_folder()?.join("forkpy/zygotes"),
    };
    let is_open = |above: &PathBuf| folder.starts_with(above);
    let is_changeable = sandbox.mode != Confinement::Off
        && sandbox.write.iter().chain(changeable.iter().copied().flatten()).any(is_open);
    (!is_changeable).then_some(folder)
}

fn cache_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    named.or_else(|| Some(paths::home()?.join(".cache")))
}

fn health_policy(cli: &HealthOptions, checkpoints: &CheckpointOptions) -> HealthPolicy {
    HealthPolicy {
        memory_alert: cli.memory_alert << 20,
        memory_cleanup: cli.memory_cleanup << 20,
        cpu_alert: cli.cpu_alert,
        hung_after: Duration::from_secs_f64(cli.hung_after),
        interval: Duration::from_secs_f64(cli.health_interval),
        recovery: cli.recovery,
        restart_budget: cli.restart_budget,
        restart_window: Duration::from_secs_f64(cli.restart_window),
        checkpoints: checkpoints.checkpoints,
    }
}

fn read_token(file: Option<&Path>) -> Result<Option<String>, ConfigError> {
    let (text, path) = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Token { path: path.to_owned(), reason: error.to_string() })?;
            (text, path.to_owned())
        }
        None => match TAKEN.get().cloned().flatten() {
            Some(text) => (text.to_string_lossy().into_owned(), PathBuf::from(TOKEN)),
            None => return Ok(None),
        },
    };
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() || !token.chars().all(|character| character.is_ascii_graphic()) {
        let reason = "the first line must be a token of visible ASCII characters".to_owned();
        return Err(ConfigError::Token { path, reason });
    }
    Ok(Some(token.to_owned()))
}

/// Where managed environments may be kept, unless another place is named: the first of these that no other user may change.
pub(crate) fn default_env_dirs() -> Vec<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = nix::unistd::geteuid();
    let places = [
        named("XDG_DATA_HOME").map(|data| data.join("forkpy/envs")),
        named("HOME").map(|home| home.join(".local/share/forkpy/envs")),
        Some(std::env::temp_dir().join(format!("forkpy-{user}/envs"))),
    ];
    places.into_iter().flatten().filter(|place| place.is_absolute()).collect()
}
