//! The wheels inside this binary, and how one is unpacked into an environment: without a network and without a tool.
//!
//! Runs in: server, on a thread that may block. Writes below the environment that it is given and nowhere else. A wheel is
//! unpacked in two parts: the `Code`, which is quick to write and makes `import` work, and the `Rest` (stubs that only jedi
//! reads, and what says that the package is installed). So a package that is listed as installed is whole.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Cursor, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use zip::ZipArchive;

/// One wheel, as the index has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wheel {
    /// `NAME-VERSION-TAGS.whl`.
    pub file: &'static str,
    pub content: &'static [u8],
}

/// Those that fit the machine this binary is for; none in a bundle, which has them beside it.
pub(crate) const INSIDE: &[Wheel] = include!(concat!(env!("OUT_DIR"), "/wheels.rs"));

/// Folders of other people's files that a package only reads when it is used.
const READ_LATER: &str = "/third_party/";

/// What of a wheel is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Modules.
    Code,
    /// All the rest; with it the package is installed.
    Rest,
}

impl Wheel {
    /// Name of the package in its normal form.
    pub(crate) fn name(&self) -> String {
        self.file.split('-').next().unwrap_or_default().to_ascii_lowercase().replace('_', "-")
    }

    /// Whether its code is quick to write. pip's is not, and no import waits for it.
    pub(crate) fn is_quick(&self) -> bool {
        self.name() != "pip"
    }

    /// Unpacks a part into the `site-packages` of an environment, for programs run by `python`.
    ///
    /// # Errors
    /// When the disk refuses, or the wheel is damaged.
    pub(crate) fn unpack(&self, part: Part, packages: &Path, python: &Path) -> io::Result<()> {
        // Beside the packages and on their disk: what is moved into its place is whole.
        let draft = packages.with_file_name(format!("forkpy-{}.new", self.name()));
        remove(&draft)?;
        let unpacked = self.unpack_through(&draft, part, packages, python);
        let _ = remove(&draft);
        unpacked
    }

    fn unpack_through(&self, draft: &Path, part: Part, packages: &Path, python: &Path) -> io::Result<()> {
        let mut archive = ZipArchive::new(Cursor::new(self.content)).map_err(io::Error::other)?;
        let mut record = String::new();
        let mut info = None;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(io::Error::other)?;
            let name = entry.name().map_err(io::Error::other)?.into_owned();
            if entry.is_dir() || part_of(&name) != part {
                continue;
            }
            if let Some((folder, "RECORD")) = name.split_once('/')
                && folder.ends_with(".dist-info")
            {
                entry.read_to_string(&mut record)?;
                info = Some(folder.to_owned());
                continue;
            }
            let executable = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
            write(&draft.join(below(&name)?), &mut entry, executable)?;
        }
        if let Some(info) = &info {
            finish(&draft.join(info), info, packages, python, record)?;
        }
        merge(draft, packages, info.as_deref())
    }
}

fn part_of(name: &str) -> Part {
    let is_rest = name.contains(READ_LATER) || name.split('/').next().is_some_and(|top| top.ends_with(".dist-info"));
    if is_rest { Part::Rest } else { Part::Code }
}

/// A path of the archive, which must not lead out of the environment.
fn below(name: &str) -> io::Result<PathBuf> {
    let path = PathBuf::from(name);
    match path.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(path),
        false => Err(io::Error::other(format!("a wheel holds the path {name:?}"))),
    }
}

fn write(path: &Path, content: &mut dyn Read, executable: bool) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mode = if executable { 0o755 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    io::copy(content, &mut file).map(drop)
}

/// What an installer adds: its name, the programs of the package, and both in `RECORD`, by which pip uninstalls.
fn finish(info: &Path, name: &str, packages: &Path, python: &Path, mut record: String) -> io::Result<()> {
    let mut add = |path: &str| writeln!(record, "{path},,").map_err(io::Error::other);
    for (file, text) in [("INSTALLER", "forkpy\n"), ("REQUESTED", "")] {
        fs::write(info.join(file), text)?;
        add(&format!("{name}/{file}"))?;
    }
    let programs = fs::read_to_string(info.join("entry_points.txt")).unwrap_or_default();
    for (program, module, function) in console_scripts(&programs) {
        let Some(folder) = python.parent() else { continue };
        let text = format!(
            "#!{}\nimport sys\nfrom {module} import {function}\nif __name__ == '__main__':\n    sys.exit({function}())\n",
            python.display()
        );
        let above =
            packages.strip_prefix(folder.parent().unwrap_or(folder)).map_or(3, |path| path.components().count());
        write(&folder.join(program), &mut text.as_bytes(), true)?;
        add(&format!("{}bin/{program}", "../".repeat(above)))?;
    }
    fs::write(info.join("RECORD"), record)
}

/// `(program, module, function)` of each.
fn console_scripts(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let of_console = text.split_once("[console_scripts]").map_or("", |(_, rest)| rest);
    let lines = of_console.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| {
        let (program, place) = line.split_once('=')?;
        let (module, function) = place.split_once(':')?;
        Some((program.trim(), module.trim(), function.trim()))
    })
}

/// Moves what was unpacked into its place, the folder that says that it is installed last.
fn merge(draft: &Path, packages: &Path, info: Option<&str>) -> io::Result<()> {
    let mut names: Vec<_> =
        fs::read_dir(draft)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort_by_key(|name| Some(name.as_os_str()) == info.map(AsRef::as_ref));
    for name in names {
        let (from, to) = (draft.join(&name), packages.join(&name));
        if to.is_dir() && from.is_dir() && info.is_some_and(|info| name.as_os_str() != info) {
            // The rest of a package whose code is there: each of its folders as a whole.
            for entry in fs::read_dir(&from)? {
                let entry = entry?;
                replace(&entry.path(), &to.join(entry.file_name()))?;
            }
        } else {
            replace(&from, &to)?;
        }
    }
    Ok(())
}

fn replace(from: &Path, to: &Path) -> io::Result<()> {
    remove(to)?;
    fs::rename(from, to)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn every_promised_package_is_inside_as_the_index_has_it() {
        let names: Vec<String> = INSIDE.iter().map(Wheel::name).collect();
        assert_eq!(names, ["cloudpickle", "jedi", "parso", "pip", "psutil"]);
        let sums: BTreeMap<&str, &str> = include_str!("../../../wheels/SHA256SUMS")
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, file)| (file, sum))
            .collect();
        for wheel in INSIDE {
            let sum: String = Sha256::digest(wheel.content).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(sums.get(wheel.file), Some(&sum.as_str()), "{}", wheel.file);
        }
    }

    #[test]
    fn both_parts_make_a_package_that_is_installed() {
        let place = tempfile::tempdir().expect("a directory");
        let (packages, python) = (place.path().join("lib/python3.11/site-packages"), place.path().join("bin/python"));
        fs::create_dir_all(&packages).expect("made");
        fs::create_dir_all(place.path().join("bin")).expect("made");
        for wheel in INSIDE {
            wheel.unpack(Part::Code, &packages, &python).expect("unpacked");
        }
        assert!(packages.join("jedi/api/__init__.py").exists() && !packages.join("jedi/third_party").exists());
        let listed = || {
            fs::read_dir(&packages)
                .expect("there")
                .flatten()
                .filter(|entry| entry.path().extension().is_some_and(|end| end == "dist-info"))
                .count()
        };
        assert_eq!(listed(), 0, "nothing is installed by half");
        // The first once more: what is there is replaced.
        for wheel in INSIDE.iter().chain(&INSIDE[..1]) {
            wheel.unpack(Part::Rest, &packages, &python).expect("unpacked");
        }
        assert!(
            packages.join("jedi/api/__init__.py").exists()
                && packages.join("jedi/third_party/typeshed/stdlib").is_dir()
        );
        assert_eq!(listed(), INSIDE.len());
        let program = fs::read_to_string(place.path().join("bin/pip")).expect("a program");
        assert!(program.starts_with(&format!("#!{}\n", python.display())), "{program}");
        let info = fs::read_dir(&packages)
            .expect("there")
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains("/pip-"))
            .expect("installed");
        let record = fs::read_to_string(info.join("RECORD")).expect("there");
        assert!(record.contains("../../../bin/pip,,") && record.contains("/INSTALLER,,"), "{record}");
        assert!(!packages.with_file_name("forkpy-pip.new").exists());
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        assert!(below("jedi/api.py").is_ok());
        for name in ["../x", "/etc/x", "a/../../x"] {
            assert!(below(name).is_err(), "{name}");
        }
    }
}
