//! An empty virtual environment, written as files: what `python -m venv` makes in 50 ms to 3 s, in 10 ms.
//!
//! Runs in: server, on a thread that may block, under the lock of the environment. Starts no process; writes into the draft
//! that it is given, which is then renamed into its place.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::server::environment::{
    place::{Place, Record, clear},
    wheels::{Part, Wheel},
};

/// The interpreter that an environment is to be made from, when its files tell all that has to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlainBase {
    /// What the environment's `bin/python` is a link to.
    pub(super) python: PathBuf,
    /// It belongs to a bundle, whose packages the environment has too.
    pub(super) bundled: bool,
}

impl PlainBase {
    /// `None` where the interpreter would have to be asked: it is not named after its version, or its library is not beside it.
    pub(super) fn find(base: &Path, linked: &str, bundled: bool) -> Option<Self> {
        let has_library = |python: &Path| {
            let prefix = python.parent().and_then(Path::parent)?;
            let found =
                ["lib", "lib64"].iter().any(|lib| prefix.join(lib).join(format!("python{linked}/os.py")).exists());
            found.then(|| python.to_owned())
        };
        if bundled {
            return has_library(base).map(|python| Self { python, bundled });
        }
        let real = base.canonicalize().ok()?;
        let name = format!("python{linked}");
        if real.file_name()?.to_str()? != name {
            return None;
        }
        // Not the real file where a link beside the library does: an update of the same version may move the real one.
        let named = base.with_file_name(name);
        let named = Some(named).filter(|named| named.canonicalize().is_ok_and(|found| found == real));
        let python = named.as_deref().and_then(has_library).or_else(|| has_library(&real))?;
        Some(Self { python, bundled })
    }
}

/// Makes it, with the code of `wheels` in it, in the place of whatever lies there.
pub(super) fn make(place: &Place, base: &PlainBase, wheels: &[Wheel]) -> io::Result<Record> {
    let draft = place.directory.with_added_extension("new");
    clear(&draft)?;
    let made = fill(place, base, wheels, &draft).and_then(|record| {
        place.clear()?;
        fs::rename(&draft, &place.directory)?;
        Ok(record)
    });
    if made.is_err() {
        let _ = clear(&draft);
    }
    made
}

fn fill(place: &Place, base: &PlainBase, wheels: &[Wheel], draft: &Path) -> io::Result<Record> {
    let (programs, packages) = (draft.join("bin"), place.packages(draft));
    fs::create_dir_all(&packages)?;
    fs::create_dir_all(&programs)?;
    symlink("lib", draft.join("lib64"))?;
    symlink(&base.python, programs.join("python"))?;
    for name in ["python3".to_owned(), format!("python{}", place.linked)] {
        symlink("python", programs.join(name))?;
    }
    let home = base.python.parent().unwrap_or(Path::new("/"));
    let configuration = format!(
        "home = {}\nimplementation = CPython\nversion = {}\ninclude-system-site-packages = {}\nexecutable = {}\n",
        home.display(),
        place.linked,
        base.bundled,
        base.python.display()
    );
    fs::write(draft.join("pyvenv.cfg"), configuration)?;
    fs::write(draft.join(".gitignore"), "*\n")?;
    write_activation(place, &base.python, &programs)?;
    for wheel in wheels.iter().filter(|wheel| wheel.is_quick() && !base.bundled) {
        wheel.unpack(Part::Code, &packages, &place.python)?;
    }
    place.seal_in(draft, &base.python, None, None)
}

/// The scripts that shells read, from the templates of the standard library. Without them the environment is none the worse.
fn write_activation(place: &Place, base: &Path, programs: &Path) -> io::Result<()> {
    let directory = place.directory.to_string_lossy();
    // Versions of the templates differ in who quotes.
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let name = place.directory.file_name().unwrap_or_default().to_string_lossy();
    let prefix = base.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let templates = prefix.join(format!("lib/python{}/venv/scripts", place.linked));
    if !directory.chars().all(is_plain) {
        return Ok(());
    }
    for file in ["common/activate", "posix/activate.csh", "posix/activate.fish"] {
        let common = templates.join(file.replace("posix", "common"));
        let Ok(text) = fs::read_to_string(templates.join(file)).or_else(|_| fs::read_to_string(common)) else {
            continue;
        };
        let text = text
            .replace("__VENV_DIR__", &directory)
            .replace("__VENV_NAME__", &name)
            .replace("__VENV_PROMPT__", &name)
            .replace("__VENV_BIN_NAME__", "bin")
            .replace("__VENV_PYTHON__", &place.python.to_string_lossy());
        fs::write(programs.join(file.rsplit('/').next().unwrap_or(file)), text)?;
    }
    Ok(())
}
