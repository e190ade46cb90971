//! Sources that a floor's CPython and libraries are built from: Debian's source packages, whose files apt checks against the
//! archive's signature; and CPython's from what is named, checked against the hash that is named with it.
//!
//! Runs in: `forkpy bundle --glibc`. Writes below the floor's place only; has an apt configuration of its own, and leaves this
//! machine's as it is.

use std::{
    cmp::Ordering,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use super::machine::Machine;

use crate::bundle::{
    BundleError,
    steps::{copy_tree, list, run},
};

/// The suites that sources are taken from, and the one, older than any floor of its libraries, that shared libraries are taken from.
const SUITES: &str = "\
deb-src [signed-by=KEYRING] http://deb.debian.org/debian bookworm main
deb-src [signed-by=KEYRING] http://deb.debian.org/debian bookworm-updates main
deb-src [signed-by=KEYRING] http://deb.debian.org/debian-security bookworm-security main
deb [signed-by=KEYRING] http://deb.debian.org/debian bullseye main
";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Packages with the sources of libraries.
const LIBRARIES: [&str; 7] = ["zlib", "bzip2", "xz-utils", "libffi", "util-linux", "sqlite3", "openssl"];
const CPYTHON: &str = "python3.11";
/// Packages with libraries that wheels expect of a system, and the names of those.
const PROMISED: [(&str, &str); 2] = [("libstdc++6", "libstdc++.so.6"), ("zlib1g", "libz.so.1")];

/// Beside those for another machine, what its programs need to be run here by qemu: a root for `qemu-aarch64 -L`.
const C_LIBRARY: [&str; 2] = ["libc6", "libgcc-s1"];

/// CPython's sources, as they are named on the command line.
#[derive(Debug, Clone)]
pub(in crate::bundle) struct Source {
    /// A directory, or an archive that `tar` reads.
    pub path: PathBuf,
    /// SHA-256 of the archive, in hexadecimal digits.
    pub sha256: Option<String>,
}

/// Unpacks everything into one directory, a folder a package; CPython into `cpython`.
pub(super) fn fetch(source: Option<&Source>, place: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf, BundleError> {
    let sources = place.join("sources");
    fs::create_dir_all(&sources).map_err(BundleError::file("cannot make", &sources))?;
    let mut apt = None;
    for package in LIBRARIES {
        fetch_package(package, package, &sources, place, &mut apt, say)?;
    }
    let cpython = sources.join("cpython");
    match source {
        None => fetch_package(CPYTHON, "cpython", &sources, place, &mut apt, say)?,
        Some(source) => take(source, &cpython, say)?,
    }
    Ok(sources)
}

/// `3.11` of the sources of CPython.
pub(super) fn version_of(cpython: &Path) -> Result<String, BundleError> {
    let header = cpython.join("Include/patchlevel.h");
    let text = fs::read_to_string(&header)
        .map_err(BundleError::file("these are no sources of CPython: cannot read", &header))?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("#define ")?.trim_start().strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u32>().ok()
    };
    match (number("PY_MAJOR_VERSION"), number("PY_MINOR_VERSION")) {
        (Some(3), Some(minor)) if minor >= 10 => Ok(format!("3.{minor}")),
        (major, minor) => Err(BundleError::Lacking(format!(
            "forkpy needs the sources of CPython 3.10 or newer, and {} has those of {major:?}.{minor:?}",
            cpython.display()
        ))),
    }
}

fn fetch_package(
    package: &str,
    folder: &str,
    sources: &Path,
    place: &Path,
    apt: &mut Option<Apt>,
    say: &mut dyn FnMut(&str),
) -> Result<(), BundleError> {
    let target = sources.join(folder);
    if target.exists() {
        return Ok(());
    }
    if apt.is_none() {
        say("fetching Debian's lists of packages");
        *apt = Some(Apt::new(place, Machine::OWN)?);
    }
    let Some(apt) = apt else { return Ok(()) };
    say(&format!("fetching the sources of {package}"));
    let downloads = apt.source(package)?;
    let mut descriptions =
        list(&downloads)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "dsc"));
    let Some(description) = descriptions.next_back() else {
        return Err(BundleError::Lacking(format!("apt-get has fetched no sources of {package}")));
    };
    // apt has checked what it fetched. CPython is wanted as it is published: Debian moves its files.
    let mut unpack = Command::new("dpkg-source");
    unpack.arg("--no-check");
    if folder == "cpython" {
        unpack.arg("--skip-patches");
    }
    let draft = target.with_added_extension("new");
    let _ = fs::remove_dir_all(&draft);
    run(unpack.arg("-x").arg(description).arg(&draft))?;
    if folder == "cpython" {
        mend(&draft)?;
    }
    fs::rename(&draft, &target).map_err(BundleError::file("cannot rename", &draft))
}

/// Applies Debian's backports of corrections, and none of what moves files.
fn mend(cpython: &Path) -> Result<(), BundleError> {
    let patches = cpython.join("debian/patches");
    let series = fs::read_to_string(patches.join("series")).unwrap_or_default();
    let is_correction = |name: &&str| {
        let numbered = name.len() > 5 && name[..4].bytes().all(|digit| digit.is_ascii_digit());
        numbered || ["CVE", "crash", "deadlock", "dereference"].iter().any(|part| name.contains(part))
    };
    for name in series.lines().map(str::trim).filter(|line| line.is_ascii()).filter(is_correction) {
        let patch = patches.join(name);
        run(Command::new("patch").args(["-p1", "--silent", "--forward", "--input"]).arg(patch).current_dir(cpython))?;
    }
    Ok(())
}

/// CPython's sources from where they are named. They are taken once for each hash.
fn take(source: &Source, cpython: &Path, say: &mut dyn FnMut(&str)) -> Result<(), BundleError> {
    let path = &source.path;
    let mark = cpython.with_file_name("cpython.from");
    if path.is_dir() {
        if source.sha256.is_some() {
            return Err(BundleError::Lacking(format!("{} is a directory: a hash is for an archive", path.display())));
        }
        say(&format!("copying {}", path.display()));
        let _ = (fs::remove_dir_all(cpython), fs::remove_file(mark));
        return copy_tree(path, cpython, &|_| true);
    }
    let content = fs::read(path).map_err(BundleError::file("cannot read", path))?;
    let found: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    match &source.sha256 {
        None => {
            return Err(BundleError::Lacking(format!(
                "{} has the SHA-256 {found}: compare it with what its publisher names, and give it with --python-source-sha256",
                path.display()
            )));
        }
        Some(expected) if !expected.eq_ignore_ascii_case(&found) => {
            return Err(BundleError::Lacking(format!(
                "{} has the SHA-256 {found} and not {expected}: it is damaged, or another file",
                path.display()
            )));
        }
        Some(_) => {}
    }
    if cpython.exists() && fs::read_to_string(&mark).is_ok_and(|taken| taken == found) {
        return Ok(());
    }
    say(&format!("unpacking {}", path.display()));
    let _ = fs::remove_dir_all(cpython);
    fs::create_dir_all(cpython).map_err(BundleError::file("cannot make", cpython))?;
    run(Command::new("tar").args(["--strip-components=1", "-xf"]).arg(path).arg("-C").arg(cpython))?;
    fs::write(&mark, found).map_err(BundleError::file("cannot write", &mark))
}

/// Shared libraries that run on systems as old as any floor, taken out of old packages.
pub(super) fn old_libraries(place: &Path, machine: Machine) -> Result<Vec<PathBuf>, BundleError> {
    let unpacked = place.join("old-libraries");
    if !unpacked.exists() {
        let apt = Apt::new(place, machine)?;
        let draft = unpacked.with_added_extension("new");
        let to_run = if machine.is_own() { &[][..] } else { &C_LIBRARY };
        for package in PROMISED.iter().map(|(package, _)| package).chain(to_run) {
            run(apt
                .command("apt-get")
                .args(["--quiet", "download", &format!("{package}:{}", machine.debian())])
                .current_dir(&apt.place))?;
        }
        for archive in list(&apt.place)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "deb")) {
            run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&draft))?;
        }
        fs::rename(&draft, &unpacked).map_err(BundleError::file("cannot rename", &draft))?;
    }
    let folders = ["usr/lib", "lib"].map(|lib| unpacked.join(lib).join(format!("{}-linux-gnu", machine.name())));
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    let found: Option<Vec<PathBuf>> = PROMISED.iter().map(|(_, name)| find(name)).collect();
    found.ok_or_else(|| BundleError::Lacking(format!("old packages in {} lack a library", unpacked.display())))
}

/// The licence of a library that was taken out of an old package.
pub(super) fn licence_of_old(place: &Path, library: &Path) -> Option<(String, PathBuf)> {
    let name = library.file_name()?.to_string_lossy().into_owned();
    let (package, _) = PROMISED.iter().find(|(_, promised)| *promised == name)?;
    Some((name, place.join("old-libraries/usr/share/doc").join(package).join("copyright")))
}

/// How Debian orders two versions: `3.0.17` is before `3.0.20`, and `~` is before all else.
fn order(one: &str, other: &str) -> Ordering {
    let is = |relation: &str| {
        let compared = Command::new("dpkg").args(["--compare-versions", one, relation, other]).status();
        compared.is_ok_and(|status| status.success())
    };
    match (is("lt"), is("gt")) {
        (true, _) => Ordering::Less,
        (_, true) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// An apt of its own.
struct Apt {
    place: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    /// Its packages are for `machine`.
    fn new(place: &Path, machine: Machine) -> Result<Self, BundleError> {
        let place = place.join("apt");
        if !Path::new(KEYRING).exists() {
            return Err(BundleError::Lacking(format!(
                "the sources of libraries come from Debian, by apt-get, and {KEYRING} is not there: run it on Debian, or in a \
                 container of it"
            )));
        }
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(place.join(folder)).map_err(BundleError::file("cannot make", &place))?;
        }
        let words = |name: &str| place.join(name).display().to_string();
        let texts = [
            ("sources.list", SUITES.replace("KEYRING", KEYRING)),
            (
                "apt.conf",
                format!(
                    "Dir::State::lists \"{}\";\nDir::Cache \"{}\";\nDir::Etc::sourcelist \"{}\";\n\
                     Dir::Etc::sourceparts \"/dev/null\";\nDir::State::status \"{}\";\nAPT::Sandbox::User \"root\";\n\
                     APT::Architecture \"{}\";\nAPT::Architectures {{ \"{}\"; }};\n",
                    words("lists"),
                    words(""),
                    words("sources.list"),
                    // Not that of this machine, whose newer packages would be preferred.
                    words("status"),
                    machine.debian(),
                    machine.debian(),
                ),
            ),
            ("status", String::new()),
        ];
        for (name, text) in texts {
            let path = place.join(name);
            let written = fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(BundleError::file("cannot write", &path))?;
        }
        let apt = Self { configuration: place.join("apt.conf"), place };
        run(apt.command("apt-get").args(["--quiet", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration).stdin(Stdio::null());
        command
    }

    /// Fetches the newest version whose files are served: lists may name some before they are there.
    fn source(&self, package: &str) -> Result<PathBuf, BundleError> {
        let downloads = self.place.join(package);
        let shown = self.command("apt-cache").args(["showsrc", package]).output();
        let shown =
            shown.map_err(|error| BundleError::Program { program: "apt-cache".to_owned(), how: error.to_string() })?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let mut versions: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Version: ")).collect();
        versions.sort_by(|one, other| order(other, one));
        versions.dedup();
        let mut reason = BundleError::Lacking(format!("Debian's lists name no sources of {package}"));
        for version in versions {
            let _ = fs::remove_dir_all(&downloads);
            fs::create_dir_all(&downloads).map_err(BundleError::file("cannot make", &downloads))?;
            let mut get = self.command("apt-get");
            get.args(["--quiet", "source", "--download-only", &format!("{package}={version}")]).current_dir(&downloads);
            match run(&mut get) {
                Ok(()) => return Ok(downloads),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_taken_by_its_hash_only() {
        let place = tempfile::tempdir().expect("a directory");
        let (root, cpython) = (place.path().join("Python-3.12.1"), place.path().join("sources/cpython"));
        fs::create_dir_all(root.join("Include")).expect("made");
        fs::create_dir_all(place.path().join("sources")).expect("made");
        let header = "#define PY_MAJOR_VERSION        3\n#define PY_MINOR_VERSION        12\n";
        fs::write(root.join("Include/patchlevel.h"), header).expect("written");
        let archive = place.path().join("python.tar");
        run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(place.path()).arg("Python-3.12.1"))
            .expect("packed");
        let taken = |path: &Path, sha256: Option<&str>| {
            let source = Source { path: path.to_owned(), sha256: sha256.map(str::to_owned) };
            take(&source, &cpython, &mut |_| {}).map_err(|error| error.to_string())
        };
        let words = taken(&archive, None).expect_err("no hash");
        let hash = words.split_whitespace().find(|word| word.len() > 60).expect("it names it").trim_end_matches(':');
        assert!(words.contains("--python-source-sha256"), "{words}");
        assert!(taken(&archive, Some(&"0".repeat(64))).expect_err("another").contains("damaged, or another"));
        assert!(!cpython.exists());
        taken(&archive, Some(&hash.to_uppercase())).expect("the same");
        assert_eq!(version_of(&cpython).expect("sources"), "3.12");
        taken(&root, None).expect("a directory");
        assert!(taken(&root, Some(hash)).is_err());
        fs::write(cpython.join("Include/patchlevel.h"), header.replace("12", "9")).expect("written");
        assert!(version_of(&cpython).expect_err("too old").to_string().contains("3.10 or newer"));
    }
}
