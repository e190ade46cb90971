//! An environment that another installation of our Python version has made: its packages are used, and the standard library
//! stays our own.
//!
//! Runs in: server, before the zygote starts. An interpreter belongs to its standard library: what one has compiled in
//! (`math`, `_struct`) another loads from a file. So a session of a bundle in a user's virtual environment, or of a
//! forkpy that is linked with one Python 3.11 in the environment of another one, has the library of the linked Python, and
//! `site-packages` of the environment. Starts no process; `make/mod.rs` asks the interpreters.

use std::path::{Path, PathBuf};

use crate::protocol::Library;

/// Suffix of extension modules that the linked Python loads: version, flags of its build, machine, C library.
pub(super) const SUFFIX: &str = include_str!(concat!(env!("OUT_DIR"), "/suffix"));

/// Asks an interpreter that was started without `site` for all that [`library`] needs. Code in files of packages is not run.
pub(super) const ASK: &str = "\
import sys, site, os, importlib.machinery as machinery
site.exec = lambda *_: None
site.execsitecustomize = site.execusercustomize = lambda: None
site.main()
packages = site.getsitepackages() + ([site.USER_SITE] if site.ENABLE_USER_SITE else [])
print('\\nforkpy', '%d.%d' % sys.version_info[:2], sys.implementation.name, sys.executable, \
machinery.EXTENSION_SUFFIXES[0], sys.prefix, *filter(os.path.isdir, packages), sep='\\t')";

/// The linked Python's own standard library, found from its executable; `None` where it is not laid out as usual.
pub(super) struct Own {
    prefix: PathBuf,
    standard: PathBuf,
    version: String,
}

impl Own {
    pub(super) fn find(python: &Path, version: &str) -> Option<Self> {
        let prefix = installation(python)?;
        let places = ["lib", "lib64"].map(|lib| prefix.join(lib).join(format!("python{version}")));
        let standard = places.into_iter().find(|place| place.join("os.py").exists())?;
        Some(Self { prefix, standard, version: version.to_owned() })
    }

    /// Whether `python` (of an environment, perhaps) is another installation's.
    pub(super) fn is_foreign(&self, python: &Path, home: Option<&Path>) -> bool {
        let base = installation(python).filter(|prefix| !python.starts_with(prefix) || home.is_none());
        // An environment with copies instead of links says itself where its interpreter is from.
        let named = || {
            let names = [format!("python{}", self.version), "python3".to_owned(), "python".to_owned()];
            let home = home?;
            names.iter().map(|name| home.join(name)).find(|path| path.exists()).and_then(|path| installation(&path))
        };
        base.or_else(named).is_some_and(|prefix| prefix != self.prefix)
    }

    /// Whether this is where our own installation lies.
    pub(super) fn is_in(&self, prefix: &Path) -> bool {
        self.prefix == prefix
    }

    /// How CPython is to be started with it and these packages.
    pub(super) fn library(&self, prefix: &str, packages: &[String]) -> Library {
        let words = |path: &Path| path.to_string_lossy().into_owned();
        Library {
            base: words(&self.prefix),
            prefix: prefix.to_owned(),
            standard: words(&self.standard),
            packages: packages.to_vec(),
        }
    }
}

/// The directory that an executable's installation lies in, behind all links: `/usr` of `/usr/bin/python3.11`.
fn installation(python: &Path) -> Option<PathBuf> {
    Some(python.canonicalize().ok()?.parent()?.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn an_environment_of_another_installation_is_foreign() {
        let place = tempfile::tempdir().expect("a directory");
        let place = place.path().canonicalize().expect("known");
        for name in ["ours", "theirs"] {
            fs::create_dir_all(place.join(name).join("bin")).expect("made");
            fs::create_dir_all(place.join(name).join("lib/python3.11")).expect("made");
            fs::write(place.join(name).join("bin/python3.11"), "").expect("written");
            fs::write(place.join(name).join("lib/python3.11/os.py"), "").expect("written");
            let venv = place.join(format!("of-{name}"));
            fs::create_dir_all(venv.join("bin")).expect("made");
            symlink(place.join(name).join("bin/python3.11"), venv.join("bin/python")).expect("linked");
        }
        fs::create_dir_all(place.join("copy/bin")).expect("made");
        fs::write(place.join("copy/bin/python"), "").expect("written");
        let own = Own::find(&place.join("ours/bin/python3.11"), "3.11").expect("laid out as usual");
        let of = |venv: &str, home: Option<&str>| {
            own.is_foreign(&place.join(venv).join("bin/python"), home.map(|home| place.join(home)).as_deref())
        };
        assert!(!of("of-ours", None) && of("of-theirs", None));
        assert!(!of("copy", Some("ours/bin")) && of("copy", Some("theirs/bin")));
        let library = own.library("/venv", &["/venv/lib/python3.11/site-packages".to_owned()]);
        assert_eq!(library.base, place.join("ours").to_string_lossy());
        assert!(library.standard.ends_with("ours/lib/python3.11"), "{}", library.standard);
        assert!(Own::find(&place.join("of-ours/bin/python3.11"), "3.12").is_none());
    }
}
