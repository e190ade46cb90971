//! System calls that a session's processes are refused: with EPERM, never with death.
//!
//! Runs in: server (asks whether there are filters), zygote (compiles, once), worker and script (apply, after the fork and
//! before any code that is not forkpy's). Owns the list.
//!
//! Two filters: the list, compiled by seccompiler, and a short one of our own for what that crate has no words for: other
//! architectures' calls, `clone3` (whose flags no filter can read: ENOSYS, and the C library takes `clone`), and those that it
//! hands to the server (`sys/door.rs`): `connect`, `listen`, and what marks files (`sys/marks.rs`).

use std::{
    collections::BTreeMap,
    io,
    mem::offset_of,
    os::fd::{FromRawFd, OwnedFd},
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpArgLen::Qword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::marks;

/// Reach into another process, or past the rules of the file system and of the kernel.
const NEVER: &[libc::c_long] = &[
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // calls that pass by every filter, and code inside the kernel
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    // keys
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // mounts, namespaces, roots
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // what happens to files elsewhere: Landlock sees no path here
    libc::SYS_inotify_add_watch,
    // memory and messages that all processes of the user share by number or name
    libc::SYS_shmget,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // the machine
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[libc::c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_lookup_dcookie,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[libc::c_long] = &[];

/// Namespaces that `clone` would make: cgroup, UTS, IPC, user, pid, network, mount.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
];
/// The part of a socket's type that is the type.
const TYPE: u64 = 0xf;

/// `IOPRIO_WHO_USER`.
const IOPRIO_WHO_USER: u64 = 3;

/// Whether this kernel lets a process filter its calls.
#[must_use]
pub(crate) fn available() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: asks whether an action is known; nothing changes.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Which sockets there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sockets {
    /// Pairs, which lead nowhere else.
    Pairs,
    /// Those of the own processes too, by name.
    Local,
    /// And TCP, which the door connects to the server's proxy and to nothing else.
    Proxied,
}

/// Options of a socket that lead its packets elsewhere, or connect it behind the door: level, option.
const LEADING_AWAY: [(libc::c_int, libc::c_int); 6] = [
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::IPPROTO_TCP, libc::TCP_REPAIR),
    (libc::IPPROTO_TCP, libc::TCP_ULP),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT),
];

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: a call that the server has taken is broken off by death only.
const TO_ITS_END: libc::c_ulong = 1 << 5;

/// The two filters; the second one with and without a server that is asked.
#[derive(Debug)]
pub(crate) struct Filter {
    list: BpfProgram,
    asking: Vec<libc::sock_filter>,
    refusing: Vec<libc::sock_filter>,
}

impl Filter {
    /// Compiles.
    ///
    /// # Errors
    /// When seccompiler has no words for the list, which a test would have shown.
    pub(crate) fn compile(sockets: Sockets) -> io::Result<Self> {
        let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("seccomp: {error}"));
        let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(&error))?;
        let rules = rules(sockets).map_err(|error| failed(&error))?;
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture);
        let mut list: BpfProgram = filter.and_then(TryInto::try_into).map_err(|error| failed(&error))?;
        list.iter_mut().for_each(spare);
        let asking = rest(sockets, libc::SECCOMP_RET_USER_NOTIF);
        let refusing = rest(sockets, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs());
        Ok(Self { list, asking, refusing })
    }

    /// Refuses, from now on, in this thread and all that it starts. `no_new_privs` is set. The listener to which calls that
    /// the server makes go, where there is one: it must not stay in this process.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn apply(&self) -> io::Result<Option<OwnedFd>> {
        nix::sys::prctl::set_no_new_privs()?;
        let failed = |error: seccompiler::Error| io::Error::other(format!("seccomp: {error}"));
        seccompiler::apply_filter(&self.list).map_err(failed)?;
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        // Older kernels do not know the second flag; and where a listener is above us already, there can be no other.
        if let Ok(listener) = install(&self.asking, flags | TO_ITS_END).or_else(|_| install(&self.asking, flags)) {
            let listener = i32::try_from(listener).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made this descriptor for us.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) }));
        }
        install(&self.refusing, 0).map(|_| None)
    }
}

fn install(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let length = u16::try_from(program.len()).unwrap_or(0);
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call, which copies it and changes nothing.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) } {
        -1 => Err(io::Error::last_os_error()),
        made => Ok(made),
    }
}

/// The crate ends a process that makes a call of another architecture; ours is refused that call.
fn spare(step: &mut sock_filter) {
    let is_return = u32::from(step.code) == libc::BPF_RET | libc::BPF_K;
    if is_return && step.k == libc::SECCOMP_RET_KILL_PROCESS {
        step.k = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(sockets: Sockets) -> Result<Rules, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let when = |conditions: Vec<(u8, SeccompCmpOp, u64)>| {
        let made = conditions.into_iter().map(|(argument, op, value)| {
            // A pointer is as wide as it is; all else here is an int.
            let width = if matches!(op, Ne) && argument == 2 && value == 0 { Qword } else { Dword };
            SeccompCondition::new(argument, width, op, value)
        });
        SeccompRule::new(made.collect::<Result<_, _>>()?)
    };
    let mut rules: Rules = NEVER.iter().chain(NEVER_HERE).chain(&marks::NEW).map(|call| (*call, Vec::new())).collect();
    let wide = |number: libc::c_int| u64::from(number.unsigned_abs());
    let namespaces = NAMESPACES.map(wide).map(|flag| when(vec![(0, MaskedEq(flag), flag)]));
    rules.insert(libc::SYS_clone, namespaces.into_iter().collect::<Result<_, _>>()?);
    // A terminal's input, forged.
    let forged = [libc::TIOCSTI, libc::TIOCLINUX].into_iter().chain(marks::COMMANDS);
    rules.insert(libc::SYS_ioctl, forged.map(|request| when(vec![(1, Eq, request)])).collect::<Result<_, _>>()?);
    // Limits and priorities of others.
    rules.insert(libc::SYS_prlimit64, vec![when(vec![(0, Ne, 0), (2, Ne, 0)])?]);
    // Nought is the own process, and the own user with all processes.
    let of_user = [u64::from(libc::PRIO_USER), IOPRIO_WHO_USER];
    for (call, user) in [libc::SYS_setpriority, libc::SYS_ioprio_set].into_iter().zip(of_user) {
        rules.insert(call, vec![when(vec![(1, Ne, 0)])?, when(vec![(0, Eq, user)])?]);
    }
    // TCP that connects while it sends.
    let fast = wide(libc::MSG_FASTOPEN);
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.insert(call, vec![when(vec![(flags, MaskedEq(fast), fast)])?]);
    }
    // Streams and sequenced packets of Unix; a datagram socket sends to any name.
    let unix = wide(libc::AF_UNIX);
    let internet = wide(libc::AF_INET);
    let mut kinds = Vec::new();
    for kind in (0..=TYPE).filter(|kind| ![wide(libc::SOCK_STREAM), wide(libc::SOCK_SEQPACKET)].contains(kind)) {
        kinds.push(when(vec![(1, MaskedEq(TYPE), kind)])?);
    }
    let with_kinds = |mut refused: Vec<SeccompRule>| {
        refused.extend(kinds.clone());
        refused
    };
    let local = with_kinds(vec![when(vec![(0, Ne, unix)])?]);
    rules.insert(libc::SYS_socketpair, local.clone());
    let made = match sockets {
        Sockets::Pairs => Vec::new(),
        Sockets::Local => local,
        // Streams of TCP: no others, and none that are made of several.
        Sockets::Proxied => with_kinds(vec![
            when(vec![(0, Ne, unix), (0, Ne, internet)])?,
            when(vec![(0, Eq, internet), (1, MaskedEq(TYPE), wide(libc::SOCK_SEQPACKET))])?,
            when(vec![(0, Eq, internet), (2, Ne, 0), (2, Ne, wide(libc::IPPROTO_TCP))])?,
        ]),
    };
    rules.insert(libc::SYS_socket, made);
    if sockets == Sockets::Proxied {
        // A route of one's own, among others.
        let levels = [libc::IPPROTO_IP, libc::IPPROTO_IPV6].map(|level| when(vec![(1, Eq, wide(level))]));
        let options = LEADING_AWAY.map(|(level, option)| when(vec![(1, Eq, wide(level)), (2, Eq, wide(option))]));
        rules.insert(libc::SYS_setsockopt, levels.into_iter().chain(options).collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

/// `door` is what becomes of calls that the server makes.
fn rest(sockets: Sockets, door: u32) -> Vec<libc::sock_filter> {
    let load = |place: usize| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, u32::try_from(place).unwrap_or(0));
    let refuse =
        |errno: libc::c_int| step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    let is = |call: libc::c_long, then: libc::sock_filter| {
        [step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(call).unwrap_or(u32::MAX)), then]
    };
    let mut program = vec![load(offset_of!(libc::seccomp_data, nr))];
    if cfg!(target_arch = "x86_64") {
        // The calls of x32 are those of x86-64 under other numbers.
        const X32: u32 = 0x4000_0000;
        program.extend([step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32), refuse(libc::ENOSYS)]);
    }
    program.extend(is(libc::SYS_clone3, refuse(libc::ENOSYS)));
    let asked = step(libc::BPF_RET | libc::BPF_K, 0, 0, door);
    // A pair is connected, and to nothing else.
    program.extend(is(libc::SYS_connect, if sockets == Sockets::Pairs { refuse(libc::EPERM) } else { asked }));
    program.extend(marks::calls().flat_map(|call| is(call, asked)));
    if sockets == Sockets::Proxied {
        program.extend(is(libc::SYS_listen, asked));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

fn step(code: u32, yes: u8, no: u8, operand: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt: yes, jf: no, k: operand }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nought is the own user, with all of its processes.
    #[test]
    fn priorities_of_all_processes_are_refused() {
        let rules = rules(Sockets::Local).expect("words for all of it");
        for call in [libc::SYS_setpriority, libc::SYS_ioprio_set] {
            assert_eq!(rules[&call].len(), 2);
        }
    }

    #[test]
    fn the_list_compiles_and_kills_nothing() {
        for sockets in [Sockets::Pairs, Sockets::Local, Sockets::Proxied] {
            let filter = Filter::compile(sockets).expect("words for all of it");
            assert!(filter.list.len() < 4096, "{} steps", filter.list.len());
            let kills = filter.list.iter().filter(|step| {
                u32::from(step.code) == libc::BPF_RET | libc::BPF_K && step.k == libc::SECCOMP_RET_KILL_PROCESS
            });
            assert_eq!(kills.count(), 0);
        }
    }
}
