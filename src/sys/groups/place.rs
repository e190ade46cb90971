//! Where cgroups can be made: the folder of this process' own group for each controller, and what has to be done there first.
//!
//! Runs in: server, once, when the first session with a limit is made. A cgroup of the first version needs a folder that we may
//! write; one of the second needs the controller too, and no process but ours beside it (systemd: `Delegate=yes`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nix::unistd::{AccessFlags, access};

use super::controller::Controller;
use crate::sys::processes;

/// How our folders are called, before the server's pid and a number.
pub(super) const PREFIX: &str = "forkpy-";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Where groups with a controller can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) version: Version,
}

/// One for each controller that can be had.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) memory: Option<Place>,
    pub(super) processes: Option<Place>,
    pub(super) cpus: Option<Place>,
}

/// Found when the first session asks.
pub(super) static PLACES: LazyLock<Places> = LazyLock::new(Places::find);

impl Places {
    fn find() -> Self {
        // All before the first is made ready: that may move us.
        let found = Controller::ALL.map(|controller| (controller, Place::of(controller)));
        let [memory, processes, cpus] =
            found.map(|(controller, place)| place.filter(|place| place.make_ready(controller).is_some()));
        let places = Self { memory, processes, cpus };
        places.each().for_each(Place::clear);
        places
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &Place> {
        [&self.memory, &self.processes, &self.cpus].into_iter().flatten()
    }
}

impl Place {
    /// Where this process' own group with the controller is.
    pub(super) fn of(controller: Controller) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        located(&mounts, &own, controller.name()).map(Self::not_aside)
    }

    /// Where we are aside already, in a group of our own, the place is above.
    fn not_aside(self) -> Self {
        let aside = format!("{PREFIX}{}-server", std::process::id());
        match self.folder.parent().filter(|_| self.folder.ends_with(aside)) {
            Some(above) => Self { folder: above.to_owned(), ..self },
            None => self,
        }
    }

    /// Whether it may be written, and has the controller; no more is tried.
    pub(super) fn looks_free(&self, controller: Controller) -> bool {
        let may_write = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
        let control = self.folder.join("cgroup.subtree_control");
        may_write(&self.folder)
            && (self.version == Version::One
                || self.has("cgroup.subtree_control", controller)
                || self.has("cgroup.controllers", controller) && may_write(&control))
    }

    fn make_ready(&self, controller: Controller) -> Option<()> {
        match self.version {
            Version::One => Some(()),
            Version::Two => self.delegate(controller),
        }
    }

    fn has(&self, file: &str, controller: Controller) -> bool {
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.split_ascii_whitespace().any(|word| word == controller.name())
    }

    /// Lets groups below have the controller. A folder whose groups have it may hold no process itself: we move into one of
    /// our own, where we are the only ones.
    pub(super) fn delegate(&self, controller: Controller) -> Option<()> {
        if self.has("cgroup.subtree_control", controller) {
            return Some(());
        }
        if !self.has("cgroup.controllers", controller) {
            return None;
        }
        let word = format!("+{}", controller.name());
        let enable = || fs::write(self.folder.join("cgroup.subtree_control"), &word).ok();
        enable().or_else(|| {
            self.move_aside()?;
            enable()
        })
    }

    pub(super) fn move_aside(&self) -> Option<()> {
        let table = processes::table();
        let own = i32::try_from(std::process::id()).ok()?;
        let family = processes::closure(&table, |process| process.pid == own);
        let here = fs::read_to_string(self.folder.join("cgroup.procs")).ok()?;
        let here: Vec<i32> = here.lines().filter_map(|pid| pid.parse().ok()).collect();
        if here.iter().any(|pid| !family.contains(pid)) {
            return None;
        }
        let aside = self.folder.join(format!("{PREFIX}{own}-server"));
        fs::create_dir(&aside).ok()?;
        here.iter().try_for_each(|pid| fs::write(aside.join("cgroup.procs"), pid.to_string()).ok())
    }

    /// Removes what servers have left that were killed. A folder with a process in it stays: the kernel sees to that.
    pub(super) fn clear(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let server =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<i32>().ok());
            if server.is_some_and(|server| !Path::new(&format!("/proc/{server}")).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// Removes all that this server has made; false where something is not empty yet.
    pub(super) fn remove_ours(&self) -> bool {
        let own = format!("{PREFIX}{}-", std::process::id());
        let Ok(entries) = fs::read_dir(&self.folder) else { return true };
        let ours =
            entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&own)));
        // Not by `all`: each is tried.
        ours.filter(|entry| fs::remove_dir(entry.path()).is_err()).count() == 0
    }
}

/// The folder of this process' own cgroup with a controller: from `/proc/self/mountinfo` and `/proc/self/cgroup`.
pub(super) fn located(mounts: &str, own: &str, controller: &str) -> Option<Place> {
    let lines: Vec<(&str, &str)> = own
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .collect();
    let path_of = |wanted: &dyn Fn(&str) -> bool| lines.iter().find(|(kinds, _)| wanted(kinds)).map(|(_, path)| *path);
    let has = |all: &str| all.split(',').any(|one| one == controller);
    let mount_of = |kind: &str, is_ours: &dyn Fn(&str) -> bool| {
        mounts.lines().find_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut back = back.split(' ');
            let fits = back.next()? == kind && is_ours(back.nth(1)?);
            let mut front = front.split(' ').skip(3);
            fits.then_some((front.next()?, front.next()?))
        })
    };
    let below = |(root, point): (&str, &str), path: &str| {
        let path = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        Path::new(point).join(path.trim_start_matches('/'))
    };
    if let Some(path) = path_of(&has)
        && let Some(mount) = mount_of("cgroup", &has)
    {
        return Some(Place { folder: below(mount, path), version: Version::One });
    }
    let (path, mount) = (path_of(&str::is_empty)?, mount_of("cgroup2", &|_| true)?);
    Some(Place { folder: below(mount, path), version: Version::Two })
}
