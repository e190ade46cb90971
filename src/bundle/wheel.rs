//! The wheel: what `uvx forkpy` and `pip install forkpy` get. maturin builds it (`pyproject.toml`), and the single file takes
//! the place of the bare binary in it.
//!
//! Runs in: `forkpy bundle --wheel`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::BundleError;
use crate::bundle::steps::{list, run};

/// maturin builds; `wheel` opens and closes, hashes included.
const TOOLS: [&str; 2] = ["maturin==1.16.0", "wheel==0.48.0"];

/// Makes it in `output`.
pub(crate) fn make(
    python: &Path,
    config: &Path,
    sources: &Path,
    workshop: &Path,
    single: &Path,
    output: &Path,
) -> Result<PathBuf, BundleError> {
    let tools = workshop.join("wheel-tools");
    let with_tools = |module: &str| {
        let mut command = Command::new(python);
        command
            .args(["-m", module])
            .env("PYTHONPATH", &tools)
            .env("PYO3_CONFIG_FILE", config)
            .env_remove("PYO3_PYTHON");
        command
    };
    if !tools.join("maturin").exists() {
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
    let mut maturin = Command::new(tools.join("bin/maturin"));
    maturin.env("PYO3_CONFIG_FILE", config).env_remove("PYO3_PYTHON").current_dir(sources);
    maturin.args(["build", "--profile", "bundle", "--locked", "--target-dir"]).arg(workshop);
    run(maturin.arg("--out").arg(rooms.join("bare")))?;
    let bare = only(&rooms.join("bare"))?;
    run(with_tools("wheel").args(["unpack", "--dest"]).arg(rooms.join("open")).arg(bare))?;
    let open = only(&rooms.join("open"))?;
    let script = list(&open)?.into_iter().map(|part| part.join("scripts/forkpy")).find(|script| script.exists());
    let script = script.ok_or_else(|| BundleError::Lacking("maturin's wheel has no script".to_owned()))?;
    fs::copy(single, &script).map_err(BundleError::file("cannot copy", single))?;
    let whole = rooms.join("whole");
    fs::create_dir_all(&whole).map_err(BundleError::file("cannot make", &whole))?;
    run(with_tools("wheel").args(["pack", "--dest-dir"]).arg(&whole).arg(open))?;
    // maturin sees that the binary links a Python of its version; it brings that along, and is at home beside any.
    let packed = only(&whole)?;
    run(with_tools("wheel").args(["tags", "--python-tag", "py3", "--abi-tag", "none", "--remove"]).arg(packed))?;
    let whole = only(&whole)?;
    let target = output.join(whole.file_name().unwrap_or_default());
    fs::copy(&whole, &target).map_err(BundleError::file("cannot copy", &whole))?;
    Ok(target)
}

fn only(directory: &Path) -> Result<PathBuf, BundleError> {
    let found = list(directory)?;
    found.into_iter().next().ok_or_else(|| BundleError::Lacking(format!("{} is empty", directory.display())))
}
