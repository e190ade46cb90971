//! What an image is tied to beside the files that it maps: the machine, the kernel, the user and what that may see.
//!
//! Runs in: checkpoint (`now`, written down), the process that is woken (`now`, compared).

use std::fs;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// Namespaces that a process may be alone in.
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ties {
    kernel: String,
    processor: Vec<u32>,
    user: [u32; 6],
    groups: Vec<u32>,
    namespaces: Vec<String>,
    confined: Vec<String>,
    personality: i64,
    /// How it is scheduled and served, where that can be asked.
    served: [i64; 4],
}

impl Ties {
    /// Those of this process.
    pub(super) fn now() -> Result<Self, Refusal> {
        let kernel = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").map_err(|_| Refusal::Untold("how it is confined"))?;
        let lines = status.lines().filter(|line| {
            ["Seccomp", "NoNewPrivs", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"]
                .iter()
                .any(|name| line.starts_with(name))
        });
        Ok(Self {
            kernel: kernel("osrelease") + &kernel("version"),
            processor: processor(),
            user: user(),
            groups: nix::unistd::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect(),
            namespaces: NAMESPACES.iter().map(|name| namespace(name)).chain([root()]).collect(),
            confined: lines.map(str::to_owned).collect(),
            // SAFETY: this argument asks.
            personality: i64::from(unsafe { libc::personality(0xffff_ffff) }),
            served: served(),
        })
    }

    /// The first that differs.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let compared = [
            (self.kernel == other.kernel, "the kernel"),
            (self.processor == other.processor, "the processor"),
            (self.user == other.user && self.groups == other.groups, "the user"),
            (self.namespaces == other.namespaces, "a namespace"),
            (self.confined == other.confined, "what the process may do"),
            (self.personality == other.personality, "the execution domain"),
            (
                self.served == other.served,
                "how the process is scheduled (policy, I/O priority, timer slack, huge pages)",
            ),
        ];
        compared.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

impl Ties {
    /// The image has come to another place, where its files are the same: which namespaces there are is the place's. The
    /// machine and the user must be those that they were.
    pub(super) fn move_to(&mut self, here: &Self) -> Result<(), Refusal> {
        self.namespaces.clone_from(&here.namespaces);
        let (confined, served) = (here.confined.clone(), here.served);
        let then = Self { confined, served, ..self.clone() };
        then.difference(here).map_or(Ok(()), |what| Err(Refusal::Tie { what }))
    }
}

fn namespace(name: &str) -> String {
    let link = fs::read_link(format!("/proc/self/ns/{name}"));
    link.map_or_else(|_| String::new(), |target| target.to_string_lossy().into_owned())
}

fn root() -> String {
    fs::read_link("/proc/self/root").map_or_else(|_| String::new(), |root| root.to_string_lossy().into_owned())
}

fn served() -> [i64; 4] {
    const PROCESS: i32 = 1;
    // SAFETY: these calls take numbers and only tell.
    unsafe {
        [
            libc::syscall(libc::SYS_sched_getscheduler, 0),
            libc::syscall(libc::SYS_ioprio_get, PROCESS, 0),
            i64::from(libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0)),
            i64::from(libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0)),
        ]
    }
}

fn user() -> [u32; 6] {
    let mut ids = [0; 6];
    let [user, effective, saved, group, effective_group, saved_group] = &mut ids;
    // SAFETY: each call writes three numbers.
    unsafe {
        libc::getresuid(user, effective, saved);
        libc::getresgid(group, effective_group, saved_group);
    }
    ids
}

/// What libraries ask the processor once and remember. Without the number of the processor that the question ran on.
#[cfg(target_arch = "x86_64")]
fn processor() -> Vec<u32> {
    use std::arch::x86_64::{__cpuid_count, _xgetbv};
    /// Bit 27 of the third register of leaf 1: the kernel uses XSAVE.
    const USES_XSAVE: u32 = 1 << 27;
    let mut words = Vec::new();
    let vendor = __cpuid_count(0, 0);
    words.extend([vendor.ebx, vendor.ecx, vendor.edx]);
    let first = __cpuid_count(1, 0);
    words.extend([first.eax, first.ecx, first.edx]);
    if vendor.eax >= 0xd {
        for (leaf, sub) in [(7, 0), (7, 1), (0xd, 1)] {
            let found = __cpuid_count(leaf, sub);
            // The second register of leaf 0xd is the size of what is in use now.
            words.extend([found.eax, if leaf == 7 { found.ebx } else { 0 }, found.ecx, found.edx]);
        }
    }
    let extended = __cpuid_count(0x8000_0001, 0);
    words.extend([extended.ecx, extended.edx]);
    if first.ecx & USES_XSAVE != 0 {
        // SAFETY: the bit says that the instruction is there.
        let state = unsafe { xgetbv(_xgetbv) };
        words.extend([u32::try_from(state & 0xffff_ffff).unwrap_or(0), u32::try_from(state >> 32).unwrap_or(0)]);
    }
    words
}

/// # Safety
/// The processor has the instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "xsave")]
unsafe fn xgetbv(read: unsafe fn(u32) -> u64) -> u64 {
    // SAFETY: the caller's promise; register 0 is always there.
    unsafe { read(0) }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> Vec<u32> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_differs_from_itself_and_what_differs_is_named() {
        let now = Ties::now().expect("told");
        assert_eq!(now.difference(&Ties::now().expect("told")), None);
        let other = Ties { personality: -1, ..now.clone() };
        assert_eq!(now.difference(&other), Some("the execution domain"));
        let other = Ties { user: [1; 6], ..now.clone() };
        assert_eq!(now.difference(&other), Some("the user"));
    }

    #[test]
    fn namespaces_are_the_place_s_and_the_machine_is_not() {
        let now = Ties::now().expect("told");
        let mut moved = Ties { namespaces: Vec::new(), ..now.clone() };
        assert!(moved.move_to(&now).is_ok());
        assert_eq!(moved.difference(&now), None);
        let mut moved = Ties { kernel: "another".to_owned(), ..now.clone() };
        assert!(matches!(moved.move_to(&now), Err(Refusal::Tie { what: "the kernel" })));
    }
}
