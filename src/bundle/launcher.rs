//! The single file's start: its library is unpacked once into a directory that only its user may write, and checked at
//! every start. Then the unpacked forkpy takes this process over.
//!
//! Runs in: the launcher of a single file, before anything else. Everything is made beside its place and renamed into it,
//! under a lock: of two starts at a time one unpacks and the other waits. What no start waits for is unpacked behind, by a
//! process of its own, which holds that lock until all is there.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use super::{
    BundleError,
    manifest::{self, COMPLETE, Thoroughness},
    payload::{self, Part, Payload, SINGLE_FILE},
};
use crate::sys::private;

use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::{ForkResult, fork, setsid},
};

/// Goes on as the unpacked forkpy; what comes back is why not: nowhere to unpack, no space, or a damaged file.
pub(crate) fn go_on_unpacked() -> BundleError {
    match prepared() {
        Err(error) => error,
        Ok(root) => {
            let mut words = env::args_os();
            let name = words.next().unwrap_or_default();
            let is_python =
                Path::new(&name).file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python"));
            let program = root.join(if is_python { "bin/python3" } else { "bin/forkpy" });
            let own = env::current_exe().unwrap_or_default();
            let failed = Command::new(&program).args(words).env(SINGLE_FILE, own).exec();
            BundleError::File {
                what: "cannot run the unpacked (set XDG_CACHE_HOME if its disk allows no programs)",
                path: program,
                source: failed,
            }
        }
    }
}

/// The directory that this file is unpacked into.
fn prepared() -> Result<PathBuf, BundleError> {
    let own = Path::new("/proc/self/exe");
    let name = || env::current_exe().unwrap_or_default();
    let file = File::open(own).map_err(|source| BundleError::File { what: "cannot read", path: name(), source })?;
    let payload = Payload::find(&file).ok_or_else(|| BundleError::CutShort(name()))?;
    unpacked(&payload, &file)
}

fn unpacked(payload: &Payload, file: &File) -> Result<PathBuf, BundleError> {
    let mut passed_over = String::new();
    for cache in places() {
        let root = cache.join(payload.name());
        // One that cannot be written, such as in an image, may have all that is needed.
        if is_usable(&cache) && is_whole(&root, payload) {
            if !root.join(COMPLETE).exists() {
                finish(payload, file, &root);
            }
            return Ok(root);
        }
        let held = match claim(&cache, payload) {
            Ok(held) => held,
            Err(Unsuited::Error(error)) => return Err(error),
            Err(Unsuited::Place(reason)) => {
                passed_over += &format!("\n  {}: {reason}", cache.display());
                continue;
            }
        };
        if !is_whole(&root, payload) {
            if !passed_over.is_empty() {
                let _ = writeln!(io::stderr(), "forkpy: unpacking into {}, for:{passed_over}", cache.display());
            }
            renew(payload, file, &cache, &root)?;
            finish_behind(payload, file, &root, held);
        }
        return Ok(root);
    }
    Err(BundleError::NoPlace(passed_over))
}

/// Why nothing is unpacked into a place.
enum Unsuited {
    /// Another one may do.
    Place(String),
    /// So it would be everywhere, or its user is to decide.
    Error(BundleError),
}

/// Makes the place, and holds the lock of this version in it.
fn claim(cache: &Path, payload: &Payload) -> Result<File, Unsuited> {
    private::make(cache).map_err(|reason| Unsuited::Place(reason.to_string()))?;
    if runs_nothing(cache) {
        return Err(Unsuited::Place("its disk is mounted with noexec".to_owned()));
    }
    let lock = cache.join(format!("{}.lock", payload.name()));
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&lock);
    opened.and_then(|file| file.lock().map(|()| file)).map_err(|error| match error.raw_os_error() {
        // A network's disk without the service that it takes.
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP) => {
            Unsuited::Place(format!("its disk has no locks: {error}"))
        }
        _ => Unsuited::Error(full_or("cannot lock", &lock, payload)(error)),
    })
}

/// Whether what lies there was put there by this user or root, and can be run.
fn is_usable(cache: &Path) -> bool {
    private::check(cache).is_ok() && !runs_nothing(cache)
}

fn is_whole(root: &Path, payload: &Payload) -> bool {
    let is_program = |path: &Path| path.metadata().is_ok_and(|found| found.len() == payload.program);
    is_program(&root.join("bin/forkpy"))
        && is_program(&root.join("bin/python3"))
        && manifest::damaged(root, Thoroughness::Start).is_some_and(|damaged| damaged.is_empty())
}

/// Unpacks program and library; what is there and damaged is moved away first, and lives on in processes that use it.
fn renew(payload: &Payload, file: &File, cache: &Path, root: &Path) -> Result<(), BundleError> {
    let draft = cache.join(format!("{}.new", payload.name()));
    let old = cache.join(format!("{}.old", payload.name()));
    // The rest of a start that was killed; the lock is ours.
    let _ = (fs::remove_dir_all(&draft), fs::remove_dir_all(&old), fs::remove_dir_all(rest_draft(root)));
    if let Err(error) = unpack(payload, file, &draft) {
        let _ = fs::remove_dir_all(&draft);
        return Err(error);
    }
    let moved = match fs::rename(root, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::rename(&draft, root),
    };
    moved.map_err(BundleError::file("cannot replace", root))?;
    let _ = fs::remove_dir_all(&old);
    remove_old_versions(cache, root);
    Ok(())
}

/// Unpacks while the file's hash is taken: what does not have it is thrown away by the caller.
fn unpack(payload: &Payload, file: &File, draft: &Path) -> Result<(), BundleError> {
    let own = || env::current_exe().unwrap_or_default();
    let (intact, program, library) = thread::scope(|scope| {
        let intact = scope.spawn(|| payload.is_intact(file));
        let program = scope.spawn(|| payload.unpack_program(file, draft));
        let library = payload.unpack(Part::Library, file, draft);
        let died = || io::Error::other("a thread died");
        let program = program.join().unwrap_or_else(|_| Err(died()));
        (intact.join().unwrap_or_else(|_| Err(died())), program, library)
    });
    // Before what came of it: what is damaged may unpack into anything.
    if !intact.map_err(BundleError::file("cannot read", &own()))? {
        return Err(BundleError::Damaged(own()));
    }
    program.and(library).map_err(full_or("cannot unpack into", draft, payload))
}

/// Where the rest is unpacked before it goes into its place.
fn rest_draft(root: &Path) -> PathBuf {
    root.with_added_extension("rest")
}

/// Unpacks the rest, unless another process is at it.
fn finish(payload: &Payload, file: &File, root: &Path) {
    let lock = root.with_added_extension("lock");
    let Ok(lock) = OpenOptions::new().write(true).create(true).truncate(false).open(lock) else { return };
    match lock.try_lock() {
        Ok(()) if !root.join(COMPLETE).exists() => finish_behind(payload, file, root, lock),
        Ok(()) | Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
    }
}

/// Has a process of its own unpack the rest, with the lock. It is no child of this one, which will be forkpy and knows its
/// children; and it keeps none of this process' descriptors: a client waits for the end of its pipes.
fn finish_behind(payload: &Payload, file: &File, root: &Path, lock: File) {
    // As the first process of a container this one is the parent of all that have none.
    if std::process::id() == 1 {
        let _ = finish_now(payload, file, root);
        return;
    }
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            let _ = nix::sys::wait::waitpid(child, None);
        }
        Ok(ForkResult::Child) => {
            // SAFETY: this process has one thread.
            if matches!(unsafe { fork() }, Ok(ForkResult::Child)) {
                let _ = setsid();
                let _ = keep_only(&[file.as_raw_fd(), lock.as_raw_fd()]);
                // SAFETY: a number; others go first.
                let _ = unsafe { libc::nice(19) };
                let _ = finish_now(payload, file, root);
            }
            // SAFETY: no preconditions; it does not return.
            unsafe { libc::_exit(0) }
        }
        Err(_) => {}
    }
    drop(lock);
}

/// Closes all other descriptors; the first three lead nowhere then.
fn keep_only(kept: &[i32]) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for standard in 0..3 {
        // SAFETY: a descriptor of this process, which only this thread uses.
        unsafe { libc::dup2(null.as_raw_fd(), standard) };
    }
    let names: Vec<OsString> = fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name()).collect();
    for number in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()) {
        if number > 2 && number != null.as_raw_fd() && !kept.contains(&number) {
            // SAFETY: nothing in this process uses it any more.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Unpacks the rest; each folder goes into its place in one step.
fn finish_now(payload: &Payload, file: &File, root: &Path) -> io::Result<()> {
    let draft = rest_draft(root);
    let _ = fs::remove_dir_all(&draft);
    let done = payload.unpack(Part::Rest, file, &draft).and_then(|()| move_into(&draft, root));
    let _ = fs::remove_dir_all(&draft);
    done.and_then(|()| File::create(root.join(COMPLETE)).map(drop))
}

/// Moves what is not there yet; what is there stays.
fn move_into(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match fs::rename(entry.path(), &target) {
            Ok(()) => {}
            Err(_) if entry.file_type()?.is_dir() && target.is_dir() => move_into(&entry.path(), &target)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How many versions stay unpacked, the new one included.
const VERSIONS_KEPT: usize = 3;

/// Removes versions that were unpacked long ago, unless a process runs in one: of a forkpy that is updated often, each start of a
/// new version would leave a hundred megabytes behind.
fn remove_old_versions(cache: &Path, own: &Path) {
    let is_version = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.len() == payload::NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && path.is_dir()
    };
    let entries = fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut versions: Vec<PathBuf> = entries.filter(is_version).filter(|path| path != own).collect();
    // The directory itself is never written after it was unpacked.
    versions.sort_by_key(|path| std::cmp::Reverse(path.metadata().and_then(|found| found.modified()).ok()));
    for version in versions.into_iter().skip(VERSIONS_KEPT - 1) {
        if !is_in_use(&version) {
            let _ = fs::remove_dir_all(&version);
            let _ = fs::remove_file(version.with_added_extension("lock"));
        }
    }
}

/// Whether a process that can be seen was started from there.
fn is_in_use(version: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read_link(process.path().join("exe")).ok())
        .any(|program| program.starts_with(version))
}

fn full_or(what: &'static str, path: &Path, payload: &Payload) -> impl FnOnce(io::Error) -> BundleError {
    let needed = (payload.unpacked + payload.program).div_ceil(1 << 20);
    let place = path.parent().unwrap_or(path).to_owned();
    move |error| {
        // The archive's reader wraps the system's reason.
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match is_full {
            true => BundleError::Full { place, needed },
            false => BundleError::File { what, path: path.to_owned(), source: error },
        }
    }
}

/// Whether programs and extension modules cannot be loaded from there.
fn runs_nothing(place: &Path) -> bool {
    statvfs(place).is_ok_and(|found| found.flags().contains(FsFlags::ST_NOEXEC))
}

/// `$XDG_CACHE_HOME/forkpy`, `~/.cache/forkpy`, or where neither can be written, or run from, a private directory of this user's
/// in one of the places for temporary files.
fn places() -> impl Iterator<Item = PathBuf> {
    let named = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let user = nix::unistd::geteuid();
    let private_in = |place: PathBuf| place.join(format!("forkpy-{user}"));
    let places = [
        named("XDG_CACHE_HOME").map(|path| path.join("forkpy")),
        named("HOME").map(|path| path.join(".cache/forkpy")),
        Some(private_in(env::temp_dir())),
        named("XDG_RUNTIME_DIR").map(|path| path.join("forkpy")),
        Some(private_in(PathBuf::from("/var/tmp"))),
    ];
    places.into_iter().flatten().filter(|place| place.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::{
        process::Stdio,
        time::{Duration, SystemTime},
    };

    use super::*;

    #[test]
    fn of_old_versions_the_newest_and_those_in_use_stay() {
        let cache = tempfile::tempdir().expect("a directory");
        let make = |digit: char, days: u64| {
            let place = cache.path().join(digit.to_string().repeat(payload::NAME_LENGTH));
            fs::create_dir_all(place.join("bin")).expect("made");
            fs::write(place.with_added_extension("lock"), "").expect("written");
            fs::copy("/bin/sleep", place.join("bin/forkpy")).expect("copied");
            let then = SystemTime::now() - Duration::from_secs(days * 86_400);
            File::open(&place).and_then(|folder| folder.set_modified(then)).expect("ours");
            place
        };
        let own = make('0', 0);
        let [two, three, four, used] = [('2', 2), ('3', 3), ('4', 4), ('5', 5)].map(|(digit, days)| make(digit, days));
        let strange = cache.path().join("not-a-version");
        fs::create_dir(&strange).expect("made");
        let mut program = Command::new(used.join("bin/forkpy")).arg("1000").stdin(Stdio::null()).spawn().expect("runs");
        remove_old_versions(cache.path(), &own);
        let stays = [&own, &two, &three, &four, &used, &strange].map(|path| path.exists());
        program.kill().and_then(|()| program.wait()).expect("ours");
        assert_eq!(stays, [true, true, true, false, true, true]);
        assert!(!four.with_added_extension("lock").exists() && two.with_added_extension("lock").exists());
        remove_old_versions(cache.path(), &own);
        assert!(!used.exists(), "nothing runs in it any more");
    }

    #[test]
    fn a_disk_that_runs_nothing_is_known() {
        assert!(!runs_nothing(Path::new("/bin")));
        let mounts = fs::read_to_string("/proc/self/mounts").expect("readable");
        let of_line = |line: &str| {
            let mut words = line.split(' ');
            let (place, options) = (PathBuf::from(words.nth(1)?), words.nth(1)?.to_owned());
            Some((place, options.split(',').any(|option| option == "noexec")))
        };
        // One mount may hide another.
        let seen: std::collections::BTreeMap<PathBuf, bool> = mounts.lines().filter_map(of_line).collect();
        for (place, is_noexec) in seen.iter().filter(|(place, _)| statvfs(place.as_path()).is_ok()) {
            assert_eq!(runs_nothing(place), *is_noexec, "{}", place.display());
        }
    }
}
