//! What differs between the CPythons that forkpy is built with, as far as it concerns forkpy: what the code does about it, and
//! the test that shows it.
//!
//! Runs in: any process; a table, made when forkpy is compiled. Whether a row holds for a build is asked of pyo3's settings
//! (`Py_3_14`, `Py_GIL_DISABLED`).

/// How a row is known to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// By this integration test, where it runs with such a CPython.
    By(&'static str),
    /// By none: there was no such CPython where forkpy was made.
    NotTested,
}

/// A row.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The first version; with a `t` the free-threaded builds from it on.
    pub(crate) since: &'static str,
    /// Whether this forkpy is built with such a CPython.
    pub(crate) holds: bool,
    pub(crate) what: &'static str,
    /// For readers: what forkpy does about it, and where.
    #[allow(dead_code, reason = "the table is also a document")]
    met: &'static str,
    pub(crate) shown: Shown,
}

const fn row((since, holds): (&'static str, bool), what: &'static str, met: &'static str, shown: Shown) -> Difference {
    Difference { since, holds, what, met, shown }
}

const SINCE_3_12: (&str, bool) = ("3.12", cfg!(Py_3_12));
const SINCE_3_14: (&str, bool) = ("3.14", cfg!(Py_3_14));
const FREE_THREADED: (&str, bool) = ("3.14t", cfg!(Py_GIL_DISABLED));

pub(crate) const TABLE: [Difference; 9] = [
    row(
        SINCE_3_12,
        "os.fork() warns in a process that has threads, and a session has forkpy's own",
        "sessions and copies are forked below Python, between CPython's hooks (zygote/fork.rs, worker/checkpoint.rs)",
        Shown::By("pythons::a_session_and_its_copies_are_made_without_warnings"),
    ),
    row(
        SINCE_3_14,
        "multiprocessing starts processes by forkserver, which know nothing of what cells define",
        "what cells define goes by cloudpickle, as with spawn (python/forkpy_worker/libraries)",
        Shown::By("pythons::the_usual_way_to_start_processes_knows_what_cells_define"),
    ),
    row(
        SINCE_3_14,
        "a thread's name is its name in the system too",
        "a thread of the session's that is called as one of forkpy's own is told before a copy (worker/threads.rs)",
        Shown::By("pythons::a_thread_that_is_called_as_one_of_ours_is_told_before_a_copy"),
    ),
    row(
        SINCE_3_14,
        "PyInitConfig is a second way to say how an interpreter begins",
        "PyConfig is there too, and is what all versions have (zygote/interpreter.rs)",
        Shown::By("zygote::cells_share_a_namespace_and_print_into_the_pipe"),
    ),
    row(
        SINCE_3_14,
        "sys.remote_exec() has another process run code, once that is between two instructions",
        "a worker that hangs in native code never is: its stacks are written by a signal's handler (worker/python.rs, arm_dump)",
        Shown::By("evidence::stacks_are_shown_of_what_is_idle_busy_held_and_stopped"),
    ),
    row(
        FREE_THREADED,
        "other threads are in Python while a process is forked",
        "PyOS_BeforeFork stops all threads that are; forkpy's own stay out of it meanwhile (worker/quiet.rs)",
        Shown::NotTested,
    ),
    row(
        FREE_THREADED,
        "native code keeps no other thread from running: the evaluation behind a ping answers, and a cell that hangs there is busy",
        "verdicts come from what was seen, so it is ended by its time-out and not by a verdict (server/health/verdict.rs)",
        Shown::NotTested,
    ),
    row(
        FREE_THREADED,
        "objects lie in memory of CPython's own allocator",
        "PyObject_SetArenaAllocator is called and has no effect: no huge pages for small objects (zygote/interpreter.rs)",
        Shown::NotTested,
    ),
    row(
        FREE_THREADED,
        "an extension module that does not say that it can do without the GIL brings it back, with a warning",
        "forkpy brings none: its functions are Python code and calls from outside",
        Shown::NotTested,
    ),
];

/// What of this build was not tested.
pub(crate) fn untested() -> impl Iterator<Item = &'static Difference> {
    TABLE.iter().filter(|difference| difference.holds && difference.shown == Shown::NotTested)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[expect(clippy::print_stdout, reason = "what is not tested is said")]
    #[test]
    fn what_is_said_to_be_tested_has_its_test() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
        for difference in &TABLE {
            let Shown::By(test) = difference.shown else {
                println!("NOT TESTED: CPython {}: {}", difference.since, difference.what);
                continue;
            };
            let (file, name) = test.split_once("::").expect("a file and a test");
            let text = fs::read_to_string(folder.join(file).with_extension("rs")).expect("there");
            assert!(text.contains(&format!("#[test]\nfn {name}()")), "{test}");
            if !difference.holds {
                let here = env!("FORKPY_PYTHON_VERSION");
                println!("NOT TESTED with CPython {here}: since {}: {}", difference.since, difference.what);
            }
        }
    }

    #[test]
    fn a_build_with_the_usual_lock_is_tested_in_all_rows() {
        assert_eq!(untested().count() == 0, !cfg!(Py_GIL_DISABLED));
    }
}
