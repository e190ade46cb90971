//! The program that installs: uv when it is on PATH, else the environment's own pip.
//!
//! Runs in: server.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::wanted::{Flag, Wanted};
use crate::server::environment::make::MISLEADING;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tool {
    Uv(PathBuf),
    Pip,
}

impl Tool {
    #[must_use]
    pub(crate) fn find() -> Self {
        let runs = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let search = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&search)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("uv"))
            .find(runs)
            .map_or(Self::Pip, Self::Uv)
    }

    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Uv(_) => "uv",
            Self::Pip => "pip",
        }
    }

    /// The command that installs into the environment of `python`; files of requirements are written into `scratch`.
    ///
    /// # Errors
    /// When those cannot be written.
    pub(crate) fn command(&self, python: &str, wanted: &Wanted, scratch: &Path) -> io::Result<Command> {
        let mut command = match self {
            Self::Uv(uv) => {
                let mut command = Command::new(uv);
                command.args(["pip", "install", "--python", python]);
                command
            }
            Self::Pip => {
                let mut command = Command::new(python);
                command.args(["-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]);
                command.args(["--progress-bar=off", "--retries=1"]);
                command
            }
        };
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
        for name in MISLEADING {
            command.env_remove(name);
        }
        command.env_remove("FORKPY_TOKEN");
        command.env("NO_COLOR", "1").env("PIP_ROOT_USER_ACTION", "ignore");
        command.env("UV_NO_PROGRESS", "1").env("UV_PYTHON_DOWNLOADS", "never").env("UV_HTTP_RETRIES", "1");
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
