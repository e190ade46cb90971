//! `forkpy doctor`: whether this machine has what sessions need, each check with its remedy.
//!
//! Runs in: a process of its own. The last check is a server of this very binary that runs a cell.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

use crate::{
    bench::{client::Client, floors},
    bundle,
    server::environment::packages::Tool,
    settings::options::ServeOptions,
    sys::{descriptors, landlock, pidfd::PidFd, private},
};

/// Sessions that are promised by default, and what each takes.
const SESSIONS: u64 = 64;
const FILES_EACH: u64 = 10;
/// A session's memory and a bit, MiB.
const MEMORY: u64 = 200;

/// What `forkpy doctor` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// As it should be.
    Ok,
    /// Sessions run, but something is missing.
    Warning,
    /// Sessions do not run.
    Failed,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it went.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do about it; none where nothing is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, seen: seen.into(), remedy: None }
    }

    fn warning(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warning, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    fn failed(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Failed, seen: seen.into(), remedy: Some(remedy.into()) }
    }
}

/// All checks, with the options that sessions' Python would have.
#[must_use]
pub(crate) fn examine(options: &ServeOptions) -> Vec<Finding> {
    vec![
        build(),
        interpreter(),
        managed(options),
        fork(),
        pidfd(),
        memory_file(),
        landlock(),
        open_files(),
        processes(),
        memory(),
        installer(),
        session(options),
    ]
}

fn build() -> Finding {
    let linked = env!("FORKPY_PYTHON_VERSION");
    let place = match bundle::root() {
        Some(root) => format!("a bundle in {}", root.display()),
        None => format!("linked with {}", env!("FORKPY_BUILD_PYTHON")),
    };
    let seen = format!("forkpy {}, CPython {linked}, {place}", env!("CARGO_PKG_VERSION"));
    let damaged = bundle::damaged();
    if let Some(first) = damaged.first() {
        let seen = format!("{seen}: {} of its files are damaged, {} among them", damaged.len(), first.display());
        return Finding::failed(
            "build",
            seen,
            "remove that directory: the single file unpacks it again, an archive has to be unpacked again",
        );
    }
    if cfg!(debug_assertions) {
        return Finding::warning("build", seen, "this is a debug build; build with --release for anything but tests");
    }
    Finding::ok("build", seen)
}

fn interpreter() -> Finding {
    let base = bundle::python().unwrap_or_else(|| PathBuf::from(env!("FORKPY_BUILD_PYTHON")));
    let remedy = format!("install Python {}, or start forkpy with --venv or --python", env!("FORKPY_PYTHON_VERSION"));
    let mut command = std::process::Command::new(&base);
    command.args([
        "-I",
        "-c",
        "import sys, ssl, sqlite3, ctypes, lzma, bz2, zlib; print('%d.%d.%d' % sys.version_info[:3])",
    ]);
    match command.output() {
        Ok(output) if output.status.success() => Finding::ok(
            "interpreter",
            format!("{}, {}", base.display(), String::from_utf8_lossy(&output.stdout).trim()),
        ),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned();
            Finding::warning("interpreter", format!("{}: {said}", base.display()), remedy)
        }
        Err(error) => Finding::warning("interpreter", format!("{}: {error}", base.display()), remedy),
    }
}

/// Where managed environments go, unless another one is named.
fn managed(options: &ServeOptions) -> Finding {
    if let Some(named) = options.venv.as_ref().or(options.python.as_ref()) {
        return Finding::ok("environment", format!("{}, as the options say", named.display()));
    }
    let places = options.env_dir.clone().map_or_else(crate::settings::resolve::default_env_dirs, |named| vec![named]);
    let mut reasons = Vec::new();
    for place in &places {
        match usable(place) {
            Ok(()) => return Finding::ok("environment", format!("managed, in {}", place.display())),
            Err(reason) => reasons.push(reason),
        }
    }
    Finding::warning(
        "environment",
        reasons.join("; "),
        "name another place with --env-dir or XDG_DATA_HOME, or an environment with --venv",
    )
}

/// Whether environments can be made there, as far as it exists.
fn usable(place: &Path) -> Result<(), String> {
    let existing = place.ancestors().find(|path| path.exists()).unwrap_or(place);
    private::check_above(existing).map_err(|error| error.to_string())?;
    let may_write = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK);
    may_write.map_err(|errno| format!("{} cannot be written: {}", existing.display(), errno.desc()))
}

fn fork() -> Finding {
    match floors::fork() {
        Ok(took) => Finding::ok("fork", format!("to the child's first byte in {} µs", took.as_micros())),
        Err(error) => Finding::failed("fork", error.to_string(), "raise the limit of processes (ulimit -u, TasksMax)"),
    }
}

fn pidfd() -> Finding {
    match PidFd::open(i32::try_from(std::process::id()).unwrap_or(0)) {
        Ok(_) => Finding::ok("pidfd", "works"),
        Err(error) => Finding::failed(
            "pidfd",
            error.to_string(),
            "needs Linux 5.4 or newer, and a seccomp filter that lets pidfd_open through",
        ),
    }
}

fn memory_file() -> Finding {
    match descriptors::memory_file(c"doctor") {
        Ok(file) if file.as_fd().try_clone_to_owned().is_ok() => Finding::ok("memory files", "work"),
        Ok(_) => Finding::failed("memory files", "cannot be copied", "raise the limit of open files (ulimit -n)"),
        Err(error) => {
            Finding::failed("memory files", error.to_string(), "a seccomp filter must let memfd_create through")
        }
    }
}

/// Not used: guide, Limits and security.
fn landlock() -> Finding {
    match landlock::abi() {
        Ok(abi) => Finding::ok("Landlock", format!("ABI {abi}; forkpy does not restrict sessions by it")),
        Err(reason) => Finding::ok("Landlock", format!("none ({reason}); forkpy does not need it")),
    }
}

fn open_files() -> Finding {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let wanted = SESSIONS * FILES_EACH;
    let seen = format!("{soft} open files, at most {hard}");
    if hard < wanted {
        let remedy = format!(
            "raise the hard limit to {wanted} or more for {SESSIONS} sessions (ulimit -Hn, LimitNOFILE), or lower --max-sessions"
        );
        return Finding::warning("open files", seen, remedy);
    }
    Finding::ok("open files", seen)
}

fn processes() -> Finding {
    let (soft, _) = getrlimit(Resource::RLIMIT_NPROC).unwrap_or((u64::MAX, u64::MAX));
    let group = fs::read_to_string("/sys/fs/cgroup/pids.max").ok();
    let group = group.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(u64::MAX);
    let least = soft.min(group);
    if least < SESSIONS * 4 {
        let remedy =
            format!("raise it to {} or more for {SESSIONS} sessions (ulimit -u, TasksMax, pids.max)", SESSIONS * 4);
        return Finding::warning("processes", format!("at most {least}"), remedy);
    }
    Finding::ok("processes", if least == u64::MAX { "no limit".to_owned() } else { format!("at most {least}") })
}

fn memory() -> Finding {
    let Ok(mut system) = sysinfo::System::new() else {
        return Finding::failed("memory", "cannot be read", "mount /proc: forkpy watches sessions by it");
    };
    system.refresh_memory();
    let free = system.available_memory() >> 20;
    if free < MEMORY {
        return Finding::warning(
            "memory",
            format!("{free} MiB are available"),
            "sessions may be killed for want of memory",
        );
    }
    Finding::ok("memory", format!("{free} MiB are available"))
}

fn installer() -> Finding {
    match Tool::find() {
        Tool::Uv(path) => Finding::ok("installer", format!("uv, {}", path.display())),
        Tool::Pip => Finding::ok("installer", "pip of the environment; uv is quicker where it is on PATH"),
    }
}

/// Imports what of the standard library is compiled, and compiled packages that many environments have.
const TRIAL: &str = "\
import importlib.util, math, _struct, select, zlib, hashlib, sqlite3, ssl, ctypes, sys
packages = [name for name in ('numpy', 'pandas', 'psutil', 'pydantic_core', 'PIL') if importlib.util.find_spec(name)]
for name in packages: __import__(name)
'imports work (standard library, ' + (', '.join(packages) or 'no compiled package') + ')'";

/// The whole way, once.
fn session(options: &ServeOptions) -> Finding {
    let began = Instant::now();
    let ran = tempfile::tempdir().map_err(|error| error.to_string()).and_then(|workspace| {
        let mut args = options.for_same_python();
        if let Some(place) = &options.env_dir {
            args.extend(["--env-dir".to_owned(), place.to_string_lossy().into_owned()]);
        }
        let mut client = Client::forkpy(&workspace.path().join("w"), &args).map_err(|error| error.to_string())?;
        client.run(TRIAL, "default").map_err(|error| error.to_string())?;
        let reply = client.reply();
        let stderr = reply["stderr"].as_str().unwrap_or_default().trim().lines().last().unwrap_or_default();
        match reply["results"][0].as_str() {
            Some(found) => Ok(found.trim_matches('\'').to_owned()),
            None if stderr.is_empty() => Err(reply.to_string()),
            None => Err(stderr.to_owned()),
        }
    });
    match ran {
        Ok(found) => {
            let took = began.elapsed().as_millis();
            Finding::ok("session", format!("runs code {took} ms after the server's start; {found}"))
        }
        Err(words) => Finding::failed(
            "session",
            words,
            "start `forkpy --log debug` and see what it says; if it is an import, another --venv or none may do",
        ),
    }
}

/// For people.
#[must_use]
pub(crate) fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, grade, seen, remedy } in findings {
        let mark = match grade {
            Grade::Ok => "ok     ",
            Grade::Warning => "warning",
            Grade::Failed => "FAILED ",
        };
        text += &format!("{mark}  {check:<13} {seen}\n");
        if let Some(remedy) = remedy {
            text += &format!("{:24}→ {remedy}\n", "");
        }
    }
    text
}
