//! The making of a managed environment, under its lock, and the finishing of one that lacks something.
//!
//! Runs in: server. An environment is made before the zygote starts, and finished behind, while sessions run in it already.
//! Writes below the place of that environment only.

use std::{
    ffi::OsStr,
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    Workshop,
    child::{self, RunError},
    skeleton::{self, PlainBase},
    unasked::Installation,
};
use crate::{
    server::environment::{
        installer::{self, Tool},
        kinds::EnvironmentError,
        place::{Place, Record, Unfinished, VenvConfig},
        wheels::{Part, Wheel},
    },
    sys::processes,
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
    /// First start: makes the environment, unless another process has done so by the time the lock is ours. What takes long is
    /// left to [`Workshop::finish`].
    pub(super) async fn make(&self, place: &Place, base: &Path) -> Result<Record, EnvironmentError> {
        let lock = self.lock(place).await?;
        if let Some(record) = place.record() {
            return Ok(record);
        }
        let started = Instant::now();
        info!("making the session environment in {}", place.directory.display());
        let made = match PlainBase::find(base, self.linked, self.bundled) {
            Some(plain) => self.write(place, plain).await,
            None => match &self.confined {
                None => self.make_by_tools(place, base, lock).await,
                Some(written) => self.make_unasked(place, base, written).await,
            },
        };
        if made.is_ok() {
            let milliseconds = started.elapsed().as_millis();
            info!("made the session environment in {milliseconds} ms");
        }
        made
    }

    async fn write(&self, place: &Place, plain: PlainBase) -> Result<Record, EnvironmentError> {
        let (here, wheels) = (place.clone(), self.wheels.clone());
        let made = tokio::task::spawn_blocking(move || skeleton::make(&here, &plain, &wheels)).await;
        made.map_err(io::Error::other).flatten().map_err(|error| place.error(error))
    }

    /// Where sessions are confined no program is run for it: what an interpreter would say is seen from its files.
    async fn make_unasked(&self, place: &Place, base: &Path, written: &[PathBuf]) -> Result<Record, EnvironmentError> {
        let found = Installation::of(base, self.linked, written).map_err(|unknown| place.error(unknown))?;
        if found.version != self.linked {
            return Err(self.mismatch(base, found.version, format!("install Python {}", self.linked)));
        }
        self.write(place, PlainBase { python: base.to_owned(), bundled: self.bundled }).await
    }

    async fn make_by_tools(&self, place: &Place, base: &Path, lock: File) -> Result<Record, EnvironmentError> {
        let job = Job { place, base, tool: Tool::on(&self.search), log: place.open_log()?, lock };
        self.lay_out(&job).await?;
        place.seal(base, None).map_err(|error| place.error(error))
    }

    /// What is still to be done for an environment: what lies ready in this binary, and once a day what does not. The latter is
    /// done by tools, which are not confined and run code of the environment and of packages. Where sessions are confined, so is
    /// that: a new environment is completed as `install_dependencies` does it (`packages.rs`), an older one is left to that.
    pub(super) fn unfinished(&self, place: Place, base: PathBuf, record: &Record) -> Option<Unfinished> {
        let by_tools = self.confined.is_none();
        let is_inside = |name: &String| self.wheels.iter().any(|wheel| wheel.name() == *name);
        let is_due = by_tools && !record.missing.is_empty() && record.is_due();
        let wanted = is_due || record.missing.iter().any(is_inside);
        wanted.then_some(Unfinished { place, base, by_tools })
    }

    /// Puts into an environment what it lacks. Of several processes one does, and the others wait for it.
    pub(super) async fn finish(&self, unfinished: &Unfinished) -> Result<Record, EnvironmentError> {
        let Unfinished { place, base, by_tools } = unfinished;
        let lock = self.lock(place).await?;
        let record = place.record().ok_or_else(|| place.error("it was removed"))?;
        if record.missing.is_empty() {
            return Ok(record);
        }
        let mut trouble = self.unpack(place).await.err().map(|error| error.to_string());
        let fetched = *by_tools && !place.missing().is_empty() && record.is_due();
        if fetched {
            let job = Job { place, base, tool: Tool::on(&self.search), log: place.open_log()?, lock };
            trouble = self.install(&job, self.limits.make).await.or(trouble);
        }
        let missing = place.missing();
        let (trouble, tried) =
            if missing.is_empty() || fetched { (trouble, None) } else { (record.trouble, record.tried) };
        let sealed = match tried {
            Some(tried) => place.seal_in(&place.directory, base, trouble, Some(tried)),
            None => place.seal(base, trouble),
        };
        sealed.map_err(|error| place.error(error))
    }

    /// What this binary carries of what is missing, on a thread that leaves the processor to sessions.
    async fn unpack(&self, place: &Place) -> io::Result<()> {
        let missing = place.missing();
        let needs = |wheel: &&Wheel| {
            // jedi does not work without.
            let needed_by = |name: &String| *name == wheel.name() || (name == "jedi" && wheel.name() == "parso");
            missing.iter().any(needed_by)
        };
        let wheels: Vec<Wheel> = self.wheels.iter().filter(needs).copied().collect();
        let (packages, python) = (place.packages(&place.directory), place.python.clone());
        let (done, unpacked) = oneshot::channel();
        let work = move || {
            processes::stand_back();
            let parts = wheels.iter().flat_map(|wheel| [(wheel, Part::Code), (wheel, Part::Rest)]);
            let mut parts = parts.filter(|(wheel, part)| *part == Part::Rest || !has_code(wheel, &packages));
            let _ = done.send(parts.try_for_each(|(wheel, part)| wheel.unpack(part, &packages, &python)));
        };
        std::thread::Builder::new().name("environment".to_owned()).spawn(work)?;
        unpacked.await.unwrap_or_else(|_| Err(io::Error::other("the thread that unpacks has ended")))
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
    async fn install(&self, job: &Job<'_>, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        let wanted = job.place.missing();
        if wanted.is_empty() {
            return None;
        }
        let mut trouble = self.install_these(job, &wanted, deadline, 1).await.err().map(|error| error.to_string());
        if trouble.is_some() && wanted.len() > 1 {
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

/// Whether the code of a package is there already: it was written when the environment was made, and sessions may use it.
fn has_code(wheel: &Wheel, packages: &Path) -> bool {
    wheel.is_quick() && packages.join(wheel.name()).is_dir()
}
