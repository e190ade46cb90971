//! What becomes of a native library's threads in a fork: one table, by the file of the code that a thread runs.
//!
//! Runs in: zygote (it forks sessions), worker (it forks checkpoints). A fork has the calling thread only. Most pools of
//! threads are lost with that: a later call waits for them for ever. Some libraries expect it. What the table says was
//! seen with real work in the fork; the name of a thread says nothing, since most have that of their program.

use std::{
    collections::BTreeSet,
    ffi::{CString, c_int},
    fs, thread,
    time::{Duration, Instant},
};

use super::stacks::{self, Mappings};

/// What a fork does to a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It works in the fork, with new threads.
    Renewed,
    /// It would hang there. Told to (`omp_pause_resource_all`), it ends its threads, and starts new ones when it wants them.
    Dismissed,
}

/// A row of the table.
struct Row {
    /// Part of the file's name, in lower case.
    file: &'static str,
    /// Name of the directory that the file lies in, where the file's own name says too little.
    directory: Option<&'static str>,
    fate: Fate,
    /// For readers: how the library does it.
    #[allow(dead_code, reason = "the table is also a document")]
    because: &'static str,
}

const fn row(file: &'static str, directory: Option<&'static str>, fate: Fate, because: &'static str) -> Row {
    Row { file, directory, fate, because }
}

/// What is not here is lost in a fork: polars (rayon's pool), jax, gRPC, TensorFlow, threads of Python.
const TABLE: [Row; 10] = [
    row(
        "openblas",
        None,
        Fate::Renewed,
        "its pthread_atfork handler ends the threads; the next call starts as many again",
    ),
    row("libblis", None, Fate::Renewed, "likewise"),
    row(
        "libarrow",
        None,
        Fate::Renewed,
        "its handlers give the fork new pools; its jemalloc does the same for the background thread",
    ),
    row(
        "libjemalloc",
        None,
        Fate::Renewed,
        "its handlers hold its locks during the fork and start the background thread",
    ),
    row(
        "interpreter.",
        Some("numexpr"),
        Fate::Renewed,
        "it compares the process id before each evaluation and starts its threads anew",
    ),
    row(
        "_duckdb.",
        None,
        Fate::Renewed,
        "the calling thread works a query off too: seen to count and sum in forks, in tables from before",
    ),
    row("cv2.", Some("cv2"), Fate::Renewed, "seen to blur and scale large pictures in forks, as before"),
    row("libgomp", None, Fate::Dismissed, "GNU OpenMP"),
    row("libomp", None, Fate::Dismissed, "LLVM's OpenMP"),
    row("libiomp", None, Fate::Dismissed, "Intel's OpenMP"),
];

/// What a fork does to the threads of the library at `path`; `None` when they are lost.
#[must_use]
pub(crate) fn fate(path: &str) -> Option<Fate> {
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    let (directory, file) = (directory.rsplit('/').next().unwrap_or_default(), file.to_lowercase());
    let fits = |row: &&Row| file.contains(row.file) && row.directory.is_none_or(|wanted| wanted == directory);
    TABLE.iter().find(fits).map(|row| row.fate)
}

/// What people call the library at `path`: the folder of `site-packages` that it lies in, or its file.
#[must_use]
pub(crate) fn library_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let installed = parts.iter().rposition(|part| matches!(*part, "site-packages" | "dist-packages"));
    let file = parts.last().copied().unwrap_or_default();
    let folder = installed.and_then(|place| parts.get(place + 1).copied()).unwrap_or(file);
    let known = [("_polars", "polars"), ("jaxlib", "jax")];
    let known = known.iter().find(|(begins, _)| folder.starts_with(begins)).map(|(_, name)| *name);
    known.unwrap_or_else(|| folder.split('.').next().unwrap_or(folder)).to_owned()
}

/// How long threads that were told to end may take, and one just started to get so far that its stack shows its code.
const PATIENCE: Duration = Duration::from_millis(300);
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// The threads beside the only one that forks, as far as they have been looked at.
#[derive(Debug, Default)]
pub(crate) struct Bystanders {
    harmless: BTreeSet<i32>,
}

impl Bystanders {
    /// Before this process has started any thread. One that is there already is an emulator's (qemu-user), which makes its own
    /// anew in each fork.
    pub(crate) fn of_emulator() -> Self {
        Self { harmless: others().collect() }
    }

    /// Threads that a fork now would lose, in words. Those that can be are dismissed. Cheap when there is none, or no new one.
    pub(crate) fn lost(&mut self) -> Vec<String> {
        let began = Instant::now();
        let mut looks = 0;
        loop {
            looks += 1;
            let unknown: Vec<i32> = others().filter(|tid| !self.harmless.contains(tid)).collect();
            if unknown.is_empty() {
                return Vec::new();
            }
            let lost = self.examine(&unknown);
            if lost.is_empty() || (looks > 2 && began.elapsed() > PATIENCE) {
                return lost;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn examine(&mut self, threads: &[i32]) -> Vec<String> {
        let mappings = Mappings::of_this_process();
        let mut lost = Vec::new();
        for tid in threads {
            let code = stacks::code_of(*tid, &mappings);
            let name = fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
            let words = match &code {
                Some(path) => format!("{:?} of {}", name.trim(), path.rsplit('/').next().unwrap_or(path)),
                None => format!("{:?}", name.trim()),
            };
            match code.as_deref().and_then(fate) {
                Some(Fate::Renewed) => drop(self.harmless.insert(*tid)),
                Some(Fate::Dismissed) => {
                    dismiss(code.as_deref().unwrap_or_default());
                    lost.push(words);
                }
                None => lost.push(words),
            }
        }
        lost
    }
}

/// Numbers of this process' threads other than the first.
fn others() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |tid| *tid != own)
}

/// Lets an OpenMP library ([`Fate::Dismissed`]) end its threads, which takes a moment. One that is older than OpenMP 5.0 keeps
/// them. To be called by the thread that forks, outside of any parallel region.
pub(crate) fn dismiss(path: &str) {
    /// `omp_pause_soft`: the numbers of threads that were set stay.
    const SOFT: c_int = 1;
    let Ok(path) = CString::new(path) else { return };
    // SAFETY: with RTLD_NOLOAD nothing is loaded or run; the library stays loaded, since Python never unloads one; the
    // function has this type in OpenMP's specification, and is called outside of any parallel region, by the thread that
    // imports.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() {
            return;
        }
        let function = libc::dlsym(library, c"omp_pause_resource_all".as_ptr());
        if !function.is_null() {
            let pause: extern "C" fn(c_int) -> c_int = std::mem::transmute(function);
            pause(SOFT);
        }
        libc::dlclose(library);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_their_files() {
        let wheels = "/venv/lib/python3.11/site-packages";
        let known = [
            ("numpy.libs/libscipy_openblas64_-32a4b2a6.so", Some(Fate::Renewed)),
            ("pyarrow/libarrow.so.2600", Some(Fate::Renewed)),
            ("numexpr/interpreter.cpython-311-x86_64-linux-gnu.so", Some(Fate::Renewed)),
            ("scikit_learn.libs/libgomp-e985bcbb.so.1.0.0", Some(Fate::Dismissed)),
            ("torch/lib/libgomp.so.1", Some(Fate::Dismissed)),
            ("other/interpreter.cpython-311-x86_64-linux-gnu.so", None),
            ("polars/polars.abi3.so", None),
        ];
        for (file, expected) in known {
            assert_eq!(fate(&format!("{wheels}/{file}")), expected, "{file}");
        }
        // The directory is not the library.
        assert_eq!(fate("/opt/openblas/lib/libother.so"), None);
        assert_eq!(fate("libopenblas.so.0"), Some(Fate::Renewed));
    }

    #[test]
    fn a_thread_that_nobody_knows_is_lost() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = thread::Builder::new()
            .name("stranger".into())
            .spawn(move || {
                let _ = stopped.recv();
            })
            .expect("started");
        let lost = Bystanders::default().lost();
        assert!(lost.iter().any(|words| words.contains("stranger")), "{lost:?}");
        drop(stop);
        thread.join().expect("ends");
    }
}
