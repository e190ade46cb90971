//! Packages of a bundle: what sessions are promised, what its maker asked for, and the modules of all of them compiled.
//!
//! Runs in: `forkpy bundle`. What is laid out is a Python, and installs its packages itself. One for another machine does not
//! run here: an interpreter of the same version that does installs the wheels that fit that machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    BundleError,
    floor::{machine::Machine, symbols::Version},
    steps::{list, run},
};

/// Put into every bundle: what sessions are promised.
const HELPERS: [&str; 4] = ["pip", "psutil", "jedi", "cloudpickle"];
/// Where they lie, in forkpy's sources.
const WHEELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/wheels");

/// Another machine, and who installs for it.
#[derive(Debug, Clone)]
pub(super) struct Foreign {
    pub(super) machine: Machine,
    pub(super) glibc: Version,
    /// Of the CPython inside: `3.11`.
    pub(super) version: String,
    /// An interpreter of that version that runs here.
    pub(super) python: PathBuf,
}

/// Installs into a bundle's directory.
pub(super) struct Installer<'a> {
    root: &'a Path,
    /// `lib/python3.X`.
    library: PathBuf,
    foreign: Option<&'a Foreign>,
}

impl<'a> Installer<'a> {
    pub(super) fn new(root: &'a Path, foreign: Option<&'a Foreign>) -> Result<Self, BundleError> {
        Ok(Self { root, library: library(root)?, foreign })
    }

    fn interpreter(&self) -> PathBuf {
        self.foreign.map_or_else(|| self.root.join("bin/python3"), |foreign| foreign.python.clone())
    }

    /// From the wheels in forkpy's sources: pip installs itself and the others.
    pub(super) fn install_helpers(&self, say: &mut dyn FnMut(&str)) -> Result<(), BundleError> {
        say(&format!("installing {}", HELPERS.join(", ")));
        run(self.pip_of_wheels()?.args(["--no-index", "--find-links", WHEELS]).args(HELPERS))
    }

    /// Packages by their names, from where pip gets them.
    pub(super) fn install(&self, with: &[String], say: &mut dyn FnMut(&str)) -> Result<(), BundleError> {
        if with.is_empty() {
            return Ok(());
        }
        say(&format!("installing {}", with.join(", ")));
        if self.foreign.is_some() {
            return run(self.pip_of_wheels()?.args(with));
        }
        let mut command = Command::new(self.interpreter());
        command.args(["-I", "-m", "pip"]);
        run(self.to_install(&mut command).args(with))
    }

    fn pip_of_wheels(&self) -> Result<Command, BundleError> {
        let is_pip =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"pip-"));
        let wheels = list(Path::new(WHEELS))?;
        let pip = wheels.iter().find(is_pip).ok_or_else(|| BundleError::Lacking(format!("{WHEELS} has no pip")))?;
        let mut command = Command::new(self.interpreter());
        command.arg("-I").arg(pip.join("pip"));
        self.to_install(&mut command);
        Ok(command)
    }

    fn to_install<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:"]);
        command.args(["--no-compile", "--no-warn-script-location"]).env("PIP_ROOT_USER_ACTION", "ignore");
        if let Some(foreign) = self.foreign {
            command.arg("--target").arg(self.library.join("site-packages")).args(foreign.tags());
        }
        command
    }

    /// Compiles all modules.
    pub(super) fn compile(&self) -> Result<(), BundleError> {
        let python = self.interpreter();
        let mut compile = Command::new(&python);
        // By the hash of the source and not its time, and never looked at again.
        compile.args(["-I", "-m", "compileall", "-q", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash"]);
        // pip runs seldom, and is a third of all code here.
        compile.args(["-x", "site-packages/pip/"]);
        // Some packages carry files for other versions of Python; those do not compile, and need not.
        let _ = compile.arg(&self.library).output().map_err(BundleError::file("cannot run", &python))?;
        Ok(())
    }

    /// pip's and the packages' scripts name the interpreter by a path that holds here only.
    pub(super) fn remove_scripts(&self) -> Result<(), BundleError> {
        for entry in list(&self.root.join("bin"))? {
            if !["forkpy", "python", "python3"].iter().any(|name| entry.ends_with(name)) {
                fs::remove_file(&entry).map_err(BundleError::file("cannot remove", &entry))?;
            }
        }
        // Where pip puts them that installs for another machine.
        let scripts = self.library.join("site-packages/bin");
        match fs::remove_dir_all(&scripts) {
            Err(error) if self.foreign.is_some() && error.kind() != std::io::ErrorKind::NotFound => {
                Err(BundleError::file("cannot remove", &scripts)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Foreign {
    /// Which wheels fit, in pip's words: those of the floor and of all older ones.
    fn tags(&self) -> Vec<String> {
        let Version(major, minor) = self.glibc;
        let machine = self.machine.name();
        let mut platforms = vec![format!("manylinux2014_{machine}")];
        platforms.extend((5..=minor).rev().map(|minor| format!("manylinux_{major}_{minor}_{machine}")));
        let abis = [format!("cp{}", self.version.replace('.', "")), "abi3".to_owned(), "none".to_owned()];
        let mut tags = vec!["--implementation=cp".to_owned(), format!("--python-version={}", self.version)];
        tags.extend(platforms.iter().map(|platform| format!("--platform={platform}")));
        tags.extend(abis.iter().map(|abi| format!("--abi={abi}")));
        tags
    }
}

/// `lib/python3.X`.
pub(super) fn library(root: &Path) -> Result<PathBuf, BundleError> {
    let lib = root.join("lib");
    let found = list(&lib)?.into_iter().find(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python3.")) && path.is_dir()
    });
    found.ok_or_else(|| BundleError::Lacking(format!("{} has no library of Python", lib.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For real: pip takes the wheels of the other machine, and of no newer C library.
    #[test]
    fn wheels_of_another_machine_are_installed_by_one_that_runs_here() {
        let machine = if Machine::OWN == Machine::Aarch64 { Machine::X86_64 } else { Machine::Aarch64 };
        let version = env!("FORKPY_PYTHON_VERSION").to_owned();
        let python = PathBuf::from(env!("FORKPY_BUILD_PYTHON"));
        let foreign = Foreign { machine, glibc: Version(2, 28), version, python };
        let place = tempfile::tempdir().expect("a directory");
        let packages = place.path().join("lib/python3.11/site-packages");
        for folder in [&packages, &place.path().join("bin")] {
            fs::create_dir_all(folder).expect("made");
        }
        let installer = Installer::new(place.path(), Some(&foreign)).expect("a library");
        installer.install_helpers(&mut |_| {}).expect("installed");
        let wheel = packages.join("psutil-7.2.2.dist-info/WHEEL");
        let said = fs::read_to_string(&wheel).expect("psutil is there");
        assert!(said.contains(machine.name()) && !said.contains(Machine::OWN.name()), "{said}");
        assert!(HELPERS.iter().all(|name| packages.join(name).is_dir()));
        installer.remove_scripts().expect("removed");
        assert!(!packages.join("bin").exists());
        installer.compile().expect("compiled");
        assert!(packages.join("jedi/__pycache__").is_dir() && !packages.join("pip/__pycache__").exists());
    }
}
