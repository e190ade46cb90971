//! The session environment: which Python's packages sessions see, and making one where there is none.
//!
//! Runs in: server. Owns the managed environments and the children that make them; writes to no environment that it did not
//! make, prints nothing, and runs no interpreter when nothing has to be made or asked: a ready environment costs a few file
//! reads, a new one some milliseconds, and what takes longer is done behind ([`finish`]).
//!
//! A managed environment is `ROOT/VERSION-HASH/`, beside it `….lock` and `….log` (what the tools said). It is made beside its
//! place, with a marker file in it, and renamed into it: a directory without a marker is the rest of an older forkpy's
//! interrupted start, and is made anew. The lock is handed to the tools as their standard input, an empty file: should this
//! process be killed, it stays held until they have ended.

mod answer;
mod child;
mod managed;
mod skeleton;
mod unasked;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

pub(crate) use self::child::ChildHook;
use self::{
    answer::{ASK, Answer},
    unasked::Installation,
};

use crate::{
    bundle,
    protocol::Library,
    server::environment::borrowed::{self, Own},
    server::environment::installer,
    server::environment::kinds::{Environment, EnvironmentError, Kind},
    server::environment::place::{Place, Unfinished, VenvConfig, list, missing_in},
    server::environment::wheels::{self, Wheel},
    sys::fault,
};

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub venv: Option<PathBuf>,
    pub python: Option<PathBuf>,
    /// Where managed environments may be kept, the best place first.
    pub managed_roots: Vec<PathBuf>,
    pub virtual_env: Option<PathBuf>,
    /// Where forkpy was started. An environment there that was not named is told of.
    pub directory: Option<PathBuf>,
    /// Sessions are confined, and write here.
    pub confined: Option<Vec<PathBuf>>,
}

const LINKED: &str = env!("FORKPY_PYTHON_VERSION");
const BUILD_PYTHON: &str = env!("FORKPY_BUILD_PYTHON");
/// The oldest Python 3 that forkpy can be built with (`build.rs`).
const OLDEST_MINOR: u32 = 10;

/// Finds or makes the environment that `wish` asks for: `--venv`, else `--python`, else `VIRTUAL_ENV`, else a managed one.
///
/// An unusable `VIRTUAL_ENV` is no error: a client may have been started in it for other reasons. The note tells. Children
/// die with the calling thread, so call it on a runtime whose threads live as long as the server.
///
/// # Errors
/// [`EnvironmentError`]. Helper packages that cannot be installed are none: they are in [`Environment::missing`].
pub(crate) async fn prepare(wish: &Wish, children: ChildHook<'_>) -> Result<Prepared, EnvironmentError> {
    let prepared = Workshop { confined: wish.confined.clone(), ..Workshop::here(children) }.prepare(wish).await?;
    match prepared.environment.python.to_str() {
        Some(_) => Ok(prepared),
        None => Err(EnvironmentError::NotUtf8(prepared.environment.python)),
    }
}

/// Why sessions could not use this active environment, in a sentence; none when they can. Makes nothing. For a process that is no
/// server: it waits.
pub(crate) fn refused(active: &Path) -> Option<String> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Some(error.to_string()),
    };
    let found = runtime.block_on(Workshop::here(&|_, _| {}).venv(active, Kind::VirtualEnv));
    found.err().map(|reason| reason.to_string())
}

/// An environment in this directory that sessions would use if it was named: in a sentence, how, or why it cannot be.
pub(crate) fn unused_in(directory: &Path) -> Option<String> {
    Workshop::here(&|_, _| {}).unused_in(directory)
}

/// Puts the rest into an environment that sessions use already, and gives it as it is then. For children as in [`prepare`].
///
/// # Errors
/// [`EnvironmentError`]: the environment stays as it is.
pub(crate) async fn finish(unfinished: &Unfinished, children: ChildHook<'_>) -> Result<Environment, EnvironmentError> {
    let workshop = Workshop::here(children);
    Ok(unfinished.environment(workshop.finish(unfinished).await?))
}

/// An environment to start with, and what is to be done behind.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub environment: Environment,
    pub unfinished: Option<Unfinished>,
    /// It was made just now.
    pub is_new: bool,
}

impl From<Environment> for Prepared {
    fn from(environment: Environment) -> Self {
        Self { environment, unfinished: None, is_new: false }
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
    /// Waiting for another process that makes the same environment.
    wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { ask: seconds(20), make: seconds(120), wait: seconds(300) }
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
    /// Sessions install packages in a sandbox, and write here: none of that is run.
    confined: Option<Vec<PathBuf>>,
    /// What lies ready in this binary.
    wheels: Vec<Wheel>,
}

impl<'a> Workshop<'a> {
    /// On this machine, in this binary.
    fn here(children: ChildHook<'a>) -> Self {
        let inside = bundle::python();
        Self {
            linked: LINKED,
            bundled: inside.is_some(),
            build_python: inside.unwrap_or_else(|| BUILD_PYTHON.into()),
            search: env::var_os("PATH").unwrap_or_default(),
            limits: Limits::default(),
            children,
            confined: None,
            wheels: wheels::INSIDE.iter().filter(|wheel| !fault::lacks_wheel(&wheel.name())).copied().collect(),
        }
    }
}

impl Workshop<'_> {
    async fn prepare(&self, wish: &Wish) -> Result<Prepared, EnvironmentError> {
        match choose(wish) {
            Choice::Venv(path) => self.venv(path, Kind::Venv).await.map(Prepared::from),
            Choice::Interpreter(path) => self.interpreter(path).await.map(Prepared::from),
            Choice::VirtualEnv(path) => match self.venv(path, Kind::VirtualEnv).await {
                Ok(environment) => Ok(environment.into()),
                Err(reason) => {
                    let mut managed = self.own(&wish.managed_roots).await?;
                    let note = format!("VIRTUAL_ENV is not used ({reason}); {}", managed.environment.note);
                    managed.environment.note = note;
                    Ok(managed)
                }
            },
            Choice::Managed => {
                let mut managed = self.own(&wish.managed_roots).await?;
                if let Some(words) = wish.directory.as_deref().and_then(|place| self.unused_in(place)) {
                    managed.environment.note += &format!("; {words}");
                }
                Ok(managed)
            }
        }
    }

    /// What is to be done that sessions use a project's own environment. Its configuration is read, and nothing is run.
    fn unused_in(&self, project: &Path) -> Option<String> {
        let root = project.join(".venv");
        let found = VenvConfig::read(&root).version?;
        if found == self.linked {
            return Some(format!("the environment here is not used: name it with `--venv {}`", root.display()));
        }
        let reason = self.another_version(&root, &root.join("bin/python"), found);
        Some(format!("the environment here is not used: {reason}"))
    }

    /// A managed environment; in a bundle that has no place for one, the bundle's own Python.
    async fn own(&self, managed_roots: &[PathBuf]) -> Result<Prepared, EnvironmentError> {
        match self.managed(managed_roots).await {
            Err(reason @ EnvironmentError::Make { .. }) if self.bundled => {
                let inside = self.interpreter(&self.build_python).await?;
                let note = format!("{}; nothing can be installed: {reason}", inside.note);
                Ok(Environment { note, ..inside }.into())
            }
            made => made,
        }
    }

    async fn venv(&self, path: &Path, kind: Kind) -> Result<Environment, EnvironmentError> {
        let root = absolute(path);
        let python = root.join("bin/python");
        if !python.exists() {
            return Err(EnvironmentError::NoVenv { path: root, python: self.python() });
        }
        let config = VenvConfig::read(&root);
        let found = match config.version.clone() {
            Some(version) => version,
            None => self.answer_of(&python).await?.version,
        };
        if found != self.linked {
            return Err(self.another_version(&root, &python, found));
        }
        let library = self.library_for(&root, &python, &config).await?;
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
        let Answer { version, executable: own, .. } = self.answer_of(&executable).await?;
        if version != self.linked {
            let advice = self.or_another_forkpy(format!("name a Python {}", self.linked), &version, &own);
            return Err(self.mismatch(&executable, version, advice));
        }
        let library = self.library_for(&own, &own, &VenvConfig::default()).await?;
        let note = format!(
            "sessions use the interpreter {} (Python {version}) and its packages{}",
            own.display(),
            words_on(library.as_ref())
        );
        // What it says of itself, which is not what was named when that is a wrapper script, such as pyenv's shims.
        Ok(Environment { python: own, root: None, kind: Kind::Interpreter, library, missing: Vec::new(), note })
    }

    /// A command that is a Python as it is linked here. A bundle is one, where there may be no other.
    fn python(&self) -> String {
        if self.bundled { "forkpy python".to_owned() } else { format!("python{}", self.linked) }
    }

    /// The advice, and the other way: the forkpy for what was `found`, as far as there can be one. `python` is what was found.
    fn or_another_forkpy(&self, advice: String, found: &str, python: &Path) -> String {
        let minor = found.strip_prefix("3.").and_then(|minor| minor.parse::<u32>().ok());
        if minor.is_none_or(|minor| minor < OLDEST_MINOR) {
            return format!(
                "{advice}; there is no forkpy for Python {found}, only for CPython 3.{OLDEST_MINOR} and newer"
            );
        }
        let python = python.display();
        match self.bundled {
            true => format!(
                "{advice}, or get the forkpy for Python {found}: `{python} -m pip install forkpy` and `uvx --python {found} \
                 forkpy` take its wheel"
            ),
            false => format!(
                "{advice}, or build a forkpy for Python {found} (`PYO3_PYTHON={python} cargo install --path .` in its sources)"
            ),
        }
    }

    fn mismatch(&self, path: &Path, found: String, advice: String) -> EnvironmentError {
        EnvironmentError::Version { path: path.to_owned(), found, linked: self.linked.to_owned(), advice }
    }

    fn another_version(&self, root: &Path, python: &Path, found: String) -> EnvironmentError {
        let make = format!("make one with `{} -m venv DIR`", self.python());
        let advice = self.or_another_forkpy(make, &found, python);
        self.mismatch(root, found, advice)
    }

    fn another_interface(&self, path: &Path, found: String) -> EnvironmentError {
        EnvironmentError::Interface { path: path.to_owned(), found, linked: borrowed::SUFFIX, python: self.python() }
    }

    /// The standard library and packages for an interpreter that is of another installation than ours; `None` for our own,
    /// which finds both. `path` is what was named.
    async fn library_for(
        &self,
        path: &Path,
        python: &Path,
        config: &VenvConfig,
    ) -> Result<Option<Library>, EnvironmentError> {
        let Some(ours) = Own::find(&self.build_python, self.linked) else { return Ok(None) };
        if let Some(written) = &self.confined {
            return self.library_unasked((path, python), config, &ours, written);
        }
        if !ours.is_foreign(python, config.home.as_deref()) {
            return Ok(None);
        }
        let fail = |reason| EnvironmentError::Interpreter { path: python.to_owned(), reason };
        let output = tempfile::tempfile().map_err(|error| fail(error.to_string()))?;
        let mut command = Command::new(python);
        command.args(["-E", "-S", "-c", borrowed::ASK]);
        let text = child::run(command, self.limits.ask, Stdio::null(), &output, self.children)
            .await
            .map_err(|error| fail(error.to_string()))?;
        let answer = Answer::parse(&text).ok_or_else(|| fail("it does not answer as a Python does".to_owned()))?;
        if answer.version != self.linked {
            let advice = format!("make one with `{} -m venv DIR`", self.python());
            return Err(self.mismatch(path, answer.version, advice));
        }
        let [suffix, prefix, packages @ ..] = answer.more.as_slice() else {
            return Err(fail("it does not say where its packages are".to_owned()));
        };
        if suffix != borrowed::SUFFIX {
            return Err(self.another_interface(path, suffix.clone()));
        }
        Ok(Some(ours.library(prefix, packages)))
    }

    /// The same where nothing is run.
    fn library_unasked(
        &self,
        (path, python): (&Path, &Path),
        config: &VenvConfig,
        ours: &Own,
        written: &[PathBuf],
    ) -> Result<Option<Library>, EnvironmentError> {
        let unfit = |reason| EnvironmentError::Unfit { path: python.to_owned(), reason };
        let base =
            config.home.as_ref().map_or_else(|| python.to_owned(), |home| unasked::interpreter_in(home, self.linked));
        let found = Installation::of(&base, self.linked, written).map_err(|unknown| unfit(unknown.to_string()))?;
        if ours.is_in(&found.prefix) {
            return Ok(None);
        }
        if found.version != self.linked {
            let advice = format!("make one with `{} -m venv DIR`", self.python());
            return Err(self.mismatch(path, found.version, advice));
        }
        match found.suffix() {
            None => return Err(unfit("its files do not say how its compiled modules end".to_owned())),
            Some(suffix) if suffix != borrowed::SUFFIX => {
                return Err(self.another_interface(path, suffix));
            }
            Some(_) => {}
        }
        // An environment is above its `bin/python`, wherever that leads.
        let above = python.parent().and_then(Path::parent).unwrap_or(path);
        let (prefix, packages) = match (&config.home, config.system_packages) {
            (None, _) => (found.prefix.as_path(), found.packages()),
            (Some(_), false) => (above, unasked::packages_of(above, self.linked)),
            (Some(_), true) => (above, [unasked::packages_of(above, self.linked), found.packages()].concat()),
        };
        let packages: Vec<String> = packages.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        Ok(Some(ours.library(&prefix.to_string_lossy(), &packages)))
    }

    /// What there is to know of an interpreter: it is asked, unless sessions may have put something in its place.
    async fn answer_of(&self, executable: &Path) -> Result<Answer, EnvironmentError> {
        let Some(written) = &self.confined else { return self.ask(executable).await };
        let found = Installation::of(executable, self.linked, written)
            .map_err(|unknown| EnvironmentError::Unfit { path: executable.to_owned(), reason: unknown.to_string() })?;
        Ok(Answer { version: found.version, executable: executable.to_owned(), more: Vec::new() })
    }

    async fn ask(&self, executable: &Path) -> Result<Answer, EnvironmentError> {
        let fail = |reason| EnvironmentError::Interpreter { path: executable.to_owned(), reason };
        let output = tempfile::tempfile().map_err(|error| fail(error.to_string()))?;
        let mut command = Command::new(executable);
        command.args(["-I", "-S", "-c", ASK]);
        let text = child::run(command, self.limits.ask, Stdio::null(), &output, self.children)
            .await
            .map_err(|error| fail(error.to_string()))?;
        Answer::parse(&text).ok_or_else(|| fail("it does not answer as a Python does".to_owned()))
    }

    async fn managed(&self, managed_roots: &[PathBuf]) -> Result<Prepared, EnvironmentError> {
        let base = self.base()?;
        let (place, passed_over) = self.place(managed_roots, &base)?;
        let (record, is_new) = match place.record() {
            Some(record) => (record, false),
            None => (self.make(&place, &base).await?, true),
        };
        let unfinished = self.unfinished(place.clone(), base, &record);
        let mut environment = place.environment(record);
        environment.note += &passed_over;
        if unfinished.is_some() {
            environment.note += "; the rest of what it is to have is put into it now";
        }
        Ok(Prepared { environment, unfinished, is_new })
    }

    /// The first place for managed environments that no other user may change, made if need be; and a word about those before
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
        installer::program(name, &self.search)
    }
}

/// For the note: whose standard library sessions have, when it is not the environment's.
fn words_on(library: Option<&Library>) -> String {
    library.map_or_else(String::new, |library| format!(", with forkpy's own standard library, {}", library.standard))
}

/// Without following links: a virtual environment's python is one, and must keep its own name.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
