//! The environment of sessions, what kind it is, and why there is none.
//!
//! Runs in: server. Pure data.

use std::path::PathBuf;

use crate::protocol::Library;

/// What sessions will use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    /// Executable that CPython takes itself for, absolute; `site-packages` and `sys.executable` follow from it.
    pub python: PathBuf,
    /// Directory of the virtual environment, the `VIRTUAL_ENV` of sessions; none for [`Kind::Interpreter`].
    pub root: Option<PathBuf>,
    /// By which rule it was chosen.
    pub kind: Kind,
    /// The standard library of sessions, where `python` is of another installation than the linked one.
    pub library: Option<Library>,
    /// Helper packages that it lacks.
    pub missing: Vec<String>,
    /// One sentence for the log, without its full stop.
    pub note: String,
}

/// By which rule an environment was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Venv,
    Interpreter,
    VirtualEnv,
    /// None of these: forkpy's own.
    Managed,
}

/// Why there is no environment; worded for the person who started the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    /// The directory is no virtual environment, or its interpreter was removed.
    #[error("no virtual environment in {path} (bin/python is missing): make it with `{python} -m venv {path}`")]
    NoVenv {
        path: PathBuf,
        /// A command that is a Python of the version that it needs.
        python: String,
    },
    /// Another Python than the one linked into this binary.
    #[error("{path} is Python {found} and this forkpy is linked with Python {linked}: {advice}")]
    Version {
        /// The environment or interpreter.
        path: PathBuf,
        found: String,
        linked: String,
        advice: String,
    },
    /// The same version, built so that it cannot load what the other has compiled.
    #[error(
        "{path} is for a Python whose compiled packages end in {found:?}, and this forkpy loads {linked:?}: \
         make one with `{python} -m venv DIR`, by an ordinary Python of this machine"
    )]
    Interface {
        /// The environment or interpreter.
        path: PathBuf,
        found: String,
        linked: &'static str,
        /// As in [`EnvironmentError::NoVenv`].
        python: String,
    },
    /// An interpreter that does not run, or is none.
    #[error("failed to ask {path} for its version: {reason}")]
    Interpreter {
        path: PathBuf,
        /// The system's or its own words.
        reason: String,
    },
    /// An interpreter that is not to be run, and whose files do not tell enough.
    #[error("{path} cannot be used with --sandbox: {reason}")]
    Unfit { path: PathBuf, reason: String },
    /// The interpreter of the build is gone and no other of its version is on PATH.
    #[error(
        "no interpreter to make a session environment from: {path} is gone and PATH has no python{linked}; \
         install one, or name an environment with --venv"
    )]
    NoBase {
        /// The one forkpy was built with.
        path: PathBuf,
        linked: String,
    },
    /// The managed environment could not be made.
    #[error(
        "failed to make the session environment {path}: {reason}; name another place with --env-dir, or use --venv"
    )]
    Make {
        path: PathBuf,
        /// The system's or the tool's words.
        reason: String,
    },
    /// A path that cannot be passed on.
    #[error("path {0:?} is not valid UTF-8")]
    NotUtf8(PathBuf),
}
