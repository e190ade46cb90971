//! What sessions need of this machine: the kernel, memory, limits, an interpreter, a place for environments.
//!
//! Runs in: a process of its own.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::sys::resource::{Resource, getrlimit};

use super::finding::{Finding, Grade};
use crate::{
    bench::floors,
    bundle,
    server::environment::{make, packages::Tool},
    settings::options::ServeOptions,
    sys::{
        descriptors,
        groups::{Bounds, Controller, Group},
        landlock,
        pidfd::PidFd,
        private,
    },
    zygote::pythons,
};

/// Sessions that are promised by default, and what each takes.
const SESSIONS: u64 = 64;
const FILES_EACH: u64 = 10;
/// A session's memory and a bit, MiB.
const MEMORY: u64 = 200;

/// What is said of builds for machines that forkpy's makers had none of.
const NOT_TESTED: &str = if cfg!(target_arch = "x86_64") {
    ""
} else {
    "; built for aarch64 and tested under qemu-user only: --sandbox, stacks of threads in C code and tracing are NOT TESTED"
};

pub(super) fn build() -> Finding {
    let linked = env!("FORKPY_PYTHON_VERSION");
    let place = match bundle::root() {
        Some(root) => format!("a bundle in {}", root.display()),
        None => format!("linked with {}", env!("FORKPY_BUILD_PYTHON")),
    };
    let seen = format!("forkpy {}, CPython {linked}, {place}{NOT_TESTED}", env!("CARGO_PKG_VERSION"));
    // What does not come is missing.
    let _ = bundle::rest::wait();
    let damaged = bundle::damaged();
    if let Some(first) = damaged.first() {
        let seen = format!("{seen}: {} of its files are damaged, {} among them", damaged.len(), first.display());
        return Finding::failed(
            "build",
            seen,
            "remove that directory: the single file unpacks it again, an archive has to be unpacked again",
        );
    }
    let untested: Vec<String> =
        pythons::untested().map(|difference| format!("{} (from {} on)", difference.what, difference.since)).collect();
    if !untested.is_empty() {
        return Finding::warning(
            "build",
            format!("{seen}; NOT TESTED without the GIL: {}", untested.join("; ")),
            "build with an interpreter that has it (PYO3_PYTHON=python3.14, not python3.14t)",
        );
    }
    if cfg!(debug_assertions) {
        return Finding::warning("build", seen, "this is a debug build; build with --release for anything but tests");
    }
    Finding::ok("build", seen)
}

pub(super) fn interpreter() -> Finding {
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

/// Which environment sessions would use: one that is named, else the active one, else one of forkpy's own.
pub(super) fn environment(options: &ServeOptions) -> Finding {
    if let Some(named) = options.venv.as_ref().or(options.python.as_ref()) {
        return Finding::ok("environment", format!("{}, as the options say", named.display()));
    }
    let active = std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()).map(PathBuf::from);
    let refused = match &active {
        None => None,
        Some(active) => match make::refused(active) {
            None => return Finding::ok("environment", format!("{}, as VIRTUAL_ENV says", active.display())),
            refused => refused,
        },
    };
    let managed = managed(options);
    match refused {
        Some(reason) if managed.grade == Grade::Ok => Finding::warning(
            "environment",
            format!("{}; the active one is not used: {reason}", managed.seen),
            "name an environment that fits with --venv, or start forkpy without VIRTUAL_ENV",
        ),
        Some(_) => managed,
        None => match std::env::current_dir().ok().and_then(|here| make::unused_in(&here)) {
            Some(words) => Finding { seen: format!("{}; {words}", managed.seen), ..managed },
            None => managed,
        },
    }
}

/// Where managed environments go.
fn managed(options: &ServeOptions) -> Finding {
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

pub(super) fn fork() -> Finding {
    match floors::fork() {
        Ok(took) => Finding::ok("fork", format!("to the child's first byte in {} µs", took.as_micros())),
        Err(error) => Finding::failed("fork", error.to_string(), "raise the limit of processes (ulimit -u, TasksMax)"),
    }
}

pub(super) fn pidfd() -> Finding {
    match PidFd::open(i32::try_from(std::process::id()).unwrap_or(0)) {
        Ok(_) => Finding::ok("pidfd", "works"),
        Err(error) => Finding::failed(
            "pidfd",
            error.to_string(),
            "needs Linux 5.4 or newer, and a seccomp filter that lets pidfd_open through",
        ),
    }
}

pub(super) fn memory_file() -> Finding {
    match descriptors::memory_file(c"doctor") {
        Ok(file) if file.as_fd().try_clone_to_owned().is_ok() => Finding::ok("memory files", "work"),
        Ok(_) => Finding::failed("memory files", "cannot be copied", "raise the limit of open files (ulimit -n)"),
        Err(error) => {
            Finding::failed("memory files", error.to_string(), "a seccomp filter must let memfd_create through")
        }
    }
}

pub(super) fn landlock() -> Finding {
    match landlock::abi() {
        Ok(abi) => Finding::ok("Landlock", format!("ABI {abi}")),
        Err(reason) => Finding::ok("Landlock", format!("none ({reason}); only --sandbox needs it")),
    }
}

pub(super) fn open_files() -> Finding {
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

pub(super) fn processes() -> Finding {
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

/// Who keeps limits of sessions: a group is made for it.
fn bounds() -> String {
    let wanted = Bounds { memory: Some(1 << 30), processes: Some(64), cpus: Some(1000) };
    let made = Group::for_session(wanted);
    let keeps = |controller| made.as_ref().is_some_and(|group| group.keeps(controller));
    let kinds = [
        (Controller::Memory, "memory", "memory: by what processes have"),
        (Controller::Processes, "processes", "processes: by counting them"),
        (Controller::Cpus, "processors", "--cpus: not at all"),
    ];
    let by_kernel: Vec<_> = kinds.iter().filter(|kind| keeps(kind.0)).map(|kind| kind.1).collect();
    let others: Vec<_> = kinds.iter().filter(|kind| !keeps(kind.0)).map(|kind| kind.2).collect();
    match (by_kernel.as_slice(), others.as_slice()) {
        (_, []) => "memory, processes and processors are kept by the kernel, in cgroups".to_owned(),
        ([], _) => format!("no cgroup can be made, so forkpy keeps {}", others.join("; ")),
        _ => format!("by the kernel, in cgroups: {}; by forkpy {}", by_kernel.join(", "), others.join("; ")),
    }
}

pub(super) fn memory() -> Finding {
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
    Finding::ok("memory", format!("{free} MiB are available; of limits of sessions, {}", bounds()))
}

pub(super) fn installer() -> Finding {
    match Tool::find() {
        Tool::Uv(path) => Finding::ok("installer", format!("uv, {}", path.display())),
        Tool::Pip => Finding::ok("installer", "pip of the environment; uv is quicker where it is on PATH"),
    }
}
