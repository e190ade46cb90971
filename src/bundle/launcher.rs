//! The single file's start: its library is unpacked once into a directory that only its user may write, and checked at
//! every start. Then the unpacked forkpy takes this process over.
//!
//! Runs in: the process that was started, before anything else. Everything is made beside its place and renamed into it,
//! under a lock: of two starts at a time one unpacks and the other waits.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    BundleError,
    manifest::{self, Thoroughness},
    payload::Payload,
};
use crate::sys::private;

/// Goes on as the unpacked forkpy, if this executable carries one.
///
/// # Errors
/// [`BundleError`]: nowhere to unpack, no space, or a damaged file.
pub(crate) fn go_on_unpacked() -> Result<(), BundleError> {
    let own = Path::new("/proc/self/exe");
    let Ok(file) = File::open(own) else { return Ok(()) };
    let Some(payload) = Payload::find(&file) else { return Ok(()) };
    let root = unpacked(&payload, &file)?;
    let mut words = env::args_os();
    let name = words.next().unwrap_or_default();
    let is_python = Path::new(&name).file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python"));
    let program = root.join(if is_python { "bin/python3" } else { "bin/forkpy" });
    let own = env::current_exe().unwrap_or_default();
    let failed = Command::new(&program).args(words).env(super::SINGLE_FILE, own).exec();
    Err(BundleError::File {
        what: "cannot run the unpacked (set XDG_CACHE_HOME if its disk allows no programs)",
        path: program,
        source: failed,
    })
}

fn unpacked(payload: &Payload, file: &File) -> Result<PathBuf, BundleError> {
    let cache = cache()?;
    let root = cache.join(payload.name());
    if is_whole(&root, payload) {
        return Ok(root);
    }
    let lock = cache.join(format!("{}.lock", payload.name()));
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&lock);
    let held = opened.and_then(|file| file.lock().map(|()| file)).map_err(full_or("cannot lock", &lock, payload))?;
    if !is_whole(&root, payload) {
        renew(payload, file, &cache, &root)?;
    }
    drop(held);
    Ok(root)
}

fn is_whole(root: &Path, payload: &Payload) -> bool {
    let is_binary = |path: &Path| path.metadata().is_ok_and(|found| found.len() == payload.binary);
    is_binary(&root.join("bin/forkpy"))
        && is_binary(&root.join("bin/python3"))
        && manifest::damaged(root, Thoroughness::Start).is_some_and(|damaged| damaged.is_empty())
}

/// Unpacks all of it; what is there and damaged is moved away first, and lives on in processes that use it.
fn renew(payload: &Payload, file: &File, cache: &Path, root: &Path) -> Result<(), BundleError> {
    let own = env::current_exe().unwrap_or_default();
    let intact = payload.is_intact(file).map_err(BundleError::file("cannot read", &own))?;
    if !intact {
        return Err(BundleError::Damaged(own));
    }
    let draft = cache.join(format!("{}.new", payload.name()));
    let old = cache.join(format!("{}.old", payload.name()));
    // The rest of a start that was killed; the lock is ours.
    let _ = (fs::remove_dir_all(&draft), fs::remove_dir_all(&old));
    if let Err(error) = payload.unpack(file, &draft) {
        let _ = fs::remove_dir_all(&draft);
        return Err(full_or("cannot unpack into", &draft, payload)(error));
    }
    let moved = match fs::rename(root, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::rename(&draft, root),
    };
    moved.map_err(BundleError::file("cannot replace", root))?;
    let _ = fs::remove_dir_all(&old);
    Ok(())
}

fn full_or(what: &'static str, path: &Path, payload: &Payload) -> impl FnOnce(io::Error) -> BundleError {
    let needed = (payload.unpacked + payload.binary).div_ceil(1 << 20);
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

/// `$XDG_CACHE_HOME/forkpy`, `~/.cache/forkpy`, or where neither can be written a private directory of this user's below the
/// temporary one.
fn cache() -> Result<PathBuf, BundleError> {
    let named = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let user = nix::unistd::geteuid();
    let places = [
        named("XDG_CACHE_HOME").map(|path| path.join("forkpy")),
        named("HOME").map(|path| path.join(".cache/forkpy")),
        Some(env::temp_dir().join(format!("forkpy-{user}"))),
    ];
    let mut reasons = String::new();
    for place in places.into_iter().flatten().filter(|place| place.is_absolute()) {
        match private::make(&place) {
            Ok(()) => return Ok(place),
            Err(reason) => reasons += &format!("\n  {}: {reason}", place.display()),
        }
    }
    Err(BundleError::NoPlace(reasons))
}
