//! Memory that belongs to processes and that their resident size does not show: files in memory that are open and not
//! mapped, buffers of sockets and pipes.
//!
//! Runs in: server, on blocking threads. For where no cgroup counts. Costs some microseconds for each open descriptor.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
};

use super::pidfd::PidFd;

pub(crate) type File = (u64, u64);

/// What the descriptors of some processes keep in memory.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Files in memory: their bytes, and their path where they have one.
    pub files: BTreeMap<File, (u64, Option<PathBuf>)>,
    /// Bytes in buffers of sockets and pipes.
    pub buffers: u64,
}

impl Held {
    /// Bytes of all files.
    #[must_use]
    pub(crate) fn in_files(&self) -> u64 {
        self.files.values().map(|(bytes, _)| bytes).sum()
    }
}

/// Looks at all descriptors of these processes; what several have open counts once.
#[must_use]
pub(crate) fn held(pids: &HashSet<i32>) -> Held {
    let mut found = Held::default();
    let mut seen: HashSet<PathBuf> = HashSet::new();
    for pid in pids {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let process = PidFd::open(*pid).ok();
        for entry in entries.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let Some(name) = target.to_str() else { continue };
            if name.starts_with("/memfd:") || name.starts_with("/dev/shm/") {
                if let Ok(status) = fs::metadata(entry.path()) {
                    let path = (status.nlink() > 0 && !name.starts_with("/memfd:")).then(|| target.clone());
                    found.files.insert((status.dev(), status.ino()), (status.blocks() * 512, path));
                }
            } else if (name.starts_with("socket:") || name.starts_with("pipe:")) && seen.insert(target.clone()) {
                let number = entry.file_name().to_str().and_then(|number| number.parse().ok());
                found.buffers +=
                    process.as_ref().zip(number).and_then(|(process, number)| buffered(process, number)).unwrap_or(0);
            }
        }
    }
    found
}

/// Bytes of a file in memory that is still the one it was.
#[must_use]
pub(crate) fn size_of(path: &std::path::Path, file: File) -> Option<u64> {
    let status = fs::metadata(path).ok()?;
    ((status.dev(), status.ino()) == file).then(|| status.blocks() * 512)
}

/// System V segments that these processes have made and no process has attached: bytes.
#[must_use]
pub(crate) fn detached_segments(pids: &HashSet<i32>) -> u64 {
    segments(&fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default(), pids)
}

fn segments(table: &str, pids: &HashSet<i32>) -> u64 {
    let mut lines = table.lines();
    let names: HashMap<&str, usize> = lines
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .enumerate()
        .map(|(place, name)| (name, place))
        .collect();
    let of = |fields: &[&str], name: &str| names.get(name).and_then(|place| fields.get(*place)?.parse::<u64>().ok());
    lines
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| {
            let maker = of(fields, "cpid").and_then(|pid| i32::try_from(pid).ok());
            of(fields, "nattch") == Some(0) && maker.is_some_and(|pid| pids.contains(&pid))
        })
        .filter_map(|fields| Some(of(&fields, "rss")? + of(&fields, "swap").unwrap_or(0)))
        .sum()
}

/// Proportional memory of a process, but for mappings of these files; bytes.
#[must_use]
pub(crate) fn proportional_without(pid: i32, files: &BTreeMap<File, (u64, Option<PathBuf>)>) -> Option<u64> {
    Some(without(&fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?, files))
}

fn without(smaps: &str, files: &BTreeMap<File, (u64, Option<PathBuf>)>) -> u64 {
    let (mut bytes, mut counts) = (0, true);
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Pss:").or_else(|| line.strip_prefix("SwapPss:")) {
            let kilobytes = size.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            bytes += if counts { kilobytes.unwrap_or(0) * 1024 } else { 0 };
        } else if line.split_ascii_whitespace().next().is_some_and(|first| !first.ends_with(':')) {
            // `address access offset major:minor inode path` begins a mapping.
            counts = !mapped(line).is_some_and(|file| files.contains_key(&file));
        }
    }
    bytes
}

fn mapped(line: &str) -> Option<File> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let device = libc::makedev(number(major)?, number(minor)?);
    let inode: u64 = fields.next()?.parse().ok()?;
    (inode != 0).then_some((device, inode))
}

/// Bytes that lie in a socket or a pipe of another process.
fn buffered(process: &PidFd, number: RawFd) -> Option<u64> {
    let own = process.descriptor(number).ok()?;
    memory_of_socket(&own).or_else(|| unread(&own))
}

/// What the kernel keeps for a socket: received and not read, sent and not taken.
fn memory_of_socket(socket: &OwnedFd) -> Option<u64> {
    // `SK_MEMINFO_VARS` numbers: received, its limit, sent, its limit, reserved, queued, options, backlog, drops.
    let mut all = [0_u32; 9];
    let mut length = libc::socklen_t::try_from(std::mem::size_of_val(&all)).ok()?;
    // SAFETY: the buffer and its length outlive the call.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, all.as_mut_ptr().cast(), &raw mut length)
    };
    (done == 0).then(|| u64::from(all[0]) + u64::from(all[2].max(all[5])) + u64::from(all[7]))
}

/// Of `socket(7)`, since Linux 4.12.
const SO_MEMINFO: libc::c_int = 55;

fn unread(pipe: &OwnedFd) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one number, which outlives it.
    (unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) } == 0)
        .then(|| u64::try_from(bytes).unwrap_or(0))
}

impl PidFd {
    /// A copy of one of its descriptors; only for asking something of it.
    fn descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_getfd takes three integers and returns a new descriptor, close-on-exec, or -1.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.as_raw_fd(), number, 0) };
        let raw = RawFd::try_from(raw).unwrap_or(-1);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn files_in_memory_and_full_buffers_are_seen() {
        let mut file = fs::File::from(crate::sys::descriptors::memory_file(c"held").expect("a memfd"));
        file.write_all(&vec![1; 3 << 20]).expect("written");
        let status = file.metadata().expect("known");
        let (mut near, _far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        near.write_all(&[0; 50_000]).expect("it fits");
        let own = HashSet::from([i32::try_from(std::process::id()).expect("small")]);
        let found = held(&own);
        let (bytes, path) = found.files.get(&(status.dev(), status.ino())).expect("it is open");
        assert!((3 << 20..4 << 20).contains(bytes) && path.is_none(), "{bytes}");
        assert!(found.buffers >= 50_000, "{}", found.buffers);
    }

    #[test]
    fn segments_count_for_their_maker() {
        let table = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n\
                     0 1 600 8192 10 0 0 0 0 0 0 0 0 0 4096 4096\n0 2 600 8192 10 0 1 0 0 0 0 0 0 0 4096 0\n0 3 600 8192 11 0 0 0 0 0 0 0 0 0 4096 0\n";
        assert_eq!(segments(table, &HashSet::from([10])), 8192);
    }

    #[test]
    fn mappings_of_files_that_are_counted_are_left_out() {
        let smaps = "7f00-7f01 rw-s 00000000 00:01 42 /memfd:x (deleted)\nPss: 100 kB\nVmFlags: rd wr\n\
                     7f02-7f03 rw-p 00000000 00:00 0 \nPss: 7 kB\nSwapPss: 1 kB\n";
        assert_eq!(without(smaps, &BTreeMap::new()), 108 << 10);
        let files = BTreeMap::from([((libc::makedev(0, 1), 42), (0, None))]);
        assert_eq!(without(smaps, &files), 8 << 10);
    }
}
