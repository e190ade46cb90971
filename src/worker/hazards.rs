//! What a checkpoint shares with the world, and so does not hold: said, not hidden.
//!
//! Runs in: checkpoint, its only thread, once, when the worker has gone on. Open descriptors are read from `/proc`; what
//! only Python knows (tasks, locks) comes from `python/forkpy_worker/session/checkpoint.py`.

use std::{
    fs::{self, File},
    io::Read,
    os::fd::{BorrowedFd, RawFd},
    path::Path,
};

use nix::sys::socket::{SockaddrLike, SockaddrStorage, getpeername, getsockname};
use pyo3::Python;

use super::python::Functions;

/// How a file of SQLite begins.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";
/// Most of a kind that are named.
const NAMED: usize = 5;
/// Devices of graphics processors.
const GPU: [&str; 3] = ["/dev/nvidia", "/dev/kfd", "/dev/dri/"];

/// All of it, a sentence each. `worker` is the process that this is a checkpoint of.
pub fn all(py: Python<'_>, functions: &Functions, worker: u32) -> Vec<String> {
    let mut found = Found::default();
    for (number, target) in descriptors() {
        found.look(number, &target);
    }
    let mut words = found.words();
    words.extend(children(worker));
    words.extend(functions.hazards(py));
    words
}

#[derive(Default)]
struct Found {
    databases: Vec<String>,
    written: Vec<String>,
    sockets: Vec<String>,
    gpus: Vec<String>,
}

impl Found {
    fn look(&mut self, number: RawFd, target: &str) {
        if GPU.iter().any(|device| target.starts_with(device)) {
            push_once(&mut self.gpus, target);
        } else if target.starts_with("socket:") {
            self.sockets.extend(connection(number));
        } else if target.starts_with('/') && !target.starts_with("/dev/") && Path::new(target).is_file() {
            if is_database(target) {
                push_once(&mut self.databases, target);
            } else if is_written(number) {
                push_once(&mut self.written, target);
            }
        }
    }

    fn words(&self) -> Vec<String> {
        let sentence = |names: &[String], what: &str, why: &str| {
            (!names.is_empty()).then(|| format!("{what} ({}): {why}", few(names)))
        };
        [
            sentence(
                &self.databases,
                "a SQLite file is open",
                "its content is not held by a checkpoint, and SQLite forbids to use a connection in two processes; \
                 connect anew after a restore",
            ),
            sentence(
                &self.written,
                "a file is open for writing",
                "its content and its position are shared by all copies of the session",
            ),
            sentence(&self.sockets, "a socket is open", "all copies of the session read and write the same connection"),
            sentence(&self.gpus, "a GPU is in use", "its contexts do not survive a fork: CUDA calls fail in a copy"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn push_once(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

fn few(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// Numbers and targets of open descriptors from 3 on.
fn descriptors() -> Vec<(RawFd, String)> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let open = entries.flatten().filter_map(|entry| {
        let number: RawFd = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
    });
    open.filter(|(number, _)| *number > 2).collect()
}

/// An internet socket, or a named one: `tcp 127.0.0.1:40000 -> 127.0.0.1:5432`. Pairs without a name belong to no other process.
fn connection(number: RawFd) -> Option<String> {
    let own: SockaddrStorage = getsockname(number).ok()?;
    let peer: Option<SockaddrStorage> = getpeername(number).ok();
    let told = |address: &SockaddrStorage| {
        address.as_sockaddr_in().map(ToString::to_string).or_else(|| address.as_sockaddr_in6().map(ToString::to_string))
    };
    match (told(&own), peer.as_ref().and_then(told)) {
        (Some(own), Some(peer)) => Some(format!("{own} to {peer}")),
        (Some(own), None) => Some(format!("{own}, listening or unconnected")),
        (None, _) => {
            let path = |address: &SockaddrStorage| Some(address.as_unix_addr()?.path()?.display().to_string());
            let _ = own.family();
            path(&own).or_else(|| peer.as_ref().and_then(path))
        }
    }
}

fn is_database(path: &str) -> bool {
    let mut head = [0; SQLITE.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *SQLITE
}

fn is_written(number: RawFd) -> bool {
    // SAFETY: the number is open: it was read from this process' table, and this process has one thread.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_GETFL).unwrap_or(0);
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Processes that the worker has started: they are its children alone.
fn children(worker: u32) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).ok()?;
    let mut names = Vec::new();
    for task in tasks.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace() {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            names.push(format!("{child} {}", name.trim()));
        }
    }
    (!names.is_empty()).then(|| {
        format!(
            "child processes run ({}): they are those of the session that goes on, and a copy can neither wait for \
             nor end them",
            few(&names)
        )
    })
}
