//! The sandbox as an operator sets it: the flags, what they come to, and which promise this machine cannot keep.
//!
//! Runs in: server, once, at start. Confines nothing: `worker/confinement.rs` does.

use std::{
    net::SocketAddrV4,
    path::{Path, PathBuf},
};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::{
    protocol::{Confinement, ConfinementSettings},
    settings::{
        network::{Network, Word, WordError},
        secrets::{Secret, SecretArg, SecretError},
    },
    sys::{fault, landlock, seccomp},
};

/// The flags.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct SandboxArgs {
    /// What sessions and scripts are kept from. workspace: they read what Python needs, write the workspace and a temporary
    /// directory of their own, have no network, and reach no process but their own; strict: the same, with no other program
    /// and no socket. off is the default where only this machine's users reach the server
    #[arg(long, value_name = "off|workspace|strict", env = "FORKPY_SANDBOX",
          value_parser = PossibleValuesParser::new(Confinement::ALL.map(Confinement::word))
              .map(|word| word.parse::<Confinement>().unwrap_or_default()))]
    pub sandbox: Option<Confinement>,

    /// A file or directory that confined sessions may read; may be repeated
    #[arg(long = "allow-read", value_name = "PATH", value_parser = clap::value_parser!(PathBuf))]
    pub allow_read: Vec<PathBuf>,

    /// A file or directory that confined sessions may read and change; may be repeated
    #[arg(long = "allow-write", value_name = "PATH", value_parser = clap::value_parser!(PathBuf))]
    pub allow_write: Vec<PathBuf>,

    /// Hosts that confined sessions may reach, by a proxy of the server's: names, *.NAME, addresses, networks, each with a port
    /// if only that one is meant; all: every host. Addresses that are not public have to be listed as addresses; localhost may
    /// be listed by its name. none is the default
    #[arg(
        long = "allow-net",
        value_name = "none|all|HOST[:PORT],...",
        env = "FORKPY_ALLOW_NET",
        value_delimiter = ','
    )]
    pub allow_net: Vec<Word>,

    /// A secret that the proxy adds to requests for one host, by TLS; code sees a placeholder in the variable NAME, and sends
    /// plain requests to the address that get_workspace_info names. The file's first line is the secret; may be repeated
    #[arg(long = "secret", value_name = "NAME=file:PATH@HOST[:PORT]")]
    pub secret: Vec<SecretArg>,

    /// Start also where this machine cannot keep all of --sandbox; what is missing is logged and told to clients
    #[arg(long, env = "FORKPY_SANDBOX_BEST_EFFORT", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub sandbox_best_effort: bool,
}

/// A promise that this machine cannot keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// No Landlock: nothing is kept of files, and memory of other sessions can be read.
    Files { abi: i32 },
    /// Files elsewhere can be emptied.
    Truncation { abi: i32 },
    /// Devices that are open take any command.
    Devices { abi: i32 },
    /// Processes elsewhere can be signalled.
    Signals { abi: i32 },
    /// No filter of system calls: nothing is kept of network, namespaces and the rest.
    Calls,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let needs = |abi: i32| match abi {
            0 => "this kernel has no Landlock, or it is switched off".to_owned(),
            abi => format!("this kernel's Landlock has version {abi}"),
        };
        match *self {
            Self::Files { abi } => {
                write!(out, "files, and the memory of other processes, are open ({}; needs Linux 5.13)", needs(abi))
            }
            Self::Truncation { abi } => {
                write!(out, "files elsewhere can be emptied, not read ({}; needs 3, Linux 6.2)", needs(abi))
            }
            Self::Devices { abi } => {
                write!(out, "devices that are open take all commands ({}; needs 5, Linux 6.10)", needs(abi))
            }
            Self::Signals { abi } => {
                write!(out, "other processes of this user can be signalled ({}; needs 6, Linux 6.12)", needs(abi))
            }
            Self::Calls => {
                out.write_str("network, tracing and namespaces are open (the system forbids seccomp filters)")
            }
        }
    }
}

/// All of them, in a sentence's middle.
pub(crate) fn list_gaps(gaps: &[Gap]) -> String {
    gaps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The sandbox of a server.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    /// Of every session that asks for no narrower one.
    pub mode: Confinement,
    /// Paths, with their links followed.
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// Hosts.
    pub network: Network,
    /// What the proxy adds to requests.
    pub secrets: Vec<Secret>,
    /// What this machine cannot keep.
    pub gaps: Vec<Gap>,
    /// That is accepted.
    pub best_effort: bool,
    landlock: i32,
    seccomp: bool,
}

/// Why there can be no such sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("{flag} {}: {source}", path.display())]
    Path { flag: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{flag} {}: that is everything; --sandbox off says so", path.display())]
    Everything { flag: &'static str, path: PathBuf },
    #[error(
        "--sandbox {mode}: the workspace {} holds this user's home directory, so everything in it could be changed; \
         name a directory below it with --workspace",
        workspace.display()
    )]
    Home { mode: Confinement, workspace: PathBuf },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("--allow-net: {0}")]
    Network(#[from] WordError),
    #[error(
        "--allow-net is for confined sessions, and these are not: add --sandbox workspace; or --sandbox off, and it is for \
         those that create_session confines"
    )]
    NotConfined,
    #[error(
        "--sandbox {mode} cannot be kept on this machine: {}. \
         --sandbox-best-effort starts all the same and keeps the rest; --sandbox off keeps nothing",
        list_gaps(gaps)
    )]
    Gaps { mode: Confinement, gaps: Vec<Gap> },
}

impl SandboxArgs {
    /// Checks and completes the flags.
    ///
    /// # Errors
    /// [`SandboxError`], in words for the person who typed the command.
    pub(crate) fn resolve(self, workspaces: &[Option<&PathBuf>]) -> Result<Sandbox, SandboxError> {
        let mode = self.sandbox.unwrap_or_default();
        let network = Network::of(self.allow_net)?;
        if self.sandbox.is_none() && !network.is_none() {
            return Err(SandboxError::NotConfined);
        }
        let landlock = fault::landlock(landlock::abi().unwrap_or(0));
        let seccomp = seccomp::available() && fault::seccomp();
        let (read, write) = (real("--allow-read", &self.allow_read)?, real("--allow-write", &self.allow_write)?);
        if !self.secret.is_empty() && (self.sandbox.is_none() || mode == Confinement::Strict) {
            return Err(SecretError::NotConfined.into());
        }
        let mut secrets: Vec<Secret> = Vec::new();
        for secret in self.secret {
            let readable = read.iter().chain(&write).chain(workspaces.iter().copied().flatten()).map(PathBuf::as_path);
            let secret = secret.resolve(readable)?;
            if secrets.iter().any(|other| other.name == secret.name) {
                return Err(SecretError::Twice(secret.name).into());
            }
            secrets.push(secret);
        }
        let sandbox = Sandbox {
            mode,
            read,
            write,
            network,
            secrets,
            gaps: gaps(landlock, seccomp),
            best_effort: self.sandbox_best_effort,
            landlock,
            seccomp,
        };
        sandbox.check(mode)?;
        let home = std::env::var_os("HOME").and_then(|home| Path::new(&home).canonicalize().ok());
        let home = home.filter(|home| mode != Confinement::Off && home != Path::new("/"));
        let above = home.and_then(|home| workspaces.iter().copied().flatten().find(|above| home.starts_with(above)));
        if let Some(workspace) = above {
            return Err(SandboxError::Home { mode, workspace: workspace.to_owned() });
        }
        Ok(sandbox)
    }
}

impl Sandbox {
    /// Whether a session can be kept to this here.
    ///
    /// # Errors
    /// What is missing, unless that is accepted.
    pub(crate) fn check(&self, mode: Confinement) -> Result<(), SandboxError> {
        if mode == Confinement::Off || self.gaps.is_empty() || self.best_effort {
            return Ok(());
        }
        Err(SandboxError::Gaps { mode, gaps: self.gaps.clone() })
    }

    /// For the zygote. `exchange` is a folder of the server's, `proxy` is where its proxy is.
    #[must_use]
    pub(crate) fn for_zygote(&self, exchange: &Path, proxy: Option<SocketAddrV4>) -> ConfinementSettings {
        let words = |paths: &[PathBuf]| paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        ConfinementSettings {
            mode: self.mode,
            read: words(&self.read),
            write: words(&self.write),
            exchange: exchange.to_string_lossy().into_owned(),
            landlock: self.landlock,
            seccomp: self.seccomp,
            proxy: proxy.map(|address| address.to_string()),
            secrets: self.secrets.iter().map(|secret| (secret.name.clone(), secret.placeholder.clone())).collect(),
        }
    }
}

fn real(flag: &'static str, paths: &[PathBuf]) -> Result<Vec<PathBuf>, SandboxError> {
    let one = |path: &PathBuf| {
        let real = path.canonicalize().map_err(|source| SandboxError::Path { flag, path: path.clone(), source })?;
        match real.parent() {
            None => Err(SandboxError::Everything { flag, path: path.clone() }),
            Some(_) => Ok(real),
        }
    };
    paths.iter().map(one).collect()
}

fn gaps(landlock: i32, seccomp: bool) -> Vec<Gap> {
    let abi = landlock;
    let of_landlock = match abi {
        ..=0 => vec![Gap::Files { abi }],
        abi => [(3, Gap::Truncation { abi }), (5, Gap::Devices { abi }), (landlock::WHOLE, Gap::Signals { abi })]
            .into_iter()
            .filter_map(|(needed, gap)| (abi < needed).then_some(gap))
            .collect(),
    };
    of_landlock.into_iter().chain((!seccomp).then_some(Gap::Calls)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_landlock_lacks_what_came_later() {
        let count = |abi| gaps(abi, true).len();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 99].map(count), [1, 3, 3, 2, 2, 1, 0, 0, 0]);
        assert_eq!(gaps(6, false), [Gap::Calls]);
        assert_eq!(gaps(0, false), [Gap::Files { abi: 0 }, Gap::Calls]);
    }

    #[test]
    fn everything_is_no_exception() {
        for path in ["/", "/usr/..", "/proc/1/root/"] {
            let path = Path::new(path);
            if path.exists() {
                let refused = real("--allow-write", &[path.to_owned()]).expect_err("everything").to_string();
                assert!(refused.contains("--sandbox off"), "{refused}");
            }
        }
        assert!(real("--allow-read", &[PathBuf::from("/no/such/path")]).is_err());
    }
}
