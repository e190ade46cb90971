//! The policy of the sandbox: what a session or script may reach, and how a process is shut in.
//!
//! Runs in: zygote (`Cages`: everything is opened and compiled once, before the first confined fork), worker and script
//! (`enter`, after the fork, with one thread, before any code that is not forkpy's). Owns the lists. The kernel's part is in
//! `sys/landlock.rs`, `sys/seccomp.rs` and `sys/namespaces.rs`; what it is called and what this machine can keep, in `settings/sandbox.rs`.
//!
//! All that a process starts inherits it, a checkpoint and what that wakes too. Nothing here is checked in a cell's way.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt, net::UnixStream},
    },
    path::Path,
    rc::Rc,
};

use pyo3::Python;

use super::{
    python::{Functions, Needed},
    terms::Terms,
};
use crate::{
    protocol::{Confinement, Installing, ZygoteSettings},
    sys::{
        capabilities, descriptors,
        landlock::{Fence, Reach},
        layers::Layers,
        memory,
        namespaces::Namespaces,
        seccomp::{Filter, Sockets},
    },
};

/// The system's programs and libraries.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/etc/alternatives"];
/// Its libraries and data alone.
const LIBRARIES: [&str; 13] = [
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",
    "/usr/local/lib",
    "/usr/local/share",
    "/usr/include",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
];
/// What programs look up in the system's settings; no keys, no passwords' hashes, nothing of services.
const SETTINGS: [&str; 32] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/fonts",
    "/etc/mime.types",
    "/etc/magic",
    "/etc/os-release",
    "/etc/debian_version",
    "/etc/locale.conf",
    "/etc/terminfo",
    "/etc/matplotlibrc",
    "/var/cache/fontconfig",
];
/// What the kernel tells. It tells a confined process nothing of what is inside the processes of others.
const KERNEL: [&str; 8] = [
    "/proc",
    "/sys/devices",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/sys/class",
    "/sys/bus",
    "/sys/block",
    "/sys/module",
];
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Semaphores and shared memory of Python's `multiprocessing`: a name that is known can be opened, none is listed.
const SHARED: &str = "/dev/shm";
/// What starts a dynamically linked program; the kernel runs it for the program.
const LOADERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// One kind of confinement, opened and compiled.
#[derive(Debug)]
pub(crate) struct Cage {
    mode: Confinement,
    fence: Fence,
    filter: Option<Filter>,
    /// Where this system has them.
    namespaces: Option<Rc<Namespaces>>,
    /// Where the server's proxy is, for those who have it.
    proxy: Option<String>,
    /// Variables that hold secrets where nothing is confined, and what they hold here.
    secrets: BTreeMap<String, Option<String>>,
}

/// The two kinds, each made when it is first wanted.
#[derive(Debug, Default)]
pub(crate) struct Cages {
    workspace: Option<Cage>,
    strict: Option<Cage>,
    /// Asked for once.
    namespaces: Option<Option<Rc<Namespaces>>>,
}

impl Cages {
    /// The one of this kind; none for [`Confinement::Off`].
    ///
    /// # Errors
    /// When a path that is allowed has gone, or the workspace.
    pub(crate) fn of(
        &mut self,
        mode: Confinement,
        py: Python<'_>,
        functions: &Functions,
        settings: &ZygoteSettings,
    ) -> io::Result<Option<&Cage>> {
        let namespaces = self.namespaces();
        let place = match mode {
            Confinement::Off => return Ok(None),
            Confinement::Workspace => &mut self.workspace,
            Confinement::Strict => &mut self.strict,
        };
        if place.is_none() {
            *place = Some(Cage::make(mode, (py, functions), settings, (None, namespaces))?);
        }
        Ok(place.as_ref())
    }

    /// One for a process that installs, made for it alone.
    ///
    /// # Errors
    /// As for [`Cages::of`].
    pub(crate) fn for_installing(
        &mut self,
        py: Python<'_>,
        functions: &Functions,
        settings: &ZygoteSettings,
        installing: &Installing,
    ) -> io::Result<Cage> {
        let namespaces = self.namespaces();
        Cage::make(Confinement::Workspace, (py, functions), settings, (Some(installing), namespaces))
    }

    /// One for a process that works in a workspace of its owner's alone, made for it alone.
    ///
    /// # Errors
    /// As for [`Cages::of`].
    pub(crate) fn elsewhere(
        &mut self,
        mode: Confinement,
        python: (Python<'_>, &Functions),
        settings: &ZygoteSettings,
    ) -> io::Result<Cage> {
        let namespaces = self.namespaces();
        Cage::make(mode, python, settings, (None, namespaces))
    }

    fn namespaces(&mut self) -> Option<Rc<Namespaces>> {
        self.namespaces.get_or_insert_with(|| Namespaces::make().ok().map(Rc::new)).clone()
    }
}

impl Cage {
    fn make(
        mode: Confinement,
        (py, functions): (Python<'_>, &Functions),
        settings: &ZygoteSettings,
        (installing, namespaces): (Option<&Installing>, Option<Rc<Namespaces>>),
    ) -> io::Result<Self> {
        let given = &settings.confinement;
        let mut fence = Fence::new(given.landlock);
        offer_what_python_needs(&mut fence, mode, &functions.needed_paths(py).map_err(io::Error::other)?);
        if let Some(installing) = installing {
            offer(&mut fence, installing.read.iter(), Reach::Look);
            offer(&mut fence, installing.run.iter(), Reach::Run);
            offer(&mut fence, installing.write.iter(), Reach::Change);
        }
        // These have to be there: someone counts on them.
        let is_strict = mode == Confinement::Strict;
        let (run, change) = if is_strict { (Reach::Look, Reach::Keep) } else { (Reach::Run, Reach::Change) };
        fence.allow(Path::new(&settings.workspace), change)?;
        fence.allow(Path::new(&given.exchange), Reach::Exchange)?;
        let named = |path: &str, error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        for path in &given.read {
            fence.allow(Path::new(path), run).map_err(|error| named(path, error))?;
        }
        for path in &given.write {
            let reach = of_device(Path::new(path)).unwrap_or(change);
            fence.allow(Path::new(path), reach).map_err(|error| named(path, error))?;
        }
        let proxy = installing.map_or(&given.proxy, |installing| &installing.proxy).clone();
        let sockets = match &proxy {
            _ if is_strict => Sockets::Pairs,
            None => Sockets::Local,
            Some(_) => Sockets::Proxied,
        };
        let filter = given.seccomp.then(|| Filter::compile(sockets)).transpose()?;
        let has_secrets = mode == Confinement::Workspace && installing.is_none();
        let secret = |(name, stands): &(String, String)| (name.clone(), has_secrets.then(|| stands.clone()));
        let secrets = given.secrets.iter().map(secret).collect();
        Ok(Self { mode, fence, filter, namespaces, proxy: proxy.filter(|_| !is_strict), secrets })
    }

    /// Shuts this process in, for good; `room` is its own folder. What shuts it in is told to the server, and with it goes the
    /// listener for calls of `connect`, where there is one.
    ///
    /// # Errors
    /// When the system refuses: the process must not go on then.
    pub(crate) fn enter(&self, room: &Path, server: &UnixStream) -> io::Result<()> {
        let is_strict = self.mode == Confinement::Strict;
        // First: what follows takes the rights for it away.
        let has_no_network = self.proxy.is_none();
        let entered = self.namespaces.as_ref().map(|namespaces| namespaces.enter(has_no_network)).unwrap_or_default();
        capabilities::give_up(!entered.users)?;
        self.fence.shut(room, if is_strict { Reach::Keep } else { Reach::Change })?;
        let code = is_strict && memory::keep_data_from_running();
        let listener = self.filter.as_ref().map_or(Ok(None), Filter::apply)?;
        let passed: Vec<_> = listener.iter().map(AsFd::as_fd).collect();
        let layers = Layers {
            landlock: self.fence.version(),
            seccomp: self.filter.is_some(),
            network: entered.network,
            messages: entered.messages,
            users: entered.users,
            code,
        };
        descriptors::send_with(server, &layers.word(), &passed)
    }
}

/// A cage, and the folder that is a process' own in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub cage: &'a Cage,
    pub room: &'a Path,
}

impl Entry<'_> {
    /// What Python is told of it.
    #[must_use]
    pub(crate) fn told(&self) -> Terms<'_> {
        let Cage { mode, proxy, secrets, .. } = self.cage;
        Terms { mode: *mode, room: self.room, proxy: proxy.as_deref(), secrets }
    }
}

/// How a device that may be changed is used: with its commands too. The same for a folder of devices.
fn of_device(path: &Path) -> Option<Reach> {
    let kind = path.metadata().ok()?.file_type();
    match kind.is_dir() {
        true => path.starts_with("/dev").then_some(Reach::Devices),
        false => (kind.is_char_device() || kind.is_block_device()).then_some(Reach::Device),
    }
}

/// What there may be and need not be: not every system has all of it.
fn offer<P: AsRef<Path>>(fence: &mut Fence, paths: impl Iterator<Item = P>, reach: Reach) {
    paths.for_each(|path| drop(fence.allow(path.as_ref(), reach)));
}

fn offer_what_python_needs(fence: &mut Fence, mode: Confinement, needed: &Needed) {
    let is_strict = mode == Confinement::Strict;
    let run = if is_strict { Reach::Look } else { Reach::Run };
    offer(fence, if is_strict { &LIBRARIES[..] } else { &SYSTEM[..] }.iter(), run);
    offer(fence, SETTINGS.iter().chain(&KERNEL), Reach::Look);
    offer(fence, DEVICES.iter(), Reach::Device);
    offer(fence, needed.folders.iter(), run);
    offer(fence, needed.programs.iter(), Reach::Run);
    if is_strict {
        offer(fence, LOADERS.iter(), Reach::Run);
    } else {
        offer(fence, [SHARED].iter(), Reach::Exchange);
    }
}
