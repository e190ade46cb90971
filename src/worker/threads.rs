//! Threads that a fork would not have: the session's own, by Python or by native libraries.
//!
//! Runs in: worker, main thread, before a checkpoint. Ours are known by name and are no loss: a woken worker has new ones.
//! One that has just been started has no name before its first turn on a processor, so those are counted until then.
//! A native thread is told by whose code it runs, which its stack shows. Libraries that have new threads in a fork
//! (`sys/forks.rs`) are no loss either.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use pyo3::Python;

use super::python::Functions;
use crate::{
    protocol::Missed,
    sys::{
        forks::{self, Fate},
        stacks::{self, Mappings},
    },
};

/// Threads that forkpy has in a worker. A session's own have other names: from 3.14 on Python gives its threads theirs here too.
const OURS: [&str; 4] = ["fp-control", "fp-pinger", "fp-answers", "fp-answer"];

/// Those of them that were started and have had no turn on a processor yet.
static STARTING: AtomicU32 = AtomicU32::new(0);

/// How long one of the session's threads may take to be over.
const ENDING: Duration = Duration::from_millis(100);
/// How long one of ours may take to get its turn. A busy machine may need seconds; one that never comes may not hold a copy.
const FIRST_TURN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Looks before a copy is refused: one may take all of that time, where a pool still spins, and tells its threads to end.
const LOOKS: u32 = 3;

/// Starts a thread of ours: one of the names in [`OURS`].
///
/// # Errors
/// When the system has no more threads, or no memory for one.
pub(super) fn start<T: Send + 'static>(
    name: &str,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    debug_assert!(OURS.contains(&name));
    STARTING.fetch_add(1, Ordering::Relaxed);
    let started = thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(|| {
        // Its name comes before this.
        STARTING.fetch_sub(1, Ordering::Relaxed);
        work()
    });
    if started.is_err() {
        STARTING.fetch_sub(1, Ordering::Relaxed);
    }
    started
}

/// In a fork: it has one thread, and none is being started.
pub(super) fn begin_anew() {
    STARTING.store(0, Ordering::Relaxed);
}

/// Those threads, and processes that hold objects of the session's; empty when a fork has all there is.
pub(crate) fn lost_in_a_fork(py: Python<'_>, functions: &Functions) -> Vec<Missed> {
    let began = Instant::now();
    let mut looks = 0;
    loop {
        looks += 1;
        // Asked before the look: by the time it is over they may have their names.
        let starting = STARTING.load(Ordering::Relaxed);
        let found = look(py, functions);
        let waited = began.elapsed();
        let ours_may_be_among_them = starting > 0 && waited < FIRST_TURN;
        if found.is_empty() || (looks >= LOOKS && waited > ENDING && !ours_may_be_among_them) {
            return found;
        }
        py.detach(|| thread::sleep(LOOK_AGAIN));
    }
}

fn look(py: Python<'_>, functions: &Functions) -> Vec<Missed> {
    let mut missed: Vec<Missed> = functions.keepers(py).into_iter().map(|what| Missed::Process { what }).collect();
    if foreign().is_empty() {
        return missed;
    }
    let (python, known) = functions.threads(py);
    missed.extend(python.into_iter().map(|name| Missed::Thread { name }));
    let mappings = Mappings::of_this_process();
    let mut unknown = 0;
    let mut libraries = BTreeMap::<String, usize>::new();
    // What `threading` knows has been asked already, and needs no look at its stack.
    let strangers = foreign().into_iter().filter(|tid| !known.contains(tid));
    for tid in strangers {
        match stacks::code_of(tid, &mappings) {
            Some(path) if forks::fate(&path) == Some(Fate::Renewed) => {}
            Some(path) if is_python(&path) => unknown += 1,
            Some(path) => {
                if forks::fate(&path) == Some(Fate::Dismissed) {
                    // It is gone when we look again.
                    forks::dismiss(&path);
                }
                *libraries.entry(forks::library_of(&path)).or_default() += 1;
            }
            None => missed.push(Missed::Native { name: name_of(tid) }),
        }
    }
    let starting = known.iter().filter(|number| **number == 0).count();
    let unnamed = unknown.max(starting) - starting;
    if unnamed > 0 {
        missed.push(Missed::Unnamed { count: unnamed });
    }
    missed.extend(libraries.into_iter().map(|(library, count)| Missed::Library { library, count }));
    missed
}

/// Threads of Python begin in the interpreter: a library, or this program itself.
fn is_python(path: &str) -> bool {
    let own = std::env::current_exe().ok();
    file_name(path).starts_with("libpython")
        || own.is_some_and(|own| file_name(path) == own.file_name().unwrap_or_default())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Numbers of threads that are neither the main thread nor ours.
fn foreign() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|tid| *tid != own && !OURS.contains(&name_of(*tid).as_str())).collect()
}

fn name_of(tid: i32) -> String {
    fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default().trim().to_owned()
}
