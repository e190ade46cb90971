//! What an interrupt of a cell reaches: the main thread, and the processes that run in the foreground with it.
//!
//! Runs in: worker, control thread. Never takes the GIL. A worker leads a process group, as a program that a shell has
//! started does, and what a cell starts is in it unless it leaves it (`setsid`, `start_new_session=True`). Ctrl-C in a
//! terminal interrupts the whole group, and so do we; but only what descends from this worker: a checkpoint that has just
//! been forked is still in the group for a moment, and must not find an interrupt when it wakes.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    protocol::Urgency,
    sys::{
        processes::{self, Process},
        signals::{self, ThreadHandle},
    },
};

/// Interrupts the main thread and the foreground group. With more urgency, ends what the cell has started since `began`
/// (as [`processes::ticks_now`] counts) and still waits for: the next step of the server's is to kill the worker.
pub(crate) fn interrupt(main: ThreadHandle, urgency: Urgency, began: u64) {
    // `system(3)` ignores SIGINT for the whole process while its child runs. Then CPython is told directly, so that the
    // cell goes no further when the child has ended.
    let unheard = signals::is_ignored(Signal::SIGINT);
    main.interrupt();
    if unheard {
        // SAFETY: async-signal-safe, needs no GIL (CPython's documentation); it only sets CPython's own flags.
        unsafe { pyo3::ffi::PyErr_SetInterruptEx(libc::SIGINT) };
    }
    if !processes::has_children() {
        return;
    }
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let table = processes::table();
    let family = processes::closure(&table, |process| process.pid == own);
    let others = || table.iter().filter(|process| process.pid != own && family.contains(&process.pid));
    send(others().filter(|process| process.group == own), Signal::SIGINT);
    let of_cell = || others().filter(|process| process.started >= began);
    match urgency {
        Urgency::First => {}
        Urgency::Second => send(of_cell(), Signal::SIGTERM),
        Urgency::Last => send(of_cell(), Signal::SIGKILL),
    }
}

fn send<'a>(processes: impl Iterator<Item = &'a Process>, signal: Signal) {
    for process in processes {
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}
