//! A client of a server behind `forkpy attach`: its front, and what ends the server afterwards.
//!
//! Runs in: bench. The server is met in a runtime directory of the bench's own, so that none of the user's is touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{BenchError, client::Client};

/// The front, which is the client's child, and where its server is met.
#[derive(Debug)]
pub(crate) struct Behind {
    client: Option<Client>,
    runtime: PathBuf,
}

impl Behind {
    /// Starts both.
    ///
    /// # Errors
    /// [`BenchError`] when they do not come up.
    pub(crate) fn start(folder: &Path, args: &[String]) -> Result<Self, BenchError> {
        let runtime = folder.join("run");
        fs::create_dir_all(&runtime).map_err(BenchError::system("make a folder"))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["attach", "--log", "error", "--workspace"]).arg(folder.join("work")).args(args);
        command.env("XDG_RUNTIME_DIR", &runtime).env_remove("FORKPY_NAME").stderr(Stdio::null());
        // From here on its end ends the server too.
        let mut behind = Self { client: None, runtime };
        behind.client = Some(Client::start("forkpy attach", &mut command)?);
        Ok(behind)
    }

    pub(crate) fn client(&mut self) -> Result<&mut Client, BenchError> {
        self.client.as_mut().ok_or_else(|| BenchError::Option("no front".to_owned()))
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        drop(self.client.take());
        let mut stop = Command::new("/proc/self/exe");
        stop.args(["stop", "--all"]).env("XDG_RUNTIME_DIR", &self.runtime);
        let _ = stop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
