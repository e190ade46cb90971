//! Namespaces that confined processes enter beside all else, where the system gives them: a network without any device, and a
//! place of their own for what processes share by number.
//!
//! Runs in: zygote (`make`, once: a helper makes them and ends; their descriptors keep them), worker and script (`enter`, after
//! the fork, with one thread). Nothing here is a condition: a system that forbids it is one where Landlock and seccomp do all.
//!
//! All processes of a server enter the same ones: there is nothing in them that leads from one to another, and entering costs
//! some microseconds where making costs hundreds. Root makes them as it is. Others need a user namespace for it, in which they
//! are who they are, with no power over anything.
//!
//! There is no pid namespace: in one, what a worker leaves behind falls to the first process in it, and ends with that. A
//! checkpoint would end with the worker that it is to outlive.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::{getegid, geteuid},
};

use super::{capabilities, descriptors, guarded};

const KINDS: CloneFlags = CloneFlags::CLONE_NEWNET.union(CloneFlags::CLONE_NEWIPC);

/// The namespaces, kept by their descriptors.
#[derive(Debug)]
pub(crate) struct Namespaces {
    network: OwnedFd,
    messages: OwnedFd,
    /// The one that the others belong to, unless they are root's.
    users: Option<OwnedFd>,
}

/// Which of them a process has entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entered {
    pub network: bool,
    pub messages: bool,
    pub users: bool,
}

impl Namespaces {
    /// Makes them, in a helper.
    ///
    /// # Errors
    /// When the system refuses them, which is nothing unusual.
    pub(crate) fn make() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: this process has one thread, and the child runs a few lines of ours and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(help(&theirs).is_err());
            // SAFETY: no preconditions; it does not return.
            unsafe { libc::_exit(code) }
        }
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        drop(theirs);
        let mut made = Vec::new();
        let received = descriptors::receive_with(&ours, &mut [0], &mut made);
        // SAFETY: a child of ours that no other code waits for; the status is not asked for.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        received?;
        let mut made = made.into_iter();
        match (made.next(), made.next(), made.next()) {
            (Some(network), Some(messages), users) => Ok(Self { network, messages, users }),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    /// Enters them, that of the network only if it is wanted: there is no way out of it.
    pub(crate) fn enter(&self, without_network: bool) -> Entered {
        let enter = |namespace: &OwnedFd, kind| setns(namespace, kind).is_ok();
        let users = match &self.users {
            None => false,
            Some(users) if enter(users, CloneFlags::CLONE_NEWUSER) => true,
            Some(_) => return Entered::default(),
        };
        let messages = enter(&self.messages, CloneFlags::CLONE_NEWIPC);
        let network = without_network && enter(&self.network, CloneFlags::CLONE_NEWNET);
        Entered { network, messages, users }
    }
}

/// In the helper: makes them and sends them.
fn help(stream: &UnixStream) -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    let mut kinds = vec!["net", "ipc"];
    if unshare(KINDS).is_err() {
        if user.is_root() || capabilities::over_files() {
            // What it may do with files of others, it may not in a user namespace.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // What is in /proc of a process that is closed to others is root's.
        guarded::open_to_others();
        unshare(KINDS | CloneFlags::CLONE_NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
        kinds.push("user");
    }
    let opened = kinds.into_iter().map(|kind| File::open(format!("/proc/self/ns/{kind}")));
    let opened: Vec<File> = opened.collect::<io::Result<_>>()?;
    let passed: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
    descriptors::send_with(stream, b"!", &passed)
}
