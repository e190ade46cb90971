//! What a checkpoint shares with the world, and so does not hold: said, not hidden.
//!
//! Runs in: checkpoint, its only thread, once, when the worker has gone on. Open descriptors and mappings are read from
//! `/proc`; what only Python knows (tasks, locks) comes from `python/forkpy_worker/session/checkpoint.py`. No Python here.

use std::{
    fs::{self, File},
    io::Read,
    os::{
        fd::{BorrowedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

use crate::sys::{
    lifeline,
    open_files::{self, Shared},
    processes,
};

/// How a file of SQLite begins.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";
/// Most of a kind that are named.
const NAMED: usize = 5;
/// Devices of graphics processors.
const GPU: [&str; 3] = ["/dev/nvidia", "/dev/kfd", "/dev/dri/"];
/// Devices that are the same for everybody.
const HARMLESS: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm"];
/// What the kernel appends to the name of a file that has none any more.
const DELETED: &str = " (deleted)";

/// What the worker was, and what of it could not be copied.
pub(crate) struct Left<'a> {
    /// The process that this is a checkpoint of.
    pub worker: u32,
    /// Files that the two still share, and why.
    pub shared: Vec<(RawFd, Shared)>,
    /// Timers that were set.
    pub timers: &'a [String],
    /// The checkpoint's own socket, which no other process has.
    pub link: RawFd,
}

/// What Python knows of it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Descriptors of ours that a woken worker has anew, and that so are no hazard.
    pub renewed: Vec<RawFd>,
    /// Hazards, a sentence each.
    pub hazards: Vec<String>,
}

impl From<(Vec<RawFd>, Vec<String>)> for Told {
    fn from((renewed, hazards): (Vec<RawFd>, Vec<String>)) -> Self {
        Self { renewed, hazards }
    }
}

/// What there is to tell, a sentence each.
#[derive(Debug, Default)]
pub(crate) struct Hazards {
    pub words: Vec<String>,
    /// What binds others as long as a copy has it.
    pub binding: Vec<String>,
    /// What a session that goes on from an image would have lost. A file that is open for writing is not among it: it is
    /// opened again, and no other copy writes there.
    pub lost_asleep: Vec<String>,
    /// Descriptors that each woken worker has anew.
    pub renewed: Vec<RawFd>,
}

/// All of it.
pub(crate) fn all(told: Told, left: &Left<'_>) -> Hazards {
    let mut found = Found::default();
    let renewed = told.renewed;
    let mut own = renewed.clone();
    own.extend(lifeline::number());
    own.push(left.link);
    for (number, target) in descriptors() {
        if !own.contains(&number) {
            found.look(number, &target, left);
        }
    }
    found.look_at_mappings();
    found.look_at_record_locks(left.worker);
    let binding = found.binding();
    let mut words = found.words();
    if !left.timers.is_empty() {
        words.push(format!("a timer is set ({}): a copy has none, and gets no signal from it", few(left.timers)));
    }
    if fs::read_to_string(format!("/proc/{}/timers", left.worker)).is_ok_and(|timers| timers.contains("ID:")) {
        words.push("POSIX timers are set: a copy has none of them".to_owned());
    }
    words.extend(locked_memory(left.worker));
    words.extend(children(left.worker));
    words.extend(told.hazards);
    let harmless = found.written_words();
    let lost_asleep = words.iter().filter(|told| Some(*told) != harmless.as_ref()).cloned().collect();
    Hazards { words, binding, lost_asleep, renewed }
}

/// What is open, by what there is to say of it.
#[derive(Default)]
struct Found {
    databases: Vec<String>,
    written: Vec<String>,
    nameless: Vec<String>,
    together: Vec<String>,
    locked: Vec<String>,
    sockets: Vec<String>,
    pairs: Vec<String>,
    pipes: Vec<String>,
    terminals: Vec<String>,
    queues: Vec<String>,
    devices: Vec<String>,
    memory: Vec<String>,
    gpus: Vec<String>,
    /// Regular files by device and inode, to give locks a name.
    files: Vec<((u64, u64), String)>,
}

impl Found {
    fn look(&mut self, number: RawFd, target: &str, left: &Left<'_>) {
        let numbered = || format!("descriptor {number}");
        if GPU.iter().any(|device| target.starts_with(device)) {
            push_once(&mut self.gpus, target);
        } else if target.starts_with("socket:") {
            match connection(number) {
                Some(told) => self.sockets.push(told),
                None => self.pairs.push(numbered()),
            }
        } else if target.starts_with("pipe:") {
            self.pipes.push(numbered());
        } else if let Some(kind) = target.strip_prefix("anon_inode:") {
            self.queues.push(format!("{}, {}", kind.trim_matches(['[', ']']), numbered()));
        } else if target.starts_with("/memfd:") {
            push_once(&mut self.memory, target.trim_start_matches('/').trim_end_matches(DELETED));
        } else {
            self.look_at_file(number, target, left);
        }
    }

    fn look_at_file(&mut self, number: RawFd, target: &str, left: &Left<'_>) {
        let Ok(status) = fs::metadata(format!("/proc/self/fd/{number}")) else { return };
        let kind = status.file_type();
        if kind.is_fifo() {
            push_once(&mut self.pipes, target);
        } else if kind.is_char_device() || kind.is_block_device() {
            if target.starts_with("/dev/pts/") || target.starts_with("/dev/tty") || target.ends_with("/ptmx") {
                push_once(&mut self.terminals, target);
            } else if !HARMLESS.contains(&target) {
                push_once(&mut self.devices, target);
            }
        } else if kind.is_file() {
            self.files.push(((status.dev(), status.ino()), target.to_owned()));
            match left.shared.iter().find(|(shared, _)| *shared == number) {
                Some((_, Shared::Locked)) => push_once(&mut self.locked, target),
                Some((_, Shared::Refused(why))) => push_once(&mut self.together, &format!("{target}, {why}")),
                None => {}
            }
            if target.starts_with("/dev/shm/") {
                push_once(&mut self.memory, &shared_memory(target));
            } else if is_database(Path::new(&format!("/proc/self/fd/{number}"))) {
                push_once(&mut self.databases, target);
            } else if is_written(number) {
                let names = if status.nlink() == 0 { &mut self.nameless } else { &mut self.written };
                push_once(names, target.trim_end_matches(DELETED));
            }
        }
    }

    /// Memory that a fork shares: mapped writable, and not copied when it is written to.
    fn look_at_mappings(&mut self) {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for line in maps.lines() {
            let mut fields = line.splitn(6, ' ');
            let (_, access) = (fields.next(), fields.next().unwrap_or_default().as_bytes());
            let target = fields.nth(3).unwrap_or_default().trim();
            let is_shared = access.get(1) == Some(&b'w') && access.get(3) == Some(&b's');
            if !is_shared || GPU.iter().any(|device| target.starts_with(device)) {
                continue;
            }
            let told = match target {
                "/dev/zero (deleted)" | "" => "an anonymous shared mapping".to_owned(),
                _ if target.starts_with("/SYSV") => "System V shared memory".to_owned(),
                _ if target.starts_with("/memfd:") => {
                    target.trim_start_matches('/').trim_end_matches(DELETED).to_owned()
                }
                _ if target.starts_with("/dev/shm/") || target.contains("/pym-") => shared_memory(target),
                _ if target.starts_with("anon_inode:") => continue,
                _ => format!("{}, mapped for writing", target.trim_end_matches(DELETED)),
            };
            push_once(&mut self.memory, &told);
        }
    }

    /// Locks by `fcntl`, which belong to the process.
    fn look_at_record_locks(&mut self, worker: u32) {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let worker = worker.to_string();
        for line in locks.lines() {
            let mut fields = line.split_ascii_whitespace().skip(1);
            if (fields.next(), fields.nth(2)) != (Some("POSIX"), Some(&worker)) {
                continue;
            }
            let inode = fields.next().and_then(|file| file.rsplit(':').next()?.parse::<u64>().ok());
            let known =
                self.files.iter().find(|((_, known), name)| Some(*known) == inode && !self.databases.contains(name));
            if let Some((_, name)) = known {
                let told = format!("{name}, by fcntl: not in a copy");
                push_once(&mut self.locked, &told);
            }
        }
    }

    /// What stays locked or connected for others as long as a copy has it, whatever the session does with it.
    fn binding(&self) -> Vec<String> {
        let kinds = [
            (&self.locked, "a file lock"),
            (&self.sockets, "a socket"),
            (&self.pairs, "a socket pair"),
            (&self.pipes, "a pipe"),
            (&self.terminals, "a terminal"),
        ];
        let held = kinds.into_iter().filter(|(names, _)| !names.is_empty());
        held.map(|(names, what)| format!("{what} ({})", few(names))).collect()
    }

    fn written_words(&self) -> Option<String> {
        sentence(
            &self.written,
            "a file is open for writing",
            "its content is shared by all copies of the session and not rolled back; each has a position of its own, and \
             two that write there overwrite each other",
        )
    }

    fn words(&self) -> Vec<String> {
        [
            sentence(
                &self.databases,
                "a SQLite file is open",
                "its content is not held by a checkpoint, and SQLite forbids to use a connection in two processes; \
                 connect anew after a restore",
            ),
            self.written_words(),
            sentence(
                &self.nameless,
                "a deleted file, as TemporaryFile makes, is open",
                "its content is shared by all copies of the session; each has a position of its own",
            ),
            sentence(
                &self.together,
                "a file could not be opened anew for the copy",
                "its position is shared by all copies of the session: what one reads, the others do not get",
            ),
            sentence(
                &self.locked,
                "a file lock is held",
                "flock belongs to all copies of the session together, position included, until all have let it go; a lock \
                 by fcntl stays with the process that has it",
            ),
            sentence(&self.sockets, "a socket is open", "all copies of the session read and write the same connection"),
            sentence(&self.pairs, "a socket pair is open", "all copies of the session read and write the same one"),
            sentence(&self.pipes, "a pipe is open", "all copies of the session read and write the same one"),
            sentence(&self.terminals, "a terminal is open", "all copies of the session read and write the same one"),
            sentence(
                &self.queues,
                "an object of the kernel is open",
                "all copies of the session share it: what one registers, sets or reads is so for all",
            ),
            sentence(&self.devices, "a device is open", "all copies of the session share it"),
            sentence(
                &self.memory,
                "memory is shared",
                "a checkpoint does not hold its content, and what one copy of the session writes there all others see",
            ),
            sentence(&self.gpus, "a GPU is in use", "its contexts do not survive a fork: CUDA calls fail in a copy"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn sentence(names: &[String], what: &str, why: &str) -> Option<String> {
    (!names.is_empty()).then(|| format!("{what} ({}): {why}", few(names)))
}

/// What Python calls a file in `/dev/shm`.
fn shared_memory(target: &str) -> String {
    let name = target.trim_end_matches(DELETED).rsplit('/').next().unwrap_or_default();
    if name.starts_with("pym-") {
        "multiprocessing.Value or Array".to_owned()
    } else if name.starts_with("sem.") {
        "locks and counters of multiprocessing".to_owned()
    } else if name.starts_with("psm_") {
        format!("SharedMemory {name}")
    } else {
        format!("/dev/shm/{name}")
    }
}

fn push_once(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

fn few(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let shown = names[..names.len() - more].join("; ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// Numbers and targets of open descriptors from 3 on.
fn descriptors() -> Vec<(RawFd, String)> {
    let target = |number| fs::read_link(format!("/proc/self/fd/{number}")).ok()?.to_str().map(str::to_owned);
    let open = open_files::numbers().into_iter().filter(|number| *number > 2);
    open.filter_map(|number| Some((number, target(number)?))).collect()
}

/// An internet socket, or a named one: `127.0.0.1:40000 to 127.0.0.1:5432`.
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
            path(&own).or_else(|| peer.as_ref().and_then(path))
        }
    }
}

/// The worker goes on while its copy looks: what it starts meanwhile is not the copy's affair. `own` is when the copy came.
fn came_later(worker: u32, child: &str, own: u64) -> bool {
    let Some(child) = child.parse().ok().and_then(processes::look_up) else { return true };
    // It stood still when the copy was made, so one that shares its memory (the starter of the next copy) came later.
    child.started > own || processes::share_memory(worker.cast_signed(), child.pid)
}

fn is_database(path: &Path) -> bool {
    let mut head = [0; SQLITE.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *SQLITE
}

fn is_written(number: RawFd) -> bool {
    // SAFETY: the number is open: it was read from this process' table, and this process has one thread.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_GETFL).unwrap_or(0);
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Memory that the kernel keeps from being swapped out: a fork's is not.
fn locked_memory(worker: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{worker}/status")).ok()?;
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"))?.trim();
    (locked != "0 kB").then(|| format!("memory is locked ({locked}, by mlock): that of a copy is not"))
}

/// Processes that the worker has started: they are its children alone.
fn children(worker: u32) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).ok()?;
    let own = processes::look_up(i32::try_from(std::process::id()).ok()?)?.started;
    let mut names = Vec::new();
    for task in tasks.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter(|child| !came_later(worker, child, own)) {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            names.push(format!("{child} {}", name.trim()));
        }
    }
    (!names.is_empty()).then(|| {
        format!(
            "child processes run ({}): they are those of the session that goes on; a copy cannot wait for them and does \
             not learn how they end",
            few(&names)
        )
    })
}
