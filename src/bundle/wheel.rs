//! The wheel: what `uvx forkpy` and `pip install forkpy` get. It is the single file as a script, and what `pyproject.toml` says
//! about it, which maturin writes; nothing is compiled again.
//!
//! Runs in: `forkpy bundle --wheel`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{BundleError, floor::symbols::Version};
use crate::bundle::steps::{list, run};

/// maturin describes; `wheel` closes, hashes included.
const TOOLS: [&str; 2] = ["maturin==1.16.0", "wheel==0.48.0"];

/// What the wheel is for: installers choose by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    /// `3.11`, of the CPython that is inside.
    pub(super) python: String,
    /// The oldest C library that it runs with.
    pub(super) glibc: Version,
    pub(super) machine: &'static str,
}

impl Tags {
    /// An interpreter of the same version takes this one first: it finds its environment's packages. Any other can run it too.
    fn python(&self) -> String {
        format!("cp{}.py3", self.python.replace('.', ""))
    }

    /// PEP 600.
    fn platform(&self) -> String {
        let Version(major, minor) = self.glibc;
        format!("manylinux_{major}_{minor}_{}", self.machine)
    }
}

/// Makes it in `output`. `python` has pip, for the tools.
pub(super) fn make(
    python: &Path,
    sources: &Path,
    workshop: &Path,
    single: &Path,
    tags: &Tags,
    output: &Path,
) -> Result<PathBuf, BundleError> {
    let tools = workshop.join("wheel-tools");
    if !tools.join("bin/maturin").exists() {
        let mut pip = Command::new(python);
        pip.args(["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"]);
        run(pip.arg(&tools).args(TOOLS).env("PIP_ROOT_USER_ACTION", "ignore"))?;
    }
    let rooms = workshop.join("wheel");
    match fs::remove_dir_all(&rooms) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(BundleError::file("cannot clear", &rooms)(error));
        }
        _ => {}
    }
    let (open, whole) = (rooms.join("open"), rooms.join("whole"));
    fs::create_dir_all(&whole).map_err(BundleError::file("cannot make", &whole))?;
    let mut maturin = Command::new(tools.join("bin/maturin"));
    maturin
        .args(["pep517", "write-dist-info", "--locked", "--interpreter"])
        .arg(python)
        .arg("--target-dir")
        .arg(workshop);
    run(maturin.arg("--metadata-directory").arg(&open).current_dir(sources))?;
    let description = only(&open)?;
    let scripts = open.join(description.with_extension("data").file_name().unwrap_or_default()).join("scripts");
    fs::create_dir_all(&scripts).map_err(BundleError::file("cannot make", &scripts))?;
    let script = scripts.join("forkpy");
    fs::copy(single, &script)
        .and_then(|_| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .map_err(BundleError::file("cannot copy", single))?;
    let wheel = || {
        let mut command = Command::new(python);
        command.args(["-m", "wheel"]).env("PYTHONPATH", &tools);
        command
    };
    run(wheel().arg("pack").arg("--dest-dir").arg(&whole).arg(&open))?;
    let mut rename = wheel();
    rename.args(["tags", "--abi-tag", "none", "--python-tag", &tags.python(), "--platform-tag", &tags.platform()]);
    run(rename.arg("--remove").arg(only(&whole)?))?;
    let made = only(&whole)?;
    let target = output.join(made.file_name().unwrap_or_default());
    fs::copy(&made, &target).map_err(BundleError::file("cannot copy", &made))?;
    Ok(target)
}

fn only(directory: &Path) -> Result<PathBuf, BundleError> {
    let found = list(directory)?;
    found.into_iter().next().ok_or_else(|| BundleError::Lacking(format!("{} is empty", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_named_after_the_floor_and_the_python_inside() {
        let tags = Tags { python: "3.11".to_owned(), glibc: Version(2, 28), machine: "aarch64" };
        assert_eq!((tags.python().as_str(), tags.platform().as_str()), ("cp311.py3", "manylinux_2_28_aarch64"));
    }
}
