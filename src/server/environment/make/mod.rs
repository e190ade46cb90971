//! The session environment: which Python's packages sessions see, and making one where there is none.
//!
//! Runs in: server, once, before the zygote starts. Owns the managed environments and the children that make them; writes
//! to no environment that it did not make, prints nothing, and runs no interpreter when nothing has to be made or asked:
//! a ready environment costs a few file reads.
//!
//! A managed environment is `ROOT/VERSION-HASH/`, beside it `….lock` and `….log` (what the tools said). Its marker file is
//! written last, so a directory without one is the rest of an interrupted start, and is made anew. The lock is handed to
//! the tools as their standard input, an empty file: should this process be killed, it stays held until they have ended.

use crate::server::environment::kinds::{Environment, EnvironmentError, Kind};

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    bundle,
    protocol::Library,
    server::environment::borrowed::{self, Own},
    server::environment::place::{MARKER, Place, Record, VenvConfig, list, missing_in},
    sys::signals,
};

/// Told of every child process this module starts: `(pid, true)` in the same breath as the start, with no await between,
/// and `(pid, false)` once it has been waited for or given up. In between nobody else may reap it.
pub(crate) type ChildHook<'a> = &'a (dyn Fn(u32, bool) + Send + Sync);

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub venv: Option<PathBuf>,
    pub python: Option<PathBuf>,
    /// Where managed environments may be kept, the best place first.
    pub managed_roots: Vec<PathBuf>,
    pub virtual_env: Option<PathBuf>,
}

const LINKED: &str = env!("FORKPY_PYTHON_VERSION");
const BUILD_PYTHON: &str = env!("FORKPY_BUILD_PYTHON");

/// Variables that would send a tool to another environment than the one named on its command line.
pub(crate) const MISLEADING: [&str; 11] = [
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
/// Prints one line that begins with `forkpy`, whatever a wrapper has printed before it.
const ASK: &str = "import sys; print('\\nforkpy', '%d.%d' % sys.version_info[:2], sys.implementation.name, \
                   sys.executable, sep='\\t')";

/// Finds or makes the environment that `wish` asks for: `--venv`, else `--python`, else `VIRTUAL_ENV`, else a managed one.
///
/// An unusable `VIRTUAL_ENV` is no error: a client may have been started in it for other reasons. The note tells. Children
/// die with the calling thread, so call it on a runtime whose threads live as long as the server.
///
/// # Errors
/// [`EnvironmentError`]. Helper packages that cannot be installed are none: they are in [`Environment::missing`].
pub(crate) async fn prepare(wish: &Wish, children: ChildHook<'_>) -> Result<Environment, EnvironmentError> {
    let search = env::var_os("PATH").unwrap_or_default();
    let inside = bundle::python();
    let bundled = inside.is_some();
    let build_python = inside.unwrap_or_else(|| BUILD_PYTHON.into());
    let workshop = Workshop { linked: LINKED, build_python, bundled, search, limits: Limits::default(), children };
    let environment = workshop.prepare(wish).await?;
    match environment.python.to_str() {
        Some(_) => Ok(environment),
        None => Err(EnvironmentError::NotUtf8(environment.python)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    Venv(&'a Path),
    Interpreter(&'a Path),
    VirtualEnv(&'a Path),
    Managed,
}

fn choose(wish: &Wish) -> Choice<'_> {
    match (&wish.venv, &wish.python, &wish.virtual_env) {
        (Some(venv), _, _) => Choice::Venv(venv),
        (_, Some(python), _) => Choice::Interpreter(python),
        (_, _, Some(venv)) => Choice::VirtualEnv(venv),
        _ => Choice::Managed,
    }
}

struct Limits {
    /// Asking an interpreter for its version.
    ask: Duration,
    /// Making a bare environment; then again, installing packages into it.
    make: Duration,
    /// Installing what was missing, at a later start.
    retry: Duration,
    /// Waiting for another process that makes the same environment.
    wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { ask: seconds(20), make: seconds(120), retry: seconds(15), wait: seconds(300) }
    }
}

/// All that the work depends on besides the wish.
struct Workshop<'a> {
    linked: &'a str,
    build_python: PathBuf,
    /// That is a bundle's own: an environment has the bundle's packages too.
    bundled: bool,
    search: OsString,
    limits: Limits,
    children: ChildHook<'a>,
}

impl Workshop<'_> {
    async fn prepare(&self, wish: &Wish) -> Result<Environment, EnvironmentError> {
        match choose(wish) {
            Choice::Venv(path) => self.venv(path, Kind::Venv).await,
            Choice::Interpreter(path) => self.interpreter(path).await,
            Choice::VirtualEnv(path) => match self.venv(path, Kind::VirtualEnv).await {
                Ok(environment) => Ok(environment),
                Err(reason) => {
                    let managed = self.own(&wish.managed_roots).await?;
                    let note = format!("VIRTUAL_ENV is not used ({reason}); {}", managed.note);
                    Ok(Environment { note, ..managed })
                }
            },
            Choice::Managed => self.own(&wish.managed_roots).await,
        }
    }

    /// A managed environment; in a bundle that has no place for one, the bundle's own Python.
    async fn own(&self, managed_roots: &[PathBuf]) -> Result<Environment, EnvironmentError> {
        match self.managed(managed_roots).await {
            Err(reason @ EnvironmentError::Make { .. }) if self.bundled => {
                let inside = self.interpreter(&self.build_python).await?;
                let note = format!("{}; nothing can be installed: {reason}", inside.note);
                Ok(Environment { note, ..inside })
            }
            made => made,
        }
    }

    async fn venv(&self, path: &Path, kind: Kind) -> Result<Environment, EnvironmentError> {
        let root = absolute(path);
        let python = root.join("bin/python");
        if !python.exists() {
            return Err(EnvironmentError::NoVenv { path: root, linked: self.linked.to_owned() });
        }
        let config = VenvConfig::read(&root);
        let found = match config.version {
            Some(version) => version,
            None => self.ask(&python).await?.version,
        };
        if found != self.linked {
            let wanted = self.linked;
            let advice =
                format!("make one with `python{wanted} -m venv DIR`, or build forkpy with another PYO3_PYTHON");
            return Err(self.mismatch(&root, found, advice));
        }
        let library = self.library_for(&root, &python, config.home.as_deref()).await?;
        let missing = if config.system_packages { Vec::new() } else { missing_in(&root, self.linked) };
        let lacks = if missing.is_empty() { String::new() } else { format!(", which lacks {}", list(&missing)) };
        let own = words_on(library.as_ref());
        let note = format!("sessions use the environment {} (Python {found}){lacks}{own}", root.display());
        Ok(Environment { python, root: Some(root), kind, library, missing, note })
    }

    async fn interpreter(&self, path: &Path) -> Result<Environment, EnvironmentError> {
        let is_name = path.components().count() == 1 && path.is_relative();
        let found = if is_name { self.find(path.as_os_str()) } else { None };
        let executable = found.unwrap_or_else(|| absolute(path));
        let Answer { version, executable: own, .. } = self.ask(&executable).await?;
        if version != self.linked {
            let advice = format!("name a Python {}, or build forkpy with PYO3_PYTHON={}", self.linked, own.display());
            return Err(self.mismatch(&executable, version, advice));
        }
        let library = self.library_for(&own, &own, None).await?;
        let note = format!(
            "sessions use the interpreter {} (Python {version}) and its packages{}",
            own.display(),
            words_on(library.as_ref())
        );
        // What it says of itself, which is not what was named when that is a wrapper script, such as pyenv's shims.
        Ok(Environment { python: own, root: None, kind: Kind::Interpreter, library, missing: Vec::new(), note })
    }

    fn mismatch(&self, path: &Path, found: String, advice: String) -> EnvironmentError {
        EnvironmentError::Version { path: path.to_owned(), found, linked: self.linked.to_owned(), advice }
    }

    /// The standard library and packages for an interpreter that is of another installation than ours; `None` for our own,
    /// which finds both. `path` is what was named.
    async fn library_for(
        &self,
        path: &Path,
        python: &Path,
        home: Option<&Path>,
    ) -> Result<Option<Library>, EnvironmentError> {
        let Some(ours) = Own::find(&self.build_python, self.linked) else { return Ok(None) };
        if !ours.is_foreign(python, home) {
            return Ok(None);
        }
        let fail = |reason| EnvironmentError::Interpreter { path: python.to_owned(), reason };
        let output = tempfile::tempfile().map_err(|error| fail(error.to_string()))?;
        let mut command = Command::new(python);
        command.args(["-E", "-c", borrowed::ASK]);
        let text = self.run(command, self.limits.ask, Stdio::null(), &output).await.map_err(&fail)?;
        let answer = Answer::parse(&text).ok_or_else(|| fail("it does not answer as a Python does".to_owned()))?;
        if answer.version != self.linked {
            let advice = format!("make one with a CPython {}", self.linked);
            return Err(self.mismatch(path, answer.version, advice));
        }
        let [suffix, prefix, packages @ ..] = answer.more.as_slice() else {
            return Err(fail("it does not say where its packages are".to_owned()));
        };
        if suffix != borrowed::SUFFIX {
            let (path, found) = (path.to_owned(), suffix.clone());
            return Err(EnvironmentError::Interface { path, found, linked: borrowed::SUFFIX });
        }
        Ok(Some(ours.library(prefix, packages)))
    }

    async fn ask(&self, executable: &Path) -> Result<Answer, EnvironmentError> {
        let fail = |reason| EnvironmentError::Interpreter { path: executable.to_owned(), reason };
        let output = tempfile::tempfile().map_err(|error| fail(error.to_string()))?;
        let mut command = Command::new(executable);
        command.args(["-I", "-S", "-c", ASK]);
        let text = self.run(command, self.limits.ask, Stdio::null(), &output).await.map_err(&fail)?;
        Answer::parse(&text).ok_or_else(|| fail("it does not answer as a Python does".to_owned()))
    }

    async fn managed(&self, managed_roots: &[PathBuf]) -> Result<Environment, EnvironmentError> {
        let base = self.base()?;
        let (place, passed_over) = self.place(managed_roots, &base)?;
        let record = match place.record() {
            Some(record) if record.missing.is_empty() => record,
            Some(record) => self.complete(&place, &base, record).await,
            None => self.make(&place, &base).await?,
        };
        let mut environment = place.environment(record);
        environment.note += &passed_over;
        Ok(environment)
    }

    /// The first place for managed environments that nobody else may change, made if need be; and a word about those before
    /// it: what lies there would be run as this user.
    fn place(&self, roots: &[PathBuf], base: &Path) -> Result<(Place, String), EnvironmentError> {
        let mut reasons = Vec::new();
        for root in roots.iter().map(|root| absolute(root)) {
            let place = Place::new(&root, self.linked, base);
            match place.claim() {
                Ok(()) => return Ok((place, reasons.iter().map(|reason| format!("; not in {reason}")).collect())),
                Err(reason) => reasons.push(format!("{} ({reason})", root.display())),
            }
        }
        let path = roots.first().cloned().unwrap_or_default();
        Err(EnvironmentError::Make { path, reason: format!("it would be no place of its own: {}", reasons.join(", ")) })
    }

    /// The interpreter to make environments from.
    fn base(&self) -> Result<PathBuf, EnvironmentError> {
        if self.build_python.is_absolute() && self.build_python.exists() {
            return Ok(self.build_python.clone());
        }
        self.find(OsStr::new(&format!("python{}", self.linked)))
            .ok_or_else(|| EnvironmentError::NoBase { path: self.build_python.clone(), linked: self.linked.to_owned() })
    }

    fn find(&self, name: &OsStr) -> Option<PathBuf> {
        let runs = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        env::split_paths(&self.search).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(runs)
    }

    /// First start: makes the environment, unless another process has done so by the time the lock is ours.
    async fn make(&self, place: &Place, base: &Path) -> Result<Record, EnvironmentError> {
        let lock = self.lock(place).await?;
        if let Some(record) = place.record() {
            return Ok(record);
        }
        let started = Instant::now();
        info!("making the session environment in {} (once)", place.directory.display());
        let job = Job { place, base, uv: self.find(OsStr::new("uv")), log: place.open_log()?, lock };
        self.lay_out(&job).await?;
        let trouble = self.install(&job, self.limits.make, true).await;
        let record = place.seal(base, trouble).map_err(|error| place.error(error))?;
        info!("made the session environment in {:.1} s", started.elapsed().as_secs_f64());
        Ok(record)
    }

    /// Later start of an environment that lacks something: one short try, unless another process is at it.
    async fn complete(&self, place: &Place, base: &Path, record: Record) -> Record {
        let Some(lock) = self.lock_at_once(place).await else { return record };
        let Ok(log) = place.open_log() else { return record };
        info!("trying again to install {} into {}", list(&record.missing), place.directory.display());
        let job = Job { place, base, uv: self.find(OsStr::new("uv")), log, lock };
        let trouble = self.install(&job, self.limits.retry, false).await;
        place.seal(base, trouble).unwrap_or_else(|error| {
            warn!("failed to write {MARKER} in {}: {error}", place.directory.display());
            record
        })
    }

    /// The lock, unless another process holds it. Somebody's child between fork and exec may hold it for a moment too,
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
        } else if let Some(uv) = &job.uv {
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
                Err(reason) => trouble = reason,
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
        let mut trouble = self.install_these(job, &wanted, deadline, u8::from(patient)).await.err();
        if trouble.is_some() && patient && wanted.len() > 1 {
            // One that this machine cannot install must not keep out the others.
            for name in job.place.missing() {
                if let Err(reason) = self.install_these(job, &[name], deadline, 0).await {
                    trouble = Some(reason);
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
    ) -> Result<(), String> {
        let python = &job.place.python;
        let mut command;
        if let Some(uv) = &job.uv {
            command = Command::new(uv);
            command.args(["pip", "install", "--quiet", "--python"]).arg(python);
            command.env("UV_HTTP_RETRIES", retries.to_string());
        } else {
            if job.place.missing().iter().any(|name| name == "pip") {
                command = Command::new(job.base);
                command.args(["-I", "-m", "pip", "--python"]).arg(python);
            } else {
                command = Command::new(python);
                command.args(["-I", "-m", "pip"]);
            }
            command.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]);
            command.arg(format!("--retries={retries}"));
        }
        command.args(names);
        self.run_tool(job, command, deadline.saturating_duration_since(Instant::now())).await
    }

    /// One step of making an environment, its command and output in the log.
    async fn run_tool(&self, job: &Job<'_>, mut command: Command, limit: Duration) -> Result<(), String> {
        let program = command.as_std().get_program().to_owned();
        let arguments: Vec<_> =
            command.as_std().get_args().map(OsStr::to_string_lossy).map(Into::<String>::into).collect();
        for name in MISLEADING {
            command.env_remove(name);
        }
        command.env("NO_COLOR", "1").env("UV_NO_PROGRESS", "1").env("UV_PYTHON_DOWNLOADS", "never");
        // A project file in the directory the server was started in must not set the tools' options.
        command.current_dir(&job.place.root);
        let words = format!("{program:?} {}", arguments.join(" "));
        let _ = writeln!(&job.log, "$ {words}");
        let stdin = job.lock.try_clone().map_err(|error| error.to_string())?;
        let ran = self.run(command, limit, stdin.into(), &job.log).await;
        if let Err(reason) = &ran {
            warn!("{words} failed: {reason}");
        }
        ran.map(drop)
    }

    /// Runs a command to its end with its output appended to `output`, never to ours. What it said, or why it failed.
    async fn run(&self, mut command: Command, limit: Duration, stdin: Stdio, output: &File) -> Result<String, String> {
        let words = |error: io::Error| error.to_string();
        if limit.is_zero() {
            return Err("no time was left for it".to_owned());
        }
        let begin = output.metadata().map_err(words)?.len();
        let streams = (output.try_clone().map_err(words)?, output.try_clone().map_err(words)?);
        command.stdin(stdin).stdout(streams.0).stderr(streams.1).kill_on_drop(true).process_group(0);
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let live_no_longer = move || match signals::die_with_parent(own) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        };
        // SAFETY: between fork and exec the closure makes two system calls and neither allocates nor locks.
        unsafe { command.pre_exec(live_no_longer) };
        let mut child = command.spawn().map_err(words)?;
        let Some(pid) = child.id() else { return Err("it has no process id".to_owned()) };
        let mut started = Started { pid, over: false, children: self.children };
        (self.children)(pid, true);
        let waited = timeout(limit, child.wait()).await;
        if waited.is_err() {
            started.kill();
            let _ = child.wait().await;
        }
        started.over = true;
        drop(started);
        let text = text_from(output, begin);
        match waited {
            Err(_) => Err(format!("it took longer than {} s", limit.as_secs_f64().ceil())),
            Ok(Err(error)) => Err(words(error)),
            Ok(Ok(status)) if status.success() => Ok(text),
            Ok(Ok(status)) => match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
                Some(line) => Err(line.to_owned()),
                None => Err(status.to_string()),
            },
        }
    }
}

/// A child that the hook has been told of; also when the work on it is abandoned, it and its own children end.
struct Started<'a> {
    pid: u32,
    over: bool,
    children: ChildHook<'a>,
}

impl Started<'_> {
    fn kill(&self) {
        if let Ok(group) = i32::try_from(self.pid) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
        }
        (self.children)(self.pid, false);
    }
}

/// The making of one managed environment, under its lock.
struct Job<'a> {
    place: &'a Place,
    base: &'a Path,
    uv: Option<PathBuf>,
    log: File,
    lock: File,
}

/// What an interpreter says of itself.
struct Answer {
    version: String,
    executable: PathBuf,
    /// What else was asked for.
    more: Vec<String>,
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.lines().rfind(|line| line.starts_with("forkpy\t"))?.split('\t').skip(1);
        let (version, implementation, executable) = (fields.next()?, fields.next()?, fields.next()?);
        let version =
            if implementation == "cpython" { version.into() } else { format!("{version} ({implementation})") };
        let executable = executable.into();
        Some(Self { version, executable, more: fields.map(str::to_owned).collect() })
    }
}

/// For the note: whose standard library sessions have, when it is not the environment's.
fn words_on(library: Option<&Library>) -> String {
    library.map_or_else(String::new, |library| format!(", with forkpy's own standard library, {}", library.standard))
}

/// What was appended since `begin`; of much, the end.
fn text_from(output: &File, begin: u64) -> String {
    const MOST: u64 = 64 << 10;
    let end = output.metadata().map_or(begin, |found| found.len());
    let from = begin.max(end.saturating_sub(MOST));
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(from)).unwrap_or(0)];
    match output.read_exact_at(&mut bytes, from) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// Without following links: a virtual environment's python is one, and must keep its own name.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
