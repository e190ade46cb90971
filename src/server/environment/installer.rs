//! The program that installs: uv when it is on PATH, else the environment's own pip.
//!
//! Runs in: server.

use std::{
    env,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::wanted::{Flag, Wanted};
use crate::settings::resolve::hide_variables;

/// Variables that would send a tool to another environment than the one named on its command line.
const MISLEADING: [&str; 11] = [
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "__PYVENV_LAUNCHER__",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
];

/// A program on a search path.
pub(crate) fn program(name: &OsStr, search: &OsStr) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(search).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(runs)
}

/// What every run of uv, pip or venv has in its environment: nothing that sends it elsewhere, no colours, no secrets.
pub(crate) fn settle(command: &mut Command) {
    for name in MISLEADING {
        command.env_remove(name);
    }
    hide_variables(command);
    command.env("NO_COLOR", "1").env("PIP_ROOT_USER_ACTION", "ignore");
    command.env("UV_NO_PROGRESS", "1").env("UV_PYTHON_DOWNLOADS", "never");
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tool {
    Uv(PathBuf),
    Pip,
}

impl Tool {
    #[must_use]
    pub(crate) fn find() -> Self {
        Self::on(&env::var_os("PATH").unwrap_or_default())
    }

    pub(crate) fn on(search: &OsStr) -> Self {
        program(OsStr::new("uv"), search).map_or(Self::Pip, Self::Uv)
    }

    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Uv(_) => "uv",
            Self::Pip => "pip",
        }
    }

    /// `install` into the environment of `python`, without what is to be installed; by the pip of `base` if one is named,
    /// for an environment that has none.
    pub(crate) fn install(&self, python: &Path, base: Option<&Path>, retries: u8) -> Command {
        let mut command;
        match (self, base) {
            (Self::Uv(uv), _) => {
                command = Command::new(uv);
                command.args(["pip", "install", "--python"]).arg(python);
                command.env("UV_HTTP_RETRIES", retries.to_string());
                return command;
            }
            (Self::Pip, Some(base)) => {
                command = Command::new(base);
                command.args(["-I", "-m", "pip", "--python"]).arg(python);
            }
            (Self::Pip, None) => {
                command = Command::new(python);
                command.args(["-I", "-m", "pip"]);
            }
        }
        command.args(["install", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]);
        command.arg(format!("--retries={retries}"));
        command
    }

    /// The command that installs into the environment of `python`; files of requirements are written into `scratch`.
    ///
    /// # Errors
    /// When those cannot be written.
    pub(crate) fn command(&self, python: &str, wanted: &Wanted, scratch: &Path) -> io::Result<Command> {
        let mut command = self.install(Path::new(python), None, 1);
        command.args(wanted.flags.iter().map(|flag| self.word(*flag)));
        command.args(&wanted.options);
        for (option, name, lines) in
            [("-r", "requirements.txt", &wanted.lines), ("-c", "constraints.txt", &wanted.constraints)]
        {
            if !lines.is_empty() {
                let file = scratch.join(name);
                // It may name indexes with passwords.
                let mut text = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
                text.write_all((lines.join("\n") + "\n").as_bytes())?;
                command.arg(option).arg(file);
            }
        }
        command.args(&wanted.items);
        settle(&mut command);
        // A project file in the workspace must not set uv's options.
        command.current_dir(scratch).stdin(Stdio::null());
        Ok(command)
    }

    fn word(&self, flag: Flag) -> &'static str {
        match (flag, self) {
            (Flag::Upgrade, _) => "--upgrade",
            (Flag::NoDependencies, _) => "--no-deps",
            (Flag::Pre, Self::Pip) => "--pre",
            (Flag::Pre, Self::Uv(_)) => "--prerelease=allow",
            (Flag::Reinstall, Self::Pip) => "--force-reinstall",
            (Flag::Reinstall, Self::Uv(_)) => "--reinstall",
        }
    }
}
