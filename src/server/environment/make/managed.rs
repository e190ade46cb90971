//! The making of a managed environment, under its lock, and the completing of one that lacks something.
//!
//! Runs in: server, once, before the zygote starts. Writes below the place of that environment only.

use std::{
    ffi::OsStr,
    fs::{File, TryLockError},
    io::Write,
    path::Path,
    process::Command,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{
    Workshop,
    child::{self, RunError},
};
use crate::server::environment::{
    installer::{self, Tool},
    kinds::EnvironmentError,
    place::{MARKER, Place, Record, VenvConfig, list},
};

/// The making of one managed environment, under its lock.
struct Job<'a> {
    place: &'a Place,
    base: &'a Path,
    tool: Tool,
    log: File,
    lock: File,
}

impl Workshop<'_> {
    /// First start: makes the environment, unless another process has done so by the time the lock is ours.
    pub(super) async fn make(&self, place: &Place, base: &Path) -> Result<Record, EnvironmentError> {
        let lock = self.lock(place).await?;
        if let Some(record) = place.record() {
            return Ok(record);
        }
        let started = Instant::now();
        info!("making the session environment in {} (once)", place.directory.display());
        let job = Job { place, base, tool: Tool::on(&self.search), log: place.open_log()?, lock };
        self.lay_out(&job).await?;
        let trouble = self.install(&job, self.limits.make, true).await;
        let record = place.seal(base, trouble).map_err(|error| place.error(error))?;
        info!("made the session environment in {:.1} s", started.elapsed().as_secs_f64());
        Ok(record)
    }

    /// Later start of an environment that lacks something: one short try, unless another process is at it.
    pub(super) async fn complete(&self, place: &Place, base: &Path, record: Record) -> Record {
        let Some(lock) = self.lock_at_once(place).await else { return record };
        let Ok(log) = place.open_log() else { return record };
        info!("trying again to install {} into {}", list(&record.missing), place.directory.display());
        let job = Job { place, base, tool: Tool::on(&self.search), log, lock };
        let trouble = self.install(&job, self.limits.retry, false).await;
        place.seal(base, trouble).unwrap_or_else(|error| {
            warn!("failed to write {MARKER} in {}: {error}", place.directory.display());
            record
        })
    }

    /// The lock, unless another process holds it. A child of another part of this program, between fork and exec, may hold it for a moment too,
    /// with a copy of a descriptor of ours.
    async fn lock_at_once(&self, place: &Place) -> Option<File> {
        let file = place.open_lock().ok()?;
        for _ in 0..10 {
            if file.try_lock().is_ok() {
                return Some(file);
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    async fn lock(&self, place: &Place) -> Result<File, EnvironmentError> {
        let file = place.open_lock()?;
        let deadline = Instant::now() + self.limits.wait;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(place.error(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(place.error("another process has held its lock for too long"));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !told {
                info!("another forkpy is making the session environment in {}; waiting", place.directory.display());
                told = true;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A bare environment, by the first way that works.
    async fn lay_out(&self, job: &Job<'_>) -> Result<(), EnvironmentError> {
        let place = job.place;
        let mut ways = Vec::new();
        if self.bundled {
            let mut command = Command::new(job.base);
            command.args(["-I", "-m", "venv", "--without-pip", "--system-site-packages"]).arg(&place.directory);
            ways.push(command);
        } else if let Tool::Uv(uv) = &job.tool {
            let mut command = Command::new(uv);
            command.args(["venv", "--quiet", "--python"]).arg(job.base).arg(&place.directory);
            ways.push(command);
        }
        // Debian splits ensurepip off; without pip the environment is still one to run code in.
        for options in [&["-I", "-m", "venv"][..], &["-I", "-m", "venv", "--without-pip"]] {
            let mut command = Command::new(job.base);
            command.args(options).arg(&place.directory);
            ways.push(command);
        }
        let mut trouble = String::new();
        for command in ways {
            place.clear().map_err(|error| place.error(error))?;
            match self.run_tool(job, command, self.limits.make).await {
                Ok(()) => return self.verify(job),
                Err(reason) => trouble = reason.to_string(),
            }
        }
        Err(place.error(format!("{trouble} (all of it is in {})", place.log.display())))
    }

    /// The interpreter that forkpy was built with may have been replaced by another version since.
    fn verify(&self, job: &Job<'_>) -> Result<(), EnvironmentError> {
        let found = VenvConfig::read(&job.place.directory).version.unwrap_or_else(|| "of unknown version".to_owned());
        if found == self.linked {
            return Ok(());
        }
        Err(self.mismatch(job.base, found, format!("install Python {}, or build forkpy anew", self.linked)))
    }

    /// Installs what is missing; the last trouble, if there was any. What came of it is to be seen on the disk.
    async fn install(&self, job: &Job<'_>, limit: Duration, patient: bool) -> Option<String> {
        let deadline = Instant::now() + limit;
        let wanted = job.place.missing();
        if wanted.is_empty() {
            return None;
        }
        let mut trouble =
            self.install_these(job, &wanted, deadline, u8::from(patient)).await.err().map(|error| error.to_string());
        if trouble.is_some() && patient && wanted.len() > 1 {
            // One that this machine cannot install must not keep out the others.
            for name in job.place.missing() {
                if let Err(reason) = self.install_these(job, &[name], deadline, 0).await {
                    trouble = Some(reason.to_string());
                }
            }
        }
        if job.place.missing().iter().any(|name| name == "pip") {
            let mut command = Command::new(&job.place.python);
            command.args(["-I", "-m", "ensurepip", "--default-pip"]);
            let _ = self.run_tool(job, command, deadline.saturating_duration_since(Instant::now())).await;
        }
        trouble
    }

    async fn install_these(
        &self,
        job: &Job<'_>,
        names: &[String],
        deadline: Instant,
        retries: u8,
    ) -> Result<(), RunError> {
        // Without a pip of its own the environment is installed into by the interpreter that it was made from.
        let base = job.place.missing().iter().any(|name| name == "pip").then_some(job.base);
        let mut command = job.tool.install(&job.place.python, base, retries);
        command.arg("--quiet").args(names);
        self.run_tool(job, command, deadline.saturating_duration_since(Instant::now())).await
    }

    /// One step of making an environment, its command and output in the log.
    async fn run_tool(&self, job: &Job<'_>, mut command: Command, limit: Duration) -> Result<(), RunError> {
        let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).map(Into::<String>::into).collect();
        let words = format!("{:?} {}", command.get_program(), arguments.join(" "));
        installer::settle(&mut command);
        // A project file in the directory the server was started in must not set the tools' options.
        command.current_dir(&job.place.root);
        let _ = writeln!(&job.log, "$ {words}");
        let stdin = job.lock.try_clone()?;
        let ran = child::run(command, limit, stdin.into(), &job.log, self.children).await;
        if let Err(reason) = &ran {
            warn!("{words} failed: {reason}");
        }
        ran.map(drop)
    }
}
