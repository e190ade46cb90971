//! A child of the zygote that reads, once on a machine, what the first completion would have to wait for.
//!
//! Runs in: zygote, when it has nothing else to do; the child, which serves no session and runs only where the processor
//! has no other work. jedi keeps what it has parsed on disk, so the child only has to do it once and end. The zygote itself
//! imports no jedi: forks and deaths would wait for that.

use pyo3::{Python, types::PyAnyMethods};

use super::fork;
use crate::sys::{descriptors, forks::Bystanders, processes, signals};

/// Begins it if it is wanted, and gives the child's number; it is not waited for.
pub(super) fn begin(py: Python<'_>, bystanders: &mut Bystanders) -> Option<i32> {
    let ready = py.import("forkpy_worker.lookup.ready").ok()?;
    if !ready.call_method0("is_cold").ok()?.extract::<bool>().ok()? {
        return None;
    }
    let zygote = i32::try_from(std::process::id()).ok()?;
    match fork::fork(py, bystanders).ok()? {
        fork::Side::Parent { child } => Some(child),
        fork::Side::Child => {
            if signals::die_with_parent(zygote) {
                signals::set_title("forkpy:reader");
                signals::reset_after_fork();
                processes::yield_to_all();
                let _ = descriptors::null_stdin();
                // SAFETY: they belong to values of the zygote's that this process never drops: it ends by `_exit`.
                unsafe { descriptors::close_all_but(&[]) };
                let _ = ready.call_method0("warm");
            }
            // SAFETY: no preconditions; it does not return.
            unsafe { libc::_exit(0) }
        }
    }
}
