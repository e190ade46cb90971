//! Kernels that are older than this one: system calls that they do not have are answered with ENOSYS, by a filter on the
//! server's process, which all that it starts inherits.

use std::{io, os::unix::process::CommandExt};

use serde_json::json;

use crate::support::{Forkpy, Setup};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

fn statement(code: u32, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("a code"), jt: 0, jf: 0, k: value }
}

/// A server whose kernel lacks these calls.
fn without(calls: &[libc::c_long]) -> Forkpy {
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for call in calls {
        let mut is_it = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u32::try_from(*call).expect("a number"));
        is_it.jf = 1;
        program.extend([is_it, statement(libc::BPF_RET | libc::BPF_K, MISSING)]);
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, ALLOW));
    let mut setup = Setup::new();
    let filter = move || {
        let table =
            libc::sock_fprog { len: u16::try_from(program.len()).expect("short"), filter: program.as_ptr().cast_mut() };
        // SAFETY: between fork and exec; two calls that read what lives here.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const table) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { setup.command().pre_exec(filter) };
    setup.start()
}

/// On Linux 5.8 and older workers kept what the zygote and the server had open: a closed socket never ended.
#[test]
fn without_close_range_and_landlock_sessions_run_and_keep_no_foreign_descriptors() {
    let code = "import os; sorted(fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')).__len__()";
    let usual = Setup::new().start().eval(code);
    let mut forkpy = without(&[
        libc::SYS_close_range,
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
        libc::SYS_openat2,
        libc::SYS_faccessat2,
        libc::SYS_process_madvise,
        libc::SYS_epoll_pwait2,
        libc::SYS_statx,
    ]);
    assert_eq!(forkpy.eval(code), usual);
    assert_eq!(forkpy.eval("import subprocess; subprocess.run(['true']).returncode"), "0");
    forkpy.call("create_session", json!({"session_id": "other"}));
    assert_eq!(forkpy.health()["status"], "healthy");
}

#[test]
fn without_pidfd_the_reply_says_what_is_missing() {
    let mut forkpy = without(&[libc::SYS_pidfd_open]);
    let words = forkpy.refused("run_python_code", json!({"code": "1"}));
    assert!(words.contains("pidfd_open") && words.contains("Linux 5.3"), "{words}");
}
