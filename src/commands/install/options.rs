//! What `forkpy install` and `forkpy uninstall` are told.
//!
//! Runs in: a process of its own, while it reads its command line.

use std::path::PathBuf;

use clap::Args;

use super::via::Via;
use crate::settings::paths;

/// Which entry of which client.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// Client: claude-code, claude-desktop, codex, cursor, gemini, goose, jetbrains, lm-studio, opencode, vscode, windsurf, zed
    #[arg(long)]
    pub client: String,

    /// Name of the entry
    #[arg(long, default_value = "forkpy")]
    pub name: String,

    /// The configuration of a project, in this directory, and not that of the user
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".", value_parser = paths::path)]
    pub project: Option<PathBuf>,

    /// The configuration, where it is not in its usual place
    #[arg(long, value_name = "FILE", conflicts_with = "project", value_parser = paths::path)]
    pub file: Option<PathBuf>,

    /// Say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `forkpy install` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub place: Place,

    /// Have the client start a server of its own, which ends with it, and its sessions too. Else the client connects to one
    /// that outlives it (`forkpy attach`)
    #[arg(long)]
    pub direct: bool,

    /// For a client that does not run on Linux: it starts forkpy by Docker (macOS, Windows), or in this Linux of WSL 2 (Windows)
    #[arg(long, value_enum)]
    pub via: Option<Via>,

    /// The image for --via docker, if not that of this version's release
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub image: Option<String>,

    /// Print the entry, to be pasted by hand, and write nothing
    #[arg(long, conflicts_with = "dry_run")]
    pub print: bool,

    /// Options of the server, after `--`; without any, `--workspace ~/forkpy`, or the project's directory
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// What `forkpy uninstall` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub place: Place,
}
