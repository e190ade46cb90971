//! The command line: the roles this program has, and the options of a server (`settings/options.rs`).
//!
//! Runs in: server and the roles of its own (bench, install, doctor, …), and far enough in the hidden ones to recognise them.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    bench::{self, BenchArgs},
    bundle::make::BundleArgs,
    commands::{
        attach::{AttachArgs, HostArgs},
        deploy::DeployArgs,
        doctor::options::DoctorArgs,
        guide::GuideArgs,
        install::options::{InstallArgs, UninstallArgs},
        servers::{RestartArgs, StatusArgs, StopArgs},
        sessions::SessionsArgs,
        token::TokenArgs,
    },
    settings::options::ServeOptions,
};

/// Runs Python for MCP clients, in persistent sessions that are watched.
///
/// Each session is a forked worker process with CPython inside. With no arguments forkpy speaks MCP on standard input
/// and output, which is what a client configuration starts; `--transport http` serves streamable HTTP at /mcp.
#[derive(Debug, Parser)]
#[command(name = "forkpy", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// What it is to be, if no server.
    #[command(subcommand)]
    pub role: Option<Role>,

    /// How a server is to be.
    #[command(flatten)]
    pub serve: ServeOptions,
}

impl Cli {
    /// The settings file, and of which command it sets the options, when this is to be a server or to start one.
    #[must_use]
    pub(crate) fn settings_file(&self) -> Option<(PathBuf, Option<&'static str>)> {
        let (serve, command) = match &self.role {
            None => (&self.serve, None),
            Some(Role::Attach(args)) => (&args.serve, Some("attach")),
            Some(Role::Host(args)) => (&args.attach.serve, Some("__host")),
            Some(_) => return None,
        };
        Some((serve.config.clone()?, command))
    }
}

/// What this process is to be.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// The process that starts Python and forks workers; started by the server.
    #[command(name = "__zygote", hide = true)]
    Zygote {
        /// Descriptor of the socket to the server.
        #[arg(long)]
        socket: i32,
        /// Process id of the server.
        #[arg(long)]
        server: i32,
        /// `GLIBC_TUNABLES` asks for huge pages only for this process.
        #[arg(long)]
        huge_pages: bool,
    },
    /// Connect a client to a server that outlives it, which is started when there is none: what a client configuration starts
    Attach(Box<AttachArgs>),
    /// The server behind `attach`; started by it.
    #[command(name = "__host", hide = true)]
    Host(Box<HostArgs>),
    /// Show the servers behind `attach`: clients, sessions, when they were used
    Status(StatusArgs),
    /// Replace a server behind `attach` by this forkpy, which keeps its sessions; clients notice nothing
    Restart(RestartArgs),
    /// End a server behind `attach`, and its sessions with it
    Stop(StopArgs),
    /// Show the sessions that sleep on disk, and carry them to another machine: list, export, import, delete
    Sessions(SessionsArgs),
    /// Measure forkpy on this machine, beside the machine's own floors
    Bench(BenchArgs),
    /// Enter forkpy into a client's configuration
    Install(InstallArgs),
    /// Take forkpy out of a client's configuration again
    Uninstall(UninstallArgs),
    /// Make a token for an owner, for a server with --tokens
    Token(TokenArgs),
    /// Check whether this machine has what sessions need, with a remedy for what it has not
    Doctor(DoctorArgs),
    /// Print a configuration for several servers: balancer, systemd, Kubernetes
    Deploy(DeployArgs),
    /// Read the guide: `forkpy guide` names its chapters
    Guide(GuideArgs),
    /// Print the licences of all that is inside
    Licences,
    /// Print completions for a shell
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the man page, or that of a command
    Man {
        /// Which command
        of: Option<String>,
    },
    /// Run the Python that is inside, as `python3` would be: `forkpy python script.py`
    #[command(disable_help_flag = true)]
    Python {
        /// As for python3
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Make a forkpy that needs no Python where it runs: one file, and the same as an archive
    Bundle(BundleArgs),
    /// Says which states of servers this program understands; asked by a server that is to become it.
    #[command(name = "__state", hide = true)]
    State {
        /// With which command line.
        #[arg(last = true)]
        words: Vec<std::ffi::OsString>,
    },
    /// The other end of `bench`'s floors.
    #[command(name = "__echo", hide = true)]
    Echo {
        /// What it is in a chain of processes.
        #[arg(value_enum)]
        link: Option<bench::echo::Link>,
    },
}
