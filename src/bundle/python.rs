//! forkpy as a Python: called as `python3`, or as `forkpy python …`.
//!
//! Runs in: a process of its own, which is an ordinary interpreter from here on.

use std::{
    ffi::{CString, OsString, c_char},
    io::Write as _,
    os::unix::ffi::OsStringExt,
    path::Path,
};

use pyo3::ffi;

/// What this process' command line asks of an interpreter, if that is what it is to be.
#[must_use]
pub(crate) fn wanted() -> Option<Vec<OsString>> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let name = Path::new(words.first()?).file_name()?.to_str()?.to_owned();
    if name.starts_with("python") {
        return Some(words);
    }
    if words.get(1)? != "python" {
        return None;
    }
    words.remove(0);
    // The interpreter finds its library, and `sys.executable`, by this.
    words[0] = super::root()
        .map_or_else(|| OsString::from(env!("FORKPY_BUILD_PYTHON")), |root| root.join("bin/python3").into_os_string());
    Some(words)
}

/// Whether an interpreter with these words begins with pip.
fn begins_with_pip(words: &[OsString]) -> bool {
    let pip = |word: &OsString| word.to_str().is_some_and(|word| word == "pip" || word.starts_with("pip."));
    let follows = |pair: &[OsString]| pair[0].to_str().is_some_and(|word| word.ends_with('m')) && pip(&pair[1]);
    words.windows(2).any(follows) || words.iter().any(|word| word.to_str().is_some_and(|word| word == "-mpip"))
}

/// Is the interpreter until it ends; its exit code.
#[must_use]
pub(crate) fn run(words: Vec<OsString>) -> i32 {
    if begins_with_pip(&words) {
        // The interpreter would say that there is no such module, and not why.
        if let Err(error) = super::rest::wait() {
            let _ = writeln!(std::io::stderr(), "forkpy: {error}");
        }
    }
    let words: Vec<CString> =
        words.into_iter().map(|word| CString::new(word.into_vec()).expect("the kernel allows no NUL here")).collect();
    let mut pointers: Vec<*mut c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    let count = i32::try_from(pointers.len()).expect("few words");
    pointers.push(std::ptr::null_mut());
    // SAFETY: Rust ignores SIGPIPE, and so would every child; an interpreter decides that itself. One thread exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: an array of C strings with a null at its end, which outlives the call; no interpreter exists yet.
    unsafe { ffi::Py_BytesMain(count, pointers.as_mut_ptr()) }
}
