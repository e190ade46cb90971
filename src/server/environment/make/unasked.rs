//! What the files of an interpreter and of its environment tell, so that neither has to be run: where sessions are confined,
//! what they install may have put something else in the place of `bin/python`.
//!
//! Runs in: server. Starts no process and writes nothing. Believes what sessions cannot write: `pyvenv.cfg`, and installations
//! that lie where no session writes.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Folders of an environment that an install may change.
const CHANGED: [&str; 4] = ["bin", "share", "etc", "include"];
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];

/// Why the files do not tell enough, in words that go on after the path.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Unknown {
    #[error("it is not there ({0})")]
    Gone(String),
    #[error("it leads to {}, which sessions can change", .0.display())]
    Changeable(PathBuf),
    #[error("{} is a script, and none is run to find an interpreter: name that itself, as {{PREFIX}}/bin/python3.x", .0.display())]
    Script(PathBuf),
    #[error("the library of {} is not beside it", .0.display())]
    NoLibrary(PathBuf),
}

/// An interpreter with its library.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Installation {
    pub(super) prefix: PathBuf,
    pub(super) version: String,
    standard: PathBuf,
}

impl Installation {
    /// That of an executable, behind all links. `linked` is the version that is looked for, `written` is where sessions write.
    pub(super) fn of(python: &Path, linked: &str, written: &[PathBuf]) -> Result<Self, Unknown> {
        let real = python.canonicalize().map_err(|error| Unknown::Gone(error.to_string()))?;
        if is_changeable(&real, written) {
            return Err(Unknown::Changeable(real));
        }
        if !is_program(&real) {
            return Err(Unknown::Script(real));
        }
        let found = real.parent().and_then(Path::parent).and_then(|prefix| {
            let version = version_in(real.file_name()?).unwrap_or_else(|| linked.to_owned());
            let standard = standard_of(prefix, &version)?;
            Some(Self { prefix: prefix.to_owned(), version, standard })
        });
        found.ok_or(Unknown::NoLibrary(real))
    }

    /// How its compiled modules end.
    pub(super) fn suffix(&self) -> Option<String> {
        self.suffix_in_settings().or_else(|| self.suffix_of_modules())
    }

    fn suffix_in_settings(&self) -> Option<String> {
        let is_settings = |name: &str| name.starts_with("_sysconfigdata_") && name.ends_with(".py");
        let file = names_in(&self.standard).into_iter().find(|name| is_settings(name))?;
        let text = fs::read_to_string(self.standard.join(file)).ok()?;
        let (_, after) = text.split_once("'EXT_SUFFIX':")?;
        after.split('\'').nth(1).map(str::to_owned)
    }

    fn suffix_of_modules(&self) -> Option<String> {
        let modules = names_in(&self.standard.join("lib-dynload")).into_iter();
        let mut suffixes = modules.filter_map(|name| name.find(".cpython-").map(|at| name[at..].to_owned()));
        suffixes.find(|suffix| suffix.ends_with(".so"))
    }

    /// Where its own packages are; those of a single user are not among them.
    pub(super) fn packages(&self) -> Vec<PathBuf> {
        let folder = format!("python{}", self.version);
        let own = ["lib", "lib64"].map(|lib| self.prefix.join(lib).join(&folder));
        let mut found: Vec<PathBuf> = own.iter().map(|lib| lib.join("site-packages")).collect();
        // As Debian has them.
        found.push(self.prefix.join("local/lib").join(&folder).join("dist-packages"));
        found.push(self.prefix.join("lib/python3/dist-packages"));
        found.push(self.prefix.join("lib").join(&folder).join("dist-packages"));
        distinct(found)
    }
}

/// Where the packages of a virtual environment are.
pub(super) fn packages_of(root: &Path, version: &str) -> Vec<PathBuf> {
    distinct(["lib", "lib64"].iter().map(|lib| root.join(lib).join(format!("python{version}/site-packages"))).collect())
}

/// The interpreter in the folder that `pyvenv.cfg` names.
pub(super) fn interpreter_in(home: &Path, linked: &str) -> PathBuf {
    let names = [format!("python{linked}"), "python3".to_owned(), "python".to_owned()];
    let found = names.iter().map(|name| home.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| home.join(&names[0]))
}

/// Whether a session, or what it installs, may have put it there.
fn is_changeable(real: &Path, written: &[PathBuf]) -> bool {
    let is_environment = |folder: &Path| folder.join("pyvenv.cfg").exists() || has_library(folder);
    let of_packages = |folder: &Path| folder.file_name().is_some_and(|name| PACKAGES.iter().any(|one| name == *one));
    let of_environment = |folder: &Path| {
        folder.file_name().is_some_and(|name| CHANGED.iter().any(|one| name == *one))
            && folder.parent().is_some_and(is_environment)
    };
    let below = |folder: &Path| of_packages(folder) || of_environment(folder);
    written.iter().any(|place| real.starts_with(place))
        // The folder that it lies in is the one in which every interpreter lies.
        || real.ancestors().skip(2).any(below)
}

/// With a standard library, which packages of a user alone have not beside them.
fn has_library(prefix: &Path) -> bool {
    let libraries = names_in(&prefix.join("lib")).into_iter().filter(|name| name.starts_with("python3"));
    libraries.into_iter().any(|name| prefix.join("lib").join(name).join("os.py").exists())
}

fn standard_of(prefix: &Path, version: &str) -> Option<PathBuf> {
    let places = ["lib", "lib64"].map(|lib| prefix.join(lib).join(format!("python{version}")));
    places.into_iter().find(|place| place.join("os.py").exists())
}

/// `3.11` of `python3.11`, none of `python3`.
fn version_in(name: &OsStr) -> Option<String> {
    let (major, rest) = name.to_str()?.strip_prefix("python")?.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let are_numbers = !minor.is_empty() && major.chars().all(|letter| letter.is_ascii_digit());
    are_numbers.then(|| format!("{major}.{minor}"))
}

fn is_program(path: &Path) -> bool {
    let mut begin = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == *b"\x7fELF"
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Folders that are there, each once whatever links lead to it.
fn distinct(folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let is_new = |folder: &PathBuf| {
        let real = folder.canonicalize().ok().filter(|real| real.is_dir() && !seen.contains(real));
        seen.extend(real.clone());
        real.is_some()
    };
    folders.into_iter().filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// `PREFIX/bin/python3.11` with its library.
    fn install(prefix: &Path, begin: &[u8]) -> PathBuf {
        let (bin, library) = (prefix.join("bin"), prefix.join("lib/python3.11"));
        fs::create_dir_all(&bin).expect("made");
        fs::create_dir_all(library.join("site-packages")).expect("made");
        fs::write(library.join("os.py"), "").expect("written");
        fs::write(bin.join("python3.11"), begin).expect("written");
        bin.join("python3.11")
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("known");
        (folder, path)
    }

    #[test]
    fn an_installation_is_known_by_its_files() {
        let (_folder, here) = place();
        let python = install(&here.join("base"), b"\x7fELF...");
        symlink(&python, here.join("link")).expect("made");
        for named in [&python, &here.join("link")] {
            let found = Installation::of(named, "3.11", &[]).expect("known");
            assert_eq!((found.prefix.clone(), found.version.as_str()), (here.join("base"), "3.11"));
            assert_eq!(found.packages(), [here.join("base/lib/python3.11/site-packages")]);
            assert_eq!(found.suffix(), None);
        }
        let library = here.join("base/lib/python3.11");
        fs::create_dir(library.join("lib-dynload")).expect("made");
        fs::write(library.join("lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so"), "").expect("written");
        let suffix = || Installation::of(&python, "3.11", &[]).expect("known").suffix();
        assert_eq!(suffix().as_deref(), Some(".cpython-311-x86_64-linux-gnu.so"));
        let settings = "build_time_vars = {'A': 1,\n 'EXT_SUFFIX': '.cpython-311-other.so',\n 'B': 2}";
        fs::write(library.join("_sysconfigdata__linux_.py"), settings).expect("written");
        assert_eq!(suffix().as_deref(), Some(".cpython-311-other.so"));
        assert_eq!(version_in(OsStr::new("python3.12d")).as_deref(), Some("3.12"));
        assert_eq!(version_in(OsStr::new("python3")), None);
    }

    /// What an install may have put in an interpreter's place leads into folders that installs may change.
    #[test]
    fn what_sessions_can_have_put_there_is_no_installation() {
        let (_folder, here) = place();
        let base = here.join("base");
        install(&base, b"\x7fELF...");
        for below in ["lib/python3.11/site-packages/evil", "bin/evil", "share/evil", "lib/python3/dist-packages/evil"] {
            let evil = install(&base.join(below), b"\x7fELF...");
            let refused = Installation::of(&evil, "3.11", &[]).expect_err("changeable");
            assert_eq!(refused, Unknown::Changeable(evil), "{below}");
        }
        let own = install(&here.join("workspace/evil"), b"\x7fELF...");
        assert_eq!(Installation::of(&own, "3.11", &[here.join("workspace")]), Err(Unknown::Changeable(own)));
        let script = install(&here.join("script"), b"#!/bin/sh\n");
        assert_eq!(Installation::of(&script, "3.11", &[]), Err(Unknown::Script(script)));
        fs::remove_file(base.join("lib/python3.11/os.py")).expect("there");
        let alone = base.join("bin/python3.11");
        assert_eq!(Installation::of(&alone, "3.11", &[]), Err(Unknown::NoLibrary(alone)));
        assert!(matches!(Installation::of(&here.join("none"), "3.11", &[]), Err(Unknown::Gone(_))));
        // A prefix that is called so is none of an environment.
        let fine = install(&here.join("share/python"), b"\x7fELF...");
        assert!(Installation::of(&fine, "3.11", &[]).is_ok());
    }
}
