//! Options of a server, as they are typed: the one list of them, with their names in the environment.
//!
//! Runs in: server, and the commands that start one. Knows what can be said; `resolve.rs` checks what was.

use crate::settings::{
    bounds::seconds,
    hosting::HostingOptions,
    http_bounds::BoundArgs,
    limits::LimitArgs,
    oauth::OauthArgs,
    paths::{default_workspace, path},
    policy::{Automatic, RecoveryPolicy},
    replies::ReplyOptions,
    sandbox::SandboxArgs,
    store::StoreOptions,
};
use clap::{Args, ValueEnum};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

/// How a server is to be.
#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    /// TOML file with any of these options under their long names; the command line and the environment win over it
    #[arg(long, value_name = "FILE", env = "FORKPY_CONFIG", value_parser = path)]
    pub config: Option<PathBuf>,

    /// What is logged to standard error, as tracing filters: error, warn, info, debug, forkpy=debug. rmcp::service tells only of
    /// clients that are gone
    #[arg(long, value_name = "FILTER", env = "FORKPY_LOG", default_value = "forkpy=info,rmcp=error,rmcp::service=off")]
    pub log: String,

    /// Directory that sessions work in; made when missing, with outputs/, scripts/ and uploads/ inside. ~/forkpy where the
    /// current directory is / or cannot be written
    #[arg(long, value_name = "DIR", env = "MCP_WORKSPACE_DIR", default_value_os_t = default_workspace().into(),
          value_parser = path)]
    pub workspace: PathBuf,

    /// Descriptor of the state of the program in whose place this one is
    #[arg(long, hide = true)]
    pub adopt: Option<i32>,

    /// How clients reach the server
    #[arg(long, value_enum, env = "FORKPY_TRANSPORT", default_value = "stdio")]
    pub transport: Transport,

    /// Address to listen on (http); one that is not loopback needs a token
    #[arg(long, value_name = "ADDRESS", env = "FORKPY_HOST", default_value = "127.0.0.1", help_heading = "HTTP")]
    pub host: IpAddr,

    /// Port to listen on (http); 0 takes a free one and logs it
    #[arg(long, value_name = "PORT", env = "FORKPY_PORT", default_value_t = 8000, help_heading = "HTTP")]
    pub port: u16,

    /// File whose first line is the bearer token that HTTP clients must send; FORKPY_TOKEN holds the token itself
    #[arg(long, value_name = "FILE", env = "FORKPY_TOKEN_FILE", value_parser = path, help_heading = "HTTP")]
    pub token_file: Option<PathBuf>,

    /// File with the tokens of owners (http): TOML, made by forkpy token new OWNER --tokens FILE. Each owner has its own sessions,
    /// and may have quotas and a sandbox; read again when it changes
    #[arg(long, value_name = "FILE", env = "FORKPY_TOKENS", value_parser = path, help_heading = "HTTP")]
    pub tokens: Option<PathBuf>,

    /// Clients with access tokens of an issuer.
    #[command(flatten)]
    pub oauth: OauthArgs,

    /// Host name clients may use in the Host header, besides loopback names; may be repeated
    #[arg(long = "allow-host", value_name = "HOST[:PORT]", help_heading = "HTTP")]
    pub allow_hosts: Vec<String>,

    /// Browser origin that may call, besides loopback ones; may be repeated
    #[arg(long = "allow-origin", value_name = "SCHEME://HOST[:PORT]", help_heading = "HTTP")]
    pub allow_origins: Vec<String>,

    /// Largest file that may be uploaded, in bytes
    #[arg(long, value_name = "BYTES", env = "FORKPY_MAX_UPLOAD", default_value_t = 1 << 30, help_heading = "HTTP")]
    pub max_upload: u64,

    /// Give all HTTP clients the same sessions. Otherwise each has its own: by the token, else by Mcp-Session-Id, else by cookie
    #[arg(long, env = "FORKPY_SHARE_SESSIONS", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, default_missing_value = "true", default_value_t = false, help_heading = "HTTP")]
    pub share_sessions: bool,

    /// What HTTP clients may take.
    #[command(flatten)]
    pub http_bounds: BoundArgs,

    /// Python executable whose environment sessions use; its version must be the one forkpy was built with
    #[arg(long, value_name = "EXE", env = "FORKPY_PYTHON", value_parser = path, help_heading = "Python")]
    pub python: Option<PathBuf>,

    /// Virtual environment that sessions use (else VIRTUAL_ENV, else one that forkpy makes and manages)
    #[arg(long, value_name = "DIR", env = "FORKPY_VENV", value_parser = path, help_heading = "Python")]
    pub venv: Option<PathBuf>,

    /// Directories put first on sys.path, separated by ':'
    #[arg(long, value_name = "DIRS", env = "FORKPY_PYTHONPATH", value_delimiter = ':', value_parser = path, help_heading = "Python")]
    pub pythonpath: Vec<PathBuf>,

    /// Modules imported once, before any session is forked: sessions then have them at no cost. `auto`: those that sessions have
    /// imported before and that take long, when no session is at work; `none`: nothing
    #[arg(
        long,
        value_name = "LIST|auto|none",
        env = "FORKPY_PRELOAD",
        value_delimiter = ',',
        default_value = "auto",
        help_heading = "Python"
    )]
    pub preload: Vec<String>,

    /// Whether a server begins from what an earlier one has written of Python's start, where nothing of that has changed; and
    /// writes it for the next one, in --state-dir or else below the user's cache folder
    #[arg(long, value_enum, env = "FORKPY_ZYGOTE_IMAGE", default_value = "off", help_heading = "Python")]
    pub zygote_image: ZygoteImage,

    /// Where managed environments are kept
    #[arg(long, value_name = "DIR", env = "FORKPY_ENV_DIR", value_parser = path, help_heading = "Python")]
    pub env_dir: Option<PathBuf>,

    /// Most sessions at a time, the default one included
    #[arg(long, value_name = "N", env = "FORKPY_MAX_SESSIONS", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Sessions")]
    pub max_sessions: u32,

    /// Time a cell may run when the call does not say, in seconds; 0 means for ever
    #[arg(long, value_name = "SECONDS", env = "FORKPY_TIMEOUT", default_value_t = 600.0, value_parser = seconds,
          help_heading = "Sessions")]
    pub timeout: f64,

    /// Time between an interrupt and killing the worker, in seconds
    #[arg(long, value_name = "SECONDS", env = "FORKPY_GRACE", default_value_t = 3.0, value_parser = seconds,
          help_heading = "Sessions")]
    pub grace: f64,

    /// Time input() waits for the client's user, in seconds; then it raises EOFError. 0 means for ever
    #[arg(long, value_name = "SECONDS", env = "FORKPY_INPUT_TIMEOUT", default_value_t = 120.0, value_parser = seconds,
          help_heading = "Sessions")]
    pub input_timeout: f64,

    /// Cells that may wait in one session
    #[arg(long, value_name = "N", env = "FORKPY_QUEUE", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Sessions")]
    pub queue: u32,

    /// How long a call waits for its cell before it answers "running" and the cell goes on without it: as long as the client
    /// can wait (auto), to the end of the cell (none), or so many seconds
    #[arg(long, value_name = "auto|none|SECONDS", env = "FORKPY_WAIT", default_value = "auto", value_parser = wait,
          help_heading = "Sessions")]
    pub wait: Wait,

    /// Time for which the reply to a cell is kept for wait_for_cell, in seconds; at most 100 replies a session
    #[arg(long, value_name = "SECONDS", env = "FORKPY_KEEP_REPLIES", default_value_t = 3600.0, value_parser = seconds,
          help_heading = "Sessions")]
    pub keep_replies: f64,

    /// Most workers that are forked ahead, for sessions to come; one as a rule, more when sessions come faster
    #[arg(long, value_name = "N", env = "FORKPY_MAX_SPARES", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(0..=100), help_heading = "Sessions")]
    pub max_spares: u32,

    /// Bytes of a cell's or script's output that a reply holds for each stream; the whole goes to a file
    #[arg(long, value_name = "BYTES", env = "FORKPY_MAX_OUTPUT", default_value_t = 40_000,
          value_parser = clap::value_parser!(u32).range(1_000..=400_000), help_heading = "Sessions")]
    pub max_output: u32,

    /// Bytes of each stream of a cell that a notebook holds when it is run; of what is more, begin and end
    #[arg(long, value_name = "BYTES", env = "FORKPY_MAX_NOTEBOOK_OUTPUT", default_value_t = 10_000_000,
          value_parser = clap::value_parser!(u32).range(1_000..=100_000_000), help_heading = "Sessions")]
    pub max_notebook_output: u32,

    /// Scripts that may run at a time; further ones wait
    #[arg(long, value_name = "N", env = "FORKPY_MAX_SCRIPTS", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=1_000), help_heading = "Scripts")]
    pub max_scripts: u32,

    /// Let install_dependencies take options, URLs, version control and source trees: clients may then install from anywhere
    #[arg(long, env = "FORKPY_ALLOW_INSTALL_OPTIONS", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, default_missing_value = "true", default_value_t = false, help_heading = "Packages")]
    pub allow_install_options: bool,

    /// File to which a line of JSON is added for each call of a tool: owner, tool, session, cell, outcome, seconds, bytes; never
    /// its code. It may be renamed while the server runs
    #[arg(long, value_name = "FILE", env = "FORKPY_AUDIT", value_parser = path, help_heading = "Audit")]
    pub audit: Option<PathBuf>,

    /// Write the code of cells into the file of --audit too
    #[arg(long, env = "FORKPY_AUDIT_CODE", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, default_missing_value = "true", default_value_t = false, help_heading = "Audit")]
    pub audit_code: bool,

    /// What sessions are kept from.
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// What clients are shown.
    #[command(flatten)]
    pub replies: ReplyOptions,

    /// One server among several.
    #[command(flatten)]
    pub hosting: HostingOptions,

    /// Where sessions are put away for any server.
    #[command(flatten)]
    pub store: StoreOptions,

    /// How sessions are watched.
    #[command(flatten)]
    pub health: HealthOptions,

    /// Frozen copies of sessions.
    #[command(flatten)]
    pub checkpoints: CheckpointOptions,

    /// What sessions may take.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// No modules, but words for `--preload`.
const PRELOAD_AUTO: &str = "auto";
const PRELOAD_NONE: &str = "none";

impl ServeOptions {
    /// Those options that make the sessions' Python what it is, for a server of the same kind.
    #[must_use]
    pub(crate) fn for_same_python(&self) -> Vec<String> {
        let mut args = Vec::new();
        let mut push = |name: &str, value: &Path| {
            args.extend([name.to_owned(), value.to_string_lossy().into_owned()]);
        };
        for (name, value) in [("--config", &self.config), ("--python", &self.python), ("--venv", &self.venv)] {
            if let Some(value) = value {
                push(name, value);
            }
        }
        self.pythonpath.iter().for_each(|dir| push("--pythonpath", dir));
        match self.preloaded().as_slice() {
            [] => push("--preload", Path::new(PRELOAD_NONE)),
            modules => modules.iter().for_each(|module| push("--preload", Path::new(module))),
        }
        args
    }

    /// The modules that `--preload` names.
    #[must_use]
    pub(crate) fn preloaded(&self) -> Vec<String> {
        let is_module = |name: &&String| !name.is_empty() && *name != PRELOAD_AUTO && *name != PRELOAD_NONE;
        self.preload.iter().filter(is_module).cloned().collect()
    }

    /// Whether more is preloaded when it is worth it.
    #[must_use]
    pub(crate) fn preloads_more(&self) -> bool {
        self.preload.iter().any(|name| name == PRELOAD_AUTO)
    }
}

/// Thresholds and recovery; a session may have its own (create_session, configure_health).
#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
pub(crate) struct HealthOptions {
    /// Resident memory of a session from which an alert is raised, in MB; 0 is never
    #[arg(long, value_name = "MB", env = "FORKPY_MEMORY_ALERT", default_value_t = 500,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub memory_alert: u64,

    /// Resident memory from which garbage is collected and freed memory returned to the system, in MB; 0 is never
    #[arg(long, value_name = "MB", env = "FORKPY_MEMORY_CLEANUP", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub memory_cleanup: u64,

    /// Percent of one processor, as a mean over --health-interval, from which an alert is raised; 0 is never
    #[arg(long, value_name = "PERCENT", env = "FORKPY_CPU_ALERT", default_value_t = 80.0, value_parser = percent)]
    pub cpu_alert: f64,

    /// Time without an answer to a ping after which an interpreter counts as hung, in seconds
    #[arg(long, value_name = "SECONDS", env = "FORKPY_HUNG_AFTER", default_value_t = 5.0, value_parser = interval)]
    pub hung_after: f64,

    /// How often an idle session is examined and pinged, in seconds; busy ones are looked at every second
    #[arg(long, value_name = "SECONDS", env = "FORKPY_HEALTH_INTERVAL", default_value_t = 30.0,
          value_parser = interval)]
    pub health_interval: f64,

    /// What is done about a dead or hung session
    #[arg(long, value_enum, env = "FORKPY_RECOVERY", default_value = "on-demand")]
    pub recovery: RecoveryPolicy,

    /// Restarts within --restart-window, without a cell that ended well, after which a session is parked as dead
    #[arg(long, value_name = "N", env = "FORKPY_RESTART_BUDGET", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub restart_budget: u32,

    /// See --restart-budget, in seconds
    #[arg(long, value_name = "SECONDS", env = "FORKPY_RESTART_WINDOW", default_value_t = 300.0,
          value_parser = interval)]
    pub restart_window: f64,
}

/// Frozen copies of sessions.
#[derive(Debug, Args)]
#[command(next_help_heading = "Checkpoints")]
pub(crate) struct CheckpointOptions {
    /// Checkpoints that are made without being asked for
    #[arg(long, value_enum, env = "FORKPY_CHECKPOINTS", default_value = "auto")]
    pub checkpoints: Automatic,

    /// Milliseconds that a session is at rest before policy `auto` keeps a checkpoint of it
    #[arg(long, value_name = "MS", env = "FORKPY_CHECKPOINT_AFTER", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    pub checkpoint_after: u64,

    /// MB that a session may hold alone for policy `auto` to keep a checkpoint of it
    #[arg(long, value_name = "MB", env = "FORKPY_CHECKPOINT_AUTO_MEMORY", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub checkpoint_auto_memory: u64,

    /// Checkpoints that may be asked for in one session
    #[arg(long, value_name = "N", env = "FORKPY_MAX_CHECKPOINTS", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub max_checkpoints: u32,

    /// Checkpoints at a time in all, the automatic ones included, which give way to others
    #[arg(long, value_name = "N", env = "FORKPY_MAX_CHECKPOINTS_TOTAL", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub max_checkpoints_total: u32,

    /// MB of memory that checkpoints may hold alone: what their sessions have changed since. Half of it for one session.
    /// A quarter of the machine's memory when left out
    #[arg(long, value_name = "MB", env = "FORKPY_CHECKPOINT_MEMORY",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub checkpoint_memory: Option<u64>,

    /// Seconds without use after which a session is put to sleep: it is written to disk, its process ends, and the next call
    /// wakes it. 0 is never
    #[arg(long, value_name = "SECONDS", env = "FORKPY_SLEEP_AFTER", default_value_t = 0.0, value_parser = seconds)]
    pub sleep_after: f64,

    /// Seconds without use after which a session, which stays awake, is written to --state-dir, so that the next server has it
    /// even when this one is killed. 0 is never
    #[arg(long, value_name = "SECONDS", env = "FORKPY_IMAGE_AFTER", default_value_t = 0.0, value_parser = seconds)]
    pub image_after: f64,

    /// Folder that sessions are written to when they sleep and when the server ends, readable by its user only: the next server
    /// on the same workspace has them. When left out they end with the server
    #[arg(long, value_name = "DIR", env = "FORKPY_STATE_DIR", value_parser = path)]
    pub state_dir: Option<PathBuf>,

    /// MB that sleeping sessions may take on disk; one for which there is no room stays awake
    #[arg(long, value_name = "MB", env = "FORKPY_STATE_DISK", default_value_t = 4096,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub state_disk: u64,
}

/// Whether servers begin from an image of Python's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ZygoteImage {
    /// Python is started anew, and nothing is written
    Off,
    /// From an image where there is one that fits; one is written where there is none
    On,
}

/// How clients reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// JSON-RPC lines on standard input and output
    Stdio,
    /// Streamable HTTP at /mcp
    Http,
}

/// How long a call waits for its cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wait {
    /// As long as the client can.
    Auto,
    /// To the end of the cell.
    ToTheEnd,
    /// So long.
    Seconds(f64),
}

pub(crate) fn wait(text: &str) -> Result<Wait, String> {
    match text {
        "auto" => Ok(Wait::Auto),
        "none" => Ok(Wait::ToTheEnd),
        other => seconds(other)
            .map(Wait::Seconds)
            .map_err(|error| format!("must be auto, none, or a number of seconds: {error}")),
    }
}

/// A time between two looks: not nothing, and no more than a week.
pub(crate) fn interval(text: &str) -> Result<f64, String> {
    match seconds(text)? {
        value if value >= 0.1 => Ok(value),
        _ => Err("must be at least 0.1".to_owned()),
    }
}

pub(crate) fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1e6).contains(&value) => Ok(value),
        Ok(_) => Err("must be between 0 and 1000000".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
