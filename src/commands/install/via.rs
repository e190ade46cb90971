//! Entries for clients that run where forkpy does not: Windows beside WSL 2, macOS beside Docker.
//!
//! Runs in: a process of its own. For WSL it asks Windows where the user's files are, by `cmd.exe` and `wslpath`; else pure.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::ValueEnum;

use super::clients::Entry;
use crate::commands::error::SetupError;

/// How the client starts forkpy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// `docker run`: the image of this version, with one directory of yours in it
    Docker,
    /// `wsl.exe`: a client on Windows starts the forkpy that is installed in this Linux of WSL 2
    Wsl,
}

/// Where releases put the image.
const IMAGE: &str = concat!("ghcr.io/forkpy/forkpy:", env!("CARGO_PKG_VERSION"));
/// The workspace inside the image.
const INSIDE: &str = "/work";
/// What is printed inside a container, which does not know the directories outside.
const SOME_FOLDER: &str = "/Users/you/forkpy";

/// `docker run`, with this directory as the workspace. The client owns the container: it ends with it.
pub(super) fn docker(workspace: &str, image: Option<&str>, options: &[String]) -> Entry {
    let mut args: Vec<String> = ["run", "-i", "--rm"].map(str::to_owned).into();
    let is_outside = !Path::new("/.dockerenv").exists() && !Path::new("/run/.containerenv").exists();
    let user = nix::unistd::geteuid();
    // Docker on Linux shows the directory with its owner: files are then written as this user, whose home the image has not.
    if is_outside && !user.is_root() {
        args.extend(["--user".to_owned(), format!("{user}:{}", nix::unistd::getegid())]);
        args.extend(["-e".to_owned(), "HOME=/tmp".to_owned()]);
    }
    let folder = if is_outside { workspace } else { SOME_FOLDER };
    args.extend(["-v".to_owned(), format!("{folder}:{INSIDE}"), image.unwrap_or(IMAGE).to_owned()]);
    args.extend_from_slice(options);
    Entry { command: "docker".to_owned(), args }
}

/// What the image's own words and these make together: a workspace is among its own.
pub(super) fn inside_image(options: &[String]) -> Vec<String> {
    ["--workspace", INSIDE].map(str::to_owned).into_iter().chain(options.iter().cloned()).collect()
}

/// `wsl.exe`, with the program by its path: no shell reads a profile before it.
pub(super) fn wsl(program: String, words: Vec<String>) -> Entry {
    let distribution = distribution().map(|name| ["-d".to_owned(), name]);
    let args = distribution.into_iter().flatten().chain(["--exec".to_owned(), program]).chain(words).collect();
    Entry { command: "wsl.exe".to_owned(), args }
}

/// The name of this Linux, which WSL tells each program.
fn distribution() -> Option<String> {
    env::var("WSL_DISTRO_NAME").ok().filter(|name| !name.is_empty())
}

/// The folder of the user on Windows, as this Linux sees it.
pub(super) fn windows_home() -> Result<PathBuf, SetupError> {
    let fail = |why: &str| {
        let advice = "run this inside WSL 2, or name the client's file with --file, or see the entry with --print";
        SetupError::Windows(format!("{why}: {advice}"))
    };
    if distribution().is_none() {
        return Err(fail("this is no Linux of WSL (WSL_DISTRO_NAME is not set)"));
    }
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).current_dir("/").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let profile = said("cmd.exe", &["/d", "/c", "echo %USERPROFILE%"]).filter(|text| !text.contains('%'));
    let profile = profile.ok_or_else(|| fail("Windows does not say where the user's files are (cmd.exe)"))?;
    let path = said("wslpath", &["-u", &profile]).map(PathBuf::from).filter(|path| path.is_dir());
    path.ok_or_else(|| fail(&format!("{profile} is not seen from here (wslpath)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_forkpy_are_known_again_and_others_are_not() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let own = docker("/home/you/forkpy", None, &[]);
        assert!(own.is_forkpy(), "{own:?}");
        let own = wsl("/home/you/.local/bin/forkpy".to_owned(), words("attach --workspace /w"));
        assert!(own.is_forkpy(), "{own:?}");
        let is_forkpy = |command: &str, args: Vec<String>| Entry { command: command.to_owned(), args }.is_forkpy();
        assert!(is_forkpy("C:\\Windows\\System32\\wsl.exe", words("-e /usr/bin/forkpy attach")));
        assert!(is_forkpy("podman", words("run -i forkpy")));
        assert!(!is_forkpy("docker", words("run -i -v /home/you/forkpy:/work other")));
        assert!(!is_forkpy("wsl.exe", words("-e other --folder /home/you/forkpy")));
        assert!(!is_forkpy("node", words("-e other")));
    }
}
