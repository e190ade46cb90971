//! Servers that are somebody else, or have a disk of their own: through `setpriv`, and mounts that only they see.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd;

use super::Setup;

/// `nobody`, by whatever name.
const NOBODY: u32 = 65534;

/// Who runs a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Whoever runs the tests.
    Tester,
    /// A user without rights; only where the tests are root's.
    Ordinary,
}

impl Who {
    /// All there can be: root and an ordinary user where the tests are root's, else the ordinary user who runs them.
    pub fn every() -> Vec<Self> {
        if unistd::geteuid().is_root() { vec![Self::Tester, Self::Ordinary] } else { vec![Self::Tester] }
    }

    /// Whether permissions mean something to this one.
    pub fn is_ordinary(self) -> bool {
        self == Self::Ordinary || !unistd::geteuid().is_root()
    }

    /// Gives everything below to this one, links themselves included.
    pub fn own(self, path: &Path) {
        if self == Self::Ordinary {
            give(path);
        }
    }
}

impl Setup {
    /// As that one. What it needs and may not reach (a Python below root's home, say) is mounted where it can be reached.
    pub fn run_by(mut self, who: Who) -> Self {
        if who == Who::Tester {
            return self;
        }
        who.own(self.directory.path());
        let hold = self.directory.path().join("hold");
        let python = super::python();
        let python = Path::new(&python);
        let home = python.parent().and_then(Path::parent).expect("bin and what it is in").to_owned();
        let needed = [
            Path::new(env!("CARGO_BIN_EXE_forkpy")).parent().expect("a directory").to_owned(),
            home,
            PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/python")),
            self.directory.path().to_owned(),
        ];
        let closed: Vec<_> = needed.iter().filter_map(|path| Some((closed_at(path)?, path))).collect();
        for (index, (_, path)) in closed.iter().enumerate() {
            let kept = hold.join(index.to_string());
            self.before.push(format!("mkdir -p {kept:?}; mount --bind {path:?} {kept:?}"));
        }
        for (top, _) in &closed {
            let cover = format!("mount -t tmpfs -o mode=755 none {top:?}");
            if !self.before.contains(&cover) {
                self.before.push(cover);
            }
        }
        for (index, (_, path)) in closed.iter().enumerate() {
            let kept = hold.join(index.to_string());
            self.before.push(format!("mkdir -p {path:?}; mount --bind {kept:?} {path:?}"));
        }
        self.ordinary = true;
        self
    }

    /// Its workspace is a disk of so many MiB, which only it sees. `None` where this machine allows no mounts.
    pub fn on_disk_of(self, mebibytes: u32) -> Option<Self> {
        let place = self.workspace.clone();
        self.with_disk_of(mebibytes, 777, &place)
    }

    /// So is this folder, with this mode.
    pub fn with_disk_of(mut self, mebibytes: u32, mode: u32, place: &Path) -> Option<Self> {
        std::fs::create_dir_all(place).expect("made");
        // Before what is covered, if anything is.
        self.before.insert(0, format!("mount -t tmpfs -o size={mebibytes}m,mode={mode} none {place:?}"));
        allowed(&self.before[0]).then_some(self)
    }

    /// Where it reads this in the place of another file. `None` where this machine allows no mounts.
    pub fn with_file(mut self, file: &Path, over: &str) -> Option<Self> {
        self.before.insert(0, format!("mount --bind {file:?} {over:?}"));
        allowed(&self.before[0]).then_some(self)
    }

    /// In another root directory, in which all is as in the usual one. `None` where this machine allows no mounts, or the tests are
    /// not root's.
    pub fn in_another_root(mut self) -> Option<Self> {
        let root = self.directory.path().join("root");
        // Behind what is mounted for its user, which is to be seen in it.
        self.before.push(format!("mkdir -p {root:?}; mount --rbind / {root:?}"));
        self.root = Some(root);
        (unistd::geteuid().is_root() && allowed("mount -t tmpfs none /mnt")).then_some(self)
    }

    /// On a system that makes no user namespace, nor any other: a filter of system calls is above the server already, as in many
    /// a container.
    pub fn without_namespaces(mut self) -> Self {
        let python = super::python();
        self.through = vec![python, "-c".to_owned(), include_str!("without_namespaces.py").to_owned()];
        self
    }

    /// Puts what was asked for around the command.
    pub(super) fn wrap(&mut self) {
        let through = std::mem::take(&mut self.through);
        if self.before.is_empty() && !self.ordinary && through.is_empty() {
            return;
        }
        let mut script = std::mem::take(&mut self.before);
        let user = if std::mem::take(&mut self.ordinary) {
            format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups -- ")
        } else {
            String::new()
        };
        let root = self.root.take().map_or_else(String::new, |root| format!("chroot {root:?} "));
        let mut command = if script.is_empty() { Command::new("env") } else { unshare() };
        script.push(format!("exec {root}{user}\"$@\""));
        command.args(["sh", "-ec", &script.join("\n"), "sh"]).args(through);
        command.arg(self.command.get_program()).args(self.command.get_args());
        super::copy_variables(&self.command, &mut command);
        self.command = command;
    }
}

/// Whether this machine allows such a mount; says so where it does not.
fn allowed(mount: &str) -> bool {
    let mut trial = unshare();
    trial.args(["sh", "-ec", mount]).stdout(Stdio::null()).stderr(Stdio::null());
    let allowed = trial.status().is_ok_and(|status| status.success());
    if !allowed {
        let _ = writeln!(std::io::stderr(), "not tested: this machine allows no mounts");
    }
    allowed
}

/// What is gone or changed meanwhile is left as it is.
fn give(path: &Path) {
    let _ = std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY));
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| give(&entry.path()));
    }
}

/// Mounts of its own; with the rights for it, if need be in a world of its own.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
}

/// The first directory on the way that others may not pass.
fn closed_at(path: &Path) -> Option<PathBuf> {
    let mut tops: Vec<_> = path.ancestors().collect();
    tops.reverse();
    let closed = |top: &&Path| top.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0);
    let at = tops.into_iter().find(closed)?;
    // Given to the user by the test.
    (!path.starts_with(std::env::temp_dir()) || at.parent() != Some(&*std::env::temp_dir())).then(|| at.to_owned())
}
